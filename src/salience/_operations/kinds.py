"""Which torch functions are which kind of operation.

The one table that knows names. A kind says what "backward" can mean for an operation; methods give
rules to kinds and never see a name.

    linear         a contraction with weights that do not depend on the input (conv, linear, matmul)
    batch_norm     normalisation with fixed statistics: a diagonal linear map
    relu           max(x, 0)
    bounded_relu   max(x, 0) cut off above (ReLU6)
    activation     any other element-wise function (GELU, SiLU, LeakyReLU, sigmoid, x ** 2)
    structural     homogeneous of degree 1, without weights (reshape, sums, pooling, scaling by
                   constants): plain autograd is the proportional rule, for every method
    product        a product of tensors that depend on the input
    division       a / b of tensors that both depend on the input, or a times a reciprocal
    reciprocal     1 / b, b ** -0.5
    normalization  with statistics of the input itself (LayerNorm, RMSNorm, GroupNorm)
    softmax
    smooth         a differentiable function without a rule or a gate (log, norm, variance)
    other          nothing above

A call of several of these at once (attention, LSTM, lerp) is recorded as its parts: `fused`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# f(0) = 0
ACTIVATIONS = frozenset(
    "gelu silu hardswish mish leaky_relu rrelu prelu elu selu celu tanh softsign tanhshrink "
    "softshrink hardshrink erf asinh atan arctan sinh sin tan abs absolute square sqrt expm1 "
    "log1p".split()
)
# f(0) is another number, or depends on the call
SHIFTED_ACTIVATIONS = frozenset(
    "sigmoid expit hardsigmoid softplus log_sigmoid exp exp2 cos cosh hardtanh clamp clip "
    "clamp_min clamp_max threshold".split()
)

STRUCTURAL = frozenset(
    # shapes
    "view reshape flatten unflatten squeeze unsqueeze permute transpose swapaxes swapdims t T mT "
    "numpy_T H mH matrix_H adjoint movedim moveaxis contiguous clone alias to type type_as float "
    "double half bfloat16 "
    "expand expand_as broadcast_to repeat repeat_interleave tile cat concat concatenate stack "
    "hstack vstack dstack chunk split split_with_sizes tensor_split unbind unfold narrow select "
    "index_select __getitem__ gather take take_along_dim masked_select roll flip fliplr flipud "
    "rot90 pad diff sort topk kthvalue cummax cummin "
    "constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout "
    "view_as reshape_as ravel tril triu diagonal as_strided as_strided_scatter masked_fill where "
    "__setitem__ copy_ index_copy scatter scatter_add index_add index_put index slice fill_ zero_ "
    "im2col col2im _pack_padded_sequence _pad_packed_sequence real imag view_as_real "
    "view_as_complex resolve_conj "
    # sums
    "add sub rsub subtract neg negative sum mean cumsum "
    # homogeneous of degree 1: the gradient hands on all of the relevance
    "linalg_vector_norm "
    # winner-take-all and proportional pooling
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices "
    "max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "max min amax amin median "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
    "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d interpolate grid_sampler grid_sampler_2d grid_sampler_3d".split()
)

_FOURIER = frozenset(
    f"fft_{way}{real}fft{dims}" for way in ("", "i") for real in ("", "r", "h")
    for dims in ("", "2", "n")
) | {"fft_fftshift", "fft_ifftshift"}  # fmt: skip
# Of complex numbers autograd is the proportional rule too; rules with signs have no meaning there.
OF_COMPLEX = _FOURIER | STRUCTURAL
# With a constant for one of two operands they are element-wise functions.
OF_TWO = frozenset("maximum minimum fmax fmin max min".split())

SCALING = frozenset("mul multiply div divide true_divide".split())
DIVISIONS = frozenset("div divide true_divide".split())
INDEXINGS = frozenset(
    "gather index_select take take_along_dim index_add index_put index_copy __getitem__ "
    "__setitem__ index scatter scatter_add scatter_reduce max_unpool1d max_unpool2d "
    "max_unpool3d _pack_padded_sequence _pad_packed_sequence".split()
)
# Calls that pick rows or entries of a table.
SELECTIONS = frozenset(
    "gather index_select take take_along_dim __getitem__ index embedding".split()
)
FINITENESS = frozenset("isfinite isinf isnan isneginf isposinf".split())
EQUALITIES = frozenset("eq ne equal not_equal __eq__ __ne__".split())
_PRODUCTS = frozenset(
    "mul multiply matmul mm bmm einsum tensordot bilinear dot vdot mv outer ger inner kron".split()
)
_WEIGHTED = frozenset(
    "linear conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d "
    "conv_transpose3d".split()
)
CONTRACTIONS = (_WEIGHTED | _PRODUCTS | {"addmm", "baddbmm"}) - SCALING
_RECIPROCALS = frozenset(("reciprocal", "rsqrt"))
_POWERS = frozenset(("pow", "float_power", "__pow__"))
_NORMALIZATIONS = frozenset("batch_norm instance_norm layer_norm group_norm rms_norm".split())
_SOFTMAX = frozenset("softmax log_softmax _softmax _log_softmax _safe_softmax".split())
_SMOOTH = frozenset(
    "var std linalg_norm logsumexp prod cumprod log log2 log10 atan2 cdist addr".split()
)
# Through which a reciprocal stays one.
KEEPS_RECIPROCALS = frozenset(
    "neg negative sqrt cat concat concatenate stack mul multiply view reshape flatten unflatten "
    "squeeze unsqueeze permute transpose expand expand_as broadcast_to contiguous to type_as float "
    "__getitem__".split()
)

# Element by element: shifts, scalings and conversions of a value ...
SHIFTS = frozenset("add sub rsub subtract".split())
SHIFTS_AND_SCALES = SHIFTS | SCALING | {"neg", "negative"}
CASTS = frozenset(
    "to type type_as float double half bfloat16 clone contiguous alias positive".split()
)
STRAIGHT = SHIFTS_AND_SCALES | CASTS | {"where", "masked_fill"}
# ... powers, which normalisations are spelled with ...
ROOTS = frozenset("sqrt square pow float_power __pow__ rsqrt reciprocal".split())
# ... questions, and anything else.
ELEMENTWISE = (
    STRAIGHT | ROOTS | ACTIVATIONS | SHIFTED_ACTIVATIONS
    | frozenset(
        "int long short char bool relu relu6 maximum minimum max min fmax fmin log log2 log10 "
        "erfc sign sgn heaviside floor ceil round trunc frac sinc logaddexp xlogy hypot atan2 "
        "copysign "
        "gt ge lt le eq ne greater greater_equal less less_equal not_equal __eq__ __ne__ isnan "
        "logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not "
        "__and__ __or__ __invert__".split()
    )
)  # fmt: skip

# Rearrangements of entries, through which a bias may be added later.
LAYOUTS = frozenset(
    "view reshape flatten unflatten squeeze unsqueeze permute transpose swapaxes swapdims t T mT "
    "numpy_T movedim moveaxis contiguous clone to type type_as float double half bfloat16".split()
)
# Functions with a kink, which a ReLU can be spelled with.
KINKED = frozenset(
    "abs absolute maximum minimum max min fmax fmin where masked_fill relu relu6 clamp clip "
    "clamp_min clamp_max threshold hardtanh leaky_relu heaviside gt ge lt le sign sgn".split()
)

# ... and with a bound from one side, which two of give a ReLU with an upper bound.
BOUNDS = frozenset(
    "maximum minimum max min fmax fmin relu clamp clip clamp_min clamp_max threshold".split()
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
# Functions that take a shape or type from their operand and no value.
LIKENESSES = frozenset(
    "zeros ones empty zeros_like ones_like full_like empty_like rand_like randn_like new_zeros "
    "new_ones new_full new_empty new_tensor".split()
)
# Functions that take no value from any operand but the first.
LIKE_ANOTHER = frozenset("to type_as expand_as view_as reshape_as".split())
# Functions that hand a value to Python, where the model may branch on it.
READS = frozenset(
    "__bool__ __float__ __int__ __index__ item tolist is_nonzero equal allclose numpy".split()
)


def operation_name(func: Callable[..., Any]) -> str:
    """The name shared by a function, its method and its aten overload: relu, add, __getitem__."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property: its getter is bound to the descriptor that has the name
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name.split(".")[0].removeprefix("special_")


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


def _number(value: Any) -> Any:
    """A tensor of one value, maybe repeated, as a number; of several as nothing that equals 0."""
    if not isinstance(value, Tensor):
        return value
    some = value.detach().flatten()[:1]
    return some.item() if len(some) and bool((value == some).all()) else "several"


_BOUNDS = frozenset("hardtanh clamp_min threshold clamp clip".split())


def _relu_kind(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """relu and bounded_relu under all the names that they have."""
    if name in ("relu", "relu6"):
        return "relu" if name == "relu" else "bounded_relu"
    if name not in _BOUNDS:
        return None
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
    if name in ("batch_norm", "instance_norm"):
        return _batch_norm_kind(args)
    if name in _PRODUCTS and sum(map(depends, args)) > 1:
        return "product"
    if name in _PRODUCTS and name not in SCALING:  # with several constants at once
        return "smooth"
    if name in _WEIGHTED:  # by weights that depend on the input
        return "other" if any(map(depends, args[2:])) else "product"
    if name in SCALING or name in _RECIPROCALS:
        return _quotient_kind(name, args, kwargs, depends)
    if name in _POWERS:
        return _power_kind(args)
    if name in OF_TWO and len(args) > 1 and isinstance(args[1], Tensor):
        return _extreme_kind(name, args, depends)
    if name == "scatter_reduce":
        return _reduction_kind(args, kwargs)
    if name in _NORMALIZATIONS:
        return "normalization"
    if name in _SOFTMAX:
        return "softmax"
    if name in ACTIVATIONS or name in SHIFTED_ACTIVATIONS:
        return "activation"
    if name in _SMOOTH:
        return "smooth"
    return "structural" if name in STRUCTURAL or name in _FOURIER else "other"


def _extreme_kind(name: str, args: Sequence[Any], depends: Callable[[Any], bool]) -> str:
    """Of max(a, b) or min(a, b): with a constant b an element-wise function, a ReLU if b is 0."""
    if all(map(depends, args[:2])):
        return "structural"
    value, constant = args[:2] if depends(args[0]) else (args[1], args[0])
    if torch.broadcast_shapes(value.shape, constant.shape) != value.shape:
        return "other"
    return "relu" if name in ("maximum", "fmax", "max") and _number(constant) == 0 else "activation"


def _reduction_kind(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    how = kwargs.get("reduce", args[4] if len(args) > 4 else None)
    return "smooth" if how == "prod" else "structural"


def _quotient_kind(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], depends: Callable[[Any], bool]
) -> str:
    if name in _RECIPROCALS:
        return "reciprocal"
    if name.startswith("mul") or not depends(args[1]):
        return "structural"
    if kwargs.get("rounding_mode") is not None:
        return "other"
    return "division" if depends(args[0]) else "reciprocal"


def _power_kind(args: Sequence[Any]) -> str:
    exponent = _number(args[1]) if len(args) > 1 else None
    if not isinstance(exponent, int | float) or exponent == 0:
        return "other"
    return "activation" if exponent > 0 else "reciprocal"


def _batch_norm_kind(args: Sequence[Any]) -> str:
    # torch.batch_norm(input, weight, bias, running_mean, running_var, training, ...)
    fixed = len(args) >= 6 and args[3] is not None and args[5] is False
    return "batch_norm" if fixed else "normalization"
