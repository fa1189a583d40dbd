"""LRP beyond ReLU networks, naively: float64, one sample at a time, no autograd.

A network is written in the functions below. Each computes its value and keeps, for every value
that it reads, a function that hands the multiplier m back to it; `explain` walks them backwards.

- linear maps: the dense W and b of z = W a + b, and the rule of the method, row by row;
- everything else that is affine in one value (sums, shapes, pools, normalisations with 1 / sigma
  held, divisions with the divisor held): m_in = W^T m, W from unit vectors;
- element-wise f: m_in = m (f(x) - f(0)) / x;
- products of n values: each gets 1 / n of its gradient;
- softmax, log_softmax, ReLU: their gradient, as a formula.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# a (I,), W (J, I), b (J,), m (J,), whether it is an input layer -> multiplier at a (I,)
LinearRule = Callable[[Tensor, Tensor, Tensor, Tensor, bool], Tensor]
_COUNT = itertools.count()


class Value:
    """A value of one sample (no batch dimension), what reached it, and what it was made from."""

    def __init__(
        self,
        data: Tensor,
        rule: LinearRule,
        sources: tuple[tuple[Value, Callable[[Tensor], Tensor]], ...] = (),
        deep: bool = False,
    ) -> None:
        self.data, self.rule, self.sources = data, rule, sources
        self.deep = deep or any(source.deep for source, _ in sources)  # a linear map upstream
        self.m = torch.zeros_like(data)
        self.number = next(_COUNT)


def _matrix(function: Callable[[Tensor], Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """W (J, I) and b (J,) of an affine function of batches, from the unit vectors and 0."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    bias = function(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    return (function(units).flatten(1) - bias).T, bias


# ---------------------------------------------------------------- rules of linear maps


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def _epsilon(eps: float) -> LinearRule:
    def rule(a: Tensor, w: Tensor, b: Tensor, m: Tensor, first: bool) -> Tensor:
        z = w @ a + b
        return w.T @ (z * m / torch.where(z < 0, z - eps, z + eps))

    return rule


def _alpha_beta(alpha: float, beta: float, with_bias: bool = True) -> LinearRule:
    def rule(a: Tensor, w: Tensor, b: Tensor, m: Tensor, first: bool) -> Tensor:
        terms = w * a
        r = (terms.sum(dim=1) + b) * m
        b = b if with_bias else torch.zeros_like(b)
        plus = _ratio(r, terms.clamp(min=0).sum(dim=1) + b.clamp(min=0))
        minus = _ratio(r, terms.clamp(max=0).sum(dim=1) + b.clamp(max=0))
        return alpha * ((w * (terms > 0)).T @ plus) - beta * ((w * (terms < 0)).T @ minus)

    return rule


def _deep_taylor(low: float | None, high: float | None) -> LinearRule:
    hidden = _alpha_beta(1.0, 0.0, with_bias=False)

    def rule(a: Tensor, w: Tensor, b: Tensor, m: Tensor, first: bool) -> Tensor:
        if not first:
            return hidden(a, w, b, m, first)
        share = w**2
        if low is not None and high is not None:
            share = w * a - w.clamp(min=0) * low - w.clamp(max=0) * high
        relevance = share.T @ _ratio((w @ a + b) * m, share.sum(dim=1))
        return relevance / a  # the tests' inputs have no zeros

    return rule


def rule_of(method: str, given: Mapping[str, float]) -> tuple[LinearRule, bool]:
    """A method's rule for linear maps, and whether it starts from the target's value."""
    if method == "lrp_epsilon":
        return _epsilon(**given), True
    if method == "lrp_alpha_beta":
        return _alpha_beta(**given), True
    if method == "excitation_backprop":
        return _alpha_beta(1.0, 0.0, with_bias=False), False
    return _deep_taylor(given.get("low"), given.get("high")), True


# ---------------------------------------------------------------- operations


def linear(value: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    """W a + b over the last dimension, each row by itself."""
    weight = weight.detach()
    b = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach()
    rows = value.data.reshape(-1, weight.shape[1])
    first = not value.deep

    def back(m: Tensor) -> Tensor:
        pairs = zip(rows, m.reshape(-1, len(weight)), strict=True)
        parts = [value.rule(a, weight, b, m_row, first) for a, m_row in pairs]
        return torch.stack(parts).reshape(value.data.shape)

    z = (rows @ weight.T + b).reshape(*value.data.shape[:-1], len(weight))
    return Value(z, value.rule, ((value, back),), deep=True)


def linear_map(value: Value, function: Callable[[Tensor], Tensor]) -> Value:
    """Any map of batches that is linear with weights (a convolution), as its dense matrix."""
    weight, bias = _matrix(function, value.data.shape)
    z = linear(reorder(value, lambda t: t.flatten(1)), weight, bias)
    shape = function(value.data[None]).shape[1:]
    return reorder(z, lambda t: t.reshape(-1, *shape))


def reorder(value: Value, function: Callable[[Tensor], Tensor]) -> Value:
    """Any affine function of batches without weights; what is constant in it keeps its share."""
    weight, _ = _matrix(function, value.data.shape)

    def back(m: Tensor) -> Tensor:
        return (m.flatten() @ weight).reshape(value.data.shape)

    return Value(function(value.data[None])[0], value.rule, ((value, back),))


def plus(*terms: Value | Tensor) -> Value:
    """A sum of values of one shape; constants keep their share."""
    values = [term for term in terms if isinstance(term, Value)]
    data = sum(term.data if isinstance(term, Value) else term.detach() for term in terms)
    assert isinstance(data, Tensor)
    return Value(data, values[0].rule, tuple((value, lambda m: m) for value in values))


def cat(values: list[Value], dim: int = 0) -> Value:
    sizes = [value.data.shape[dim] for value in values]
    sources = tuple(
        (value, lambda m, k=k: m.split(sizes, dim)[k]) for k, value in enumerate(values)
    )
    return Value(torch.cat([value.data for value in values], dim), values[0].rule, sources)


def stack(values: list[Value]) -> Value:
    return cat([reorder(value, lambda t: t[:, None]) for value in values])


def product(function: Callable[..., Tensor], *factors: Value) -> Value:
    """A function of batches that is linear in each factor: the n factors share equally."""

    def back_to(k: int) -> Callable[[Tensor], Tensor]:
        def alone(t: Tensor) -> Tensor:
            others = [factor.data.expand(len(t), *factor.data.shape) for factor in factors]
            return function(*others[:k], t, *others[k + 1 :])

        shape = factors[k].data.shape
        weight, _ = _matrix(alone, shape)
        return lambda m: (m.flatten() @ weight).reshape(shape) / len(factors)

    data = function(*(factor.data[None] for factor in factors))[0]
    sources = tuple((factor, back_to(k)) for k, factor in enumerate(factors))
    return Value(data, factors[0].rule, sources)


def divide(a: Value, b: Value | Tensor) -> Value:
    """a / b with b held constant."""
    divisor = b.data if isinstance(b, Value) else b
    return reorder(a, lambda t: t / divisor)


def elementwise(value: Value, function: Callable[[Tensor], Tensor], slope: float = 0.0) -> Value:
    """f(x); `slope` is f'(0)."""
    x = value.data
    at_zero = function(torch.zeros_like(x))
    share = torch.where(x == 0, slope, (function(x) - at_zero) / torch.where(x == 0, 1.0, x))
    return Value(function(x), value.rule, ((value, lambda m: m * share),))


def relu(value: Value) -> Value:
    x = value.data
    return Value(x.clamp(min=0), value.rule, ((value, lambda m: m * (x > 0)),))


def softmax(value: Value, dim: int = -1) -> Value:
    e = torch.exp(value.data - value.data.amax(dim, keepdim=True))
    y = e / e.sum(dim, keepdim=True)

    def back(m: Tensor) -> Tensor:
        return y * (m - (y * m).sum(dim, keepdim=True))

    return Value(y, value.rule, ((value, back),))


def log_softmax(value: Value, dim: int = -1) -> Value:
    y = value.data - torch.logsumexp(value.data, dim, keepdim=True)
    back = lambda m: m - y.exp() * m.sum(dim, keepdim=True)  # noqa: E731
    return Value(y, value.rule, ((value, back),))


def norm(
    value: Value, dims: tuple[int, ...], eps: float, weight: Any = 1.0, bias: Any = 0.0
) -> Value:
    """(x - mean) / sigma * weight + bias over `dims` (negative), sigma held constant."""
    sigma = torch.sqrt(value.data.var(dims, unbiased=False, keepdim=True) + eps)
    return reorder(value, lambda t: (t - t.mean(dims, keepdim=True)) / sigma * weight + bias)


def rms_norm(value: Value, eps: float, weight: Any = 1.0) -> Value:
    sigma = torch.sqrt(value.data.square().mean(-1, keepdim=True) + eps)
    return reorder(value, lambda t: t / sigma * weight)


# ---------------------------------------------------------------- the walk


@torch.no_grad()
def explain(
    net: Callable[[Value], Value],
    x: Tensor,
    target: int,
    method: str,
    given: Mapping[str, float],
) -> Tensor:
    """The relevance x m of every sample, from the target's value (or 1); `net` gives (C,)."""
    rule, from_value = rule_of(method, given)
    maps = []
    for sample in x:
        start = Value(sample, rule)
        end = net(start)
        # relevance is the value times m, so m = 1 starts from the target's value
        end.m[target] = 1.0 if from_value else 1.0 / end.data[target]
        reached, queue = {start.number: start}, [end]
        while queue:
            value = queue.pop()
            if value.number not in reached:
                reached[value.number] = value
                queue += [source for source, _ in value.sources]
        for number in sorted(reached, reverse=True):
            value = reached[number]
            for source, back in value.sources:
                source.m = source.m + back(value.m)
        maps.append(sample * start.m)
    return torch.stack(maps)
