"""Operations on the tape whose backward step is looked up when it runs.

A site is one recorded operation that rules may treat. Its forward pass is the user's own function;
its backward pass asks the tape's `Walk` which rule is active. So one recorded pass serves every
method, and a method without a rule for a kind of operation gets plain autograd there.

What flows back is the multiplier m; relevance is R = a * m at an activation a.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from salience.linear import Backward, LinearMap, Responses, Weights, linear_response


class Walk:
    """What backward means at this moment: the active rules, and the relevance they handed back."""

    def __init__(self) -> None:
        self.rules: dict[str, Callable[[Any, Tensor], Tensor]] = {}
        self.input_rule: Callable[[Any, Tensor], Tensor] | None = None
        self.relevance: list[tuple[int, Tensor]] = []  # at numbered values

    def reset(self) -> None:
        self.rules, self.input_rule, self.relevance = {}, None, []


class Ruled(torch.autograd.Function):
    """The hinge between autograd and the rules: a site in the graph."""

    @staticmethod
    def forward(ctx: Any, site: Any, a: Tensor) -> Tensor:
        ctx.site = site
        return site.forward(a)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return None, ctx.site.backward(grad_outputs[0])


class ElementSite:
    """An element-wise function y = f(x)."""

    def __init__(self, walk: Walk, kind: str, function: Backward, keeps_input: bool) -> None:
        self.walk, self.kind = walk, kind
        self._function, self._keeps_input = function, keeps_input
        self.x: Tensor | None = None
        self.y: Tensor
        self._transpose: Backward | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._keeps_input:
            self.x = x.detach()
            self.y, self._transpose = linear_response(self._function, x)
        else:
            self.y = self._function(x.detach())
        return self.y.detach()

    def transpose(self, m: Tensor) -> Tensor:
        """m f'(x)"""
        if self._transpose is not None:
            return self._transpose(m)
        return torch.ops.aten.threshold_backward(m, self.y, 0)

    def backward(self, m: Tensor) -> Tensor:
        rule = self.walk.rules.get(self.kind)
        return self.transpose(m) if rule is None else rule(self, m)


class BatchNormSite:
    """BatchNorm with fixed statistics, z = scale * a + shift per channel."""

    kind = "batch_norm"

    def __init__(self, walk: Walk, weights: Weights, rest: tuple[Any, ...]) -> None:
        self.walk, self._weights, self._rest = walk, weights, rest
        self.folded: bool = False  # into the linear map before it
        self.a: Tensor | None = None  # kept where the BatchNorm stands alone
        self.source: LinearSite | None = None  # recomputes a
        self.rectified: ElementSite | None = None  # the ReLU that alone reads z
        self._z: Tensor | None = None
        self._responses: Responses = {}
        weight, bias, mean, variance, _, _, epsilon = rest[:7]

        def scale_of(variance: Tensor, *weight: Tensor) -> Tensor:
            inverse = (variance + epsilon).rsqrt()
            return weight[0] * inverse if weight else inverse

        affine = () if weight is None else (weight,)
        self.scale = weights.derive(f"scale {epsilon}", scale_of, variance, *affine)  # (C,)
        self.shift = weights.derive(
            "shift",
            lambda mean, scale, *bias: (bias[0] if bias else 0) - mean * scale,
            mean,
            self.scale,
            *(() if bias is None else (bias,)),
        )  # (C,)

    def forward(self, a: Tensor) -> Tensor:
        if not self.folded:
            self.a = a.detach()
        self._z = torch.batch_norm(a.detach(), *self._rest)
        return self._z.detach()

    @property
    def z(self) -> Tensor:
        if self.rectified is not None and "relu" not in self.walk.rules:
            return self.rectified.y  # m is 0 where it differs from z
        if self._z is None:
            self._z = torch.batch_norm(self.input(), *self._rest)
        return self._z

    def keep(self, z: Tensor | None) -> None:
        self._z = z

    def input(self) -> Tensor:
        """The activation, recomputed if it was not kept."""
        if self.a is None:
            assert self.source is not None
            self.a = self.source.z
        return self.a

    def per_channel(self, values: Tensor, like: Tensor) -> Tensor:
        """Values (C,) in a shape (1, C, 1, ...) that multiplies maps."""
        return values.to(like.dtype).view(1, -1, *(1,) * (like.ndim - 2))

    def transpose(self, m: Tensor) -> Tensor:
        return m * self.per_channel(self.scale, m)

    def alone(self) -> LinearMap:
        """The diagonal linear map of a BatchNorm that is not folded."""
        return LinearMap(
            self.input(), lambda: self.z, lambda a, w: a * self.per_channel(w, a), self.scale,
            self.shift, self.transpose, None, self._weights, self._responses,
        )  # fmt: skip

    def backward(self, m: Tensor) -> Tensor:
        rule = self.walk.rules.get("linear")
        if rule is None:
            return self.transpose(m)
        return m if self.folded else rule(self.alone(), m)


class LinearSite:
    """A contraction z = W a + b, with the BatchNorm that follows it folded in."""

    kind = "linear"

    def __init__(
        self,
        walk: Walk,
        weights: Weights,
        call: Callable[..., Tensor],
        weight: Tensor,
        bias: Tensor | None,
        first: bool,
    ) -> None:
        self.walk, self._weights = walk, weights
        self._call, self._weight, self._bias = call, weight, bias
        self.first = first  # no contraction upstream: the input layer
        self.source = 0  # the number of the value a
        self.dense = False  # z = a W^T + b with W (out, in)
        self.channels: tuple[int, int] | None = None  # the dimensions that are summed over
        self.folded: BatchNormSite | None = None
        self.fold: Tensor | None = None  # the BatchNorm's scale, in the shape of the weight
        self.fold_scale: Callable[[Tensor, int], Tensor | None] = lambda scale, ndim: None
        self.rectified: ElementSite | None = None
        self.a: Tensor
        self._z: Tensor | None = None
        self._transpose: Backward
        self._responses: Responses = {}

    def forward(self, a: Tensor) -> Tensor:
        self.a = a.detach()
        self._z, self._transpose = linear_response(
            lambda leaf: self._call(leaf, self._weight, self._bias), self.a
        )
        return self._z.detach()

    @property
    def z(self) -> Tensor:
        if self.rectified is not None and "relu" not in self.walk.rules:
            return self.rectified.y  # m is 0 where it differs from z
        if self._z is None:
            self._z = self._call(self.a, self._weight, self._bias)
        return self._z

    def keep(self, z: Tensor | None) -> None:
        self._z = z

    def linear_map(self) -> LinearMap:
        """The map that rules see: with the BatchNorm that follows, if it is folded in."""
        norm, fold, bias = self.folded, self.fold, self._bias
        scale, factor = None, None
        if norm is not None and fold is not None:
            factor = (norm.scale, fold)
            scale = norm.per_channel(norm.scale, self.a)
            if bias is None:
                bias = norm.shift
            else:
                bias = self._weights.derive("bias", torch.addcmul, norm.shift, bias, norm.scale)
        source: LinearSite | BatchNormSite = self if norm is None else norm
        return LinearMap(
            self.a, lambda: source.z, lambda a, w: self._call(a, w, None), self._weight, bias,
            self._transpose, scale, self._weights, self._responses, factor, self.channels,
            self.dense,
        )  # fmt: skip

    def backward(self, m: Tensor) -> Tensor | None:
        walk = self.walk
        if self.first and walk.input_rule is not None:
            walk.relevance.append((self.source, walk.input_rule(self, m)))
            return None
        rule = walk.rules.get("linear")
        return self._transpose(m) if rule is None else rule(self.linear_map(), m)


def join(site: LinearSite | BatchNormSite, reader: object) -> None:
    """The first reader of a linear map's output."""
    if isinstance(site, LinearSite) and isinstance(reader, BatchNormSite):
        fold = site.fold_scale(reader.scale, site.z.ndim)
        if fold is None:
            return
        site.folded, site.fold, reader.folded = reader, fold, True
    elif isinstance(reader, ElementSite) and reader.kind == "relu":
        site.rectified = reader
    else:
        return
    site.keep(None)


def separate(site: LinearSite | BatchNormSite, z: Tensor | None) -> None:
    """A second reader of a linear map's output z, which is recomputed on demand if not given."""
    if isinstance(site, LinearSite) and site.folded is not None:
        norm, site.folded = site.folded, None
        norm.folded = False
        norm.a, norm.source = z, site
    site.rectified = None
    site.keep(z)
