"""Torch's functions by name, one row for each: all that the package knows about them.

A kind says what "backward" can mean for an operation; methods give rules to kinds and never see a
name.

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
    attention      softmax(q k^T) v of queries, keys and values that all depend on the input
    normalization  with statistics of the input itself (LayerNorm, RMSNorm, GroupNorm)
    softmax
    smooth         a differentiable function without a rule or a gate (log, norm, variance)
    other          nothing above

A call of several of these at once (LSTM, lerp, attention to a constant memory) is recorded as its
parts.
"""

from __future__ import annotations

import types
from functools import partial

from salience._operations import by_operands as by
from salience._operations import contractions, held_norms, parts, recurrent
from salience._operations.calls import Arguments, Function, Keywords, Question
from salience._operations.contractions import Contraction
from salience._operations.rows import Row, row

_STRUCTURAL = row("structural")
_LAYOUT = row("structural", "layout keeps_sign")
_KEEPING = row("structural", "keeps_sign")
_ACTIVATION = row("activation", "elementwise zero")
_SHIFTED = row("activation", "elementwise")
_ABOVE = row("activation", "elementwise nonnegative")  # and shifted
_ELEMENTWISE = row("other", "elementwise")
_KINKED = row("other", "elementwise kinked")
_TAKING = row("structural", "indexing selects keeps_sign")
_PUTTING = row("structural", "indexing fills")
_SMOOTH = row("smooth")
_ASIDE = row("other", "aside")
_READ = row("other", "aside read")
_POSITIONS = row("other", "positions")
_WRITING = row(writes=True)
_RESHAPING = row("other", "reshapes")

_AFFINE, _TWO = "input weight bias", "input other"
_CELL = "input hx w_ih w_hh b_ih b_hh"
_OF_LAYERS = "hx params has_biases num_layers dropout train bidirectional"
_RECURRENT = f"input {_OF_LAYERS} batch_first"
_PACKED = ("data", "batch_sizes", *_OF_LAYERS.split())

_CONVOLUTION = Contraction(contractions.layer, "convolution")
_TRANSPOSED = Contraction(contractions.layer, "transposed")
_EITHER = Contraction(contractions.layer, "convolution", groups=8, turned=6)
_DENSE = Contraction(contractions.layer, "linear")
_MATRICES = Contraction(contractions.either, "matrices")
_OTHER = Contraction(contractions.either)
_EQUATION = Contraction(contractions.equation)
_WITH_SUM = Contraction(contractions.sum_with, "matrices")
_NONE = Contraction(contractions.nowhere)

# Spellings of one function, and functions of which the same is known, share a line.
_TABLE: dict[str, Row] = {
    # contractions
    "linear": row(by.weighted, operands=_AFFINE, contraction=_DENSE),
    "conv1d conv2d conv3d": row(by.weighted, operands=_AFFINE, contraction=_CONVOLUTION),
    "convolution": row(by.weighted, operands=_AFFINE, contraction=_EITHER),
    "conv_transpose1d conv_transpose2d conv_transpose3d": row(
        by.weighted, operands=_AFFINE, contraction=_TRANSPOSED
    ),
    "matmul": row(by.product, operands=_TWO, contraction=_MATRICES),
    "mm bmm": row(by.product, operands="input mat2", contraction=_MATRICES),
    "mv": row(by.product, operands="input vec", contraction=_OTHER),
    "tensordot": row(by.product, operands="self other", contraction=_OTHER),
    "einsum": row(by.product, contraction=_EQUATION),
    "dot inner outer": row(by.product, operands=_TWO, contraction=_NONE),
    "bilinear ger kron vdot": row(by.product, contraction=_NONE),
    # shifts and scales
    "add": row("structural", "elementwise straight keeps_sign", step="add"),
    "sub subtract": row("structural", "elementwise straight", step="sub"),
    "rsub": row("structural", "elementwise straight", step="rsub"),
    "neg negative": row("structural", "elementwise straight reciprocal", step="neg"),
    "mul multiply": row(
        by.multiplication, "elementwise straight reciprocal keeps_sign", operands=_TWO, step="mul"
    ),
    "div divide true_divide": row(
        by.division, "elementwise straight keeps_sign", operands=_TWO, step="div"
    ),
    "where masked_fill": row("structural", "elementwise straight kinked fills keeps_sign"),
    "positive": row("other", "elementwise straight"),
    # activations
    "relu": row("relu", "elementwise kinked bound"),
    "relu6": row("bounded_relu", "elementwise kinked"),
    "hardtanh": row(by.hardtanh, "elementwise kinked"),
    "clamp clip": row(by.clamp, "elementwise kinked bound"),
    "clamp_min": row(by.clamp_min, "elementwise kinked bound"),
    "clamp_max": row("activation", "elementwise kinked bound"),
    "threshold": row(by.threshold, "elementwise kinked bound"),
    "max maximum fmax": row(by.greatest, "elementwise kinked bound of_two", operands=_TWO),
    "min minimum fmin": row(by.least, "elementwise kinked bound of_two", operands=_TWO),
    "abs absolute": row("activation", "elementwise zero kinked nonnegative"),
    "leaky_relu": row("activation", "elementwise zero kinked keeps_sign"),
    "gelu silu hardswish mish rrelu prelu elu selu celu": _ACTIVATION,
    "tanh softsign tanhshrink softshrink hardshrink erf asinh sinh": _ACTIVATION,
    "atan arctan sin tan expm1 log1p": _ACTIVATION,
    "sigmoid expit hardsigmoid softplus exp exp2 cosh": _ABOVE,
    "log_sigmoid cos": _SHIFTED,
    "sqrt": row("activation", "elementwise zero root reciprocal nonnegative"),
    "square": row("activation", "elementwise zero root nonnegative"),
    "pow float_power": row(by.power, "elementwise root", operands="input exponent"),
    "__pow__": row(by.power, "elementwise root"),
    "reciprocal rsqrt": row("reciprocal", "elementwise root"),
    # other element-wise functions
    "log log2 log10 atan2": row("smooth", "elementwise"),
    "int long short char bool floor ceil round trunc frac": _ELEMENTWISE,
    "erfc sinc logaddexp xlogy hypot copysign": _ELEMENTWISE,
    "greater greater_equal less less_equal": _ELEMENTWISE,
    "logical_and logical_or logical_not logical_xor": _ELEMENTWISE,
    "bitwise_and bitwise_or bitwise_not __and__ __or__ __invert__": _ELEMENTWISE,
    "heaviside sign sgn gt ge lt le": _KINKED,
    "eq ne not_equal __eq__ __ne__": row("other", "elementwise equality"),
    "isnan": row("other", "elementwise finiteness"),
    "isfinite isinf isneginf isposinf": row("other", "finiteness"),
    # normalisations
    "batch_norm": row(by.batch_norm, step="batch_norm", held=held_norms.batch_norm),
    "instance_norm": row(by.batch_norm, step="batch_norm", held=held_norms.instance_norm),
    "layer_norm": row(
        "normalization",
        operands="input normalized_shape weight bias eps",
        held=held_norms.layer_norm,
    ),
    "rms_norm": row(
        "normalization", operands="input normalized_shape weight eps", held=held_norms.rms_norm
    ),
    "group_norm": row(
        "normalization", operands="input num_groups weight bias eps", held=held_norms.group_norm
    ),
    "softmax _softmax _safe_softmax": row("softmax", "nonnegative"),
    "log_softmax _log_softmax": row("softmax"),
    "var std linalg_norm logsumexp prod cumprod cdist addr": _SMOOTH,
    # shapes
    "view reshape flatten unflatten squeeze unsqueeze permute transpose": row(
        "structural", "layout reciprocal keeps_sign"
    ),
    "swapaxes swapdims t T mT numpy_T movedim moveaxis": _LAYOUT,
    "contiguous float": row("structural", "elementwise straight layout reciprocal keeps_sign"),
    "clone type double half bfloat16": row("structural", "elementwise straight layout keeps_sign"),
    "alias": row("structural", "elementwise straight"),
    "to": row("structural", "elementwise straight layout reciprocal alone keeps_sign"),
    "type_as": row(
        "structural", "elementwise straight layout reciprocal alone", told=("to", "dtype")
    ),
    "view_as": row("structural", "alone", told=("view", "shape")),
    "reshape_as": row("structural", "alone", told=("reshape", "shape")),
    "expand_as": row("structural", "reciprocal alone", told=("expand", "shape")),
    "expand broadcast_to cat concat concatenate stack": row("structural", "reciprocal keeps_sign"),
    "H mH matrix_H adjoint as_strided_scatter": _STRUCTURAL,
    "ravel as_strided diagonal repeat repeat_interleave tile hstack vstack dstack": _KEEPING,
    "chunk split split_with_sizes tensor_split unbind unfold narrow select slice": _KEEPING,
    "masked_select roll flip fliplr flipud rot90 tril triu": _KEEPING,
    "pad constant_pad_nd": row("structural", "fills keeps_sign"),
    "fill_": row("structural", "fills"),
    "diff sort topk kthvalue cummax cummin": _STRUCTURAL,
    "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle": _KEEPING,
    "dropout dropout1d dropout2d dropout3d": _KEEPING,
    "alpha_dropout": _STRUCTURAL,
    "feature_dropout feature_alpha_dropout copy_ zero_ im2col col2im": _STRUCTURAL,
    "real imag view_as_real view_as_complex resolve_conj": _STRUCTURAL,
    # rows and entries by their indices
    "gather take take_along_dim index": _TAKING,
    "index_select": row("structural", "indexing selects embeds keeps_sign"),
    "__getitem__": row("structural", "indexing selects embeds reciprocal keeps_sign"),
    "__setitem__": row("structural", "indexing fills", writes=True),
    "scatter scatter_add index_add index_put index_copy": _PUTTING,
    "_pack_padded_sequence _pad_packed_sequence": _PUTTING,
    "scatter_reduce": row(by.reduction, "indexing"),
    "max_unpool1d max_unpool2d max_unpool3d": row("other", "indexing"),
    "embedding": row("other", "selects embeds"),
    "embedding_bag": row("other", "embeds"),
    "argmax argmin argsort searchsorted bucketize nonzero bincount": _POSITIONS,
    # sums and pooling, proportional or winner-take-all
    "sum mean cumsum linalg_vector_norm amax amin median": _KEEPING,
    "max_pool1d max_pool2d max_pool3d": _KEEPING,
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices": _KEEPING,
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d": _KEEPING,
    "avg_pool1d avg_pool2d avg_pool3d": _KEEPING,
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d": _KEEPING,
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d": _KEEPING,
    "upsample_bilinear2d upsample_trilinear3d": _KEEPING,
    "upsample_bicubic2d": _STRUCTURAL,
    "_upsample_nearest_exact1d _upsample_nearest_exact2d interpolate": _STRUCTURAL,
    "grid_sampler grid_sampler_2d grid_sampler_3d": _STRUCTURAL,
    "fft_fft fft_fft2 fft_fftn fft_rfft fft_rfft2 fft_rfftn fft_hfft fft_hfft2": _STRUCTURAL,
    "fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_irfft fft_irfft2 fft_irfftn": _STRUCTURAL,
    "fft_ihfft fft_ihfft2 fft_ihfftn fft_fftshift fft_ifftshift": _STRUCTURAL,
    # calls of several operations
    "scaled_dot_product_attention": row(
        by.attention, operands="query key value attn_mask", parts=parts.attention
    ),
    "_scaled_dot_product_flash_attention_for_cpu": row(
        operands="query key value", parts=parts.flash_attention
    ),
    "lstm": row(
        operands=_RECURRENT, packed=_PACKED, parts=partial(recurrent.layers, recurrent.lstm)
    ),
    "gru": row(operands=_RECURRENT, packed=_PACKED, parts=partial(recurrent.layers, recurrent.gru)),
    "rnn_tanh": row(
        operands=_RECURRENT, packed=_PACKED, parts=partial(recurrent.layers, recurrent.rnn_tanh)
    ),
    "rnn_relu": row(
        operands=_RECURRENT, packed=_PACKED, parts=partial(recurrent.layers, recurrent.rnn_relu)
    ),
    "lstm_cell": row(operands=_CELL, parts=partial(recurrent.cell, recurrent.lstm)),
    "gru_cell": row(operands=_CELL, parts=partial(recurrent.cell, recurrent.gru)),
    "rnn_tanh_cell": row(operands=_CELL, parts=partial(recurrent.cell, recurrent.rnn_tanh)),
    "rnn_relu_cell": row(operands=_CELL, parts=partial(recurrent.cell, recurrent.rnn_relu)),
    "addmm": row(operands="input mat1 mat2", contraction=_WITH_SUM, parts=parts.addmm),
    "addmv": row(operands="input mat vec", parts=parts.addmv),
    "addbmm": row(operands="input batch1 batch2", parts=parts.addbmm),
    "baddbmm": row(operands="input batch1 batch2", contraction=_NONE, parts=parts.baddbmm),
    "_grouped_mm grouped_mm_fallback": row(parts=parts.grouped_product, whole=parts.has_no_groups),
    "addcmul": row(operands="input tensor1 tensor2", parts=parts.addcmul),
    "addcdiv": row(operands="input tensor1 tensor2", parts=parts.addcdiv),
    "lerp": row(operands="input end weight", parts=parts.lerp),
    "glu": row(parts=parts.glu),
    "cosine_similarity": row(operands="x1 x2 dim eps", parts=parts.cosine_similarity),
    "var_mean": row(parts=parts.var_mean),
    "std_mean": row(parts=parts.std_mean),
    "native_layer_norm": row(
        operands="input normalized_shape weight bias eps", parts=parts.native_layer_norm
    ),
    "native_group_norm": row(
        operands="input weight bias N C HxW group eps", parts=parts.native_group_norm
    ),
    "_native_batch_norm_legit_no_training": row(
        operands="input weight bias running_mean running_var momentum eps",
        parts=parts.native_batch_norm,
    ),
    # questions, and tensors that take a shape or a type from their operand and no value
    "size dim ndim shape dtype device stride numel nelement element_size": _ASIDE,
    "storage_offset untyped_storage data_ptr get_device layout names": _ASIDE,
    "is_cuda is_contiguous is_sparse is_quantized is_nested is_meta": _ASIDE,
    "is_floating_point is_complex is_leaf requires_grad grad_fn": _ASIDE,
    "_is_view _base _version output_nr retain_grad retains_grad register_hook": _ASIDE,
    "zeros ones empty zeros_like ones_like full_like empty_like": _ASIDE,
    "rand_like randn_like new_zeros new_ones new_full new_empty new_tensor": _ASIDE,
    "__bool__ __float__ __int__ __index__ item tolist numpy": _READ,
    "is_nonzero equal allclose": _READ,
    "detach data": row("other", "detached"),
    # in place
    "squeeze_ unsqueeze_ t_ transpose_ swapaxes_ swapdims_": _RESHAPING,
    "requires_grad_ share_memory_ detach_": row(writes=False),
    "__iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __ipow__": _WRITING,
    "__iand__ __ior__ __ixor__ __ilshift__ __irshift__": _WRITING,
}
ROWS = {name: known for names, known in _TABLE.items() for name in names.split()}
_UNKNOWN = Row()


def of(name: str) -> Row:
    """What is known about the functions of a name."""
    return ROWS.get(name, _UNKNOWN)


def operation_name(func: Function) -> str:
    """The name shared by a function, its method and its aten overload: relu, add, __getitem__."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property: its getter is bound to the descriptor that has the name
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name.split(".")[0].removeprefix("special_")


def is_python(func: Function) -> bool:
    """Whether a torch function is written in Python, from smaller ones."""
    return isinstance(func, types.FunctionType)


def is_in_place(name: str) -> bool:
    """Whether a call writes into its first argument."""
    known = of(name).writes
    return name.endswith("_") and not name.endswith("__") if known is None else known


def kind_of(name: str, args: Arguments, kwargs: Keywords, depends: Question) -> str:
    """The kind of a call that depends on the input and is not a linear map with weights."""
    kind = of(name).kind
    return kind if isinstance(kind, str) else kind(args, kwargs, depends)
