"""Damaged files by the thousand, each within its time: what hangs or crashes is told by its seed.

The files are read in a process of their own, which ends itself where one takes too long: no signal
and no exception comes through a library that loops in C. The next one goes on with the next seed.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import IO

import pytest

FIRST = int(os.environ.get("SALIENCE_FUZZ_FIRST", "0"))  # the seed of the first damaged file
COUNT = int(os.environ.get("SALIENCE_FUZZ", "200"))  # damaged files of each format
SEEDS = range(FIRST, FIRST + COUNT)
SECONDS = 60  # of a processor, that a file may take
_WAITING = 10  # times as long it may take on a machine with other work, and where it only waits
_EVERY = 100  # files between two lines of progress
_FRAMES = 6  # of where a library hangs
_FORK = multiprocessing.get_context("fork")  # what is imported, and the whole file, are there


def progress(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Says a line at once, past pytest, which keeps them to the end of a test."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    return say


def endings(
    form: str,
    attempt: Callable[[int], str],
    say: Callable[[str], None],
    seeds: Sequence[int] = SEEDS,
    seconds: float = SECONDS,
) -> Counter[str]:
    """How the files of all seeds ended; AssertionError with the seed of each that failed.

    attempt  damages and reads the file of a seed and tells how that ended, or raises what no
             reading may raise
    """
    ends: Counter[str] = Counter()
    failed: list[str] = []
    done = 0
    while done < len(seeds):
        for end, failure in _read(attempt, seeds[done:], seconds):
            if failure is None:
                ends[end] += 1
            else:
                failed.append(f"{form}, seed {seeds[done]}: {failure}")
                say(failed[-1])
            done += 1
            if done % _EVERY == 0 or done == len(seeds):
                say(f"{form}, {done} of {len(seeds)}: {dict(ends)}, {len(failed)} failed")
    assert not failed, "\n".join(failed)
    return ends


def _read(
    attempt: Callable[[int], str], seeds: Sequence[int], seconds: float
) -> Iterator[tuple[str, str | None]]:
    """How files ended, and what failed, up to the first that ends the process they are read in."""
    ends, told = _FORK.Pipe(duplex=False)
    with ends, tempfile.TemporaryFile("w+") as log:
        process = _FORK.Process(target=_work, args=(attempt, seeds, seconds, told, log))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            process.start()
        told.close()
        for _ in seeds:
            try:
                yield ends.recv()
            except EOFError:
                process.join()
                log.seek(0)
                where = "".join(log.readlines()[: _FRAMES + 2]).strip()
                late = process.exitcode == -signal.SIGPROF
                how = f"took {seconds} s" if late else f"its process ended with {process.exitcode}"
                yield "", f"{how}. {where}"
                return
        process.join()


def _work(
    attempt: Callable[[int], str],
    seeds: Sequence[int],
    seconds: float,
    told: Connection,
    log: IO[str],
) -> None:
    faulthandler.enable(log)  # of crashes
    faulthandler.register(signal.SIGPROF, file=log, chain=True)  # which ends the process then
    for seed in seeds:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        faulthandler.dump_traceback_later(_WAITING * seconds, exit=True, file=log)
        try:
            told.send((attempt(seed), None))
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            told.send(("", f"{error!r} at {where.filename}:{where.lineno}"))
        faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_PROF, 0)
