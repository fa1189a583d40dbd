"""What the arrays of a stored result are: their names, dimensions, types and values.

Looked at before a page is made of them, so that a result that is damaged, or no result, is told by
what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from salience._names import BETWEEN, ERRORS, FLOOR, MULTIPLIERS, NEGATIVE, OTHERS, REFERENCE

if TYPE_CHECKING:
    import xarray

SCORE = ("method", "stage", "repeat", "sample")
MAP = ("map_method", "map_stage", "map_sample")
LARGEST = 1e30  # of scores and inputs, of whose squares there are sums
_TESTED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "method": (("method",), "text"), "role": (("method",), "text"),
    "constant_over_inputs": (("method",), "whole numbers"), "stage": (("stage",), "text"),
    "number": (("stage",), "whole numbers"),
}  # fmt: skip
FLOORS: Mapping[str, tuple[str, ...]] = {
    BETWEEN: ("method", "score", "repeat", "sample"),
    OTHERS: ("method", "score", "sample"), MULTIPLIERS: ("method", "score", "sample"),
}  # fmt: skip
_SHOWN: Mapping[str, tuple[tuple[str, ...], str]] = {
    "map_method": (("map_method",), "text"), "map_stage": (("map_stage",), "text"),
}  # fmt: skip
DEPENDENCE = "untrained_dependence"  # of the target on its inputs, (network, sample)
FAITHFUL, UNTRAINED = "faithful_", "untrained_"  # before the name of a score
_FAITHFUL: Mapping[str, tuple[tuple[str, ...], str]] = {
    "candidate": (("candidate",), "text"), "candidate_role": (("candidate",), "text"),
    "candidate_uncovered": (("candidate",), "text"),
    "candidate_constant": (("candidate",), "whole numbers"),
    "other_target": (("candidate", "sample"), "numbers"),
    "target_value": (("sample",), "numbers"), "target_emptied": (("sample",), "numbers"),
    **{f"candidate_{name}": (("candidate", "sample"), "numbers") for name in ERRORS},
}  # fmt: skip
_BEGINNING: Mapping[str, tuple[str, ...]] = {
    FAITHFUL: ("candidate", "sample"), UNTRAINED: ("candidate", "network", "sample"),
}  # fmt: skip
_TEXTS = ("kind", "order", "model", "model_fingerprint", "score")  # attributes
_ROLES = ("method", NEGATIVE, FLOOR, REFERENCE)


def texts(names: Iterable[str]) -> np.ndarray:
    """Names as an array: zarr 3 has no strings of fixed length."""
    return np.array(list(names), dtype=object)


def tested(dataset: xarray.Dataset) -> bool:
    """Whether a dataset holds a randomisation test, and not only maps."""
    return "method" in dataset.dims and "stage" in dataset.dims


def has_faithfulness(dataset: xarray.Dataset) -> bool:
    """Whether a dataset holds a test of faithfulness."""
    return "candidate" in dataset.dims


def scores_of(dataset: xarray.Dataset) -> list[str]:
    """The scores of a randomisation test: what it has for each stage, repeat and sample."""
    return [str(name) for name, held in dataset.data_vars.items() if set(held.dims) == set(SCORE)]


def check_form(dataset: xarray.Dataset) -> None:
    """Raise ValueError where names, dimensions or types are not those of a result."""
    for key, value in dataset.attrs.items():
        f"{key}{value}".encode()  # UnicodeEncodeError for halves of characters
        if key in _TEXTS and not isinstance(value, str):
            raise ValueError(f"the attribute {key} is {value!r}, which is no text")
    if tested(dataset):
        _check_test(dataset)
    if has_faithfulness(dataset):
        _check_faithfulness(dataset)
    if "maps" in dataset:
        _check_maps(dataset)
    sizes = dataset.sizes
    for name in ERRORS:
        if name in dataset:
            named = MAP[0] in dataset[name].dims
            _check(dataset, name, (MAP[0], MAP[2]) if named else ("method", "sample"), "numbers")
    if empty := [
        str(name)
        for name in sizes
        if name in (*SCORE, *MAP, "candidate", "network") and not sizes[name]
    ]:
        raise ValueError(f"there is nothing along {', '.join(empty)}")


def check_values(name: str, values: np.ndarray, dims: tuple[object, ...]) -> None:
    """Raise ValueError where a part of an array holds what no result does.

    Maps may hold anything, which is shown as missing; undefined scores are NaN.
    """
    if values.dtype.kind != "f" or name == "maps":
        return
    score = dims == SCORE or name in FLOORS or _of_candidates(name, dims)
    if score or name == "inputs":
        held = values[~np.isnan(values)] if score else values
        if not bool((np.abs(held) <= LARGEST).all()):
            told = f"{'' if score else 'NaN, '}infinities or numbers beyond {LARGEST:g}"
            raise ValueError(f"{name} holds {told}")


def _check_test(dataset: xarray.Dataset) -> None:
    for name, (dims, kind) in _TESTED.items():
        _check(dataset, name, dims, kind)
    if "uncovered" in dataset.variables:
        _check(dataset, "uncovered", ("method",), "text")
    for name in sorted(map(str, dataset.data_vars)):  # a store lists them in any order
        if "stage" in dataset[name].dims:
            _check(dataset, name, SCORE, "numbers")
    for name in (name for name in FLOORS if name in dataset):
        _check(dataset, name, FLOORS[name], "numbers")
        _check(dataset, "score", ("score",), "text")
        _distinct(dataset, "score")
    score, scores = dataset.attrs.get("score"), sorted(scores_of(dataset))
    if score is not None and score not in scores:
        raise ValueError(f"the attribute score is {score!r}, and the scores {', '.join(scores)}")
    _distinct(dataset, "method")
    if strange := sorted(set(map(str, dataset["role"].values)) - set(_ROLES)):
        raise ValueError(f"role holds {', '.join(map(repr, strange))}")
    numbers, count = dataset["number"].values, dataset.attrs.get("stage_count")
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise ValueError(f"the attribute stage_count is {count}, which is no number of stages")
    if not (len(numbers) and numbers[0] >= 0 and numbers[-1] < count and _rising(numbers)):
        raise ValueError(f"number holds {numbers[:8].tolist()}, of {count} stages")


def _of_candidates(name: str, dims: tuple[object, ...]) -> bool:
    return "candidate" in dims or name in ("target_value", "target_emptied", DEPENDENCE)


def _check_faithfulness(dataset: xarray.Dataset) -> None:
    for name, (dims, kind) in _FAITHFUL.items():
        _check(dataset, name, dims, kind)
    named = [str(name) for name in dataset.data_vars]
    for begin, dims in _BEGINNING.items():
        for name in (name for name in sorted(named) if name.startswith(begin)):
            if name == DEPENDENCE:
                _check(dataset, name, dims[1:], "numbers")
                continue
            _check(dataset, name, dims, "numbers")
    for name in ("deletion_effect", "subset_effect"):
        if name in dataset:
            _check(dataset, name, ("sample", dataset[name].dims[-1]), "numbers")
    if not any(name.startswith(FAITHFUL) for name in named):
        raise ValueError("there is no score of faithfulness")
    _distinct(dataset, "candidate")
    if strange := sorted(set(map(str, dataset["candidate_role"].values)) - set(_ROLES)):
        raise ValueError(f"candidate_role holds {', '.join(map(repr, strange))}")


def _check_maps(dataset: xarray.Dataset) -> None:
    for name, (dims, kind) in _SHOWN.items():
        _check(dataset, name, dims, kind)
    _distinct(dataset, "map_method")
    space = dataset["maps"].dims[3:]
    _check(dataset, "maps", (*MAP, *space), "numbers")
    _check(dataset, "inputs", (MAP[2], *space), "numbers or ids")
    if not space or not all(dataset.sizes[name] for name in space):
        raise ValueError(
            f"maps has the shape {dataset['maps'].shape}, which nothing can be seen in"
        )
    if "map_sample" in dataset.coords:
        _check(dataset, "map_sample", ("map_sample",), "text or whole numbers")


def _check(dataset: xarray.Dataset, name: str, dims: tuple[object, ...], kind: str) -> None:
    if name not in dataset.variables:
        raise ValueError(f"there is no {name}")
    held = dataset[name].variable
    if held.dims != dims:
        raise ValueError(f"{name} has the dimensions {held.dims} in place of {dims}")
    if not any(_is(held, word) for word in kind.split(" or ")):
        raise ValueError(f"{name} holds {held.dtype}, which is not {kind}")
    if held.dtype.kind in "OTU":
        "".join(held.values.flat).encode()  # as above


def _is(held: xarray.Variable, kind: str) -> bool:
    letter, width = held.dtype.kind, held.dtype.itemsize
    if kind == "text":
        return letter in "OTU" and all(isinstance(value, str) for value in held.values.flat)
    if not held.dtype.isnative or width > 8:
        return False
    return letter == "f" if kind == "numbers" else letter in "iub"


def _distinct(dataset: xarray.Dataset, name: str) -> None:
    names = list(map(str, dataset[name].values))
    if len(set(names)) < len(names):
        raise ValueError(f"{name} holds the same name more than once")


def _rising(numbers: np.ndarray) -> bool:
    return bool((numbers[1:] > numbers[:-1]).all())
