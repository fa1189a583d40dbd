"""Scores of what maps say against what removing parts does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from salience._faithfulness.candidates import CELLS, PLACES, WINDOWS, Sums
from salience._faithfulness.effects import (
    Passes,
    curves,
    effects_of_sets,
    effects_of_windows,
)
from salience._faithfulness.scores import Score, correlation, of_windows


@dataclass(frozen=True)
class Effects:
    """What removing parts does to the target of some samples, all float64.

    value    (B,) the target as it is
    windows  (B, cells) its drop without one cell's window
    sets     (sets, cells) of 0 and 1, and their drops (B, sets)
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
    windows = effects_of_windows(passes, value) if of_windows(kinds) else None
    if "subsets" not in kinds:
        return Effects(value, windows, None, None, torch.full_like(value, torch.nan))
    every = torch.ones(1, passes.grid.count, dtype=torch.bool)
    drops = effects_of_sets(passes, value, torch.cat([sets, every]))
    return Effects(value, windows, sets.to(value), drops[:, :-1], value - drops[:, -1])


def judged(
    scores: Mapping[str, Score],
    told: Sequence[Sums | None],
    effects: Effects,
    passes: Passes,
    steps: int,
) -> Tensor:
    """The scores of many maps of each sample by their sums, (scores, maps, B).

    NaN where there is no map.
    """
    areas = {
        sign: _areas(_stacked(told, CELLS, sign), effects.value, passes, steps)
        for sign in {score.sign for score in scores.values() if score.of == "curves"}
    }
    found = []
    for score in scores.values():
        if score.of == "curves":
            most, least = areas[score.sign]
            found.append({"most": most, "least": least}.get(score.how, least - most))
        elif score.of == "places":
            found.append(_stacked(told, PLACES, score.how))
        else:
            found.append(_correlated(score, told, effects))
    return torch.stack(found)


def _stacked(told: Sequence[Sums | None], over: str, which: str) -> Tensor:
    """What is kept of all maps, (maps, B, ...); NaN where there is no map."""
    known = next(sums[over, which] for sums in told if sums is not None)
    none = torch.full_like(known, torch.nan)
    return torch.stack([none if sums is None else sums[over, which] for sums in told])


def _correlated(score: Score, told: Sequence[Sums | None], effects: Effects) -> Tensor:
    """(maps, B)"""
    if score.of == "deletion":
        drops, sums = effects.windows, _stacked(told, WINDOWS, score.sign)
    else:
        assert effects.sets is not None
        drops, sums = effects.drops, _stacked(told, CELLS, score.sign) @ effects.sets.T
    assert drops is not None
    return correlation(score.how, drops if score.sign == "signed" else drops.abs(), sums)


def _areas(sums: Tensor, value: Tensor, passes: Passes, steps: int) -> tuple[Tensor, Tensor]:
    """Areas (maps, B) under the target over the removed share of the cells, by sums (maps, B,
    cells): most relevant first and least relevant first."""
    most, least = torch.full_like(sums[..., 0], torch.nan), torch.full_like(sums[..., 0], torch.nan)
    for row, own in enumerate(sums):
        known = own.isfinite().all(1)
        if not bool(known.any()):
            continue
        order = own.sort(dim=1, descending=True, stable=True).indices
        for into, first in ((most, order), (least, order.flip(1))):
            into[row] = torch.where(known, _area(first, value, passes, steps), torch.nan)
    return most, least


def _area(order: Tensor, value: Tensor, passes: Passes, steps: int) -> Tensor:
    points = torch.cat([value[:, None], curves(passes, order, steps)], 1)
    return torch.trapezoid(points, dx=1 / steps, dim=1)
