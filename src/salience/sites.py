"""Sites of linear maps: contractions with weights, and BatchNorm with fixed statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from salience.linear import Backward, Layer, LinearMap, Responses, Weights, linear_response
from salience.nonlinear_sites import ElementSite
from salience.walk import Walk


class BatchNormSite:
    """BatchNorm with fixed statistics, z = scale * a + shift per channel."""

    kind = "batch_norm"

    def __init__(self, walk: Walk, weights: Weights, rest: tuple[Any, ...]) -> None:
        self.walk, self._weights, self._rest = walk, weights, rest
        self.layer = Layer("", self.kind, False, 0)
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
            layer=self.layer,
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
        self.layer = Layer("", "dense", first, 0)
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
            self.dense, self.layer,
        )  # fmt: skip

    def backward(self, m: Tensor) -> Tensor | None:
        walk = self.walk
        if self.first and walk.input_rule is not None:
            relevance = walk.input_rule(self, m)
            if relevance is not None:
                walk.relevance.append((self.source, relevance))
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
