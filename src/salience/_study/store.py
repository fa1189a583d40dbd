"""Studies in files and folders: written, and read back as what a stranger may have written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import SalienceError, expected, reason
from salience._names import ERRORS
from salience._study.guard import look_at
from salience._study.schema import check_form, check_values, tested

if TYPE_CHECKING:
    import xarray

FORMATS = {".nc": "study.nc", ".zarr": "study.zarr"}  # the files of a folder
MAPS = "maps.npz"


def read(path: Path) -> xarray.Dataset:
    """The study at a file or in a folder; its maps are read when they are asked for.

    path  a folder that `salience check` or `salience explain` wrote, or its study.nc, study.zarr
          or maps.npz

    Errors: SalienceError for a path that holds no result.
    """
    file = _file_of(path)
    try:
        look_at(file)
        dataset = _opened(file)
    except SalienceError:
        raise
    except Exception as error:  # reading alone: a damaged file raises anything in any library
        raise _no_study(file, error) from None
    try:
        if "maps" not in dataset and not tested(dataset):
            cure = "Give the folder that salience check wrote."
            raise expected(f"scores or maps in {file}", f"{sorted(map(str, dataset))}", cure)
        _read_once(file, dataset)
    except SalienceError:
        dataset.close()
        raise
    return dataset


def write(dataset: xarray.Dataset, file: Path, form: str) -> None:
    """A file of netCDF, or a folder of Zarr 3: form ".nc" or ".zarr"."""
    text = {name: c.astype(object) for name, c in dataset.coords.items() if c.dtype.kind == "U"}
    dataset = dataset.assign_coords(text)  # zarr 3 has no strings of fixed length
    dataset = dataset.drop_encoding()  # that of a file of the other format
    if form == ".nc":
        dataset.to_netcdf(file, engine="netcdf4")
    else:
        dataset.to_zarr(file, mode="w", consolidated=False, zarr_format=3)


def check_study(dataset: xarray.Dataset) -> None:
    """Raise SalienceError for what could not be opened again as a study."""
    why = "" if "maps" in dataset or tested(dataset) else "there are neither scores nor maps"
    try:
        check_form(dataset)
    except ValueError as error:
        why = str(error)
    if why:
        cure = "Select with lists, as in isel(sample=[0]): dimensions stay."
        raise expected("the data of a study", f"a dataset in which {why}", cure)


def _opened(file: Path) -> xarray.Dataset:
    import xarray

    if file.suffix == ".npz":
        return _maps_file(file)
    if file.suffix == ".zarr":
        return xarray.open_zarr(file, consolidated=False, zarr_format=3)
    return xarray.open_dataset(file, engine="netcdf4")


def _no_study(file: Path, error: Exception) -> SalienceError:
    why = reason(error)
    told = why if type(error) is ValueError else f"{type(error).__name__}: {why}"
    cure = "Run salience check again, and give its folder."
    return expected(f"a study in {file}", told, cure)


def _read_once(file: Path, dataset: xarray.Dataset) -> None:
    """Every value, a method's at a time: damage is found here, and not in the middle of a page."""
    try:
        for name, held in dataset.variables.items():
            if held.ndim < 3:
                dataset[name].load()
        check_form(dataset)
        for name, held in dataset.variables.items():
            for row in range(held.shape[0]) if held.ndim else ():
                check_values(str(name), held[row].values, held.dims)
    except Exception as error:  # as above
        raise _no_study(file, error) from None


def _file_of(path: Path) -> Path:
    inside = [path / name for name in (*FORMATS.values(), MAPS)]
    known = path.name.endswith((".nc", ".npz", ".zarr"))
    found = [file for file in ([path] if known else inside) if os.path.lexists(file)]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise expected("one result in a folder", f"{path} with {names}", f"Name one: {found[0]}.")
    if found:
        return found[0]
    raise expected(
        "a folder with study.nc, study.zarr or maps.npz, or one of these files",
        str(path),
        "Run salience check MODEL DATA -o FOLDER, then salience report FOLDER.",
    )


def _maps_file(file: Path) -> xarray.Dataset:
    """Maps of `salience explain` as a dataset with one stage, with their errors."""
    import xarray

    with np.load(file, allow_pickle=False) as held:
        origin = json.loads(str(held["provenance"]))
        arrays = {name: held[name] for name in held.files}
    if "input" not in arrays:
        inputs = [name for name in arrays if name.startswith("input.")]
        cure = "Run salience check for a report of several inputs."
        raise expected("the maps of one input", ", ".join(inputs) or "none", cure)
    x = arrays["input"]
    end = ".per_token" if x.dtype.kind == "i" else ""  # maps of ids in the shape of ids
    fixed = {"input", "output", "target_value", "provenance"}
    found = [n for n in arrays if n.endswith(end) and arrays[n].shape == x.shape]
    names = [n.removesuffix(end) for n in found if n not in fixed]
    if not names:
        cure = "Run salience check for a report without maps."
        raise expected(f"maps shaped like the input {x.shape}", "none", cure)
    none = np.full(len(x), np.nan)
    errors = {
        error: (("map_method", "map_sample"),
                np.stack([arrays.get(f"{name}.{error}", none) for name in names]))
        for error in ERRORS
    }  # fmt: skip
    space = [f"axis_{i}" for i in range(1, x.ndim)]
    maps = np.stack([arrays[f"{name}{end}"] for name in names])[:, None]
    return xarray.Dataset(
        {"maps": (("map_method", "map_stage", "map_sample", *space), maps),
         "inputs": (("map_sample", *space), x), **errors},
        {"map_method": np.array(names, dtype=object),
         "map_stage": np.array(["trained"], dtype=object)},
        {key: v if isinstance(v, str) else json.dumps(v) for key, v in origin.items()},
    )  # fmt: skip
