"""Kinds that a call's operands decide: a product of two values, a clamp that is a ReLU."""

from __future__ import annotations

import torch
from torch import Tensor

from salience._operations.calls import Arguments, Keywords, Question


def product(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    return "product" if sum(map(depends, args)) > 1 else "smooth"  # several constants at once


def multiplication(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    return "product" if sum(map(depends, args)) > 1 else "structural"


def division(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    if not depends(args[1]):
        return "structural"
    if kwargs.get("rounding_mode") is not None:
        return "other"
    return "division" if depends(args[0]) else "reciprocal"


def weighted(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    """By weights that depend on the input."""
    return "other" if any(map(depends, args[2:])) else "product"


def attention(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    """softmax(q k^T) v where gradients reach all three, and nothing else of the input decides."""
    values = args[:3]
    random = (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)) > 0
    if len(values) < 3 or random or depends(args[3:]) or depends(kwargs):
        return "other"
    return "attention" if all(depends(v) and v.requires_grad for v in values) else "other"


def power(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    exponent = _number(args[1]) if len(args) > 1 else None
    if not isinstance(exponent, int | float) or exponent == 0:
        return "other"
    return "activation" if exponent > 0 else "reciprocal"


def batch_norm(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    # torch.batch_norm(input, weight, bias, running_mean, running_var, training, ...)
    fixed = len(args) >= 6 and args[3] is not None and args[5] is False
    return "batch_norm" if fixed else "normalization"


def reduction(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    how = kwargs.get("reduce", args[4] if len(args) > 4 else None)
    return "smooth" if how == "prod" else "structural"


def greatest(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    """max(a, b): with a constant b an element-wise function, a ReLU if b is 0."""
    constant = _constant_of_two(args, depends)
    kind = least(args, kwargs, depends)
    return "relu" if kind == "activation" and _number(constant) == 0 else kind


def least(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    """min(a, b): with a constant b an element-wise function."""
    constant = _constant_of_two(args, depends)
    if constant is None:
        return "structural"
    value = args[0] if depends(args[0]) else args[1]
    whole = torch.broadcast_shapes(value.shape, constant.shape) == value.shape
    return "activation" if whole else "other"


def _constant_of_two(args: Arguments, depends: Question) -> Tensor | None:
    """The one of two operands that does not depend on the input."""
    if len(args) < 2 or not isinstance(args[1], Tensor) or all(map(depends, args[:2])):
        return None
    return args[1] if depends(args[0]) else args[0]


def hardtanh(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    low = _number(_given(args, kwargs, 1, "min_val", -1.0))
    return "bounded_relu" if low == 0 else "activation"


def clamp_min(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    return "relu" if _number(_given(args, kwargs, 1, "min")) == 0 else "activation"


def threshold(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    levels = [_number(level) for level in (*args[1:3], *kwargs.values())]
    return "relu" if levels == [0, 0] else "activation"


def clamp(args: Arguments, kwargs: Keywords, depends: Question) -> str:
    low, high = (_number(_given(args, kwargs, *at)) for at in ((1, "min"), (2, "max")))
    if isinstance(low, int | float) and low == 0:
        return "relu" if high is None else "bounded_relu"
    return "activation"


def _given(
    args: Arguments, kwargs: Keywords, place: int, name: str, default: object = None
) -> object:
    return kwargs.get(name, args[place] if len(args) > place else default)


def _number(value: object) -> object:
    """A tensor of one value, maybe repeated, as a number; of several as nothing that equals 0."""
    if not isinstance(value, Tensor):
        return value
    some = value.detach().flatten()[:1]
    return some.item() if len(some) and bool((value == some).all()) else "several"
