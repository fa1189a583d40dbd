"""One run at a time in a folder: a file that names the process which works there."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from salience import _interrupts
from salience._errors import SalienceError, expected

LOCK = ".salience.lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; what a process that died left there is taken over.

    Errors: SalienceError while another run is alive; OSError for a folder that cannot be written.
    """
    lock = folder / LOCK
    own = _acquired(lock)

    def release() -> None:
        if _text(lock) == own:
            lock.unlink()

    with _interrupts.undone(release):
        yield


def _acquired(lock: Path) -> str:
    """What the lock says, which is this process's from now on."""
    own = json.dumps({"host": platform.node(), "pid": os.getpid(), "started": started(os.getpid())})
    while True:
        try:
            _make(lock, own)
            return own
        except FileExistsError:
            found = _text(lock)
        if found is not None and not _left_behind(found):
            raise _taken(lock, found)
        if found is not None:
            _take_away(lock, found)


def _make(lock: Path, text: str) -> None:
    with lock.open("x") as file:  # one of all that try at once succeeds
        try:
            file.write(text)
            file.flush()
        except OSError:  # a full disk: an empty lock would be nobody's for ever
            lock.unlink()
            raise


def _text(lock: Path) -> str | None:
    try:
        return lock.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _take_away(lock: Path, dead: str) -> None:
    """Remove the lock of a dead process: of all that found it, one at a time may look and do so."""
    claim = lock.with_name(f"{lock.name}.claim")
    try:
        claim.open("x").close()
    except FileExistsError:
        raise _taken(claim, "") from None
    try:
        if _text(lock) == dead:  # and not the lock of one that was faster
            lock.unlink()
    finally:
        claim.unlink()


def _left_behind(text: str) -> bool:
    """Whether a lock is of a process of this machine that is no more."""
    told = _read(text)
    pid = told.get("pid")
    if os.name != "posix" or type(pid) is not int or told.get("host") != platform.node():
        return False  # elsewhere os.kill would end the process
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # of another user
        pass
    return started(pid) != told.get("started")  # its number is another one's by now


def started(pid: int) -> str | None:
    """When a process began, as Linux tells it; None for one that has ended, and elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _read(text: str) -> dict[str, object]:
    try:
        told = json.loads(text)
    except ValueError:  # of one that is about to write it
        return {}
    return told if isinstance(told, dict) else {}


def _taken(lock: Path, text: str) -> SalienceError:
    told = _read(text)
    who = f"process {told['pid']} on {told.get('host')}" if "pid" in told else "another run"
    return expected(
        "a folder that no other run writes to",
        f"{lock.parent}, where {who} is at work",
        f"Wait for it, or choose another folder; if there is no such run, delete {lock}.",
    )
