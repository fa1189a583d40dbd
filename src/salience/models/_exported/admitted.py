"""Which calls a torch.export file may make: operators from a list, arguments of the kinds told.

Of torch's some 3,000 operators the file's network gets those that torch.export writes for networks
in inference. The others write past memory that is theirs, end the process when their arguments are
odd, read files, give what memory happens to hold, or are drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch

from salience._errors import SalienceError, expected
from salience.models._bounded import PIECES

Json = Mapping[str, Any]  # of a file; what it lacks is an error when it is read

_ELEMENTWISE = """
abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or
bitwise_xor ceil celu clamp clamp_max clamp_min clip copysign cos cosh deg2rad digamma div divide
elu eq erf erfc erfinv exp exp2 expm1 fill float_power floor floor_divide fmod frac ge gelu greater
greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot le leaky_relu lerp less
less_equal lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logical_and logical_not
logical_or logical_xor logit lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg
negative not_equal pow prelu rad2deg reciprocal relu relu6 remainder round rsqrt rsub selu sgn
sigmoid sign silu sin sinc sinh softplus softshrink sqrt square sub subtract tan tanh threshold
true_divide trunc where xlogy fmax fmin isclose isfinite isinf isnan isneginf isposinf signbit
special_erf special_erfc special_expit special_log1p special_ndtr special_xlog1py
""".split()
_OTHERS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
adaptive_max_pool2d adaptive_max_pool3d addbmm addmm addmv addr affine_grid_generator alias
alias_copy all amax amin aminmax angle any arange argmax argmin argsort atleast_1d atleast_2d
atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear bmm broadcast_tensors
broadcast_to bucketize cat cdist channel_shuffle chunk clone col2im complex concat conj
constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
convolution copy cosine_similarity count_nonzero cross cummax cummin cumprod cumsum detach detach_
diag diag_embed diagonal diff dot dropout einsum embedding expand expand_as eye
feature_alpha_dropout feature_dropout alpha_dropout fft_fft fft_fft2 fft_fftn fft_fftshift
fft_hfft fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_irfft fft_irfft2 fft_irfftn
fft_rfft fft_rfft2 fft_rfftn fft_fftfreq fft_rfftfreq flatten flip frobenius_norm full full_like
gather glu grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell im2col imag index
index_add index_copy index_fill index_put index_select inner instance_norm inverse isin item kron
kthvalue layer_norm lift_fresh_copy linalg_cross linalg_det linalg_diagonal linalg_inv
linalg_matmul linalg_matrix_norm linalg_matrix_power linalg_norm linalg_solve linalg_vecdot
linalg_vector_norm linear linspace log_softmax logcumsumexp logsumexp lstm lstm_cell
masked_scatter masked_select mH mT matmul matrix_H matrix_exp max max_pool1d max_pool2d
max_pool2d_with_indices
max_pool3d max_pool3d_with_indices mean median meshgrid min mm movedim mv narrow native_batch_norm
native_channel_shuffle native_dropout native_group_norm native_layer_norm new_full new_ones
new_zeros nonzero norm numel numpy_T one_hot ones ones_like outer pad pairwise_distance permute
pixel_shuffle pixel_unshuffle polar prod real reflection_pad1d reflection_pad2d reflection_pad3d
renorm repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape
reshape_as resolve_conj resolve_neg rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell roll
rot90 rrelu rrelu_with_noise_functional scalar_tensor scaled_dot_product_attention scatter
scatter_add scatter_reduce searchsorted select select_scatter size slice slice_scatter softmax
sort split split_with_sizes squeeze stack std std_mean stft istft sum sum_to_size swapaxes
swapdims sym_constrain_range sym_constrain_range_for_size sym_numel sym_size sym_stride
sym_storage_offset sym_is_contiguous t take take_along_dim tensor_split tensordot tile to topk
trace transpose tril triu type_as unbind unflatten unfold unsafe_chunk unsafe_split
unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean vdot
view view_as view_as_complex view_as_real zero zeros zeros_like
""".split()
_UNDERSCORED = """
__and__ __or__ __xor__
_native_batch_norm_legit_functional
_adaptive_avg_pool2d _adaptive_avg_pool3d _assert_tensor_metadata _cdist_forward
_conj _fft_c2c _fft_c2r _fft_r2c _fused_rms_norm _local_scalar_dense _log_softmax
_native_batch_norm_legit _native_batch_norm_legit_no_training _native_multi_head_attention
_prelu_kernel _safe_softmax _scaled_dot_product_flash_attention_for_cpu _softmax _to_copy
_trilinear _transformer_encoder_layer_fwd _unsafe_index _unsafe_view _upsample_bicubic2d_aa
_upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm _weight_norm_interface
""".split()
_FUNCTIONAL = frozenset([*_ELEMENTWISE, *_OTHERS, *_UNDERSCORED])
# relu_ and the like, which exports hold as the network has them: as many values as they read
_IN_PLACE = frozenset(
    f"{name}_"
    for name in [
        *_ELEMENTWISE,
        *"copy index_put index_add index_fill masked_scatter scatter"
        " scatter_add zero dropout feature_dropout alpha_dropout feature_alpha_dropout"
        " squeeze unsqueeze transpose t detach rrelu tril triu".split(),
    ]
)

_NUMBER = ("as_int", "as_float", "as_bool", "as_sym_int", "as_sym_float", "as_sym_bool")
_KINDS = {  # the schema's type -> what a file may give for it
    "Tensor": ("as_tensor", *_NUMBER),
    "number": _NUMBER,
    "int": ("as_int", "as_sym_int"),
    "float": ("as_float", "as_int", "as_sym_float", "as_sym_int"),
    "bool": ("as_bool", "as_sym_bool"),
    "str": ("as_string",),
    "ScalarType": ("as_scalar_type",), "Layout": ("as_layout",), "Device": ("as_device",),
    "MemoryFormat": ("as_memory_format",),
    "Generator": (),
    "List[Tensor]": ("as_tensors",),
    "List[Optional[Tensor]]": ("as_optional_tensors", "as_tensors"),
    "List[int]": ("as_ints", "as_sym_ints", "as_int", "as_sym_int"),
    "List[float]": ("as_floats", "as_ints"),
    "List[bool]": ("as_bools",),
}  # fmt: skip
_RESULTS = ("Tensor", "List[Tensor]", "int", "float", "bool", "number")
_PLAIN: dict[str, tuple[type, ...]] = {  # an "Infinity" is text
    "as_int": (int,), "as_float": (float, int, str), "as_bool": (bool,), "as_string": (str,),
    "as_scalar_type": (int,), "as_layout": (int,), "as_memory_format": (int,),
}  # fmt: skip
_MOST = 2**63


def operator_of(name: str, overload: str) -> torch._ops.OpOverload | None:
    """torch.ops.aten.NAME.OVERLOAD, if a file may call it."""
    for found in SAFE_FORMS:
        if found.name() in (f"aten::{name}.{overload}", f"aten::{name}"):
            return found
    if name not in _FUNCTIONAL and name not in _IN_PLACE:
        return None
    found = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload):
        return None
    if not torch._C._dispatch_has_kernel(found.name()):  # of TorchScript alone, and unchecked
        return None
    given = [_kind(argument) for argument in found._schema.arguments]
    results = [_kind(result) for result in found._schema.returns]
    written = [a.alias_info is not None and a.alias_info.is_write for a in found._schema.arguments]
    plain = all(kind in _KINDS for kind in given) and all(kind in _RESULTS for kind in results)
    # those without a tensor are TorchScript's own: text times a number
    tensors = any("Tensor" in kind for kind in [*given, *results])
    may_write = [name in _IN_PLACE, *([False] * len(written))]
    writes = any(does and not may for does, may in zip(written, may_write, strict=False))
    return found if plain and tensors and not writes else None


def zeros(*args: object, **kwargs: object) -> torch.Tensor:
    """aten.empty without what memory happens to hold; decomposed programs fill it by pieces."""
    return torch.ops.aten.empty.memory_format(*args, **kwargs).zero_()


def picked(
    x: torch.Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> torch.Tensor:
    """aten.as_strided of a tensor's own entries, as decomposed programs lay out pooled values."""
    places = torch.full((), storage_offset or 0)
    if len(size) != len(stride) or not 0 <= prod(size) <= x.numel() or min(size, default=0) < 0:
        raise expected("a view inside of a tensor", f"as_strided to {list(size)}", "Export anew.")
    for length, step in zip(size, stride, strict=True):
        places = places.unsqueeze(-1) + torch.arange(length) * step
    if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < x.numel():
        raise expected("a view inside of a tensor", "as_strided beyond its end", "Export anew.")
    return x.reshape(-1)[places.to(x.device)]


def _with_norms(function: Callable[..., object]) -> Callable[..., object]:
    """A weight by its norms, which torch reads without asking how many there are."""

    def call(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> object:
        if not -v.ndim <= dim < v.ndim or g.numel() != v.shape[dim]:
            raise expected("a norm for each row of a weight", f"{list(g.shape)}", "Export anew.")
        return function(v, g, dim)

    return call


# Operators that a file may name and that run as something safer: a view that an export allowed for
# fails in torch where values are laid out otherwise than it had guessed, as BatchNorm's are.
SAFE_FORMS: dict[torch._ops.OpOverload, Callable[..., object]] = {
    torch.ops.aten.empty.memory_format: zeros,
    torch.ops.aten.as_strided.default: picked,
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
    torch.ops.aten._weight_norm.default: _with_norms(torch.ops.aten._weight_norm.default),
    torch.ops.aten._weight_norm_interface.default: _with_norms(
        torch.ops.aten._weight_norm_interface.default
    ),
}


def in_pieces(function: Callable[..., object], named: int) -> Callable[..., object]:
    """An operator that refuses to cut a tensor into more pieces than the file names."""
    count = PIECES.get(function)
    if count is None:
        return function

    def call(*args: object, **kwargs: object) -> object:
        if (made := count(*args, **kwargs)) > named:
            raise expected(
                f"{named} results, as the file names them", f"{function} of {made}", "Export anew."
            )
        return function(*args, **kwargs)

    return call


def _kind(item: torch.Argument) -> str:
    """An argument's type, which may be left out or not."""
    kind = str(item.real_type)
    return kind[len("Optional[") : -1] if kind.startswith("Optional[") else kind


def check_arguments(
    function: torch._ops.OpOverload,
    positional: list[Json],
    keywords: Mapping[str, Json],
) -> None:
    """Raise unless every argument of a call is of the kind that the operator's schema tells."""
    schema = function._schema
    by_position = [argument for argument in schema.arguments if not argument.kwarg_only]
    by_name = {argument.name: argument for argument in schema.arguments}
    if len(positional) > len(by_position) or not keywords.keys() <= by_name.keys():
        raise _refusal(function, "arguments that it does not have")
    told = [*zip(by_position, positional, strict=False)]
    told += [(by_name[name], given) for name, given in keywords.items()]
    for argument, given in told:
        ((kind, held),) = given.items()
        wanted = _KINDS[_kind(argument)]
        absent = kind == "as_none" and str(argument.real_type).startswith("Optional[")
        empty = held == [] and _kind(argument).startswith("List[")  # of no kind
        if not absent and not empty and (kind not in wanted or not _sound(kind, held)):
            raise _refusal(function, f"{argument.name} given as {kind.removeprefix('as_')}")


def _sound(kind: str, held: Any) -> bool:
    """Whether a value is what its kind says."""
    if kind.endswith("s") and f"{kind[:-1]}" in _PLAIN:
        return isinstance(held, list) and all(_sound(kind[:-1], item) for item in held)
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        ((form, value),) = held.items()
        return isinstance(value, str) if form == "as_name" else _sound(form, value)
    if kind.startswith("as_sym_"):
        return isinstance(held, list) and all(_sound(kind[:-1], item) for item in held)
    if kind not in _PLAIN:
        return True  # names of values, looked up when it runs
    exact = type(held) in _PLAIN[kind]
    return exact and (not isinstance(held, int) or -_MOST <= held < _MOST)


def _refusal(function: torch._ops.OpOverload, got: str) -> SalienceError:
    return expected(
        f"arguments of {function} as its schema has them", got[:120], "Export the network again."
    )
