"""Which stages of a cascade are taken."""

from __future__ import annotations

import numpy as np

from salience._errors import expected


def evenly_spread(stages: int | str, total: int) -> list[int]:
    """Which stages of a cascade are scored: so many, evenly spread, the last one included."""
    if stages == "all":
        stages = total
    if not isinstance(stages, int) or not 1 <= stages <= total:
        got = f"{stages!r} (the network has {total})"
        raise expected('"all" or a number of stages', got, "Score at most as many as there are.")
    if stages == total:
        return list(range(total))
    return [round(number) for number in np.linspace(0, total - 1, stages + 1)[1:]]
