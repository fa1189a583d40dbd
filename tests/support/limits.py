"""Little memory and little time for what must be refused without using either."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TooLong(BaseException):
    """No library takes it for an error of its own."""


@contextmanager
def within(seconds: float, gigabytes: float | None = None) -> Iterator[None]:
    """Raise TooLong after some time, and MemoryError for more memory than is used now."""

    def stop(*_: object) -> None:
        raise TooLong(f"longer than {seconds} s")

    old_limit = resource.getrlimit(resource.RLIMIT_AS)
    old_handler = signal.signal(signal.SIGALRM, stop)
    if gigabytes is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(gigabytes * 10**9)
        resource.setrlimit(resource.RLIMIT_AS, (most, old_limit[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old_handler)
        resource.setrlimit(resource.RLIMIT_AS, old_limit)
