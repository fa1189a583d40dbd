"""What a model is given: a tensor, a tuple for model(*x) or a dict for model(**x).

A leaf is where maps are read: a floating-point input itself, or, of token ids, what an embedding
makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor

from salience._errors import expected

Model = Callable[..., object]
Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
Key = str | int | None  # of an input in its container
X = TypeVar("X")

ALONE = None  # the key of a single tensor


class Leaf(NamedTuple):
    """A tensor that a pass begins at and gradients reach."""

    key: Any  # of the input that it belongs to
    value: int  # its number on the trace
    tensor: Tensor  # (B, ...)
    embedded: bool = False  # from ids, by the model's own table


def is_array(value: object) -> bool:
    """Whether numpy can read a value as one array: tensors, tables and arrays of any library."""
    return hasattr(value, "__array__") and not isinstance(value, Mapping | type)


def tensor_of(data: object) -> Tensor:
    """A tensor of any array or table, which stays as it is; the one place where arrays are read.

    Reversed, read-only and big-endian ones are copied, others share their memory. Types of numbers
    that torch lacks become float64 or int64.
    """
    if isinstance(data, Tensor):
        return data
    array = np.asarray(data)
    if array.dtype.kind not in "fiubc" or np.ma.is_masked(data):
        got = "masked entries" if array.dtype.kind in "fiubc" else f"dtype {array.dtype}"
        raise expected(
            "an array of numbers",
            f"{type(data).__name__} with {got}",
            "Choose the columns of numbers, and fill what is missing: x.astype('float32').",
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    native = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    # a single reversed row counts as contiguous
    reverse = any(stride < 0 for stride in native.strides)
    return torch.from_numpy(native.copy() if reverse else np.asarray(native, order="C"))


def parts_of(x: object) -> dict[Any, Any]:
    """The inputs by name, by position, or a single one as `ALONE`."""
    if isinstance(x, Mapping):
        return dict(x)
    return dict(enumerate(x)) if isinstance(x, list | tuple) else {ALONE: x}


def alike(x: object, parts: Mapping[Key, object]) -> Any:
    """Parts in a container like x; what a dict lacks is left out, what a tuple lacks is None."""
    if isinstance(x, Mapping):
        return {key: parts[key] for key in x if key in parts}
    if isinstance(x, list | tuple):
        return tuple(parts.get(i) for i in range(len(x)))
    return parts[ALONE]


def call(model: Model, x: Inputs) -> object:
    """The model's output for its inputs."""
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, list | tuple) else model(x)


def per_sample(part: object) -> TypeGuard[Tensor]:
    """Whether a part of the input has samples; flags and scalars are shared by all."""
    return isinstance(part, Tensor) and part.ndim > 0


def tensors_of(x: object) -> list[Tensor]:
    """The inputs that have samples, (B, ...) each."""
    return [part for part in parts_of(x).values() if per_sample(part)]


def samples_of(x: object) -> int:
    """B"""
    return len(tensors_of(x)[0])


def each(function: Callable[[Tensor], Tensor], x: X) -> X:
    """The container with function(part) for each part that has samples."""
    parts = parts_of(x).items()
    return alike(x, {key: function(part) if per_sample(part) else part for key, part in parts})


def repeated(x: object, copies: int, but: Collection[Key] = ()) -> dict[Any, Any]:
    """The parts of batched copies of the whole batch, one after the other; `but` some parts."""
    return {
        key: part.repeat(copies, *(1,) * (part.ndim - 1))
        if per_sample(part) and key not in but and copies != 1
        else part
        for key, part in parts_of(x).items()
    }


def at_leaves(
    x: X, leaves: Sequence[Leaf], values: Sequence[Tensor]
) -> tuple[X, tuple[Tensor, ...]]:
    """The inputs with other values at the leaves, and the values that embeddings shall have.

    values  one for each leaf, (copies * B, ...): batched copies of the whole batch
    """
    copies = len(values[0]) // max(1, len(leaves[0].tensor))
    parts = repeated(x, copies, [leaf.key for leaf in leaves if not leaf.embedded])
    pairs = list(zip(leaves, values, strict=True))
    parts |= {leaf.key: value for leaf, value in pairs if not leaf.embedded}
    return alike(x, parts), tuple(value for leaf, value in pairs if leaf.embedded)


def at_inputs(x: object, leaves: Sequence[Leaf], maps: Sequence[Tensor]) -> Any:
    """The maps of leaves in a container like x; an input with several leaves has a tuple."""
    found: dict[Key, list[Tensor]] = {}
    for leaf, map in zip(leaves, maps, strict=True):
        found.setdefault(leaf.key, []).append(map)
    return alike(x, {key: own[0] if len(own) == 1 else tuple(own) for key, own in found.items()})


def rows(tensor: Tensor) -> Tensor:
    """(B, ...) as (B, n)"""
    return tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]


def columns(values: Tensor, like: Tensor) -> Tensor:
    """One value per sample (B,) in a shape (B, 1, ...) that multiplies (B, ...)."""
    return values.view(-1, *(1,) * (like.ndim - 1))
