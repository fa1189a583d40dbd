"""Linear maps z = W a + b as rules see them, and what derives from weights alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from salience._recording.beside import version_of

Backward = Callable[[Tensor], Tensor]
# What was computed from activations once and serves every rule; no reference back to its site, so
# that a dropped tape is freed at once.
Responses = dict[str, tuple[Tensor, Backward]]


class Weights:
    """Parameters cut off from autograd, and everything derived from them alone.

    Shared by the tapes of one study, so that W+ is computed once per weight and version.
    """

    def __init__(self) -> None:
        self._frozen: dict[int, tuple[Tensor, int, Tensor]] = {}
        self._derived: dict[tuple[str | int, ...], tuple[Tensor, list[weakref.ref[Tensor]]]] = {}

    def frozen(self, parameter: Tensor) -> Tensor:
        """The parameter without its gradient; the same object as long as it is not changed."""
        known, version = self._frozen.get(id(parameter)), version_of(parameter)
        if known is not None and known[1] == version:
            return known[2]
        if known is not None:
            self._derived.clear()
        frozen = parameter.detach()
        if frozen.is_inference():  # autograd cannot save it
            frozen = frozen.clone()
        self._frozen[id(parameter)] = (parameter, version, frozen)
        return frozen

    def derive(self, name: str, function: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """function(*sources), computed once for these sources and forgotten with them."""
        key = (name, *map(id, sources))
        known = self._derived.get(key)  # another thread may take it out
        if known is None:
            derived = self._derived

            def forget(_: object) -> None:
                derived.pop(key, None)

            alive = [weakref.ref(source, forget) for source in sources]
            known = derived[key] = (function(*sources), alive)
        return known[0]


def linear_response(function: Backward, a: Tensor) -> tuple[Tensor, Backward]:
    """function(a) of a linear function, and its transpose."""
    leaf = a.detach().requires_grad_()
    with torch.enable_grad():
        response = function(leaf)
    edge = get_gradient_edge(response)

    def transpose(m: Tensor) -> Tensor:
        return torch.autograd.grad(edge, leaf, m, retain_graph=True)[0]

    return response.detach(), transpose


# Entries of a dense weight whose positive part is formed at a time on a CPU; larger weights are not
# copied. A GPU would wait for the launch of every block.
BLOCK = 1 << 19


class DensePart(torch.autograd.Function):
    """W+ a+ + W- a- of a large dense layer (or W- a+ + W+ a- for "-"), its sign-split weight formed
    a few rows at a time.

    A copy of the weight would cost more than the product: at small batches a dense layer takes as
    long as its weight takes to read.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, weight: Tensor, sign: str, signed: bool) -> Tensor:
        ctx.save_for_backward(a, weight)
        ctx.sign, ctx.signed = sign, signed
        above, below = of_sign(a, "+"), of_sign(a, "-")
        parts = []
        for rows in _blocks(weight):
            part = F.linear(above, of_sign(rows, sign))
            parts.append(part + F.linear(below, of_sign(rows, _OTHER[sign])) if signed else part)
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (a, weight), m = ctx.saved_tensors, grad_outputs[0]
        flat, blocks = m.flatten(0, -2), _blocks(weight)
        pieces = flat.split([len(rows) for rows in blocks], -1)
        above = m.new_zeros(len(flat), weight.shape[1])
        below = torch.zeros_like(above) if ctx.signed else None
        for piece, rows in zip(pieces, blocks, strict=True):
            above.addmm_(piece, of_sign(rows, ctx.sign))
            if below is not None:
                below.addmm_(piece, of_sign(rows, _OTHER[ctx.sign]))
        if below is not None:
            above = torch.where(a.flatten(0, -2) < 0, below, above)
        return above.view_as(a), None, None, None


_OTHER = {"+": "-", "-": "+"}


def _called_by_halves(
    call: Callable[[Tensor, Tensor], Tensor], same: Tensor, other: Tensor, a: Tensor
) -> Tensor:
    above, below = halves(a)
    return call(above, same) + call(below, other)


def of_sign(values: Tensor, sign: str) -> Tensor:
    """v+ or v-"""
    return values.clamp(min=0) if sign == "+" else values.clamp(max=0)


def halves(a: Tensor) -> tuple[Tensor, Tensor]:
    """a+ and a-; what flows back to an entry of 0 is what a+ gets, as where nothing is negative."""
    low = (-a).relu()  # whose slope at 0 is 0
    return a + low, -low


def _blocks(weight: Tensor) -> tuple[Tensor, ...]:
    return weight.split(max(1, BLOCK // weight.shape[1]))


class Layer(NamedTuple):
    """Where a linear map stands in a network: what composites choose their rules by."""

    name: str  # of its weight in the model, "" where it has none
    kind: str  # "convolution", "dense" or "batch_norm" (one that stands alone)
    first: bool  # an input layer: no other one upstream
    number: int  # in the order of execution


class LinearMap:
    """z = W a + b as rules see it: responses and transposes of W and of its sign-split parts."""

    def __init__(
        self,
        a: Tensor,
        z: Callable[[], Tensor],
        call: Callable[[Tensor, Tensor], Tensor],
        weight: Tensor,
        bias: Tensor | None,
        transpose: Backward,
        scale: Tensor | None,
        weights: Weights,
        responses: Responses,
        fold: tuple[Tensor, Tensor] | None = None,
        channels: tuple[int, int] | None = None,
        dense: bool = False,
        layer: Layer | None = None,
        nonnegative: bool = False,
    ) -> None:
        self.layer = layer or Layer("", "dense", False, 0)
        self.a, self._z, self.call = a, z, call
        self._weight, self.bias = weight, bias
        self._fold, self._channels, self._dense = fold, channels, dense
        self._signed = not nonnegative and a.numel() > 0
        self._transpose, self._scale = transpose, scale
        self._weights, self._responses = weights, responses

    def transpose(self, m: Tensor) -> Tensor:
        """W^T m"""
        return self._transpose(m if self._scale is None else m * self._scale)

    def transpose_(self, m: Tensor) -> Tensor:
        """W^T m, where m may be overwritten."""
        return self._transpose(m if self._scale is None else m.mul_(self._scale))

    @property
    def z(self) -> Tensor:
        """The output; where a ReLU alone reads it, its rectified value (m is 0 elsewhere)."""
        return self._z()

    @property
    def weight(self) -> Tensor:
        """W, with the scale of a folded BatchNorm."""
        return self._weight if self._fold is None else self._of_weight("W", lambda w: w)

    def weight_part(self, sign: str) -> Tensor:
        """W+ or W-."""
        return self._of_weight(f"W{sign}", lambda w: of_sign(w, sign))

    def _of_weight(self, name: str, function: Backward) -> Tensor:
        """A function of W, computed once for the weights."""
        if self._weight.layout != torch.strided:
            return self._weights.derive(name, lambda w: function(w.to_dense()), self._weight)
        if self._fold is None:
            return self._weights.derive(name, function, self._weight)
        scale, factor = self._fold  # the factor is the scale (C,) in a shape that fits the weight
        return self._weights.derive(
            name, lambda w, _: function((w * factor).to(w.dtype)), self._weight, scale
        )

    def bias_part(self, sign: str) -> Tensor | float:
        """b+ or b-, in a shape that adds to z; 0 without a bias."""
        if self.bias is None:
            return 0.0
        return of_sign(self.bias, sign).to(self.a.dtype)

    def positive(self) -> tuple[Tensor, Backward]:
        """z+, the sum of the positive contributions a_i w_ij without bias, and its transpose."""
        return self._part("+")

    def negative(self) -> tuple[Tensor, Backward]:
        """z-, the sum of the negative contributions by themselves, and its transpose."""
        return self._part("-")

    def _part(self, sign: str) -> tuple[Tensor, Backward]:
        if sign not in self._responses:
            self._responses[sign] = linear_response(self._contributions(sign), self.a)
        return self._responses[sign]

    def _contributions(self, sign: str) -> Backward:
        """a -> W+ a+ + W- a-, or W- a+ + W+ a- for "-": as one call where a is not negative, by
        what made it, or the map can be widened."""
        signed = self._signed
        large = self._weight.numel() > 2 * BLOCK and self._weight.device.type == "cpu"
        if self._dense and self._fold is None and large:
            return lambda a: DensePart.apply(a, self._weight, sign, signed)  # type: ignore[return]
        if not signed:
            alone = self.weight_part(sign)
            return lambda a: self.call(a, alone)
        if self._channels is None:
            same, other = self.weight_part(sign), self.weight_part(_OTHER[sign])
            return partial(_called_by_halves, self.call, same, other)
        along, summed = self._channels
        both = self._of_weight(
            "W+-", lambda w: torch.cat([of_sign(w, "+"), of_sign(w, "-")], summed)
        )
        order = 1 if sign == "+" else -1
        return lambda a: self.call(torch.cat(halves(a)[::order], along), both)
