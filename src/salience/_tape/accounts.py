"""Where the relevance of a walk goes: what sites and operations do not hand on.

A walk that is watched hands each loss to a `Take`, by name and entry by entry. Where the batch
comes first everywhere, an entry's row is its sample. Elsewhere (heads folded into the batch,
sequences first) a second walk tells, which weighs the samples differently: losses scale with them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from salience._inputs.trees import columns, rows
from salience._names import BIASES, INPUT, OTHER
from salience._recording.hinge import Walk
from salience._recording.linear_maps import LinearMap
from salience._recording.linear_sites import AffineSite, LinearSite, at_map
from salience._recording.recording import Recording
from salience._recording.trace import Site
from salience._study.ledger import ENTRIES, Ledger
from salience._tape.unruled import dot
from salience.rules._losses import Parts, parts_of

Take = Callable[[str, Tensor], object]
Maps = tuple[Tensor, ...]
Back = Callable[[Tensor, Take], Maps]  # a walk back from a gradient at the output
AtInput = Callable[[LinearSite, LinearMap, Tensor], Parts | None]
Totals = dict[str, Tensor]  # name -> (B,)


def watch(walk: Walk, take: Take, at_input: AtInput) -> None:
    """Hand what sites lose to `take` while the walk lasts.

    at_input  what the rule of an input layer loses
    """

    def note(site: Site, m: Tensor, back: Any) -> None:
        if isinstance(site, LinearSite | AffineSite):
            lost = _at_linear(walk, site, m, back, at_input)
        else:
            lost = _at_other(walk, site, m, back)
        for name, loss in lost:
            take(name, loss)

    walk.note = note


def _at_other(walk: Walk, site: Any, m: Tensor, back: Any) -> Parts:
    rule = walk.rules.get(site.kind)
    backs = back if isinstance(back, tuple) else (back,)
    if (site.kind == "relu" and rule is None) or all(part is None for part in backs[:1]):
        return
    parts = None if rule is None else parts_of(rule, site, m)
    if parts is not None:
        yield from parts
        return
    name = site.kind if rule is None else name_of(rule)
    yield name, dot(site.output(), m)
    for a, part in zip(site.operands, backs, strict=False):
        if part is not None:
            yield name, -dot(a, part)


def _at_linear(
    walk: Walk, site: LinearSite | AffineSite, m: Tensor, back: Tensor | None, at_input: AtInput
) -> Parts:
    rule = walk.rules.get("linear")
    if rule is None or not site.is_ruled:
        shift = site.bias() if isinstance(site, LinearSite) else site.step.shift
        if shift is not None:
            yield BIASES, shift * m
    elif isinstance(site, LinearSite) or site.head is None:  # a part is in its head's map
        linear, m = site.linear_map(), at_map(site, m)
        if back is None:  # an input layer, which handed back relevance
            assert isinstance(site, LinearSite) and walk.input_rule is not None
            parts, rule, inward = at_input(site, linear, m), walk.input_rule, walk.relevance[-1][1]
        else:
            parts, inward = parts_of(rule, linear, m), linear.a * back
        yield from _undivided(name_of(rule), linear.z * m, inward) if parts is None else parts


def _undivided(name: str, relevance: Tensor, inward: Tensor) -> Parts:
    """All that a rule without a companion does not hand on."""
    yield name, relevance
    yield name, -inward


def name_of(rule: Any) -> str:
    function = rule.func if isinstance(rule, partial) else rule
    return getattr(function, "__name__", type(function).__name__)


# ---------------------------------------------------------------- by sample


def accounted(
    recording: Recording, value: Tensor, gradient: Tensor, back: Back
) -> tuple[Maps, Totals]:
    """The maps of a walk from a target's gradient, and where its relevance went, by sample.

    value  (B,) of the target
    """
    assert recording.edges is not None, "a replayed recording"
    begin, opaque = _sums(dot(recording.output.detach(), gradient)), recording.trace.opaque
    kept = {"target": value - begin}  # by one that is not linear in the output
    unseen = "unseen functions" if opaque else ""
    if _batch_first(recording, len(begin)):
        found: Totals = {}
        maps = back(gradient, partial(_by_row, found, len(begin)))
        found[INPUT] = sum(map(_sums, maps[1:]), _sums(maps[0]))
        if opaque or _balanced(begin, found, gradient.dtype):
            return maps, found | kept | _rest(begin, found, unseen)
    maps, found, mixed = _weighed(gradient, back, len(begin))
    found[INPUT] = sum(map(_sums, maps[1:]), _sums(maps[0]))
    return maps, found | kept | _rest(begin, found, unseen or ("other samples" if mixed else ""))


def _rest(begin: Tensor, found: Totals, name: str) -> Totals:
    """What cannot be looked at, by what it is; without a name nothing, so that a gap shows."""
    return {name: begin - sum(found.values())} if name else {}


def _by_row(found: Totals, count: int, name: str, loss: Tensor) -> None:
    found[name] = _sums(loss if count > 1 else loss.reshape(1, -1)) + found.get(name, 0)


def _weighed(gradient: Tensor, back: Back, count: int) -> tuple[Maps, Totals, bool]:
    """Each entry of a loss to the sample whose weight it grows with; whether samples mix."""
    weights = 1 + torch.arange(count, device=gradient.device) / count
    first: list[tuple[str, Tensor]] = []
    second: list[Tensor] = []
    maps = back(gradient, lambda name, loss: first.append((name, loss)))
    heavier = gradient * columns(weights, gradient).to(gradient.dtype)
    again = back(heavier, lambda _, loss: second.append(loss))
    found: Totals = {}
    for (name, loss), other in zip(first, second, strict=True):
        grown = ((other / loss - 1) * count).nan_to_num(0.0, 0.0, 0.0)
        sample = grown.round().clamp(0, count - 1).long()
        wide = torch.promote_types(loss.dtype, torch.float32)
        own = loss.new_zeros(count, dtype=wide)
        own.index_add_(0, sample.flatten(), loss.flatten().to(wide))
        found[name] = own + found.get(name, 0)
    pairs = zip(maps, again, strict=True)
    return maps, found, any(_mixed(map, other, weights) for map, other in pairs)


def _mixed(map: Tensor, other: Tensor, weights: Tensor) -> bool:
    """Whether a sample's map grows with the weight of another, too."""
    missing = (other - map * columns(weights, map)).abs().amax()
    return bool(missing > torch.finfo(map.dtype).eps ** 0.5 * map.abs().amax())


def _batch_first(recording: Recording, count: int) -> bool:
    """Whether the rows of every value are samples, as far as its shape tells."""
    trace = recording.trace
    return count == 1 or all(trace.shapes[i][:1] == (count,) for i in trace.dependent)


def _balanced(begin: Tensor, found: Totals, dtype: torch.dtype) -> bool:
    """Whether the losses of each sample are its own, as its sum tells."""
    held = torch.stack(list(found.values()))
    size = held.abs().sum(0) + begin.abs()
    missing = (held.sum(0) - begin).abs()
    return bool((missing <= torch.finfo(dtype).eps ** 0.5 * size).all())


def _sums(values: Tensor) -> Tensor:
    """(B, ...) -> (B,)"""
    return rows(values).sum(1, dtype=torch.promote_types(values.dtype, torch.float32))


def ledger_of(name: str, target: Tensor, found: Totals) -> Ledger:
    """What was found, in the entries of a ledger."""
    zero = torch.zeros_like(target)
    size = torch.stack([held.abs() for held in found.values()]).sum(0)
    rounding = 100 * torch.finfo(size.dtype).eps * size
    others = {
        key: held
        for key, held in found.items()
        if key not in ENTRIES and bool((held.abs() > rounding).any())
    }
    entries = {entry: found.get(entry, zero) for entry in ENTRIES}
    entries[OTHER] = sum(others.values(), zero)
    return Ledger(name, entries, target, others)
