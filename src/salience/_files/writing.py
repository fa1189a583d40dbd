"""Files that are whole or not there, and folders that hold one result."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from salience import _interrupts
from salience._errors import expected
from salience._files.locks import alone_in

RESULT = (  # what check, sweep and explain write
    "study.nc", "study.zarr", "similarity.png", "cascade.png",
    "plane.png", "sweep.png", "maps.nc", "maps.zarr", "overview.png", "overview_*.png",
)  # fmt: skip
_PART = ".part"
_PATIENCE = 50  # tenths of a second


@contextmanager
def whole(file: Path, folder: bool = False) -> Iterator[Path]:
    """A path to write to, beside a file, whose place it takes at the end; after an error it goes.

    folder  it is one, as the file is

    Errors: OSError, before anything is computed, where nothing can be written.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}{_PART}")
    with _interrupts.undone(lambda: _remove(beside)):
        if folder:
            beside.mkdir()
        else:
            beside.touch()
        yield beside
        with _interrupts.ignored():
            _replace(beside, file)
            _interrupts.keep(f"{file} is complete")


def _replace(beside: Path, file: Path) -> None:
    """A folder takes no other one's place: that one steps aside, and back after an error."""
    earlier = beside.with_suffix(".earlier")
    moved = beside.is_dir() and os.path.lexists(file)
    if moved:
        file.replace(earlier)
    try:
        beside.replace(file)
    except OSError:
        if moved:
            earlier.replace(file)
        raise
    _remove(earlier)


@contextmanager
def result_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A place to write a result to, which moves into its folder at the end; after an error it goes.

    folder     is made where it is missing, and is this run's alone as long as it lasts
    overwrite  replace the result that is there; it stays until the new one is complete

    Errors: SalienceError, before anything is computed, for a folder that holds a result, in which
    another run is at work, or which cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise expected("a folder for -o", f"{folder}, which is a file", "Choose another name.")
    made = not folder.exists()
    with ExitStack() as held:
        if made:
            held.enter_context(_interrupts.undone(partial(_remove_empty, folder)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone_in(folder))
        except OSError as error:
            raise expected(
                "a folder for -o that can be written to",
                f"{folder}: {error.strerror}",
                "Choose another one.",
            ) from None
        if (earlier := _result_in(folder)) and not overwrite:
            raise expected(
                "a folder without a result for -o",
                f"{folder}, which holds {earlier[0].name}",
                "Choose another name, or replace that result with --overwrite.",
            )
        yield held.enter_context(_beside(folder))


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # where it holds something by now
        folder.rmdir()


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """An empty folder in a folder, whose files take the place of the result in that one."""
    beside = folder / _PART
    with _interrupts.undone(partial(_remove, beside)):
        _remove(beside)  # of a run that was killed
        beside.mkdir()
        yield beside
        with _interrupts.ignored():
            for file in _result_in(folder):
                _remove(file)
            for file in beside.iterdir():
                file.replace(folder / file.name)
            _interrupts.keep(f"{folder} holds the result")


def _result_in(folder: Path) -> list[Path]:
    return [file for pattern in RESULT for file in sorted(folder.glob(pattern))]


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for _ in range(_PATIENCE):  # threads of an interrupted writer may still add to it
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.1)
    shutil.rmtree(path)
