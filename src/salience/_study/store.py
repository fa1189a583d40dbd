"""Studies in files and folders: written, and read back as what a stranger may have written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from salience._errors import SalienceError, expected, reason
from salience._study.guard import look_at
from salience._study.schema import check_form, check_values, has_faithfulness, tested

if TYPE_CHECKING:
    import xarray

ENDINGS = (".nc", ".zarr")
NAMES = ("study", "maps")  # of the files of a folder


def read(path: Path) -> xarray.Dataset:
    """The result at a file or in a folder; its maps are read when they are asked for.

    path  a folder that `salience check` or `salience explain` wrote, or the file in it

    Errors: SalienceError for a path that holds no result.
    """
    file = file_of(path)
    try:
        look_at(file)
        dataset = _opened(file)
    except SalienceError:
        raise
    except Exception as error:  # reading alone: a damaged file raises anything in any library
        raise no_study(file, error) from None
    try:
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
    held = "maps" in dataset or tested(dataset) or has_faithfulness(dataset)
    why = "" if held else "there are neither scores nor maps"
    try:
        check_form(dataset)
    except ValueError as error:
        why = str(error)
    if why:
        cure = "Select with lists, as in isel(sample=[0]): dimensions stay."
        raise expected("the data of a study", f"a dataset in which {why}", cure)


def _opened(file: Path) -> xarray.Dataset:
    import xarray

    if file.suffix == ".zarr":
        return xarray.open_zarr(file, consolidated=False, zarr_format=3)
    return xarray.open_dataset(file, engine="netcdf4")


def no_study(file: Path, error: Exception) -> SalienceError:
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
        raise no_study(file, error) from None


def file_of(path: Path) -> Path:
    """The one result at a path or in a folder."""
    inside = [path / f"{name}{ending}" for name in NAMES for ending in ENDINGS]
    known = path.name.endswith(ENDINGS)
    found = [file for file in ([path] if known else inside) if os.path.lexists(file)]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise expected("one result in a folder", f"{path} with {names}", f"Name one: {found[0]}.")
    if found:
        return found[0]
    raise expected(
        "a folder with study.nc, study.zarr, maps.nc or maps.zarr, or one of these",
        str(path),
        "Run salience check MODEL DATA -o FOLDER, then salience report FOLDER.",
    )
