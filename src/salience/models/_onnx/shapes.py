"""The operators of ONNX that move, choose or make values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from salience._errors import expected
from salience.models._onnx.calls import Attributes, Operands, Operator

_DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


def ints(given: Operands, place: int, attributes: Attributes, name: str) -> list[int] | None:
    """A list of whole numbers, from an operand or, in older opsets, an attribute."""
    if len(given) > place and given[place] is not None:
        return [int(i) for i in given[place].flatten().tolist()]
    held = attributes.get(name)
    return None if held is None else [int(i) for i in held]


def _reshape(given: Operands, a: Attributes, opset: int) -> Tensor:
    sizes = ints(given, 1, a, "shape") or []
    if not a.get("allowzero"):
        sizes = [given[0].shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return given[0].reshape(sizes)


def _flatten(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, axis = given[0], a.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1:
        return torch.flatten(x, 1) if x.ndim > 1 else x.reshape(x.shape[0], 1)
    return x.reshape(x.shape[:axis].numel(), -1)


def _transpose(given: Operands, a: Attributes, opset: int) -> Tensor:
    return given[0].permute(a.get("perm") or list(range(given[0].ndim))[::-1])


def _squeeze(given: Operands, a: Attributes, opset: int) -> Tensor:
    axes = ints(given, 1, a, "axes")
    return torch.squeeze(given[0]) if axes is None else torch.squeeze(given[0], tuple(axes))


def _unsqueeze(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, axes = given[0], ints(given, 1, a, "axes") or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = torch.unsqueeze(x, axis)
    return x


def _concat(given: Operands, a: Attributes, opset: int) -> Tensor:
    return torch.cat(list(given), a["axis"])


def _split(given: Operands, a: Attributes, opset: int) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    sizes = ints(given, 1, a, "split")
    if sizes is not None:
        return torch.split(given[0], sizes, axis)
    return torch.split(given[0], -(-given[0].shape[axis] // a["count"]), axis)


def _slice(given: Operands, a: Attributes, opset: int) -> Tensor:
    x = given[0]
    starts, ends = ints(given, 1, a, "starts") or [], ints(given, 2, a, "ends") or []
    axes = ints(given, 3, a, "axes") or list(range(len(starts)))
    steps = ints(given, 4, {}, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        chosen = range(*slice(start, end, step).indices(size))
        if step < 0:  # down to the first one: ONNX writes an end below -size
            places = step * torch.arange(len(chosen), device=x.device) + chosen.start
            x = x.index_select(axis, places)
        else:
            index: list[Any] = [slice(None)] * x.ndim
            index[axis] = slice(chosen.start, max(chosen.start, chosen.stop), step)
            x = x[tuple(index)]
    return x


def _gather(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, index = given
    axis = a.get("axis", 0) % x.ndim
    if index.numel() == 1 and index.ndim == 0:
        return torch.select(x, axis, int(index))
    size = x.shape[axis]
    flat = torch.where(index < 0, index + size, index).flatten()
    found = torch.index_select(x, axis, flat)
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, index = given
    axis = a.get("axis", 0)
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


def _gather_nd(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, index = given  # index: (batch..., any..., k), of the first k dimensions after the batch
    batch = a.get("batch_dims", 0)
    own = [
        torch.arange(x.shape[d], device=x.device).view(-1, *(1,) * (index.ndim - 2 - d))
        for d in range(batch)
    ]
    return x[(*own, *_by_dimension(index, x.ndim - batch))]


def _scatter_nd(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, index, updates = given  # index: (any..., k), of the first k dimensions
    kind = a.get("reduction", "none")
    if kind not in ("none", "add"):
        raise NotImplementedError(f"ScatterND that takes the {kind}")
    return x.index_put(_by_dimension(index, x.ndim), updates, accumulate=kind == "add")


def _by_dimension(index: Tensor, most: int) -> tuple[Tensor, ...]:
    """The indices for each dimension, which lie side by side: a view can have any number."""
    if index.shape[-1] > most:
        raise expected(
            f"at most {most} indices, one for each dimension", f"{index.shape[-1]}", "Export anew."
        )
    return index.unbind(-1)


def _expand(given: Operands, a: Attributes, opset: int) -> Tensor:
    sizes = torch.broadcast_shapes(given[0].shape, tuple(given[1].tolist()))
    return given[0].expand(sizes)


def _tile(given: Operands, a: Attributes, opset: int) -> Tensor:
    return given[0].repeat(given[1].tolist())


def _shape(given: Operands, a: Attributes, opset: int) -> Tensor:
    sizes = list(given[0].shape)[a.get("start", 0) : a.get("end")]
    return torch.tensor(sizes, dtype=torch.int64, device=given[0].device)


def _size(given: Operands, a: Attributes, opset: int) -> Tensor:
    return torch.tensor(given[0].numel(), dtype=torch.int64, device=given[0].device)


def _same(given: Operands, a: Attributes, opset: int) -> Tensor:
    return given[0]


def _dropout(given: Operands, a: Attributes, opset: int) -> Tensor:
    if len(given) > 2 and given[2] is not None and bool(given[2]):
        raise NotImplementedError("Dropout in training mode")
    return given[0]


def _cast(given: Operands, a: Attributes, opset: int) -> Tensor:
    if a["to"] not in _DTYPES:
        raise NotImplementedError(f"Cast to ONNX type {a['to']}")
    return given[0].to(_DTYPES[a["to"]])


def _cast_like(given: Operands, a: Attributes, opset: int) -> Tensor:
    return given[0].to(given[1].dtype)


def _constant_of_shape(given: Operands, a: Attributes, opset: int) -> Tensor:
    value = a.get("value", torch.zeros(1)).to(given[0].device)
    return value.flatten()[0].expand(given[0].tolist()).clone()


def _range(given: Operands, a: Attributes, opset: int) -> Tensor:
    start, stop, step = (item.item() for item in given)
    return torch.arange(start, stop, step, dtype=given[0].dtype, device=given[0].device)


def _depth_to_space(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, size = given[0], a["blocksize"]
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, size, size, channels // size**2, height, width)
    parts = parts.permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(batch, channels // size**2, height * size, width * size)


def _space_to_depth(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, size = given[0], a["blocksize"]
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // size, size, width // size, size)
    order = (0, 1, 3, 5, 2, 4) if a.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    parts = parts.permute(order)
    return parts.reshape(batch, channels * size**2, height // size, width // size)


def _triangle(given: Operands, a: Attributes, opset: int) -> Tensor:
    diagonal = int(given[1]) if len(given) > 1 and given[1] is not None else 0
    return (torch.triu if a.get("upper", 1) else torch.tril)(given[0], diagonal)


def _arg_extreme(name: str) -> Operator:
    def run(given: Operands, a: Attributes, opset: int) -> Tensor:
        if a.get("select_last_index"):
            raise NotImplementedError(f"{name} with select_last_index")
        return getattr(torch, name)(given[0], a.get("axis", 0), bool(a.get("keepdims", 1)))

    return run


SHAPES = {
    "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Concat": _concat, "Split": _split, "Slice": _slice,
    "Gather": _gather, "GatherElements": _gather_elements,
    "GatherND": _gather_nd, "ScatterND": _scatter_nd, "Expand": _expand, "Tile": _tile,
    "Shape": _shape, "Size": _size, "Identity": _same, "Dropout": _dropout, "Cast": _cast,
    "CastLike": _cast_like, "ConstantOfShape": _constant_of_shape, "Range": _range,
    "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth, "Trilu": _triangle,
    "ArgMax": _arg_extreme("argmax"), "ArgMin": _arg_extreme("argmin"),
}  # fmt: skip
