"""Arrays in an HDF5 file, by what they declare: in this file, and of filters that are known."""

from __future__ import annotations

import math
import mmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

Bytes = bytes | mmap.mmap
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP = b"GCOL\x01"  # a collection of texts of any length
_OBJECT = 16  # bytes before each of them: their number, and how long they are
_FILTERS = {1, 2, 3}  # deflate, shuffle, fletcher32: those inside of every HDF5 library


def member(group: h5py.Group, name: str) -> object:
    """What lies in a group under a name; ValueError for a link to elsewhere."""
    import h5py

    # by the link first: asking for the object would follow it
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to elsewhere")
    return group[name]


def filters_of(name: str, item: h5py.Dataset) -> list[int]:
    """The filters of an array in their order; ValueError for another file's bytes or filters."""
    if item.external or item.is_virtual:
        raise ValueError(f"{name} is kept in another file")
    made = item.id.get_create_plist()
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    if alien := sorted(set(filters) - _FILTERS):
        raise ValueError(f"{name} needs the filters {alien}")
    return filters


def entries_of(item: h5py.Dataset) -> int:
    """The entries that reading an array may make: whole chunks, also where it is smaller."""
    shape = item.shape or ()
    return math.prod(max(n, chunk) for n, chunk in zip(shape, item.chunks or shape, strict=True))


def longest_text(data: Bytes, held: h5py.File) -> int:
    """The bytes that a text of any length may have in a file: those of the largest collection.

    Any number of texts can be references to a single one.

    data  of the file that is held open

    Errors: ValueError for a file that other libraries may read as another one, and for collections
    that HDF5's library would read without end, or that overlap.
    """
    if data[: len(_SIGNATURE)] != _SIGNATURE:  # HDF5 looks for it further on, too
        raise ValueError("it does not begin as HDF5 does")
    if (sizes := held.id.get_create_plist().get_sizes()) != (8, 8):
        raise ValueError(f"it counts in {sizes[0]} and {sizes[1]} bytes, not in 8")
    longest, total, place = 0, 0, data.find(_HEAP)
    while place >= 0:
        size = int.from_bytes(data[place + 8 : place + 16], "little")
        if place + size <= len(data):  # others are numbers that look like one
            longest, total = max(longest, size), total + size
            if total > len(data):  # each would have to be looked through by itself
                raise ValueError("texts that overlap")
            _check_collection(data, place, place + size)
        place = data.find(_HEAP, place + 1)
    return longest


def _check_collection(data: Bytes, place: int, end: int) -> None:
    """Raise ValueError unless a collection ends: its free space says itself how long it is."""
    place += _OBJECT  # of the collection itself, which begins as its objects do
    while place + _OBJECT <= end:
        number, length = (
            int.from_bytes(data[place + i : place + j], "little") for i, j in ((0, 2), (8, 16))
        )
        step = length if number == 0 else _OBJECT + length + -length % 8
        if step < _OBJECT:
            raise ValueError("texts that are stored without an end")
        place += step


def bytes_of(kind: Any, longest: int) -> int:
    """The bytes that a value of a type of HDF5 takes, texts of any length with what they hold."""
    from h5py import h5t

    of_any_length = kind.get_class() == h5t.VLEN
    if kind.get_class() == h5t.STRING:
        of_any_length = kind.is_variable_str()
    return kind.get_size() + longest * of_any_length


def attribute_bytes(held: Any, longest: int) -> int:
    """The bytes that an attribute declares."""
    return bytes_of(held.get_type(), longest) * math.prod(held.shape or ())
