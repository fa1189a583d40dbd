"""What the sides of weights say of the numbers that describe their network.

A network is as large as its weights, but padding and repeated blocks have none, and some networks
compare every two patches of an image in Python while they are built: without any memory, all of
these can take minutes to days. This is a bound for damage; weights that say so allow for more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

_MOST = 8192  # a number of a network whose weights have no longer side
_PADDING = {"padding", "patch_padding", "padding_kv", "padding_q", "down_pad"}
_REPEATED = {"num_blocks": 256}  # blocks of the same weights
_SIZES = {"image_size": 224, "patch_size": 16}  # where they are not told


class Sides(NamedTuple):
    """Of all weights of a network."""

    longest: int
    kernel: int  # the longest of kernels, 1 without any


def sides_of(shapes: Collection[Sequence[int]]) -> Sides:
    """The sides of weights; an axis of no entries has none."""
    filled = [shape for shape in shapes if prod(shape) > 0]
    return Sides(
        max((max(shape) for shape in filled if prod(shape) > 1), default=0),
        max((max(shape[2:]) for shape in filled if len(shape) > 3), default=1),
    )


def most(name: str, sides: Sides) -> int:
    """The largest number that a field may hold: more padding than a kernel meets no image."""
    if name in _PADDING:
        return sides.kernel
    return _REPEATED.get(name, max(_MOST, sides.longest))


def patches_of(fields: Mapping[str, object]) -> int | None:
    """The patches of an image; None where what is told of them are no sizes."""
    whole, patch = (_two(fields.get(name, usual)) for name, usual in _SIZES.items())
    if whole is None or patch is None:
        return None
    return prod(side // size for side, size in zip(whole, patch, strict=True))


def _two(size: Any) -> list[int] | None:
    sizes = size if isinstance(size, list) else [size, size]
    proper = len(sizes) == 2 and all(type(side) is int and side > 0 for side in sizes)
    return sizes if proper else None
