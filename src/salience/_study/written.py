"""A dataset written to one file of netCDF or one folder of Zarr, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from salience._errors import expected
from salience._files.writing import whole

if TYPE_CHECKING:
    import xarray

ENDINGS = (".nc", ".zarr")


def write_dataset(dataset: xarray.Dataset, file: Path, overwrite: bool = False) -> Path:
    """A file of netCDF or a folder of Zarr, by its ending; written beside it and renamed.

    Errors: SalienceError for another ending, and for what is there unless overwrite is set.
    """
    if file.suffix not in ENDINGS:
        raise expected("a file .nc or a folder .zarr", str(file), f"Call it {file.stem}.nc.")
    if file.exists() and not overwrite:
        raise expected("a name that is free", str(file), "Choose another, or set overwrite=True.")
    text = {name: c.astype(object) for name, c in dataset.coords.items() if c.dtype.kind == "U"}
    dataset = dataset.assign_coords(text)  # zarr 3 has no strings of fixed length
    if file.suffix == ".nc":
        with whole(file) as beside:
            dataset.to_netcdf(beside, engine="netcdf4")
        return file
    beside = file.with_name(f".{file.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        dataset.to_zarr(beside, mode="w", consolidated=False)
        if file.exists():
            shutil.rmtree(file)
        beside.replace(file)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return file
