"""Compressed chunks of stored arrays: that they unpack to what their array declares, and no more.

Neither library bounds what a chunk of some kilobytes may become, or sees one that ends early.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py

DEFLATE, FLETCHER = 1, 3  # numbers of HDF5's filters
_CHECKSUM = 4  # bytes
_MAGIC = b"\x28\xb5\x2f\xfd"
_REFERENCE = 16  # bytes that HDF5 keeps in the place of a text of any length


def check_hdf5(name: str, item: h5py.Dataset, filters: list[int]) -> None:
    """Raise ValueError where a deflated chunk of an array does not hold its bytes."""
    from h5py import check_string_dtype

    if DEFLATE not in filters:
        return
    if len(set(filters)) < len(filters):
        raise ValueError(f"{name} is packed twice")
    if item.chunks is None:
        raise ValueError(f"{name} is packed, but not in chunks")
    place, text = filters.index(DEFLATE), check_string_dtype(item.dtype)
    width = _REFERENCE if text is not None and text.length is None else item.dtype.itemsize
    wanted = width * math.prod(item.chunks)
    wanted += _CHECKSUM * (FLETCHER in filters[:place])
    for number in range(item.id.get_num_chunks()):
        found = item.id.get_chunk_info(number)
        if found.size > wanted + wanted // 100 + 1024:  # what cannot be packed grows a little
            raise ValueError(f"{name} holds a packed chunk of {found.size} bytes for {wanted}")
        left_out, packed = item.id.read_direct_chunk(found.chunk_offset)
        if not left_out & 1 << place:
            size = len(zlib.decompressobj().decompress(packed, wanted + 1))
            if size != wanted:
                told = f"more than {wanted}" if size > wanted else f"of {size} bytes, not {wanted}"
                raise ValueError(f"{name} holds a chunk {told}")


def check_zstd(name: str, chunk: Path, wanted: int, least: int) -> None:
    """Raise ValueError for a chunk of Zstandard that announces other bytes than wanted."""
    with chunk.open("rb") as file:
        size = _announced(file.read(18))
    if size is None:
        raise ValueError(f"{name} holds a chunk that does not say how much it holds")
    if not least <= size <= wanted:
        raise ValueError(f"{name} holds a chunk of {size} bytes in place of {wanted}")


def _announced(head: bytes) -> int | None:
    """The content size in the header of a frame (RFC 8878, 3.1.1.1); None where there is none."""
    if len(head) < 6 or not head.startswith(_MAGIC):
        return None
    kind, single, dictionary = head[4] >> 6, head[4] >> 5 & 1, head[4] & 3
    start = 5 + (not single) + (0, 1, 2, 4)[dictionary]
    width = (single, 2, 4, 8)[kind]
    if not width or len(head) < start + width:
        return None
    return int.from_bytes(head[start : start + width], "little") + 256 * (width == 2)
