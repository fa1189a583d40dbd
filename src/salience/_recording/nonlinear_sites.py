"""Sites of element-wise functions, products and normalisations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from salience._recording.hinge import Walk
from salience._recording.linear_maps import Backward, linear_response


class ElementSite:
    """An element-wise function y = f(x), one call or spelled out by several."""

    def __init__(
        self, walk: Walk, kind: str, function: Backward, keeps_input: bool, shifted: bool = False
    ) -> None:
        self.walk, self.kind = walk, kind
        self.shifted = shifted  # whether f(0) may differ from 0
        self._function, self._keeps_input = function, keeps_input
        self.x: Tensor | None = None
        self.y: Tensor
        self._transpose: Backward | None = None
        self._spelled = False

    def forward(self, x: Tensor, spelled: Tensor | None = None) -> Tensor:
        self._spelled = spelled is not None
        if spelled is not None:  # f(x) by the calls that spell it
            self.x, self.y = x.detach(), spelled.detach()
        elif self._keeps_input:
            self.x = x.detach()
            self.y, self._transpose = linear_response(self._function, x)
        else:
            self.y = self._function(x.detach())
        return self.y.detach()

    def transpose(self, m: Tensor) -> Tensor:
        """m f'(x)"""
        if self._spelled and self._transpose is None:
            assert self.x is not None
            self._transpose = linear_response(self._function, self.x)[1]
        if self._transpose is not None:
            return self._transpose(m)
        return torch.ops.aten.threshold_backward(m, self.y, 0)

    @property
    def operands(self) -> tuple[Tensor]:
        """x; of a ReLU, which does not keep it, y."""
        return (self.y if self.x is None else self.x,)

    def output(self) -> Tensor:
        return self.y

    def secant(self) -> tuple[Tensor, Tensor, Tensor]:
        """x, f(x) - f(0) and f'(0)."""
        assert self.x is not None
        with torch.enable_grad():
            zero = self.x.new_zeros((), requires_grad=True)
            offset = self._function(zero)
            if offset.ndim:  # its bounds or slopes differ from place to place
                zero = torch.zeros_like(self.x, requires_grad=True)
                offset = self._function(zero)
            (slope,) = torch.autograd.grad(offset.sum(), zero)
        return self.x, self.y - offset.detach(), slope

    def backward(self, m: Tensor) -> Tensor | tuple[Tensor | None, Tensor | None]:
        if self._spelled and not self.walk.rules:  # autograd went through the calls already
            return None, m
        rule = self.walk.rules.get(self.kind)
        back = self.transpose(m) if rule is None else rule(self, m)
        return (back, None) if self._spelled else back


class JointSite:
    """A product, quotient or attention of tensors that depend on the input.

    shares: of its operands in the relevance that it hands on; 0 for those that are held constant,
    reciprocals and divisors.
    """

    def __init__(
        self, walk: Walk, kind: str, function: Callable[..., Tensor], shares: tuple[float, ...]
    ) -> None:
        self.walk, self.kind, self.shares = walk, kind, shares
        self._function = function
        self._leaves: tuple[Tensor, ...]
        self._edge: GradientEdge

    def forward(self, *operands: Tensor) -> Tensor:
        self._leaves = tuple(operand.detach().requires_grad_() for operand in operands)
        with torch.enable_grad():
            response = self._function(*self._leaves)
        self._edge = get_gradient_edge(response)
        return response.detach()

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return tuple(leaf.detach() for leaf in self._leaves)

    def output(self) -> Tensor:
        return self._function(*self.operands)

    def at_zero(self) -> Tensor:
        """What is added to the product."""
        return self._function(*map(torch.zeros_like, self._leaves))

    def transpose(self, m: Tensor) -> tuple[Tensor, ...]:
        """The gradient of every operand."""
        return tuple(torch.autograd.grad(self._edge, self._leaves, m, retain_graph=True))

    def backward(self, m: Tensor) -> tuple[Tensor | None, ...]:
        rule = self.walk.rules.get(self.kind)
        return self.transpose(m) if rule is None else tuple(rule(self, m))


class NormSite:
    """A normalisation by statistics of the input itself."""

    kind = "normalization"

    def __init__(self, walk: Walk, function: Backward, held: Callable[[Tensor], Backward]) -> None:
        self.walk = walk
        self._function, self._held = function, held
        self._x: Tensor
        self._transpose: Backward

    def forward(self, x: Tensor) -> Tensor:
        self._x = x.detach()
        y, self._transpose = linear_response(self._function, self._x)
        return y

    @property
    def operands(self) -> tuple[Tensor]:
        return (self._x,)

    def output(self) -> Tensor:
        return self._function(self._x)

    def at_zero(self) -> Tensor:
        """What the normalisation adds."""
        return self._function(torch.zeros_like(self._x))

    def spread_held(self, m: Tensor) -> Tensor:
        """What flows back where 1 / sigma is held constant."""
        return self._held(self._x)(m)

    def backward(self, m: Tensor) -> Tensor:
        rule = self.walk.rules.get(self.kind)
        return self._transpose(m) if rule is None else rule(self, m)
