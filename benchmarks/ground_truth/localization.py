"""How well a map finds the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ground_truth.question import absolute, cell_size, signed, squares


def area_under_curve(heights: Tensor, truth: Tensor) -> Tensor:
    """(maps, N) the probability that a position of the truth is higher than another one.

    heights (maps, N, positions), truth (N, positions). Ties count one half: by average ranks, the
    sum of the truth's ranks less n (n + 1) / 2, over n times the number of others.
    """
    inside = truth.sum(-1).double()
    total = (ranks(heights) * truth).sum(-1) - inside * (inside + 1) / 2
    return total / (inside * (~truth).sum(-1))


def ranks(heights: Tensor) -> Tensor:
    """Average ranks along the last axis, from 1."""
    values, order = heights.sort(-1)
    first = torch.searchsorted(values, values)
    after = torch.searchsorted(values, values, right=True)
    average = (first + after + 1).double() / 2
    return torch.empty_like(average).scatter_(-1, order, average)


def mass(heights: Tensor, truth: Tensor) -> Tensor:
    """(maps, N) the share of what is not negative that lies in the truth; NaN where all is 0."""
    return (heights * truth).sum(-1) / heights.sum(-1)


def in_cells(maps: Mapping[str, Tensor], truth: Tensor) -> Tensor:
    """The area under the curve of |sum of the map| in cells, of which half or more is truth: what
    cancels within a cell does not count."""
    shape = truth.shape[1:]
    cells = squares(shape, cell_size(shape), cell_size(shape))
    inside = truth.flatten(1).double() @ cells.T >= cells.sum(1) / 2
    return area_under_curve((signed(maps) @ cells.T).abs(), inside)


Score = Callable[[Mapping[str, Tensor], Tensor], Tensor]
SCORES: dict[str, Score] = {
    "auc": lambda maps, truth: area_under_curve(absolute(maps), truth.flatten(1)),
    "mass": lambda maps, truth: mass(absolute(maps), truth.flatten(1)),
    "auc of cells": in_cells,
    "auc positive": lambda maps, truth: area_under_curve(
        signed(maps).clamp(min=0), truth.flatten(1)
    ),
    "mass positive": lambda maps, truth: mass(signed(maps).clamp(min=0), truth.flatten(1)),
}
