"""Ctrl-C at times when nobody can catch it: a sentence and an exit code, and no traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXIT_CODE = 128 + signal.SIGINT  # what a shell reports of a program that Ctrl-C ended


def end_quietly() -> None:
    """Let Ctrl-C end the command `salience` at once; other programs keep their own ways.

    An exception will not do while modules are loaded: some turn it into an ImportError.
    """
    # python -m names itself so until the package is imported; then it is a path
    command = sys.argv[:1] == ["-m"] or Path(sys.argv[0] if sys.argv else "").stem == "salience"
    if command and _may_handle() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: Any) -> None:
    os.write(2, b"Interrupted: nothing was being written.\n")
    os._exit(EXIT_CODE)


@contextmanager
def raised() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt in here, also in the command `salience`."""
    quiet = _may_handle() and signal.getsignal(signal.SIGINT) is _leave
    if quiet:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if quiet:
            signal.signal(signal.SIGINT, _leave)


@contextmanager
def ignored() -> Iterator[None]:
    """Ctrl-C does nothing in here: for the moments in which files take their places."""
    before = signal.getsignal(signal.SIGINT)
    if not _may_handle() or before is None:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _may_handle() -> bool:
    return threading.current_thread() is threading.main_thread()
