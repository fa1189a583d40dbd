"""Measurements kept in files, so that a run that was stopped goes on with what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import xarray


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of what a stored result depends on."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def part_path(folder: Path, name: str, label: str) -> Path:
    """File of one part, `label`, of the measurements on network `name`."""
    return folder / f"{name}-{label.replace(' ', '-')}.nc"


def stored(
    path: Path, settings: dict[str, Any], make: Callable[[], xarray.Dataset], fresh: bool
) -> xarray.Dataset:
    """The dataset in `path` if it was made with these settings; else make it and keep it there."""
    key = json.dumps(settings, sort_keys=True)
    if path.exists() and not fresh:
        data = xarray.load_dataset(path)
        if data.attrs["settings"] == key:
            return data
    data = make()
    attributes = {
        name: value if _plain(value) else str(value) for name, value in data.attrs.items()
    }
    data.attrs = {**attributes, "settings": key}
    partial = path.with_suffix(".partial")
    data.to_netcdf(partial)
    partial.replace(path)
    return data


def _plain(value: Any) -> bool:
    """Whether netCDF has it as it is: a number, or some of them."""
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(isinstance(one, int | float) for one in value)
    return isinstance(value, int | float)
