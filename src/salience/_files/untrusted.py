"""Files that somebody else wrote: regular ones alone, and no more of them than a limit.

A few bytes can declare any size. What a file declares is looked at before memory is given to it.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path

from salience._errors import expected

MAX_BYTES = 8 * 10**9  # that one file, or one tensor of its network, may take in memory
_UNITS = {"": 1, "B": 1, **{
    f"{letter}{end}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for end, base in (("", 1000), ("B", 1000), ("IB", 1024))
}}  # fmt: skip


def regular(file: Path, what: str, cure: str = "Check the path.") -> int:
    """The size in bytes of a file that is there and is no folder, pipe or device.

    A pipe that nobody writes to would be waited for without end.
    """
    try:
        found = file.stat()
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        raise expected(what, f"{file}, which is not there", cure) from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise expected(what, f"{file}, which is {kind}", "Give a regular file.")
    return found.st_size


def check_size(declared: int, what: str, limit: int) -> None:
    """Raise where something would take more bytes than a limit."""
    if declared > limit:
        enough = -(-declared // 10**9)
        raise expected(
            f"at most {in_words(limit)}",
            f"{what}, which would take {in_words(declared)} of memory",
            f"Raise the limit, if this is meant: --max-bytes {enough}GB on the command "
            f"line, max_bytes={enough * 10**9} in Python.",
        )


def unpacked(items: Iterable[zipfile.ZipInfo]) -> int:
    """The bytes that records of an archive declare: more of them are never unpacked."""
    return sum(item.file_size for item in items)


def in_words(count: float) -> str:
    """A number of bytes.

    >>> in_words(8e9), in_words(40_500_000), in_words(12)
    ('8 GB', '40.5 MB', '12 bytes')
    """
    for power, unit in ((15, "PB"), (12, "TB"), (9, "GB"), (6, "MB"), (3, "KB")):
        value = count / 10**power
        if value >= 1:
            return f"{value:.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"
    return f"{count:g} bytes"


def parse_bytes(text: str) -> int:
    """A number of bytes from its spelling on the command line.

    >>> parse_bytes("16GB"), parse_bytes("2e9"), parse_bytes("1.5 GiB")
    (16000000000, 2000000000, 1610612736)
    """
    match = re.fullmatch(r"(\d+\.?\d*(?:e\+?\d{1,2})?)\s*([A-Z]*)", text.strip(), re.IGNORECASE)
    unit = _UNITS.get(match[2].upper()) if match else None
    count = int(float(match[1]) * unit) if match and unit else 0
    if count < 1:
        raise expected("a size in bytes for --max-bytes", repr(text), "Such as 16GB, 500MB or 2e9.")
    return count
