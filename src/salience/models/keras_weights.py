"""The weights in a .keras file (HDF5), looked at before Keras opens them."""

from __future__ import annotations

import io
import math
from typing import Any

_FILTERS = {1, 2, 3}  # deflate, shuffle, fletcher32: those inside of every HDF5 library
_MOST_GROUPS = 10**5


def stored_bytes(data: bytes, most: int) -> int:
    """The bytes of all arrays in an HDF5 file, whose groups are a tree of plain arrays.

    Errors: ValueError for what lies outside of the file, is reached twice (such a file has no
    end), needs a filter of its own or declares more than `most` bytes.
    """
    import h5py
    from h5py import h5o  # type: ignore[attr-defined]

    total, seen = 0, set()
    with h5py.File(io.BytesIO(data), "r") as file:
        left: list[tuple[str, Any]] = [("the root", file)]
        while left:
            name, item = left.pop()
            place = h5o.get_info(item.id).addr
            if place in seen:
                raise ValueError(f"{name} is linked to twice")
            seen.add(place)
            if isinstance(item, h5py.Group):
                left += [(f"{name}/{key}", _member(item, key)) for key in map(str, item)]
            elif isinstance(item, h5py.Dataset):
                total += _declared(name, item)
            else:
                raise ValueError(f"{name} is no array")
            if total > most or len(seen) + len(left) > _MOST_GROUPS:
                raise ValueError("its weights unpack to more than they should")
    return total


def _member(group: Any, key: str) -> Any:
    import h5py

    # by the link first: asking for the object would follow it
    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        raise ValueError(f"{key} is a link to elsewhere")
    return group[key]


def _declared(name: str, item: Any) -> int:
    """The bytes that reading an array may take: whole chunks, also where it is smaller."""
    if item.external or item.is_virtual:
        raise ValueError(f"{name} is kept in another file")
    if item.dtype.kind not in "fiubV" or item.dtype.hasobject or item.dtype.names:
        raise ValueError(f"{name} holds no numbers, but {item.dtype}")
    made = item.id.get_create_plist()
    filters = {made.get_filter(i)[0] for i in range(made.get_nfilters())}
    if filters - _FILTERS:
        raise ValueError(f"{name} needs the filters {sorted(filters - _FILTERS)}")
    shape = item.shape or ()
    whole = zip(shape, item.chunks or shape, strict=True)
    return item.dtype.itemsize * math.prod(max(n, chunk) for n, chunk in whole)
