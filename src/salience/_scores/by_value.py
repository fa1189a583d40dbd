"""Where the attribution lies: its fraction per class of input value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from salience._errors import expected
from salience._inputs.trees import tensor_of

if TYPE_CHECKING:
    import xarray

Maps = Tensor | np.ndarray
RESAMPLES = 2000  # of the bootstrap


def attribution_by_value(
    maps: Maps | Mapping[str, Maps] | Mapping[str, Mapping[str, Maps]],
    inputs: Maps,
    edges: Sequence[float],
    *,
    units: Literal["sigma", "absolute"] = "sigma",
    level: float = 0.95,
    seed: int = 0,
) -> xarray.Dataset:
    """Fraction of the attribution that lies on each class of input value.

    F(class) = sum of s^2 over the entries of the input in the class / sum of s^2, for each map s.

    maps    (N, ...) shaped like inputs; or method -> maps; or output -> method -> maps
    inputs  (N, ...) fields of any dimension, all of whose entries are classed
    edges   increasing, in `units`: edges (a, b) make the classes x < a, a <= x < b and b <= x
    units   "sigma": standard deviations of each input over its own entries, counted from zero (so
            that 0 is 0 in either unit; give inputs - mean where zero has no meaning);
            "absolute": the inputs' own
    level   of the intervals of the means
    seed    of the bootstrap

    Returns a dataset with the dimensions output and method (those that maps has), class and sample:
    `fraction` per sample; `mean` over samples with `low` and `high`, its percentile bootstrap
    interval over samples; `entries` (class, sample), the fraction of the input's entries, and
    `chance` (class), its mean: what a map that ignores the values gets. Classes have the
    coordinates `lower` and `upper`. A map that is 0 everywhere or not finite has no fractions: NaN,
    left out of the means and counted in `undefined`.

    Errors: SalienceError for edges that do not increase, maps of another shape than the inputs',
    outputs with different methods, inputs that are not finite or, in units of sigma, constant.

    Source: Zorrilla Matilla et al. 2020, "Interpreting deep learning models for weak lensing".

    >>> import torch, salience
    >>> x = torch.tensor([[-1.0, -2.0, 0.5, 4.0]])
    >>> shares = salience.attribution_by_value(x, x, edges=[0, 3], units="absolute")
    >>> shares["mean"].values.round(2).tolist(), shares["chance"].values.tolist()
    ([0.24, 0.01, 0.75], [0.5, 0.25, 0.25])
    """
    if not 0 < level < 1:
        raise expected("a level between 0 and 1", repr(level), "The default is 0.95.")
    x, limits = tensor_of(inputs).detach(), _limits(edges)
    classes = torch.bucketize(_values(x, units), limits.to(x.device), right=True)  # (N, D)
    dims, names, parts = _flat(maps)
    fraction = torch.stack([_fractions(_like(m, x), classes, len(limits) + 1) for m in parts])
    entries = _fractions(torch.ones_like(x), classes, len(limits) + 1)
    interval = _interval(fraction, level, seed)
    attributes = {"units": units, "level": level, "seed": seed, "resamples": RESAMPLES}
    return _dataset(dims, names, limits.tolist(), fraction, entries, interval, attributes)


def _dataset(
    dims: tuple[str, ...],
    names: Mapping[str, list[str]],
    limits: list[float],
    fraction: Tensor,
    entries: Tensor,
    interval: Mapping[str, Tensor],
    attributes: Mapping[str, object],
) -> xarray.Dataset:
    """Of fractions (maps, class, N) and entries (class, N)."""
    import xarray

    count, samples = entries.shape
    shape = [len(names[dim]) for dim in dims]
    statistics = {
        "mean": fraction.nanmean(-1),
        **interval,
        "undefined": fraction.isnan().sum(-1),
    }
    data: dict[str, tuple[object, np.ndarray]] = {
        name: ((*dims, "class"), values.view(*shape, count).numpy())
        for name, values in statistics.items()
    }
    data["fraction"] = (*dims, "class", "sample"), fraction.view(*shape, count, -1).numpy()
    data["entries"] = ("class", "sample"), entries.numpy()
    data["chance"] = "class", entries.mean(1).numpy()
    ends = [-math.inf, *limits, math.inf]
    coordinates = {
        **names,
        "class": _labels(limits),
        "sample": np.arange(samples),
        "lower": ("class", ends[:-1]),
        "upper": ("class", ends[1:]),
    }
    return xarray.Dataset(data, coordinates, attributes)


def _limits(edges: Sequence[float]) -> Tensor:
    limits = torch.as_tensor(edges, dtype=torch.float64).cpu().flatten()
    increasing = bool((limits.diff() > 0).all() and limits.isfinite().all())
    if not len(limits) or not increasing:
        cure = "The outer classes are open: leave infinities out."
        raise expected("at least one edge, finite and increasing", f"{limits.tolist()}", cure)
    return limits


def _values(x: Tensor, units: str) -> Tensor:
    """The inputs in units of the edges, (N, D) float64."""
    if units not in ("sigma", "absolute"):
        raise expected('units="sigma" or units="absolute"', repr(units), "")
    if x.ndim < 2 or not x.numel() or x.is_complex():
        raise expected(
            "real inputs (N, ...)", f"{tuple(x.shape)} of {x.dtype}", "Add a batch: x[None]."
        )
    rows = x.flatten(1).double()
    if not bool(rows.isfinite().all()):
        raise expected("finite inputs", "NaN or infinite values", "Replace or mask them.")
    if units == "absolute":
        return rows
    sigma = rows.std(1, correction=0, keepdim=True)
    if bool((sigma == 0).any()):
        constant = sigma.flatten().eq(0).nonzero().flatten().tolist()
        cure = 'Use units="absolute", or leave these samples out.'
        raise expected("inputs that vary", f"constant inputs at {constant[:5]}", cure)
    return rows / sigma


def _flat(maps: object) -> tuple[tuple[str, ...], dict[str, list[str]], list[object]]:
    """The dimensions that maps has, their names, and the maps in the order of both."""
    if not isinstance(maps, Mapping):
        return (), {}, [maps]
    if not maps:
        raise expected("maps of at least one method", "none", "")
    nested = [isinstance(value, Mapping) for value in maps.values()]
    if not any(nested):
        return ("method",), {"method": list(maps)}, list(maps.values())
    if not all(nested):
        raise expected("method -> maps, or output -> method -> maps", "a mix of both", "")
    methods = list(next(iter(maps.values())))
    for output, inner in maps.items():
        if list(inner) != methods or not methods:
            cure = "Explain all outputs with the same methods."
            raise expected(f"maps of {methods} for each output", f"{output}: {list(inner)}", cure)
    parts = [part for inner in maps.values() for part in inner.values()]
    return ("output", "method"), {"output": list(maps), "method": methods}, parts


def _like(maps: object, x: Tensor) -> Tensor:
    maps = tensor_of(maps).detach().to(x.device)
    if maps.shape != x.shape:
        cure = "Give the inputs that were explained."
        raise expected(
            f"maps shaped like the inputs {tuple(x.shape)}", f"{tuple(maps.shape)}", cure
        )
    return maps


def _fractions(maps: Tensor, classes: Tensor, count: int) -> Tensor:
    """Sum of s^2 per class over the sum of s^2, (class, N) on the host."""
    rows = maps.flatten(1).double()
    squares = (rows / rows.abs().amax(1, keepdim=True)).square()  # within [0, 1]; 0 / 0 is NaN
    sums = squares.new_zeros(len(rows), count).scatter_add_(1, classes, squares)
    return (sums / sums.sum(1, keepdim=True)).cpu().T


def _interval(fraction: Tensor, level: float, seed: int) -> dict[str, Tensor]:
    """Percentile bootstrap interval of the mean over samples, from fractions (..., N)."""
    samples = fraction.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(samples, (RESAMPLES, samples), generator=generator)
    times = torch.zeros(RESAMPLES, samples, dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(times))
    defined = fraction.isnan().logical_not().double()
    means = fraction.nan_to_num() @ times.T / (defined @ times.T)  # NaN: no sample drawn is defined
    low, high = (1 - level) / 2, (1 + level) / 2
    bounds = torch.tensor([low, high], dtype=torch.float64)
    quantiles = means.nanquantile(bounds, dim=-1)
    return {"low": quantiles[0], "high": quantiles[1]}


def _labels(edges: list[float]) -> list[str]:
    inner = [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
    return [f"< {edges[0]:g}", *inner, f">= {edges[-1]:g}"]
