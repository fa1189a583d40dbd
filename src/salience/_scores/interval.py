"""The bootstrap interval of a mean over random networks and samples."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


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
    share the random networks and all networks the samples (a crossed design; Owen 2007). The
    scatter of single values is in both; what it adds is counted once: the variance is that of the
    two-way table, (MS_repeat + MS_sample - MS_rest) / n, and at least that of either factor. It is
    widened by sqrt(d / chi^2) with d degrees of freedom (Satterthwaite 1946, rounded down): for one
    factor that is Student's interval, where percentiles of 5 repeats cover 80 to 90%. A factor with
    one level adds nothing: one repeat says nothing about others. NaN is left out. What is wider
    than the bounds of the values is cut there.

    Coverage as measured: benchmarks/results/intervals.md.
    """
    table = values.reshape(-1, *values.shape[-2:])  # (stage, repeat, sample)
    weight = (~np.isnan(table)).sum(0).astype(float)  # (repeat, sample)
    total = np.nansum(table, 0)
    if not weight.any() or weight.size == 1:  # one number says nothing about its spread
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    center = total.sum() / weight.sum()
    scale, freedom = _scatter(total, weight)
    deviations = np.zeros(resamples)
    for axis in (1, 0):
        sums, counts = total.sum(axis), weight.sum(axis)
        sums, counts = sums[counts > 0], counts[counts > 0]
        levels = len(sums)
        if levels > 1:
            draws = random.multinomial(levels, np.full(levels, 1 / levels), resamples)
            spread = math.sqrt(levels / (levels - 1))  # of a sample of so many
            deviations += spread * ((draws @ sums) / (draws @ counts) - center)
    widened = scale * np.sqrt(freedom / random.chisquare(freedom, resamples))
    ends = np.quantile(center + widened * deviations, [(1 - level) / 2, (1 + level) / 2])
    low, high = ends.clip(*bounds)
    return float(low), float(high)


def _scatter(total: Numbers, weight: Numbers) -> tuple[float, int]:
    """The standard deviation of the mean over that of the sum of both factors' deviations, and its
    degrees of freedom; of sums (repeat, sample) of so many values each."""
    known = weight > 0
    center, cells = total.sum() / weight.sum(), _ratio(total, weight)
    residues, squares, freedoms = np.where(known, cells - center, 0.0), [], []
    for axis in (1, 0):
        counts = weight.sum(axis)
        own = np.where(counts > 0, _ratio(total.sum(axis), counts) - center, 0.0)
        freedoms.append(int((counts > 0).sum()) - 1)
        squares.append(_over(float((counts * own**2).sum()), freedoms[-1]))
        residues = residues - np.expand_dims(own, axis)
    freedoms.append(int(known.sum()) - 1 - sum(freedoms))
    squares.append(_over(float((weight * residues**2)[known].sum()), freedoms[-1]))
    repeats, samples, rest = squares
    variance = max(repeats + samples - rest, repeats, samples)
    if variance == 0:
        return 1.0, 1
    if variance == max(repeats, samples):
        freedom = freedoms[0] if repeats >= samples else freedoms[1]
    else:
        parts = [_over(s**2, f) for s, f in zip(squares, freedoms, strict=True)]
        freedom = math.floor(variance**2 / sum(parts) + 1e-9)
    return math.sqrt(variance / (repeats + samples)), max(1, freedom)


def _ratio(sums: Numbers, counts: Numbers) -> Numbers:
    return sums / np.maximum(counts, 1)


def _over(number: float, freedom: int) -> float:
    return number / freedom if freedom > 0 else 0.0
