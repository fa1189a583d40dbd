"""Scores of what maps say against what removing parts does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from salience._faithfulness.candidates import CELLS, WINDOWS, Sums
from salience._faithfulness.effects import (
    Passes,
    curves,
    effects_of_sets,
    effects_of_windows,
)
from salience._faithfulness.scores import Score, correlation


@dataclass(frozen=True)
class Effects:
    """What removing parts does to the target of some samples, all float64.

    value    (B,) the target as it is
    windows  (B, cells) its drop without one cell's window
    sets     (sets, cells) of bools, and their drops (B, sets)
    emptied  (B,) the target once everything is replaced
    """

    value: Tensor
    windows: Tensor | None
    sets: Tensor | None
    drops: Tensor | None
    emptied: Tensor


def effects_of(passes: Passes, sets: Tensor, kinds: set[str]) -> Effects:
    """The effects that scores of these kinds need."""
    value = passes.untouched()
    windows = effects_of_windows(passes, value) if "deletion" in kinds else None
    if "subsets" not in kinds:
        return Effects(value, windows, None, None, torch.full_like(value, torch.nan))
    every = torch.ones(1, passes.grid.count, dtype=torch.bool)
    drops = effects_of_sets(passes, value, torch.cat([sets, every]))
    return Effects(value, windows, sets.to(value.device), drops[:, :-1], value - drops[:, -1])


def judged(
    scores: Mapping[str, Score], sums: Sums, effects: Effects, passes: Passes, steps: int
) -> Tensor:
    """The scores of one map of each sample by its sums, (scores, B)."""
    areas: dict[str, tuple[Tensor, Tensor]] = {}
    found = []
    for score in scores.values():
        if score.of == "curves":
            if score.sign not in areas:
                areas[score.sign] = _areas(sums[CELLS, score.sign], effects.value, passes, steps)
            most, least = areas[score.sign]
            found.append({"most": most, "least": least}.get(score.how, least - most))
        else:
            found.append(_correlated(score, sums, effects))
    return torch.stack(found)


def _correlated(score: Score, sums: Sums, effects: Effects) -> Tensor:
    if score.of == "deletion":
        drops, told = effects.windows, sums[WINDOWS, score.sign]
    else:
        assert effects.sets is not None
        drops, told = effects.drops, sums[CELLS, score.sign] @ effects.sets.double().T
    assert drops is not None
    return correlation(score.how, drops if score.sign == "signed" else drops.abs(), told)


def _areas(sums: Tensor, value: Tensor, passes: Passes, steps: int) -> tuple[Tensor, Tensor]:
    """Areas (B,) under the target over the removed share, most and least relevant cells first."""
    order = sums.sort(dim=1, descending=True, stable=True).indices
    areas = [_area(first, value, passes, steps) for first in (order, order.flip(1))]
    known = sums.isfinite().all(1)
    most, least = (torch.where(known, area, torch.nan) for area in areas)
    return most, least


def _area(order: Tensor, value: Tensor, passes: Passes, steps: int) -> Tensor:
    points = torch.cat([value[:, None], curves(passes, order, steps)], 1)
    return torch.trapezoid(points, dx=1 / steps, dim=1)


def stacked(
    scores: Mapping[str, Score],
    told: Sequence[Sums | None],
    effects: Effects,
    passes: Passes,
    steps: int,
) -> Tensor:
    """Those of many maps, (scores, maps, B); NaN where there is no map."""
    none = effects.value.new_full((len(scores), len(effects.value)), torch.nan)
    rows = [none if s is None else judged(scores, s, effects, passes, steps) for s in told]
    return torch.stack(rows, 1)
