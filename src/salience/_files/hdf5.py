"""Arrays in an HDF5 file, by what they declare: in this file, and of filters that are known."""

from __future__ import annotations

import math
from typing import Any

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
