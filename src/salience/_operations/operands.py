"""Where calls keep their operands, and how linear maps with weights can be rewritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Slots(NamedTuple):
    """Where an operation keeps the operands of z = W a + b."""

    names: tuple[str, ...]
    activation: int
    weight: int
    bias: int | None


_AFFINE = Slots(("input", "weight", "bias"), 0, 1, 2)
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_PRODUCTS = {
    "matmul": ("input", "other"), "mm": ("input", "mat2"), "bmm": ("input", "mat2"),
    "tensordot": ("self", "other"), "mv": ("input", "vec"),
}  # fmt: skip
_BINARY = frozenset(
    "mul multiply div divide true_divide dot outer inner maximum minimum fmax fmin max min".split()
)
_CELL = ("input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")
_RECURRENT = (
    "input", "hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional",
    "batch_first",
)  # fmt: skip
_OTHERS = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "addmv": ("input", "mat", "vec"),
    "addbmm": ("input", "batch1", "batch2"), "baddbmm": ("input", "batch1", "batch2"),
    "addcmul": ("input", "tensor1", "tensor2"), "addcdiv": ("input", "tensor1", "tensor2"),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _CELL),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _RECURRENT),
    "cosine_similarity": ("x1", "x2", "dim", "eps"), "lerp": ("input", "end", "weight"),
    "native_layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "native_group_norm": ("input", "weight", "bias", "N", "C", "HxW", "group", "eps"),
    "_native_batch_norm_legit_no_training": (
        "input", "weight", "bias", "running_mean", "running_var", "momentum", "eps"),
    "pow": ("input", "exponent"), "float_power": ("input", "exponent"),
}  # fmt: skip


def linear_slots(name: str, depends: Callable[[Any], bool], args: Sequence[Any]) -> Slots | None:
    """Where W, a and b are, if the call is a contraction with weights; args are positional."""
    if name in _CONVOLUTIONS or name in _TRANSPOSED or name == "linear":
        weights = args[1:3]
        return _AFFINE if depends(args[0]) and not any(map(depends, weights)) else None
    if name in _PRODUCTS:
        left, right = depends(args[0]), depends(args[1])
        if left == right:
            return None
        return Slots(_PRODUCTS[name], 0 if left else 1, 1 if left else 0, None)
    if name == "einsum" and len(args) == 3:  # flattened: equation, a, W
        left, right = depends(args[1]), depends(args[2])
        return None if left == right else Slots((), 1 if left else 2, 2 if left else 1, None)
    if name == "addmm" and depends(args[1]) and not (depends(args[0]) or depends(args[2])):
        return Slots(("input", "mat1", "mat2"), 1, 2, 0)
    return None


def layer_kind(name: str) -> str:
    """What composites call a linear map of this name."""
    return "convolution" if name in _CONVOLUTIONS or name in _TRANSPOSED else "dense"


def of_itself(
    name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
    """view_as(a, b) as view(a, shape of b): it does not read what b holds."""
    other = args[1] if len(args) > 1 else kwargs.get("other")
    if name not in _AS or not args or not isinstance(other, Tensor):
        return name, func, args, kwargs
    name, told = _AS[name]
    return name, getattr(torch.Tensor, name), (args[0], getattr(other, told)), {}


_AS = {
    "view_as": ("view", "shape"), "reshape_as": ("reshape", "shape"),
    "expand_as": ("expand", "shape"), "type_as": ("to", "dtype"),
}  # fmt: skip


def flattened(
    name: str, func: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """einsum(equation, [a, b]) as a function of (equation, a, b)."""
    if name != "einsum" or len(args) < 2 or not isinstance(args[1], list | tuple):
        return func, args
    return _einsum(func), (args[0], *args[1], *args[2:])


def _einsum(func: Callable[..., Any]) -> Callable[..., Any]:
    return lambda equation, *operands, **options: func(equation, list(operands), **options)


def is_packed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a recurrent layer is given (data, batch_sizes, ...) of a packed sequence."""
    second = args[1] if len(args) > 1 else kwargs.get("batch_sizes")
    return isinstance(second, Tensor) and not second.is_floating_point()


def positional(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Move the operands of a linear map from keywords to their positions."""
    if not kwargs:
        return args, {}
    names: tuple[str, ...] = ("input",)
    if name in _PRODUCTS:
        names = _PRODUCTS[name]
    elif name == "addmm":
        names = ("input", "mat1", "mat2")
    elif name in _CONVOLUTIONS or name in _TRANSPOSED or name == "linear":
        names = _AFFINE.names
    elif name in _BINARY:
        names = ("input", "other")
    elif name in _OTHERS:
        names = _OTHERS[name]
        if names is _RECURRENT and is_packed(args, kwargs):
            names = ("data", "batch_sizes", *names[1:-1])
    rest = dict(kwargs)
    if names[0] == "input" and "self" in rest:  # as overloads of aten call it
        rest["input"] = rest.pop("self")
    moved = list(args)
    for operand in names[len(args) :]:
        if operand not in rest:
            break
        moved.append(rest.pop(operand))
    return tuple(moved), rest


def contraction(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The name of a map with weights, where torch.convolution may be transposed."""
    turned = name == "convolution" and kwargs.get("transposed", args[6] if len(args) > 6 else False)
    return "conv_transpose2d" if turned else name


def fold_scale(name: str, slots: Slots, weight: Any, scale: Any, ndim: int) -> Any:
    """The scale (C,) of z's channels as a tensor that multiplies the weight; None: cannot."""
    if name in ("matmul", "bmm", "baddbmm") and weight.ndim > 2:  # a weight of each sample
        return scale if slots.weight > slots.activation else None
    tail = (1,) * (weight.ndim - 2)
    if tail and ndim != weight.ndim:  # a single sample
        return None
    if name in _CONVOLUTIONS:
        return scale.view(-1, 1, *tail)
    if name in _TRANSPOSED:  # weight (in, out / groups, ...)
        groups = scale.numel() // weight.shape[1]
        by_group = scale.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
        return by_group.reshape(weight.shape[0], weight.shape[1], *tail)
    if ndim != 2 or weight.ndim != 2 or name in ("einsum", "tensordot"):
        return None
    if name == "linear":
        return scale.view(-1, 1)
    return scale if slots.weight > slots.activation else None


def channel_dims(
    name: str, slots: Slots, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[int, int] | None:
    """The dimensions of a and W that are summed over, if two maps can be one with more inputs."""
    if name in _CONVOLUTIONS or name in _TRANSPOSED:
        place = 6 if name in _CONVOLUTIONS[:3] else 8 if name == "convolution" else 6
        groups = kwargs.get("groups", args[place] if len(args) > place else 1)
        along = 1 - args[slots.weight].ndim  # also of a single sample
        turned = contraction(name, args, kwargs) in _TRANSPOSED
        return (along, 0 if turned else 1) if groups == 1 else None
    if name == "linear":
        return (-1, 1)
    if name not in ("matmul", "mm", "bmm", "addmm"):
        return None
    return (-1, -2) if slots.weight > slots.activation and args[slots.weight].ndim > 1 else None
