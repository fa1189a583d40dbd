"""Linear maps with weights: where a call keeps a, W and b, and how W can be rewritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from salience._operations.calls import Arguments, Keywords, Question

Form = Literal["convolution", "transposed", "linear", "matrices", "other"]


class Slots(NamedTuple):
    """Where an operation keeps the operands of z = W a + b."""

    activation: int
    weight: int
    bias: int | None


class Contraction(NamedTuple):
    """A function that sums over products of its operands' entries.

    slots   where W, a and b are in a call that is linear in a, if it is; args are positional
    form    what its weight looks like
    groups  the place of the argument groups
    turned  the place of the argument that makes a convolution a transposed one
    """

    slots: Callable[[Arguments, Question], Slots | None]
    form: Form = "other"
    groups: int = 6
    turned: int | None = None


def layer(args: Arguments, depends: Question) -> Slots | None:
    """Of f(a, W, b)."""
    weights = args[1:3]
    return Slots(0, 1, 2) if depends(args[0]) and not any(map(depends, weights)) else None


def either(args: Arguments, depends: Question) -> Slots | None:
    """Of f(a, W) or f(W, a)."""
    return _one_of(0, 1, args, depends)


def equation(args: Arguments, depends: Question) -> Slots | None:
    """Of einsum(equation, a, W), flattened."""
    return _one_of(1, 2, args, depends) if len(args) == 3 else None


def sum_with(args: Arguments, depends: Question) -> Slots | None:
    """Of f(b, a, W)."""
    linear = depends(args[1]) and not (depends(args[0]) or depends(args[2]))
    return Slots(1, 2, 0) if linear else None


def nowhere(args: Arguments, depends: Question) -> None:
    """Of a function whose rules are those of products, also with a constant."""


def _one_of(first: int, second: int, args: Arguments, depends: Question) -> Slots | None:
    left, right = depends(args[first]), depends(args[second])
    if left == right:
        return None
    return Slots(first, second, None) if left else Slots(second, first, None)


def form_of(contraction: Contraction, args: Arguments, kwargs: Keywords) -> Form:
    """The form of a call's weight, where torch.convolution may be transposed."""
    place = contraction.turned
    if place is None:
        return contraction.form
    turned = kwargs.get("transposed", args[place] if len(args) > place else False)
    return "transposed" if turned else contraction.form


def fold_scale(form: Form, slots: Slots, weight: Tensor, scale: Tensor, ndim: int) -> Tensor | None:
    """The scale (C,) of z's channels as a tensor that multiplies the weight; None: cannot."""
    last = scale if slots.weight > slots.activation else None
    if form == "matrices" and weight.ndim > 2:  # a weight of each sample
        return last
    tail = (1,) * (weight.ndim - 2)
    if tail and ndim != weight.ndim:  # a single sample
        return None
    if form == "convolution":
        return scale.view(-1, 1, *tail)
    if form == "transposed":  # weight (in, out / groups, ...)
        groups = scale.numel() // weight.shape[1]
        by_group = scale.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
        return by_group.reshape(weight.shape[0], weight.shape[1], *tail)
    if ndim != 2 or weight.ndim != 2 or form == "other":
        return None
    return scale.view(-1, 1) if form == "linear" else last


def channel_dims(
    contraction: Contraction, slots: Slots, args: Arguments, kwargs: Keywords
) -> tuple[int, int] | None:
    """The dimensions of a and W that are summed over, if two maps can be one with more inputs."""
    form = form_of(contraction, args, kwargs)
    if form in ("convolution", "transposed"):
        place = contraction.groups
        groups = kwargs.get("groups", args[place] if len(args) > place else 1)
        along = 1 - args[slots.weight].ndim  # also of a single sample
        return (along, 0 if form == "transposed" else 1) if groups == 1 else None
    if form == "linear":
        return (-1, 1)
    last = slots.weight > slots.activation and args[slots.weight].ndim > 1
    return (-1, -2) if form == "matrices" and last else None
