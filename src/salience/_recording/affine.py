"""Shifts and scalings by constants: what of a call belongs to the linear map before it.

x @ W + b, a frozen BatchNorm written as x * scale + shift and a bias that is added after a
transposition are parts of one linear map, however they are spelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from salience._operations import kinds
from salience._operations.calls import Arguments, Keywords
from salience._recording.linear_maps import Weights

Layout = Callable[[Tensor], Tensor]  # a rearrangement of entries


class Step(NamedTuple):
    """z = scale * a + shift, in shapes that broadcast against a; None: 1 and 0."""

    place: int  # of a among the arguments
    scale: Tensor | None
    shift: Tensor | None

    @property
    def constants(self) -> list[Tensor]:
        return [part for part in (self.scale, self.shift) if part is not None]

    @property
    def is_number(self) -> bool:
        """Whether it multiplies by a number, if at all, and does nothing else."""
        return self.shift is None and (self.scale is None or self.scale.ndim == 0)


def step_of(
    name: str, args: Arguments, kwargs: Keywords, place: int, weights: Weights
) -> Step | None:
    """What a call does to its operand at a place, if it shifts or scales it by constants."""
    step = kinds.of(name).step
    if step == "batch_norm":
        return _batch_norm(args, weights)
    if step is None or kwargs or not 1 <= len(args) <= 2:
        return None
    if step == "neg":
        return Step(0, args[0].new_full((), -1.0), None)
    constant = _constant(args[1 - place], args[place]) if len(args) == 2 else None
    if constant is None:
        return None
    if step == "mul":
        return Step(place, constant, None)
    if step == "div":
        return Step(0, weights.derive("1 /", torch.reciprocal, constant), None)
    if step in ("sub", "rsub"):
        if (place == 0) == (step == "sub"):  # a - constant
            return Step(place, None, weights.derive("-", torch.neg, constant))
        return Step(place, constant.new_full((), -1.0), constant)
    return Step(place, None, constant)


def _constant(value: object, a: Tensor) -> Tensor | None:
    """A finite constant that broadcasts against a, as a tensor."""
    if isinstance(value, bool | complex) or not isinstance(value, Tensor | int | float):
        return None
    constant = value if isinstance(value, Tensor) else a.new_full((), value)
    if not (constant.is_floating_point() and a.is_floating_point()) or constant.ndim > a.ndim:
        return None
    pairs = zip(constant.shape[::-1], a.shape[::-1], strict=False)
    if not all(size in (1, whole) for size, whole in pairs) or not bool(constant.isfinite().all()):
        return None
    if constant.ndim < a.ndim:
        return constant
    small = smallest(constant)
    if small.numel() == 1:
        return small.reshape(())
    return constant if small.shape[0] == 1 else None  # of each sample its own


def _batch_norm(args: Arguments, weights: Weights) -> Step:
    a, weight, bias, mean, variance, _, _, epsilon = args[:8]
    shape = (-1, *(1,) * (a.ndim - 2))

    def scale_of(variance: Tensor, *weight: Tensor) -> Tensor:
        inverse = (variance + epsilon).rsqrt()
        return (weight[0] * inverse if weight else inverse).view(shape)

    def shift_of(mean: Tensor, scale: Tensor, *bias: Tensor) -> Tensor:
        return (bias[0].view(shape) if bias else 0) - mean.view(shape) * scale

    affine = [part for part in (weight,) if part is not None]
    scale = weights.derive(f"scale {epsilon} {len(shape)}", scale_of, variance, *affine)
    shift = weights.derive("shift", shift_of, mean, scale, *(() if bias is None else (bias,)))
    return Step(0, scale, shift)


def without_zeros(step: Step) -> Step:
    """A step whose shift, a mask that masks nothing, is none."""
    return step if step.shift is None or step.shift.any() else step._replace(shift=None)


def pulled(
    constant: Tensor, layouts: Sequence[Layout], before: torch.Size, after: torch.Size
) -> Tensor:
    """A constant of a rearranged value, for the value before that, as small as it broadcasts."""
    probe = torch.zeros(before, dtype=constant.dtype, device=constant.device, requires_grad=True)
    with torch.enable_grad():
        moved: Tensor = probe
        for layout in layouts:
            moved = layout(moved)
    (back,) = torch.autograd.grad(moved, probe, constant.expand(after).contiguous())
    return smallest(back).clone()


def smallest(values: Tensor) -> Tensor:
    """The smallest tensor that broadcasts to these values."""
    for dim in range(values.ndim):
        first = values.narrow(dim, 0, 1) if values.shape[dim] > 1 else values
        if first is not values and bool((values == first).all()):
            values = first
    return values


def times(weights: Weights, one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The product of two scales."""
    if one is None or other is None:
        return other if one is None else one
    return weights.derive("times", torch.mul, one, other)


def followed(weights: Weights, shift: Tensor | None, step: Step) -> Tensor | None:
    """The shift of a map that a step follows: scale * shift + the step's own."""
    scaled = None if shift is None else times(weights, shift, step.scale)
    if scaled is None or step.shift is None:
        return step.shift if scaled is None else scaled
    return weights.derive("plus", torch.add, scaled, step.shift)
