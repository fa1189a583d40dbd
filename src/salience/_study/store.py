"""What `salience check` and `salience explain` wrote, read back for a report."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salience._errors import SalienceError, expected, reason, unknown
from salience._study.guard import look_at, text_of
from salience._study.maps import Maps
from salience._study.maps_file import from_xarray
from salience._study.schema import check_form, check_values, tested
from salience._study.verdicts import scores_of

if TYPE_CHECKING:
    import xarray

RESULTS = ("study.nc", "study.zarr", "maps.nc", "maps.zarr")


@dataclass(frozen=True)
class Stored:
    """A result, and the score that its verdicts are about, where that was said."""

    dataset: xarray.Dataset
    score: str | None = None


def open_study(path: Path) -> Stored:
    """The study at a file or in a folder; its maps are read when they are asked for.

    path  a folder that `salience check` or `salience explain` wrote, or the file in it

    Errors: SalienceError for a path that holds no result.
    """
    file = _file_of(Path(path))
    dataset = _looked_at(file)
    try:
        if "maps" not in dataset and not tested(dataset):
            cure = "Give the folder that salience check wrote."
            held = ", ".join(sorted(map(str, dataset)))
            raise expected(f"scores, or the maps of one input, in {file}", held or "nothing", cure)
        return Stored(dataset, _score_of(file.with_name("verdicts.json"), dataset))
    except SalienceError:
        dataset.close()
        raise


def open_maps(path: str | Path) -> Maps[Any]:
    """The maps that `Maps.save` or `salience explain` wrote, in memory.

    path  a folder that `salience explain` wrote, or a file of maps

    Errors: SalienceError for a path that holds none.
    """
    file = _file_of(Path(path))
    with _looked_at(file) as dataset:
        try:
            return from_xarray(dataset)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise _no_study(file, error) from None


def _looked_at(file: Path) -> xarray.Dataset:
    """What a file holds, once every value of it was read."""
    try:
        look_at(file)
        dataset = _opened(file)
    except SalienceError:
        raise
    except Exception as error:  # reading alone: a damaged file raises anything in any library
        raise _no_study(file, error) from None
    try:
        _read_once(file, dataset)
    except SalienceError:
        dataset.close()
        raise
    return dataset


def _opened(file: Path) -> xarray.Dataset:
    import xarray

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
    inside = [path / name for name in RESULTS]
    known = path.name.endswith((".nc", ".zarr"))
    found = [file for file in ([path] if known else inside) if os.path.lexists(file)]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise expected("one result in a folder", f"{path} with {names}", f"Name one: {found[0]}.")
    if found:
        return found[0]
    raise expected(
        "a folder with study.nc, study.zarr, maps.nc or maps.zarr, or one of these", str(path),
        "Run salience check MODEL DATA -o FOLDER, then salience report FOLDER.",
    )  # fmt: skip


def _score_of(file: Path, dataset: xarray.Dataset) -> str | None:
    """The score that verdicts.json is about, where it belongs to the dataset."""
    if not file.exists():
        return None
    try:
        told = json.loads(text_of(file))
        same = told.get("model_fingerprint") == dataset.attrs.get("model_fingerprint")
        score = told.get("score")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        cure = "Run salience check again, or take the file away."
        raise expected(f"verdicts in {file}", f"{type(error).__name__}: {error}", cure) from None
    if not isinstance(score, str | None):
        raise expected(f"the name of a score in {file}", repr(score), "Run salience check again.")
    if not same or score is None or not tested(dataset):
        return None
    if score not in (scores := scores_of(dataset)):
        raise unknown(f"score in {file}", score, scores)
    return score
