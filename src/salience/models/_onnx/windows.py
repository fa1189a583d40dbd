"""The operators of ONNX that slide a window or resize: convolution, pooling, padding, Resize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from salience.models._onnx.calls import Attributes, Operands

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_INTERPOLATIONS = {
    ("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear",
    ("cubic", 2): "bicubic",
}  # fmt: skip


def _padded(
    x: Tensor, kernel: Sequence[int], a: Attributes, limit: float | None = None
) -> tuple[Tensor, list[int]]:
    """The input and the padding on both sides; padded already where torch has no such padding.

    limit   of a pooling: what its padding holds; torch pads by half a window at most
    """
    spatial = x.ndim - 2
    begin_end = list(a.get("pads") or [0] * 2 * spatial)
    auto = a.get("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        strides, dilations = (a.get(key) or [1] * spatial for key in ("strides", "dilations"))
        pairs = [
            max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
        ]
        less, more = [pair // 2 for pair in pairs], [pair - pair // 2 for pair in pairs]
        begin_end = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
    begin, end = begin_end[:spatial], begin_end[spatial:]
    narrow = limit is None or all(2 * p <= k for p, k in zip(begin, kernel, strict=True))
    if begin == end and narrow:
        return x, begin
    sides = [side for pair in zip(begin[::-1], end[::-1], strict=True) for side in pair]
    return F.pad(x, sides, value=limit or 0.0), [0] * spatial


def _conv(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, weight, *rest = given
    spatial = x.ndim - 2
    x, padding = _padded(x, weight.shape[2:], a)
    strides, dilations = (a.get(key) or [1] * spatial for key in ("strides", "dilations"))
    return _CONVOLUTIONS[spatial](
        x, weight, rest[0] if rest else None, strides, padding, dilations, a.get("group", 1)
    )


def _conv_transpose(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, weight, *rest = given
    spatial = x.ndim - 2
    pads = list(a.get("pads") or [0] * 2 * spatial)
    if a.get("auto_pad", "NOTSET").startswith("SAME") or a.get("output_shape"):
        raise NotImplementedError("ConvTranspose with auto_pad or output_shape")
    begin, end = pads[:spatial], pads[spatial:]
    strides, dilations = (a.get(key) or [1] * spatial for key in ("strides", "dilations"))
    more = list(a.get("output_padding") or [0] * spatial)
    bias = rest[0] if rest else None
    if begin == end and all(
        m < max(s, d) for m, s, d in zip(more, strides, dilations, strict=True)
    ):
        return _TRANSPOSED[spatial](
            x, weight, bias, strides, begin, more, a.get("group", 1), dilations
        )
    raise NotImplementedError("ConvTranspose with different padding on its sides")


def _max_pool(given: Operands, a: Attributes, opset: int) -> Tensor:
    kernel = a["kernel_shape"]
    x, padding = _padded(given[0], kernel, a, -torch.inf)
    strides, dilations = (a.get(key) or [1] * len(kernel) for key in ("strides", "dilations"))
    ceil = bool(a.get("ceil_mode"))
    return _MAX_POOLS[len(kernel)](x, kernel, strides, padding, dilations, ceil)


def _average_pool(given: Operands, a: Attributes, opset: int) -> Tensor:
    kernel = a["kernel_shape"]
    strides = a.get("strides") or [1] * len(kernel)
    if any(d != 1 for d in a.get("dilations") or []):
        raise NotImplementedError("AveragePool with dilations")
    x, padding = _padded(given[0], kernel, a, 0.0)
    counted = bool(a.get("count_include_pad"))
    pool = _AVERAGE_POOLS[len(kernel)]
    if x is given[0]:
        return pool(x, kernel, strides, padding, bool(a.get("ceil_mode")), counted)
    if not counted:  # the share of each window that is not padding
        inside, _ = _padded(torch.ones_like(given[0][:1, :1]), kernel, a, 0.0)
        share = pool(inside, kernel, strides, padding, bool(a.get("ceil_mode")), True)
        return pool(x, kernel, strides, padding, bool(a.get("ceil_mode")), True) / share
    return pool(x, kernel, strides, padding, bool(a.get("ceil_mode")), True)


def _global_average(given: Operands, a: Attributes, opset: int) -> Tensor:
    return torch.mean(given[0], tuple(range(2, given[0].ndim)), keepdim=True)


def _global_max(given: Operands, a: Attributes, opset: int) -> Tensor:
    return torch.amax(given[0], tuple(range(2, given[0].ndim)), keepdim=True)


def _pad(given: Operands, a: Attributes, opset: int) -> Tensor:
    x = given[0]
    pads = given[1].tolist() if len(given) > 1 else list(a["pads"])
    value = given[2].item() if len(given) > 2 and given[2] is not None else a.get("value", 0.0)
    axes = list(range(x.ndim))
    if len(given) > 3 and given[3] is not None:
        axes = [int(axis) % x.ndim for axis in given[3].tolist()]
    sides = [0] * 2 * x.ndim  # torch's order: last dimension first
    for place, axis in enumerate(axes):
        last = 2 * (x.ndim - 1 - axis)
        sides[last : last + 2] = pads[place], pads[place + len(axes)]
    while len(sides) > 2 and not any(sides[-2:]):
        del sides[-2:]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    kind = mode[a.get("mode", "constant")]
    return F.pad(x, sides, kind, value) if kind == "constant" else F.pad(x, sides, kind)


def _column_to_image(given: Operands, a: Attributes, opset: int) -> Tensor:
    size, kernel = (part.tolist() for part in given[1:])
    if len(size) != 2:
        raise NotImplementedError(f"Col2Im to an image of {len(size)} dimensions")
    strides, dilations = (a.get(key) or [1, 1] for key in ("strides", "dilations"))
    begin, end = (list(a.get("pads") or [0] * 4)[half : half + 2] for half in (0, 2))
    whole = tuple(sum(sides) for sides in zip(size, begin, end, strict=True))
    y = F.fold(given[0], whole, tuple(kernel), tuple(dilations), 0, tuple(strides))
    return y[..., begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]


def _resize(given: Operands, a: Attributes, opset: int) -> Tensor:
    x = given[0]
    mode = a.get("mode", "nearest")
    scales, sizes = _scales(given, a, opset)
    if (
        a.get("axes")
        or any(s != 1 for s in (scales or [1])[:2])
        or (sizes and sizes[:2] != list(x.shape[:2]))
    ):
        raise NotImplementedError("Resize of batch or channels, or with axes")
    size = (
        [int(n) for n in sizes[2:]]
        if sizes
        else [int(n * s) for n, s in zip(x.shape[2:], scales[2:], strict=True)]
    )
    exact = bool(sizes) or all(int(n * s) == n * s for n, s in zip(x.shape, scales, strict=True))
    place = a.get("coordinate_transformation_mode", "half_pixel" if opset > 10 else "asymmetric")
    half = place == "half_pixel" or (place == "pytorch_half_pixel" and 1 not in size)
    corners = place == "align_corners"
    cubic = a.get("cubic_coeff_a", -0.75) == -0.75 and not a.get("exclude_outside")
    kind = _INTERPOLATIONS.get((mode, len(size)))
    if mode == "nearest":
        rounding = a.get("nearest_mode", "round_prefer_floor" if opset > 10 else "floor")
        whole = all(new % old == 0 for new, old in zip(size, x.shape[2:], strict=True))
        repeats = whole and half and rounding.startswith("round")
        if exact and (repeats or (place, rounding) == ("asymmetric", "floor")):
            return F.interpolate(x, size, mode="nearest")
    elif exact and kind and (half or corners) and cubic and not a.get("antialias"):
        return F.interpolate(x, size, mode=kind, align_corners=corners)
    raise NotImplementedError(f"Resize, {mode} with {place}")


def _scales(given: Operands, a: Attributes, opset: int) -> tuple[Any, Any]:
    """The scales or the sizes (B, C, ...) of a Resize or an Upsample."""
    if "scales" in a:
        return list(a["scales"]), None
    if opset < 11:
        return given[1].tolist(), None
    scales = given[2] if len(given) > 2 else None
    sizes = given[3] if len(given) > 3 else None
    if scales is not None and scales.numel():
        return scales.tolist(), None
    return None, sizes.tolist() if sizes is not None else None


WINDOWS = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool,
    "AveragePool": _average_pool, "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max, "Pad": _pad, "Resize": _resize, "Upsample": _resize,
    "Col2Im": _column_to_image,
}  # fmt: skip
