"""What the dataset of a study holds, read by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import expected, unknown
from salience._names import ERRORS, FLOOR, RANDOM_MAP
from salience._study import schema

if TYPE_CHECKING:
    import xarray

Array = np.ndarray
_SAME = ("model_fingerprint", "data_fingerprint", "target", "output")  # of tests that are joined


def texts(data: xarray.Dataset, name: str) -> list[str]:
    """Names as a list; empty where there are none."""
    return list(map(str, np.ravel(data[name].values))) if name in data.variables else []


def roles(data: xarray.Dataset, of: str = "method", by: str = "role") -> dict[str, str]:
    """ "method" or a control's role, for each method and control."""
    names = texts(data, of)
    return dict(zip(names, texts(data, by) or ["method"] * len(names), strict=False))


def values(data: xarray.Dataset, score: str) -> Array:
    """A score as an array (method, stage, repeat, sample)."""
    if score not in (scores := schema.scores_of(data)):
        raise unknown("score of this dataset", score, scores)
    return data[score].transpose(*schema.SCORE).values


def floors(data: xarray.Dataset, score: str) -> dict[str, Array]:
    """What a score is for maps that share less, (method, repeat or 1, sample) each."""
    found: dict[str, Array] = {}
    for name, dims in schema.FLOORS.items():
        if name in data and score in texts(data, "score"):
            held = data[name].transpose(*dims).values[:, texts(data, "score").index(score)]
            found[name] = held if "repeat" in dims else held[:, None]
    noise = [row for row, role in enumerate(roles(data).values()) if role == FLOOR]
    if noise:
        own = values(data, score)
        found[RANDOM_MAP] = np.broadcast_to(own[noise[0], -1], own[:, -1].shape)
    return found


def uncovered(data: xarray.Dataset) -> dict[str, list[str]] | None:
    """The operations that each method has no rule for, where that was recorded."""
    if "uncovered" not in data.coords:
        return None
    told = zip(roles(data).items(), texts(data, "uncovered"), strict=True)
    return {
        name: [operation for operation in operations.split(", ") if operation]
        for (name, role), operations in told
        if role == "method"
    }


def errors(data: xarray.Dataset) -> dict[str, float]:
    """The largest error of a method's maps by its sum or its draws, where it has one."""
    largest: dict[str, float] = {}
    for error in (error for error in ERRORS if error in data):
        methods = texts(data, str(data[error].dims[0]))
        for name, held in zip(methods, data[error].values, strict=True):
            if not np.isnan(held).all():
                largest[name] = float(np.nanmax(held))
    return largest


def annotated(
    data: xarray.Dataset, attributes: Mapping[str, object], names: Sequence[str]
) -> xarray.Dataset:
    """The same, with more attributes, and with names for the inputs whose maps were kept."""
    data = data.assign_attrs(attributes)
    if "maps" not in data:
        return data
    shown = np.array(names[: data.sizes["map_sample"]], dtype=object)
    return data.assign_coords(map_sample=shown)


def joined(data: xarray.Dataset, other: xarray.Dataset) -> xarray.Dataset:
    """Two tests of one network, the same inputs and the same target, of the samples of both."""
    for name in _SAME:
        mine, theirs = data.attrs.get(name), other.attrs.get(name)
        if mine != theirs:
            cure = "Both are about one network, one set of inputs and one target."
            raise expected(f"tests of the same {name}", f"{mine} and {theirs}", cure)
    whole = data.merge(other, join="inner")
    return whole.assign_attrs({**other.attrs, **data.attrs})
