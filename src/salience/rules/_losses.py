"""Where relevance goes that a rule does not hand on: a companion for each rule.

With relevance R = z m at an operation's output and a m' at its input, m' the rule's, the parts of
R - sum of a m' by name, each entry by entry. A rule without a companion here has no parts: all that
it does not hand on counts under its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from salience._names import BIASES, EPS, NO_NEGATIVE, NO_POSITIVE
from salience._recording.linear_maps import LinearMap
from salience._recording.nonlinear_sites import ElementSite, JointSite, NormSite
from salience.rules import _composites as composites
from salience.rules import _rules as backward
from salience.rules._method import Rule

Parts = Iterator[tuple[str, Tensor]]


def _unchanged(linear: LinearMap, m: Tensor) -> Parts:
    yield BIASES, linear.bias_part("+") * m
    yield BIASES, linear.bias_part("-") * m


def _epsilon(linear: LinearMap, m: Tensor, eps: float, eps_relative: float = 0.0) -> Parts:
    kept = m
    if eps or eps_relative:
        kept = backward.stabilized(linear, m, eps, eps_relative)
        yield EPS, linear.z * (m - kept)
    yield from _unchanged(linear, kept)


def _alpha_beta(
    linear: LinearMap, m: Tensor, alpha: float = 1.0, beta: float = 0.0, bias: bool = True
) -> Parts:
    relevance, positive = linear.z * m, backward.positive_part(linear, bias)
    yield NO_POSITIVE, alpha * relevance * (positive == 0)
    yield "alpha - beta", (1 - alpha + beta) * relevance
    if bias:
        share = backward.divide_(linear.z, positive.clone()).mul_(m)
        yield BIASES, alpha * share * linear.bias_part("+")
    if beta:
        share, _ = backward.negative_share(linear, m, positive, bias)
        yield NO_NEGATIVE, -beta * relevance * (share == 0)
        if bias:
            yield BIASES, beta * share * linear.bias_part("-")


def _gamma(linear: LinearMap, m: Tensor, gamma: float = 0.25) -> Parts:
    share = backward.favored_share(linear, m, gamma)
    above, below = linear.bias_part("+"), linear.bias_part("-")
    yield BIASES, share * (above + below + gamma * torch.where(linear.z < 0, below, above))


def _w_squared(linear: LinearMap, m: Tensor) -> Parts:
    yield NO_POSITIVE, linear.z * m * (backward.squared(linear)[0] == 0)


def _flat(linear: LinearMap, m: Tensor) -> Parts:
    yield NO_POSITIVE, linear.z * m * (backward.counted(linear)[0] == 0)


def _z_bounded(linear: LinearMap, m: Tensor, low: object, high: object) -> Parts:
    yield NO_POSITIVE, linear.z * m * (backward.bounded(linear, low, high)[0] == 0)


def _by_layer(linear: LinearMap, m: Tensor, choose: Any, common: Any) -> Parts | None:
    return parts_of(composites.rule_at(linear.layer, choose, common), linear, m)


def _at_input(
    linear: LinearMap, m: Tensor, low: object = None, high: object = None, *, choose: Any
) -> Parts | None:
    rule = composites.input_rule_at(linear.layer, low, high, choose=choose)
    assert rule is not None
    return parts_of(rule, linear, m)


def _proportional(site: ElementSite, m: Tensor) -> Parts:
    if site.shifted:
        _, rise, _ = site.secant()
        yield site.kind, m * (site.y - rise)


def _shared(site: JointSite, m: Tensor) -> Parts:
    if site.kind == "product" and all(site.shares):  # multilinear, but for a bias of all factors
        yield BIASES, site.at_zero() * m
        return
    # the products of attention lose nothing
    name = "softmax" if site.kind == "attention" else site.kind
    yield name, site.output() * m
    for a, part in zip(site.operands, backward.shared(site, m), strict=True):
        if part is not None:
            yield name, -a * part


def _spread_held(site: NormSite, m: Tensor) -> Parts:
    yield BIASES, site.at_zero() * m


LOSSES: dict[Rule, Callable[..., Parts | None]] = {
    backward.unchanged: _unchanged,
    backward.epsilon: _epsilon,
    backward.alpha_beta: _alpha_beta,
    backward.z_plus: partial(_alpha_beta, bias=False),
    backward.gamma: _gamma,
    backward.w_squared: _w_squared,
    backward.flat: _flat,
    backward.z_bounded: _z_bounded,
    composites.by_layer: _by_layer,
    composites.at_input: _at_input,
    backward.proportional: _proportional,
    backward.shared: _shared,
    backward.spread_held: _spread_held,
}


def parts_of(rule: Rule, *arguments: object) -> Parts | None:
    """What a rule does not hand on, by its companion; None where it has none.

    arguments  of the rule
    """
    function = rule.func if isinstance(rule, partial) else rule
    given = rule.keywords if isinstance(rule, partial) else {}
    known = LOSSES.get(function)
    return None if known is None else known(*arguments, **given)
