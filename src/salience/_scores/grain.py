"""How rough a map is: its neighbours' differences, in those of entries taken at random."""

from __future__ import annotations

import torch
from torch import Tensor

from salience._scores.ranks import rows_of_maps


def grain(maps: Tensor) -> Tensor:
    """Mean |difference| of neighbours over the mean |difference| of any two entries.

    maps (B, C, ...) with neighbours along the axes after the channels; returns (B,) float64: 1 for
    noise, towards 0 for smooth maps; NaN for constant maps, those that are not finite, and those
    without neighbours (B, C). The mean over all pairs is Gini's, from sorted entries:
    2 / (n (n - 1)) sum_i (2 i - n - 1) x_(i).

    >>> import torch
    >>> ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    >>> bool(grain(ramp) < 0.05)
    True
    """
    rows = rows_of_maps(maps).double()  # (B, N)
    values, size = rows.view(maps.shape), rows.shape[1]
    steps = [
        values.diff(dim=axis).abs().flatten(1)
        for axis in range(2, maps.ndim)
        if maps.shape[axis] > 1
    ]
    if not steps:
        return rows.new_full((len(rows),), torch.nan)
    near = torch.cat(steps, 1).mean(1)
    weights = 2 * torch.arange(1, size + 1, dtype=torch.float64, device=rows.device) - size - 1
    any_two = rows.sort(dim=1).values @ weights * 2 / (size * (size - 1))
    known = rows.isfinite().all(1) & (any_two > 0)
    return torch.where(known, near / any_two, torch.nan)
