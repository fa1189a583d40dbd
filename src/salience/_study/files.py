"""Results opened from files, and saved to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salience._errors import expected
from salience._files.writing import whole
from salience._study import store
from salience._study.maps import Maps
from salience._study.maps_file import from_xarray
from salience._study.schema import has_faithfulness, tested
from salience._study.study import Study

if TYPE_CHECKING:
    import xarray


def open(path: str | Path) -> Study | Maps[Any]:
    """What `Study.save`, `Maps.save`, `salience check` or `salience explain` wrote.

    path  a file .nc or a folder .zarr, or the folder of a command

    A test is a `Study`, maps alone are `Maps`. What somebody else wrote is looked at before it is
    read: nothing in it is run, and it takes no more memory than its size accounts for. The maps of
    a study are read from the file when they are asked for; `study.data.close()` lets go of it.

    Errors: SalienceError for a path that holds no whole result, or more than one.

    >>> import tempfile, torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> study = salience.randomization_test(net.eval(), torch.randn(3, 6), progress=False)
    >>> file = study.save(tempfile.mkdtemp() + "/study.nc")
    >>> salience.open(file).methods == study.methods
    True
    """
    file = store.file_of(Path(path))
    dataset = store.read(file)
    if tested(dataset) or has_faithfulness(dataset) or "value" not in dataset:
        return _study(file, dataset)
    with dataset:
        try:
            return from_xarray(dataset)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise store.no_study(file, error) from None


def open_study(path: Path) -> Study:
    """What a page is made of: a test, or the maps of one input.

    Errors: SalienceError, as for `open`, and for the maps of several inputs.
    """
    file = store.file_of(path)
    return _study(file, store.read(file))


def _study(file: Path, dataset: xarray.Dataset) -> Study:
    if "maps" in dataset or tested(dataset) or has_faithfulness(dataset):
        return Study(dataset)
    dataset.close()
    held = ", ".join(sorted(map(str, dataset))) or "nothing"
    cure = "Give the folder that salience check wrote."
    raise expected(f"scores, or the maps of one input, in {file}", held, cure)


def save_study(study: Study, file: Path, overwrite: bool) -> Path:
    """What `Study.save` does."""
    return _save(file, overwrite, lambda: study.data, lambda: store.check_study(study.data))


def save_maps(maps: Maps[object], file: Path, overwrite: bool) -> Path:
    """What `Maps.save` does."""
    return _save(file, overwrite, maps.to_xarray)


def _save(
    file: Path,
    overwrite: bool,
    data: Callable[[], xarray.Dataset],
    check: Callable[[], None] = lambda: None,
) -> Path:
    if file.suffix not in store.ENDINGS:
        raise expected("a file .nc or .zarr", str(file), f"Call it {file.stem}.nc.")
    check()
    dataset = data()
    if os.path.lexists(file):
        if not overwrite:
            cure = "Choose another name, or overwrite=True."
            raise expected("a new file", f"{file}, which is there", cure)
        dataset.load()  # which may be read from the very file that goes
    with whole(file, folder=file.suffix == ".zarr") as beside:
        store.write(dataset, beside, file.suffix)
    return file
