"""Which torch functions are which kind of operation.

The one table that knows names. A kind says what "backward" can mean for an operation; methods give
rules to kinds and never see a name.

    linear         a contraction with weights that do not depend on the input (conv, linear, matmul)
    batch_norm     normalisation with fixed statistics: a diagonal linear map
    relu           max(x, 0)
    bounded_relu   max(x, 0) cut off above (ReLU6)
    activation     any other element-wise f with f(0) = 0 (GELU, SiLU, LeakyReLU, tanh)
    structural     piecewise linear without weights (reshape, sums, pooling, scaling by constants):
                   plain autograd is the proportional rule, for every method
    product        a product of tensors that both depend on the input
    softmax, normalization, other      nothing above
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Slots(NamedTuple):
    """Where an operation keeps the operands of z = W a + b."""

    names: tuple[str, ...]
    activation: int
    weight: int
    bias: int | None


_AFFINE = Slots(("input", "weight", "bias"), 0, 1, 2)
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_PRODUCTS = {"matmul": ("input", "other"), "mm": ("input", "mat2"), "bmm": ("input", "mat2")}

ACTIVATIONS = frozenset(
    "gelu silu hardswish mish leaky_relu rrelu prelu elu selu celu tanh softsign tanhshrink "
    "softshrink hardshrink erf hardtanh asinh atan arctan sinh abs".split()
)

STRUCTURAL = frozenset(
    # shapes
    "view reshape flatten unflatten squeeze unsqueeze permute transpose swapaxes swapdims t T mT "
    "movedim moveaxis contiguous clone alias to type type_as float double half bfloat16 "
    "expand expand_as broadcast_to repeat repeat_interleave tile cat concat concatenate stack "
    "hstack vstack dstack chunk split split_with_sizes tensor_split unbind unfold narrow select "
    "index_select __getitem__ gather take take_along_dim masked_select roll flip rot90 pad "
    "constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout "
    "view_as reshape_as ravel tril triu diagonal as_strided as_strided_scatter masked_fill where "
    "__setitem__ copy_ index_copy scatter index_add index_put slice fill_ zero_ im2col col2im "
    # sums
    "add sub rsub subtract neg negative sum mean cumsum "
    # winner-take-all and proportional pooling
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices "
    "max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "max min amax amin median "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
    "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d interpolate grid_sampler grid_sampler_2d grid_sampler_3d".split()
)

_SCALING = frozenset("mul multiply div divide true_divide".split())
_BILINEAR = frozenset(
    "mul multiply matmul mm bmm einsum scaled_dot_product_attention bilinear addcmul dot mv".split()
)
_NORMALIZATIONS = frozenset(
    "batch_norm instance_norm layer_norm group_norm rms_norm normalize local_response_norm".split()
)

# Functions whose name ends in an underscore although they write nothing.
RESHAPES_IN_PLACE = frozenset("squeeze_ unsqueeze_ t_ transpose_ swapaxes_ swapdims_".split())
_NOT_IN_PLACE = frozenset(("requires_grad_", "share_memory_", "detach_"))
# Functions that return no part of the computation.
QUERIES = frozenset(
    "size dim ndim shape dtype device stride is_cuda is_contiguous numel nelement element_size "
    "storage_offset requires_grad is_leaf grad_fn layout is_sparse is_quantized is_nested is_meta "
    "is_floating_point is_complex data_ptr untyped_storage get_device names _is_view _base "
    "_version output_nr retain_grad retains_grad register_hook".split()
)
# Functions that hand a value to Python, where the model may branch on it.
READS = frozenset("__bool__ __float__ __int__ __index__ item tolist is_nonzero equal".split())


def operation_name(func: Callable[..., Any]) -> str:
    """The name shared by a function, its method and its aten overload: relu, add, __getitem__."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property: its getter is bound to the descriptor that has the name
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name.split(".")[0]


def is_python(func: Callable[..., Any]) -> bool:
    """Whether a torch function is written in Python, from smaller ones."""
    return isinstance(func, types.FunctionType)


def is_in_place(name: str) -> bool:
    """Whether a call writes into its first argument."""
    if name == "__setitem__" or (name.startswith("__i") and name in _IN_PLACE_OPERATORS):
        return True
    return name.endswith("_") and not name.endswith("__") and name not in _NOT_IN_PLACE


_IN_PLACE_OPERATORS = frozenset(
    f"__i{name}__" for name in "add sub mul truediv floordiv pow and or xor lshift rshift".split()
)


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
    if name == "addmm" and depends(args[1]) and not (depends(args[0]) or depends(args[2])):
        return Slots(("input", "mat1", "mat2"), 1, 2, 0)
    return None


def positional(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Move the operands of a linear map from keywords to their positions."""
    names: tuple[str, ...] = ("input",)
    if name in _PRODUCTS:
        names = _PRODUCTS[name]
    elif name == "addmm":
        names = ("input", "mat1", "mat2")
    elif name in _CONVOLUTIONS or name in _TRANSPOSED or name == "linear":
        names = _AFFINE.names
    rest = dict(kwargs)
    moved = list(args)
    for operand in names[len(args) :]:
        if operand not in rest:
            break
        moved.append(rest.pop(operand))
    return tuple(moved), rest


def fold_scale(name: str, slots: Slots, weight: Any, scale: Any, ndim: int) -> Any:
    """The scale (C,) of z's channels as a tensor that multiplies the weight; None: cannot."""
    tail = (1,) * (weight.ndim - 2)
    if name in _CONVOLUTIONS:
        return scale.view(-1, 1, *tail)
    if name in _TRANSPOSED:  # weight (in, out / groups, ...)
        groups = scale.numel() // weight.shape[1]
        by_group = scale.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
        return by_group.reshape(weight.shape[0], weight.shape[1], *tail)
    if ndim != 2 or weight.ndim != 2:
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
        return ((1, 0) if name in _TRANSPOSED else (1, 1)) if groups == 1 else None
    if name == "linear":
        return (-1, 1)
    return (-1, -2) if slots.weight > slots.activation and args[slots.weight].ndim > 1 else None


def _number(value: Any) -> Any:
    """A tensor of one value as a number; of several as nothing that equals 0."""
    if not hasattr(value, "numel"):
        return value
    return value.item() if value.numel() == 1 else "several"


def _relu_kind(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """relu and bounded_relu under all the names that they have."""
    if name in ("relu", "relu6"):
        return "relu" if name == "relu" else "bounded_relu"
    bounds = [_number(bound) for bound in args[1:3]]
    kwargs = {key: _number(value) for key, value in kwargs.items()}
    if name == "hardtanh":
        low = kwargs.get("min_val", bounds[0] if bounds else -1.0)
        return "bounded_relu" if low == 0 else None
    if name == "clamp_min":
        return "relu" if kwargs.get("min", bounds[0] if bounds else None) == 0 else None
    if name == "threshold":
        level = [*bounds, *kwargs.values()]
        return "relu" if level == [0, 0] else None
    if name in ("clamp", "clip"):
        low = kwargs.get("min", bounds[0] if bounds else None)
        high = kwargs.get("max", bounds[1] if len(bounds) > 1 else None)
        if isinstance(low, int | float) and low == 0:
            return "relu" if high is None else "bounded_relu"
    return None


def kind_of(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], depends: Callable[[Any], bool]
) -> str:
    """The kind of a call that depends on the input and is not a linear map with weights."""
    relu = _relu_kind(name, args, kwargs)
    if relu is not None:
        return relu
    if name == "batch_norm":
        return _batch_norm_kind(args)
    if name in _BILINEAR and sum(map(depends, args)) + sum(map(depends, kwargs.values())) > 1:
        return "product"
    if name in _SCALING:
        divisor = args[1] if len(args) > 1 else kwargs.get("other")
        return "structural" if name.startswith("mul") or not depends(divisor) else "other"
    if name in ("maximum", "minimum"):
        return "structural" if sum(map(depends, args)) > 1 else "other"
    if name in _NORMALIZATIONS:
        return "normalization"
    if name in ("softmax", "log_softmax"):
        return "softmax"
    if name in ACTIVATIONS:
        return "activation"
    return "structural" if name in STRUCTURAL else "other"


def _batch_norm_kind(args: Sequence[Any]) -> str:
    # torch.batch_norm(input, weight, bias, running_mean, running_var, training, ...)
    fixed = len(args) >= 6 and args[3] is not None and args[5] is False
    return "batch_norm" if fixed else "normalization"
