"""What a report shows beside scores and maps: from the dataset, unless it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import SalienceError, expected
from salience._names import ERRORS
from salience._scores.by_value import attribution_by_value

if TYPE_CHECKING:
    import xarray

QUARTERS = (25, 50, 75)  # percentiles between the classes of input values


@dataclass(frozen=True)
class Extras:
    """What a report shows beside scores and maps.

    attribution  from `attribution_by_value`
    coverage     method -> operations of the network that it has no rule for
    errors       method -> largest conservation or completeness error
    score        that verdicts are about
    """

    attribution: xarray.Dataset | None = None
    coverage: Mapping[str, Sequence[str]] | None = None
    errors: Mapping[str, float] | None = None
    score: str | None = None


def completed(extras: Extras, dataset: xarray.Dataset) -> Extras:
    """The extras, with what was not given taken from the dataset where it holds that."""
    return replace(
        extras,
        attribution=quarters(dataset) if extras.attribution is None else extras.attribution,
        coverage=_coverage(dataset) if extras.coverage is None else extras.coverage,
        errors=_errors(dataset) if extras.errors is None else extras.errors,
    )


def classed(
    dataset: xarray.Dataset, edges: Sequence[float], units: str = "sigma"
) -> xarray.Dataset:
    """Where the trained network's maps lie, on the inputs whose maps the dataset holds."""
    trained = dataset["maps"].isel({"map_stage": 0})
    maps = {str(name): trained.isel({"map_method": row}).values
            for row, name in enumerate(dataset["map_method"].values)}  # fmt: skip
    inputs = dataset["inputs"].values
    if inputs.dtype.kind == "i":
        cure = "Leave edges out: the values of ids have no order."
        raise expected("floating-point inputs for classes of their values", "ids", cure)
    return attribution_by_value(maps, inputs, edges, units=units)  # type: ignore[arg-type]


def quarters(dataset: xarray.Dataset) -> xarray.Dataset | None:
    """Attribution by value in classes that hold a quarter of the inputs' entries each.

    Fewer where many entries are equal; None without maps, or where all entries are equal.
    """
    if "maps" not in dataset:
        return None
    inputs = dataset["inputs"].values
    inputs = inputs.astype(np.float64) if inputs.dtype.kind == "f" else inputs  # for differences
    above = inputs[inputs > inputs.min()]
    if not np.isfinite(inputs).all() or not above.size:
        return None
    least = above.min()  # where many entries have the lowest value, a class holds them alone
    quartiles = np.percentile(inputs, QUARTERS)
    edges = sorted({float(edge if edge > inputs.min() else least) for edge in quartiles})
    names = [f"{edge:.3g}" for edge in edges]
    short = [f"< {names[0]}", *map(" to ".join, pairwise(names)), f">= {names[-1]}"]
    try:
        return classed(dataset, edges, "absolute").assign_coords({"class": short})
    except SalienceError:  # inputs that it is not made for: the page does without
        return None


def _coverage(dataset: xarray.Dataset) -> dict[str, list[str]] | None:
    if "uncovered" not in dataset.coords:
        return None
    of_methods = dataset["role"].values == "method"
    found = zip(dataset["method"].values, dataset["uncovered"].values, strict=True)
    return {str(name): [o for o in str(operations).split(", ") if o]
            for (name, operations), counts in zip(found, of_methods, strict=True)
            if counts}  # fmt: skip


def _errors(dataset: xarray.Dataset) -> dict[str, float]:
    """The largest error of each method's maps, of either kind."""
    largest: dict[str, float] = {}
    for error in (error for error in ERRORS if error in dataset):
        methods = dataset[dataset[error].dims[0]].values
        for name, values in zip(methods, dataset[error].values, strict=True):
            if not np.isnan(values).all():
                largest[str(name)] = float(np.nanmax(values))
    return largest
