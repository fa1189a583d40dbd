"""The weights in a .keras file (HDF5), looked at before Keras opens them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from salience._files.hdf5 import attribute_bytes, entries_of, filters_of, longest_text, member

if TYPE_CHECKING:
    import h5py

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
        longest = longest_text(data, file)
        left: list[tuple[str, Any]] = [("the root", file)]
        while left:
            name, item = left.pop()
            place = h5o.get_info(item.id).addr
            if place in seen:
                raise ValueError(f"{name} is linked to twice")
            seen.add(place)
            total += sum(attribute_bytes(item.attrs.get_id(key), longest) for key in item.attrs)
            if isinstance(item, h5py.Group):
                left += [(f"{name}/{key}", member(item, key)) for key in map(str, item)]
            elif isinstance(item, h5py.Dataset):
                total += _declared(name, item)
            else:
                raise ValueError(f"{name} is no array")
            if total > most or len(seen) + len(left) > _MOST_GROUPS:
                raise ValueError("its weights unpack to more than they should")
    return total


def _declared(name: str, item: h5py.Dataset) -> int:
    """The bytes that reading an array may take."""
    if item.dtype.kind not in "fiubV" or item.dtype.hasobject or item.dtype.names:
        raise ValueError(f"{name} holds no numbers, but {item.dtype}")
    filters_of(name, item)
    return item.dtype.itemsize * entries_of(item)
