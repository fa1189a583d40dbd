"""`Maps` as a dataset, and back: one schema for their file and for reports.

Of a single input the names are `inputs` and `maps`; of several, each has its name behind them:
`inputs.scan`, `maps.scan`. The maps of ids (N, T), at their embedding, are `embedded`, and their
sums per token `maps`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from salience._inputs import trees
from salience._inputs.trees import Key
from salience._names import ERRORS
from salience._study import ledger
from salience._study.ledger import Ledger
from salience._study.maps import Maps
from salience._study.schema import texts

if TYPE_CHECKING:
    import xarray

Array = np.ndarray
Container = int | list[str] | None  # see `_container`
Variables = dict[str, tuple[tuple[str, ...], Array]]
_METHOD, _STAGE, _SAMPLE = "map_method", "map_stage", "map_sample"
_ENTRY = "map_entry"  # of a ledger


def to_xarray(maps: Maps[object]) -> xarray.Dataset:
    """The maps, what they are of, and how far they can be trusted.

    maps (map_method, map_stage, map_sample, ...) has one stage, "trained", as a randomisation test
    has several.
    """
    import xarray

    variables: Variables = {}
    for key, part in trees.parts_of(maps.inputs).items():
        if trees.per_sample(part):
            held = {name: _at(own, key) for name, own in maps.maps.items()}
            variables |= _of_input(_ending(key), part, held)
    variables["output"] = ((_SAMPLE, *_axes("output", maps.output)), _array(maps.output))
    variables["value"] = ((_SAMPLE,), _array(maps.value))
    width = next(iter(maps.error.values()), maps.value).dtype
    none = np.full(len(maps.value), np.nan, _array(torch.zeros(1, dtype=width)).dtype)
    for error in ERRORS:
        rows = [_array(maps.error[n]) if maps.error_names.get(n) == error else none for n in maps]
        variables[error] = ((_METHOD, _SAMPLE), np.stack(rows))
    told = {}
    if maps.ledger:
        entries, table = ledger.as_array(maps.ledger, list(maps))
        variables["ledger"] = ((_METHOD, _ENTRY, _SAMPLE), _array(table))
        told = {_ENTRY: texts(entries)}
    uncovered = [", ".join(maps.uncovered.get(name, ())) for name in maps]
    coordinates = {
        _METHOD: texts(maps),
        _STAGE: texts(["trained"]),
        "map_uncovered": (_METHOD, texts(uncovered)),
        **told,
    }
    attributes = {
        **maps.attrs,
        "container": json.dumps(_container(maps.inputs)),
        "parameters": json.dumps(
            {name: {k: _plain(v) for k, v in own.items()} for name, own in maps.parameters.items()}
        ),
    }
    return xarray.Dataset(variables, coordinates, attributes)


def from_xarray(dataset: xarray.Dataset) -> Maps[Any]:
    """The maps of a dataset that `to_xarray` made.

    Errors: ValueError or KeyError for another one.
    """
    attributes = {str(name): value for name, value in dataset.attrs.items()}
    keys = _bounded(json.loads(attributes.pop("container", "null")), len(dataset.variables))
    parameters = json.loads(attributes.pop("parameters", "{}"))
    names = [str(name) for name in dataset[_METHOD].values]
    endings = {key: _ending(key) for key in _keys(keys)}
    missing = np.full((len(names), dataset.sizes[_SAMPLE]), np.nan)

    def along(name: str) -> Tensor:
        return _tensor(dataset[name].values)

    def of_method(row: int) -> object:
        found = {key: _map_of(dataset, end, row) for key, end in endings.items()}
        return _filled(keys, {key: own for key, own in found.items() if own is not None})

    inputs = {
        key: along(f"inputs{end}") for key, end in endings.items() if f"inputs{end}" in dataset
    }
    errors = {error: dataset[error].values if error in dataset else missing for error in ERRORS}
    kinds = {
        name: error
        for row, name in enumerate(names)
        for error in ERRORS
        if not np.isnan(errors[error][row]).all()
    }
    return Maps(
        {name: of_method(row) for row, name in enumerate(names)},
        _filled(keys, inputs),
        along("output"),
        along("value"),
        {name: _tensor(errors[kinds[name]][names.index(name)]) for name in kinds},
        {
            name: tuple(told.split(", ")) if told else ()
            for name, told in zip(names, map(str, dataset["map_uncovered"].values), strict=True)
        },
        parameters,
        kinds,
        attributes,
        _ledgers(dataset, names),
    )


def _ledgers(dataset: xarray.Dataset, names: list[str]) -> dict[str, Ledger]:
    if "ledger" not in dataset:
        return {}
    entries = [str(entry) for entry in dataset[_ENTRY].values]
    return ledger.from_array(entries, names, _tensor(dataset["ledger"].values))


def _of_input(end: str, part: Tensor, held: Mapping[str, Any]) -> Variables:
    """An input, its maps by method, and for ids those at their embedding."""
    axes = _axes(f"axis{end}", part)
    found: Variables = {f"inputs{end}": ((_SAMPLE, *axes), _array(part))}
    if any(own is None for own in held.values()):  # nothing is explained there
        return found
    if part.is_floating_point():
        maps = [_array(own) for own in held.values()]
        return found | {f"maps{end}": ((_METHOD, _STAGE, _SAMPLE, *axes), _stacked(maps))}
    several = [own if isinstance(own, tuple) else (own,) for own in held.values()]
    for i, column in enumerate(zip(*several, strict=True)):
        name = f"embedded{end}.{i}" if len(several[0]) > 1 else f"embedded{end}"
        dims = (_METHOD, _SAMPLE, *_axes(name, column[0]))
        found[name] = dims, np.stack([_array(own) for own in column])
    if all(own.shape[:-1] == part.shape for own in several[0]):
        sums = [_array(torch.stack([m.sum(-1) for m in own]).sum(0)) for own in several]
        found[f"maps{end}"] = (_METHOD, _STAGE, _SAMPLE, *axes), _stacked(sums)
    return found


def _map_of(dataset: xarray.Dataset, end: str, row: int) -> Tensor | tuple[Tensor, ...] | None:
    """The map of one input by the method in a row; None where it has none."""
    if f"embedded{end}" in dataset:
        return _tensor(dataset[f"embedded{end}"].values[row])
    several = []
    while (name := f"embedded{end}.{len(several)}") in dataset:
        several.append(_tensor(dataset[name].values[row]))
    if several:
        return tuple(several)
    name = f"maps{end}"
    return _tensor(dataset[name].values[row, 0]) if name in dataset else None


def _container(x: object) -> Container:
    """None for a single input, how many for a tuple, the names for a dict."""
    if isinstance(x, Mapping):
        return [str(key) for key in x]
    return len(x) if isinstance(x, tuple | list) else None


def _bounded(container: Any, most: int) -> Container:
    """What `_container` gives: a file may hold any number in its place."""
    if isinstance(container, int) and container > most:
        raise ValueError(f"it has {most} variables, and says that it has {container} inputs")
    return container


def _keys(container: Container) -> list[Key]:
    if container is None:
        return [trees.ALONE]
    if isinstance(container, int):
        return list(range(container))
    return [str(key) for key in container]


def _filled(container: Container, parts: Mapping[Key, object]) -> object:
    """The parts in a container; what a dict lacks is left out, what a tuple lacks is None."""
    if not parts:
        raise ValueError("it does not hold the inputs that it names")
    if container is None:
        return parts[trees.ALONE]
    return tuple(map(parts.get, _keys(container))) if isinstance(container, int) else dict(parts)


def _at(held: Any, key: Key) -> Any:
    if key is trees.ALONE:
        return held
    return held.get(key) if isinstance(held, Mapping) else held[key]


def _ending(key: object) -> str:
    """What the names of an input's variables end with; no path, whatever its key is."""
    if key is trees.ALONE:
        return ""
    return "." + "".join(c if c.isalnum() or c in "_-" else f"%{ord(c):x}" for c in str(key))


def _axes(name: str, tensor: Tensor) -> list[str]:
    return [f"{name}_{i}" for i in range(1, tensor.ndim)]


def _array(tensor: Tensor) -> Array:
    """Half precision, which netCDF lacks, as float32."""
    tensor = tensor.detach().cpu()
    half = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    return (tensor.float() if half else tensor).numpy()


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _stacked(maps: list[Array]) -> Array:
    return np.stack(maps)[:, None]


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str | None) else repr(value)
