"""Arrays in an HDF5 file, by what they declare: in this file, and of filters that are known."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP = b"GCOL\x01"  # a collection of texts of any length
_FILTERS = {1, 2, 3}  # deflate, shuffle, fletcher32: those inside of every HDF5 library


def member(group: Any, name: str) -> Any:
    """What lies in a group under a name; ValueError for a link to elsewhere."""
    import h5py

    # by the link first: asking for the object would follow it
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to elsewhere")
    return group[name]


def filters_of(name: str, item: Any) -> list[int]:
    """The filters of an array in their order; ValueError for another file's bytes or filters."""
    if item.external or item.is_virtual:
        raise ValueError(f"{name} is kept in another file")
    made = item.id.get_create_plist()
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    if alien := sorted(set(filters) - _FILTERS):
        raise ValueError(f"{name} needs the filters {alien}")
    return filters


def entries_of(item: Any) -> int:
    """The entries that reading an array may make: whole chunks, also where it is smaller."""
    shape = item.shape or ()
    return math.prod(max(n, chunk) for n, chunk in zip(shape, item.chunks or shape, strict=True))


def check_start(file: Path, held: Any) -> None:
    """Raise ValueError for a file that other libraries may read as another one.

    HDF5 itself looks for its signature further on, and has numbers of any width.
    """
    with file.open("rb") as stream:
        if stream.read(len(_SIGNATURE)) != _SIGNATURE:
            raise ValueError(f"{file.name} does not begin as HDF5 does")
    sizes = held.id.get_create_plist().get_sizes()
    if sizes != (8, 8):
        raise ValueError(f"{file.name} counts in {sizes[0]} and {sizes[1]} bytes, not in 8")


def longest_text(file: Path) -> int:
    """The bytes that a text of any length may have in a file: those of the largest collection.

    Any number of texts can be references to a single one.
    """
    longest = 0
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held:
        place = held.find(_HEAP)
        while place >= 0:
            size = int.from_bytes(held[place + 8 : place + 16], "little")
            if place + size <= len(held):  # others are numbers that look like one
                longest = max(longest, size)
            place = held.find(_HEAP, place + 1)
    return longest


def bytes_of(kind: Any, longest: int) -> int:
    """The bytes that a value of a type of HDF5 takes, texts of any length with what they hold."""
    from h5py import h5t

    of_any_length = kind.get_class() == h5t.VLEN
    if kind.get_class() == h5t.STRING:
        of_any_length = kind.is_variable_str()
    return kind.get_size() + longest * of_any_length
