"""Which shifts and scales are parts of the linear map before them."""

from __future__ import annotations

from salience._recording.linear_sites import AffineSite, LinearSite


def join(site: LinearSite | AffineSite, part: AffineSite) -> bool:
    """Let shifts and scales be a part of the map before them, if their scale is one of weights."""
    at_head = part.step if part.pull is None else part.pull(part.step)
    scale = at_head.scale
    if isinstance(site, LinearSite) and scale is not None and site.factor(scale) is None:
        return False
    site.chain.append(part)
    part.head, part.at_head = site, at_head
    return True


def cut(site: LinearSite | AffineSite, position: int) -> AffineSite | None:
    """Undo the parts of a map from a position on: the first of them, which begins a new chain."""
    after = site.chain[position:]
    del site.chain[position:]
    if not after:
        return None
    first, *rest = after
    same_layout = all(part.is_beside for part in after)
    for part in after:
        part.head, part.at_head = None, part.step
    if same_layout:
        first.chain = rest
        for part in rest:
            part.head = first
    return first
