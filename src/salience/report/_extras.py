"""What a report shows beside scores and maps: from the dataset, unless it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import SalienceError, expected
from salience._scores.by_value import attribution_by_value
from salience._study.study import Study

if TYPE_CHECKING:
    import xarray

QUARTERS = (25, 50, 75)  # percentiles between the classes of input values


@dataclass(frozen=True)
class Extras:
    """What a report shows beside scores and maps.

    attribution  from `attribution_by_value`
    coverage     method -> operations of the network that it has no rule for
    errors       method -> largest conservation, completeness or sampling error
    score        that verdicts are about
    """

    attribution: xarray.Dataset | None = None
    coverage: Mapping[str, Sequence[str]] | None = None
    errors: Mapping[str, float] | None = None
    score: str | None = None


def completed(extras: Extras, study: Study) -> Extras:
    """The extras, with what was not given taken from the study where it holds that."""
    return replace(
        extras,
        attribution=quarters(study) if extras.attribution is None else extras.attribution,
        coverage=study.uncovered if extras.coverage is None else extras.coverage,
        errors=study.errors if extras.errors is None else extras.errors,
    )


def classed(study: Study, edges: Sequence[float], units: str = "sigma") -> xarray.Dataset:
    """Where the trained network's maps lie, on the inputs whose maps the study holds."""
    trained = study.maps[:, 0]
    maps = {name: trained[row].values for row, name in enumerate(study.map_methods)}
    inputs = study.inputs.values
    if inputs.dtype.kind == "i":
        cure = "Leave edges out: the values of ids have no order."
        raise expected("floating-point inputs for classes of their values", "ids", cure)
    return attribution_by_value(maps, inputs, edges, units=units)  # type: ignore[arg-type]


def quarters(study: Study) -> xarray.Dataset | None:
    """Attribution by value in classes that hold a quarter of the inputs' entries each.

    Fewer where many entries are equal; None without maps, or where all entries are equal.
    """
    if not study.has_maps:
        return None
    inputs = study.inputs.values
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
        return classed(study, edges, "absolute").assign_coords({"class": short})
    except SalienceError:  # inputs that it is not made for: the page does without
        return None
