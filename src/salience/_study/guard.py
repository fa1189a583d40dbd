"""What a stored result may be made of, looked at before any of it is opened.

A page is made to be sent on: a result that somebody else wrote must not be able to put other files
of this machine into it, to run a filter or codec that is not listed here, or to claim more memory
than its own size accounts for.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salience._files.hdf5 import (
    attribute_bytes,
    bytes_of,
    entries_of,
    filters_of,
    longest_text,
    member,
)
from salience._study.chunks import check_hdf5, check_zstd

if TYPE_CHECKING:
    import h5py

Json = Mapping[str, Any]  # of a file; what it lacks is an error when it is read
_REFERRING = {"DIMENSION_LIST", "REFERENCE_LIST"}  # netCDF's own ties of arrays to dimensions
_CODECS = {"bytes", "vlen-utf8", "zstd", "crc32c"}
_TYPES = {
    "bool",
    "string",
    *(f"{k}{b}" for k in ("int", "uint") for b in (8, 16, 32, 64)),
    *(f"float{b}" for b in (16, 32, 64)),
}
_STRING = 1024  # bytes that one string counts for, since its length is not declared
_ROOM, _RATIO = 2**30, 20  # bytes that any file may declare, and beyond that in its own sizes
_LARGEST_JSON = 2**26
_MOST_FILES = 10**6


def look_at(file: Path) -> None:
    """Raise ValueError for a stored result that is more than plain arrays of its own.

    file  .nc or .zarr
    """
    if file.suffix == ".zarr":
        _zarr(file)
    else:
        _hdf5(file, _regular(file))


def text_of(file: Path) -> str:
    """What a regular file of JSON holds, unless it is too large to be one."""
    size = _regular(file)
    if size > _LARGEST_JSON:
        raise ValueError(f"{file.name} has {size} bytes, more than a description needs")
    return file.read_text(encoding="utf-8")


def _regular(file: Path) -> int:
    """The size of a file that is neither a link nor a pipe or device."""
    found = os.lstat(file)
    if not stat.S_ISREG(found.st_mode):
        kind = "a link to elsewhere" if stat.S_ISLNK(found.st_mode) else "not a regular file"
        raise ValueError(f"{file.name} is {kind}")
    return found.st_size


def _bounded(declared: int, size: int) -> None:
    if declared > max(_ROOM, _RATIO * size):
        raise ValueError(f"{size} bytes that declare {declared} bytes of arrays")


def _hdf5(file: Path, size: int) -> None:
    """Arrays beside each other, whose bytes are in this file."""
    import h5py

    with h5py.File(file, "r") as held:
        longest = _longest_text(file, held)
        total = _attributes("the file", held, longest)
        _bounded(total, size)
        for name in map(str, held):
            item = member(held, name)
            if not isinstance(item, h5py.Dataset):  # nothing below the root: no loops of links
                raise ValueError(f"{name} is no array, which alone a study holds")
            filters = filters_of(name, item)
            text = h5py.check_string_dtype(item.dtype) is not None
            if not text and item.dtype.kind not in "fiub":
                raise ValueError(f"{name} holds neither numbers nor text, but {item.dtype}")
            total += bytes_of(item.id.get_type(), longest) * entries_of(item)
            total += _attributes(name, item, longest)
            _bounded(total, size)
            check_hdf5(name, item, filters)


def _longest_text(file: Path, held: h5py.File) -> int:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return longest_text(data, held)


def _attributes(name: str, item: h5py.File | h5py.Dataset, longest: int) -> int:
    """The bytes that the attributes of an array declare."""
    from h5py import h5t

    total = 0
    for key in item.attrs:
        held = item.attrs.get_id(key)
        plain = held.get_type().get_class() in (h5t.INTEGER, h5t.FLOAT, h5t.STRING, h5t.ENUM)
        if not plain and key not in _REFERRING:
            raise ValueError(f"the attribute {key} of {name} is neither numbers nor text")
        total += attribute_bytes(held, longest)
    return total


def _zarr(folder: Path) -> None:
    """A group of arrays of Zarr 3, whose chunks are files of this folder."""
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise ValueError(f"{folder.name} is no folder, or a link to one")
    size = 0
    nodes: dict[tuple[str, ...], Json] = {}
    chunks: list[tuple[str, ...]] = []
    for count, parts in enumerate(_below(folder)):
        file = folder.joinpath(*parts)
        size += _regular(file)
        if count > _MOST_FILES:
            raise ValueError(f"more than {_MOST_FILES} files")
        if parts[-1] == "zarr.json" and len(parts) <= 2:
            nodes[parts[:-1]] = json.loads(text_of(file))
        elif len(parts) < 2 or parts[1] != "c" or not all(map(_number, parts[2:])):
            raise ValueError(f"{'/'.join(parts)} is no part of a store of Zarr 3")
        else:
            chunks.append(parts)
    if () not in nodes:
        raise ValueError("no zarr.json of Zarr 3")
    _bounded(sum(_node("/".join(at) or "the store", node) for at, node in nodes.items()), size)
    for parts in chunks:
        if (node := nodes.get(parts[:1])) and "zstd" in _codecs(node):
            check_zstd(parts[0], folder.joinpath(*parts), *_chunk_sizes(node))


def _number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _below(folder: Path) -> Iterator[tuple[str, ...]]:
    """The parts of every file's path; links, pipes and devices among them."""

    def stop(error: OSError) -> None:
        raise error

    for at, folders, files in os.walk(folder, onerror=stop):  # links to folders are not followed
        for name in folders:
            if os.path.islink(os.path.join(at, name)):
                raise ValueError(f"{name} is a link to elsewhere")
        for name in files:
            yield (*Path(at).relative_to(folder).parts, name)


def _node(name: str, node: object, deep: bool = False) -> int:
    """The bytes that a node of Zarr declares; ValueError for more than a plain array or group."""
    if not isinstance(node, Mapping) or node.get("zarr_format") != 3:
        raise ValueError(f"{name} is not of Zarr 3")
    if node.get("node_type") == "group":
        inner = (node.get("consolidated_metadata") or {}).get("metadata") or {}
        if deep and inner:
            raise ValueError(f"{name} is a group in a group, which a study has not")
        for key, held in inner.items():  # read by nobody here, and looked at by the library
            _node(key, held, deep=True)
        return 0
    kind, shape, codecs = node["data_type"], node["shape"], _codecs(node)
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{name} holds neither numbers nor text, but {kind}")
    if alien := [str(codec) for codec in codecs if codec not in _CODECS]:
        raise ValueError(f"{name} needs the codecs {alien}")
    if len(set(codecs)) < len(codecs):
        raise ValueError(f"{name} is packed twice")
    encoding, grid = node["chunk_key_encoding"], node["chunk_grid"]
    slashed = (encoding.get("configuration") or {}).get("separator", "/") == "/"
    if node.get("storage_transformers") or encoding["name"] != "default" or not slashed:
        raise ValueError(f"{name} keeps its chunks in an unusual way")
    chunks = grid["configuration"]["chunk_shape"]
    if not all(type(n) is int and n >= 0 for n in (*shape, *chunks)):
        raise ValueError(f"{name} has the shape {shape} in chunks of {chunks}")
    return _width(kind) * math.prod(max(n, c) for n, c in zip(shape, chunks, strict=True))


def _codecs(node: Json) -> list[object]:
    return [c.get("name") if isinstance(c, Mapping) else c for c in node.get("codecs", ())]


def _width(kind: str) -> int:
    """Bytes of an element; of text, what it may have."""
    return _STRING if kind == "string" else int("".join(filter(str.isdigit, kind)) or 8) // 8


def _chunk_sizes(node: Json) -> tuple[int, int]:
    """The bytes that a chunk has at most and at least, unpacked by its last codec."""
    kind, codecs = node["data_type"], _codecs(node)
    most = _width(kind) * math.prod(node["chunk_grid"]["configuration"]["chunk_shape"])
    added = 4 * ("crc32c" in codecs[: codecs.index("zstd")])
    return (most + 4 + added, 4) if kind == "string" else (most + added, most + added)
