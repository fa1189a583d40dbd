"""The bootstrap interval of a mean over random networks and samples."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def interval(
    values: NDArray[np.floating],
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap interval of the mean of values (..., repeat, sample).

    Repeats and samples are resampled one at a time and their deviations added, since all samples
    share the random networks and all networks the samples (a crossed design; Owen 2007). Deviations
    of a factor with n levels are widened by sqrt(n / chi^2), chi^2 with n - 1 degrees of freedom:
    Student's interval for a normal factor, where percentiles of 5 repeats cover 80 to 90%. A factor
    with one level adds nothing: one repeat says nothing about others. NaN is left out. What is
    wider than the bounds of the values is cut there.
    """
    table = values.reshape(-1, *values.shape[-2:])  # (stage, repeat, sample)
    weight = (~np.isnan(table)).sum(0).astype(float)  # (repeat, sample)
    total = np.nansum(table, 0)
    if not weight.any() or weight.size == 1:  # one number says nothing about its spread
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    center = total.sum() / weight.sum()
    means = np.full(resamples, center)
    for axis in (1, 0):
        sums, counts = total.sum(axis), weight.sum(axis)
        sums, counts = sums[counts > 0], counts[counts > 0]
        levels = len(sums)
        if levels > 1:
            draws = random.multinomial(levels, np.full(levels, 1 / levels), resamples)
            widened = np.sqrt(levels / random.chisquare(levels - 1, resamples))
            means += widened * ((draws @ sums) / (draws @ counts) - center)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).clip(*bounds)
    return float(low), float(high)
