"""The operators of ONNX as functions of torch, for every opset since 7.

Each function gets the operands (None where one is left out), the attributes and the opset. Where
ONNX moved a setting from an attribute to an operand, both are read.

Source: the ONNX operator specification (Operators.md), checked against its own test vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from salience.models._onnx.calls import Attributes, Operands, Operator
from salience.models._onnx.recurrent import RECURRENT
from salience.models._onnx.shapes import SHAPES, ints
from salience.models._onnx.windows import WINDOWS


def _plain(function: Callable[..., object]) -> Operator:
    return lambda given, attributes, opset: function(*given)


def _setting(function: Callable[..., object], **defaults: float) -> Operator:
    """A function of one operand and of numbers among the attributes."""
    return lambda given, attributes, opset: function(
        given[0], *(attributes.get(name, value) for name, value in defaults.items())
    )


def _gemm(given: Operands, a: Attributes, opset: int) -> Tensor:
    left = given[0].T if a.get("transA") else given[0]
    weight = given[1] if a.get("transB") else given[1].T
    bias = given[2] if len(given) > 2 else None
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    weight = weight if alpha == 1 else alpha * weight
    bias = bias if bias is None or beta == 1 else beta * bias
    if bias is not None and bias.shape != weight.shape[:1]:
        return F.linear(left, weight) + bias
    return F.linear(left, weight, bias)


def _batch_normalization(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, scale, bias, mean, variance = given
    if a.get("training_mode"):  # by its own statistics
        return F.batch_norm(x, None, None, scale, bias, True, 0.0, a.get("epsilon", 1e-5))
    if mean.requires_grad or variance.requires_grad:  # of weights, which are standardised so
        shape = (-1, *(1,) * (x.ndim - 2))
        factor = scale * (variance + a.get("epsilon", 1e-5)).rsqrt()
        return x * factor.view(shape) + (bias - mean * factor).view(shape)
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, a.get("epsilon", 1e-5))


def _layer_normalization(given: Operands, a: Attributes, opset: int) -> Tensor:
    shape = given[0].shape[a.get("axis", -1) :]
    scale, *rest = given[1:]
    bias = rest[0].expand(shape) if rest and rest[0] is not None else None
    return F.layer_norm(given[0], shape, scale.expand(shape), bias, a.get("epsilon", 1e-5))


def _group_normalization(given: Operands, a: Attributes, opset: int) -> Tensor:
    x, scale, bias = given
    if opset < 21:  # one number for each group
        each = x.shape[1] // a["num_groups"]
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, a["num_groups"], scale, bias, a.get("epsilon", 1e-5))


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Operator:
    def run(given: Operands, a: Attributes, opset: int) -> Tensor:
        if opset >= 13:
            return function(given[0], a.get("axis", -1))
        flat = given[0].flatten(a.get("axis", 1))  # over all dimensions from the axis on
        return function(flat, -1).reshape(given[0].shape)

    return run


def _clip(given: Operands, a: Attributes, opset: int) -> Tensor:
    low, high = (
        given[place].item() if len(given) > place and given[place] is not None else a.get(name)
        for place, name in ((1, "min"), (2, "max"))
    )
    return given[0] if low is None and high is None else torch.clamp(given[0], low, high)


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def run(given: Operands, a: Attributes, opset: int) -> Tensor:
        axes = ints(given, 1, a, "axes")
        if not axes:
            if a.get("noop_with_empty_axes"):
                return given[0]
            axes = list(range(given[0].ndim))
        return function(given[0], axes, bool(a.get("keepdims", 1)))

    return run


def _mean_of(*given: Tensor) -> Tensor:
    return _sum_of(*given) / len(given)


def _sum_of(*given: Tensor) -> Tensor:
    total = given[0]
    for item in given[1:]:
        total = total + item
    return total


def _extreme(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(*given: Tensor) -> Tensor:
        found = given[0]
        for item in given[1:]:
            found = function(found, item)
        return found

    return run


def _divide(a: Tensor, b: Tensor) -> Tensor:
    whole = not a.is_floating_point() and not b.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc") if whole else torch.div(a, b)


def _gelu(given: Operands, a: Attributes, opset: int) -> Tensor:
    return F.gelu(given[0], approximate=a.get("approximate", "none"))


def _hard_sigmoid(given: Operands, a: Attributes, opset: int) -> Tensor:
    alpha, beta = a.get("alpha", 0.2), a.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(given[0])
    return torch.clamp(alpha * given[0] + beta, 0, 1)


def _selu(given: Operands, a: Attributes, opset: int) -> Tensor:
    alpha, gamma = a.get("alpha", 1.6732632), a.get("gamma", 1.0507010)
    own = abs(alpha - 1.6732632) < 1e-5 and abs(gamma - 1.0507010) < 1e-5
    return F.selu(given[0]) if own else gamma * F.elu(given[0], alpha)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    if slope.numel() == 1 or (slope.numel() == x.shape[1] == slope.shape[0]):
        return F.prelu(x, slope.flatten())
    channels = slope.ndim == x.ndim - 1 and slope.numel() == slope.shape[0] == x.shape[1]
    return F.prelu(x, slope.flatten()) if channels else torch.where(x < 0, slope * x, x)


def _local_response(given: Operands, a: Attributes, opset: int) -> Tensor:
    return F.local_response_norm(
        given[0], a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)
    )


def _norm(order: int) -> Callable[..., Tensor]:
    return lambda x, axes, keep: torch.linalg.vector_norm(x, order, dim=axes, keepdim=keep)


def _modulo(given: Operands, a: Attributes, opset: int) -> Tensor:
    return (torch.fmod if a.get("fmod") else torch.remainder)(given[0], given[1])


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep)


def _einsum(given: Operands, a: Attributes, opset: int) -> Tensor:
    return torch.einsum(a["equation"], *given)


def _instance_normalization(given: Operands, a: Attributes, opset: int) -> Tensor:
    return F.instance_norm(given[0], None, None, given[1], given[2], eps=a.get("epsilon", 1e-5))


def _cumulative_sum(given: Operands, a: Attributes, opset: int) -> Tensor:
    if a.get("exclusive") or a.get("reverse"):
        raise NotImplementedError("CumSum, exclusive or reverse")
    return torch.cumsum(given[0], int(given[1]))


def _rms_normalization(given: Operands, a: Attributes, opset: int) -> Tensor:
    shape = given[0].shape[a.get("axis", -1) :]
    return F.rms_norm(given[0], shape, given[1].expand(shape), a.get("epsilon", 1e-5))


OPERATORS: dict[str, Operator] = {
    **WINDOWS, **SHAPES, **RECURRENT,
    "Gemm": _gemm, "MatMul": _plain(torch.matmul), "Einsum": _einsum,
    "BatchNormalization": _batch_normalization, "LayerNormalization": _layer_normalization,
    "InstanceNormalization": _instance_normalization, "RMSNormalization": _rms_normalization,
    "GroupNormalization": _group_normalization, "LRN": _local_response,
    "Relu": _plain(F.relu), "Sigmoid": _plain(torch.sigmoid), "Tanh": _plain(torch.tanh),
    "LeakyRelu": _setting(F.leaky_relu, alpha=0.01), "Elu": _setting(F.elu, alpha=1.0),
    "Selu": _selu, "Celu": _setting(F.celu, alpha=1.0), "PRelu": _plain(_prelu),
    "Gelu": _gelu, "Mish": _plain(F.mish), "HardSwish": _plain(F.hardswish),
    "HardSigmoid": _hard_sigmoid,
    "Softplus": _plain(F.softplus), "Softsign": _plain(F.softsign), "Clip": _clip,
    "Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(torch.log_softmax),
    "Add": _plain(torch.add), "Sub": _plain(torch.sub), "Mul": _plain(torch.mul),
    "Div": _plain(_divide), "Pow": _plain(torch.pow), "Sqrt": _plain(torch.sqrt),
    "Exp": _plain(torch.exp), "Log": _plain(torch.log), "Neg": _plain(torch.neg),
    "Abs": _plain(torch.abs), "Reciprocal": _plain(torch.reciprocal), "Erf": _plain(torch.erf),
    "Sin": _plain(torch.sin), "Cos": _plain(torch.cos), "Floor": _plain(torch.floor),
    "Ceil": _plain(torch.ceil), "Round": _plain(torch.round), "Sign": _plain(torch.sign),
    "Sum": _plain(_sum_of), "Mean": _plain(_mean_of), "Max": _plain(_extreme(torch.maximum)),
    "Min": _plain(_extreme(torch.minimum)), "Mod": _modulo,
    "Where": _plain(torch.where), "Equal": _plain(torch.eq), "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge), "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le), "Not": _plain(torch.logical_not),
    "And": _plain(torch.logical_and), "Or": _plain(torch.logical_or),
    "IsNaN": _plain(torch.isnan), "CumSum": _cumulative_sum,
    "ReduceMean": _reduce(torch.mean), "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax), "ReduceMin": _reduce(torch.amin),
    "ReduceL1": _reduce(_norm(1)), "ReduceL2": _reduce(_norm(2)),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: torch.sum(x * x, axes, keep)),
    "ReduceProd": _reduce(lambda x, axes, keep: _product(x, axes, keep)),
}  # fmt: skip


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if not x.is_floating_point() and not keep and x.ndim == 1:
        return torch.tensor(math.prod(x.tolist()), dtype=x.dtype)  # of a shape
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keep)
    return x
