"""Ctrl-C ends the command `salience` at once: with a sentence, and without what is half written.

An exception will not do. Where it strikes, torch and NumPy turn it into an ImportError, callbacks
print and drop it, and netCDF's locks are kept for ever.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | signal.Handlers
EXIT_CODE = 128 + signal.SIGINT  # what a shell reports of a program that Ctrl-C ended
_NOTHING = "nothing was being written"
_kept = _NOTHING
_undoing: list[Callable[[], object]] = []


def end_quietly() -> None:
    """Let Ctrl-C end this process like that, if it is the command; other programs are their own."""
    # python -m names itself so until the package is imported; then it is a path
    if sys.argv[:1] == ["-m"]:
        given = sys.orig_argv
        command = given[given.index("-m") + 1 :][:1] == ["salience"] if "-m" in given else False
    else:
        command = Path(sys.argv[0] if sys.argv else "").stem == "salience"
    if command and _may_handle() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for undo in reversed(_undoing):
        with suppress(Exception):  # nobody is left to tell
            undo()
    with suppress(OSError):
        os.write(2, f"\n{sentence()}\n".encode())
    os._exit(EXIT_CODE)


def sentence() -> str:
    return f"Interrupted: {_kept}."


def keep(what: str = _NOTHING) -> None:
    """Say what is left if Ctrl-C comes from here on."""
    global _kept
    _kept = what


@contextmanager
def undone(by: Callable[[], object]) -> Iterator[None]:
    """Call a function at the end, however that comes; it may be called twice."""
    _undoing.append(by)
    try:
        yield
    finally:
        try:
            by()
        finally:
            _undoing.remove(by)


@contextmanager
def raised() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt in here, also in the command `salience`."""
    with _handled_by(signal.default_int_handler):
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """Ctrl-C does nothing in here: for the moments in which files take their places."""
    with _handled_by(signal.SIG_IGN):
        yield


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if not _may_handle() or before in (None, signal.SIG_IGN):
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _may_handle() -> bool:
    return threading.current_thread() is threading.main_thread()
