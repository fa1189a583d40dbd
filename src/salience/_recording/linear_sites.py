"""Sites of linear maps: contractions with weights, and the shifts and scalings that follow them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from torch import Tensor

from salience._recording.affine import Step, followed, times
from salience._recording.hinge import Walk
from salience._recording.linear_maps import (
    Backward,
    Layer,
    LinearMap,
    Responses,
    Weights,
    linear_response,
)
from salience._recording.nonlinear_sites import ElementSite

Weak = Callable[[], "LinearSite | AffineSite | None"]


def _none() -> None:
    return None


class AffineSite:
    """z = scale * a + shift by constants: BatchNorm with fixed statistics, a bias, a scale.

    It is a part of the linear map before it if nothing else reads what that makes (`head`). One
    that stands alone is a diagonal linear map where it is a BatchNorm, or both shifts and scales.
    """

    def __init__(
        self, walk: Walk, weights: Weights, kind: str, function: Backward, step: Step, ruled: bool
    ) -> None:
        self.walk, self._weights, self.kind = walk, weights, kind
        self._function, self.step = function, step
        self.ruled = ruled  # a diagonal linear map where it shifts and scales
        self.layer = Layer("", "batch_norm", False, 0)
        self.nonnegative = False  # whether a is, by what made it
        self._head: Weak = _none  # a tape that is dropped is freed at once
        self.at_head = step  # in the layout of the head's z
        self.pull: Callable[[Step], Step] | None = None  # to that layout, where it is another
        self.chain: list[AffineSite] = []  # its parts, where it is a head
        self.a: Tensor | None = None  # kept where it is no part
        self._source: Weak = _none
        self.rectified: ElementSite | None = None  # the ReLU that alone reads z
        self._z: Tensor | None = None
        self._responses: Responses = {}

    @property
    def head(self) -> LinearSite | AffineSite | None:
        """The map that it is a part of."""
        return self._head()

    @head.setter
    def head(self, head: LinearSite | AffineSite | None) -> None:
        self._head = _none if head is None else weakref.ref(head)

    @property
    def source(self) -> LinearSite | AffineSite | None:
        """What recomputes a."""
        return self._source()

    @source.setter
    def source(self, source: LinearSite | AffineSite) -> None:
        self._source = weakref.ref(source)

    def forward(self, a: Tensor) -> Tensor:
        if self.head is None or not self.is_beside:
            self.a = a.detach()
        self._z = self._function(a.detach())
        return self._z.detach()

    @property
    def z(self) -> Tensor:
        if self.rectified is not None and "relu" not in self.walk.rules:
            return self.rectified.y  # m is 0 where it differs from z
        if self._z is None:
            self._z = self._function(self.input())
        return self._z

    def keep(self, z: Tensor | None) -> None:
        self._z = z

    @property
    def kept(self) -> Tensor | None:
        """The call's own result, where it is kept."""
        return self._z

    def input(self) -> Tensor:
        """The activation, recomputed if it was not kept."""
        if self.a is None:
            assert self.source is not None
            return self.source.z
        return self.a

    def transpose(self, m: Tensor) -> Tensor:
        return m if self.step.scale is None else m * self.step.scale.to(m.dtype)

    @property
    def is_beside(self) -> bool:
        """Whether no rearrangement lies between the head and it."""
        return self.at_head is self.step

    @property
    def is_number(self) -> bool:
        """Whether it multiplies a map's result by a number, after all other parts."""
        parts = [] if self.head is None else self.head.chain
        return any(part is self for part in split(parts)[1])

    @property
    def is_ruled(self) -> bool:
        """Whether it is a linear map of its own, or a part of one."""
        if self.head is not None:
            return self.head.is_ruled
        parts = [self, *self.chain]
        if any(part.kind == "batch_norm" for part in parts):
            return True
        scales = any(part.step.scale is not None and part.step.scale.ndim for part in parts)
        shifts = any(part.step.shift is not None and part.step.shift.ndim for part in parts)
        return self.ruled and scales and shifts

    def linear_map(self) -> LinearMap:
        """The diagonal linear map of shifts and scales that follow no contraction."""
        parts, _ = split([self, *self.chain])
        scale, shift = composed(self._weights, parts, None)
        a = self.input()
        weight = a.new_ones(()) if scale is None else scale
        return LinearMap(
            a,
            lambda: parts[-1].z,
            lambda a, w: a * w.to(a.dtype),
            weight,
            shift,
            lambda m: m * weight.to(m.dtype),
            None,
            self._weights,
            self._responses,
            layer=self.layer,
            nonnegative=self.nonnegative,
        )

    def backward(self, m: Tensor) -> Tensor:
        rule = self.walk.rules.get("linear")
        if rule is None or not self.is_ruled:
            return self.transpose(m)
        if self.head is not None:
            return m
        return rule(self.linear_map(), at_map(self, m))


class LinearSite:
    """A contraction z = W a + b, with the shifts and scalings that follow it."""

    kind = "linear"
    is_ruled = True

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
        self.nonnegative = False  # whether a is, by what made it
        self.dense = False  # z = a W^T + b with W (out, in)
        self.channels: tuple[int, int] | None = None  # the dimensions that are summed over
        self.chain: list[AffineSite] = []  # the shifts and scales that belong to the map
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

    @property
    def kept(self) -> Tensor | None:
        """The call's own result, where it is kept."""
        return self._z

    def bias(self) -> Tensor | None:
        """The contraction's own bias, in a shape that adds to z."""
        spatial = self._weight.ndim - 2
        if self._bias is None or self._bias.ndim != 1 or self.layer.kind != "convolution":
            return self._bias
        shape = (-1, *(1,) * spatial)
        return self._weights.derive(f"per channel {spatial}", lambda b: b.view(shape), self._bias)

    def linear_map(self) -> LinearMap:
        """The map that rules see: with the shifts and scales that follow."""
        parts, _ = split(self.chain)
        scale, bias = composed(self._weights, parts, self.bias())
        factor = None
        if scale is not None:
            fold = self.factor(scale)
            assert fold is not None
            factor = (scale, fold)
        return LinearMap(
            self.a,
            lambda: self._end(parts, scale),
            lambda a, w: self._call(a, w, None),
            self._weight,
            bias,
            self._transpose,
            scale,
            self._weights,
            self._responses,
            factor,
            self.channels,
            self.dense,
            self.layer,
            self.nonnegative,
        )

    def _end(self, parts: Sequence[AffineSite], scale: Tensor | None) -> Tensor:
        """z after the shifts and scales, in the layout of the contraction."""
        if not parts or all(part.is_beside for part in parts):
            return parts[-1].z if parts else self.z
        _, shift = composed(self._weights, parts, None)
        z = self.z if scale is None else self.z * scale.to(self.z.dtype)
        return z if shift is None else z + shift.to(z.dtype)

    def factor(self, scale: Tensor) -> Tensor | None:
        """A scale of z as a tensor that multiplies the weight; None: there is none."""
        if scale.numel() == 1:
            return scale.reshape(())
        spatial = self._weight.ndim - 2 if self.layer.kind == "convolution" else 0
        axis = scale.ndim - 1 - spatial
        if axis < 0 or scale.shape[axis] != scale.numel():
            return None
        return self.fold_scale(scale.flatten(), 2 + spatial)

    def backward(self, m: Tensor) -> Tensor | None:
        walk = self.walk
        rule = walk.rules.get("linear")
        if rule is not None:
            m = at_map(self, m)
        if self.first and walk.input_rule is not None:
            relevance = walk.input_rule(self, m)
            if relevance is not None:
                walk.relevance.append((self.source, relevance))
                return None
        return self._transpose(m) if rule is None else rule(self.linear_map(), m)


def split(parts: Sequence[AffineSite]) -> tuple[Sequence[AffineSite], Sequence[AffineSite]]:
    """The parts of a map, and the numbers that its result is multiplied with afterwards."""
    end = len(parts)
    while end > 0 and parts[end - 1].step.is_number:
        end -= 1
    return parts[:end], parts[end:]


def at_map(site: LinearSite | AffineSite, m: Tensor) -> Tensor:
    """m at the result of a site's map, before the numbers that it is multiplied with."""
    parts = site.chain if isinstance(site, LinearSite) else [site, *site.chain]
    for part in split(parts)[1]:
        m = part.transpose(m)
    return m


def composed(
    weights: Weights, parts: Sequence[AffineSite], bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The scale and the shift of all parts together, after a bias."""
    scale: Tensor | None = None
    for part in parts:
        scale = times(weights, scale, part.at_head.scale)
        bias = followed(weights, bias, part.at_head)
    return scale, bias
