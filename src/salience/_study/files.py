"""Studies opened from files, and saved to them."""

from __future__ import annotations

import os
from pathlib import Path

from salience._errors import expected
from salience._files.writing import whole
from salience._study import store
from salience._study.study import Study


def open(path: str | Path) -> Study:
    """The study that `Study.save`, `salience check` or `salience explain` wrote.

    path  a file .nc, .zarr or .npz, or the folder of a command

    What somebody else wrote is looked at before it is read: nothing in it is run, and it takes no
    more memory than its size accounts for. Maps are read from the file when they are asked for;
    `study.data.close()` lets go of it.

    Errors: SalienceError for a path that holds no whole result, or more than one.

    >>> import tempfile, torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> study = salience.randomization_test(net.eval(), torch.randn(3, 6), progress=False)
    >>> file = study.save(tempfile.mkdtemp() + "/study.nc")
    >>> salience.open(file).methods == study.methods
    True
    """
    return Study(store.read(Path(path)))


def save(study: Study, file: Path, overwrite: bool) -> Path:
    """What `Study.save` does."""
    if file.suffix not in store.FORMATS:
        raise expected("a file .nc or .zarr", str(file), "Such as study.nc.")
    store.check_study(study.data)
    if os.path.lexists(file):
        if not overwrite:
            cure = "Choose another name, or overwrite=True."
            raise expected("a new file", f"{file}, which is there", cure)
        study.data.load()  # which may be read from the very file that goes
    with whole(file, folder=file.suffix == ".zarr") as beside:
        store.write(study.data, beside, file.suffix)
    return file
