"""Composites: rules of several kinds in one network, chosen layer by layer.

Practice gives convolutions a rule that keeps positive contributions, dense layers the epsilon rule
and the input layer one of its own (Montavon 2019, Kohlbrenner 2020). A preset is a row of the table
below; a user's own choice is a function of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from torch import Tensor

from salience._errors import expected, unknown
from salience._inputs.validation import at_least_0, check_bounds
from salience._recording.linear_maps import Layer, LinearMap
from salience.rules import _rules as backward
from salience.rules._method import Rule


class Preset(NamedTuple):
    """Names of rules by place; a lone BatchNorm counts as dense."""

    input: str
    convolution: str
    dense: str


PRESETS = {
    "epsilon-plus": Preset("plus", "plus", "epsilon"),
    "epsilon-plus-flat": Preset("flat", "plus", "epsilon"),
    "epsilon-gamma-box": Preset("box", "gamma", "epsilon"),
    "alpha2beta1-flat": Preset("flat", "alpha2beta1", "epsilon"),
    "attnlrp": Preset("epsilon", "epsilon", "epsilon"),
    "attnlrp-gamma": Preset("gamma", "gamma", "gamma"),
}


class Named(NamedTuple):
    """A rule and the parameters that it takes."""

    rule: Rule
    takes: tuple[str, ...] = ()


_ALPHA_BETA = ("alpha", "beta", "bias")
RULES = {
    "gradient": Named(backward.unchanged),
    "epsilon": Named(backward.epsilon, ("eps",)),
    "gamma": Named(backward.gamma, ("gamma",)),
    "plus": Named(partial(backward.alpha_beta, alpha=1.0, beta=0.0), _ALPHA_BETA),
    "alpha2beta1": Named(partial(backward.alpha_beta, alpha=2.0, beta=1.0), _ALPHA_BETA),
}
# these hand back relevance, and only an input layer may
INPUT_RULES = {
    "flat": Named(backward.flat),
    "w_squared": Named(backward.w_squared),
    "box": Named(backward.z_bounded, ("low", "high")),
}
_KNOWN = {**RULES, **INPUT_RULES}

Choice = Callable[[Layer], str | tuple[str, Mapping[str, object]]]  # see `rules_of`


def rules_of(
    preset: str, rules: Choice | None, eps: float, gamma: float, low: object, high: object
) -> tuple[Rule, Rule]:
    """The composite's rule for linear maps, and that for the input layer.

    rules  layer -> the name of a rule, or (name, {parameter: value})

    Errors: SalienceError for presets that are not there, and for a box without its bounds.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    if rules is not None and not callable(rules):
        raise expected("rules, a function layer -> name of a rule", repr(rules), "See the README.")
    at_least_0("eps", eps, 1e-6)
    at_least_0("gamma", gamma, 0.25)
    check_bounds(low, high)
    if rules is None and PRESETS[preset].input == "box" and low is None:
        cure = "Give the range of the input's values."
        raise expected(f"low and high for the preset {preset!r}", "none", cure)
    choose = partial(_chosen, rules=rules or partial(_by_place, PRESETS[preset]))
    return partial(by_layer, choose=choose, common={"eps": eps, "gamma": gamma}), partial(
        at_input, choose=choose
    )


def by_layer(
    linear: LinearMap,
    m: Tensor,
    choose: Callable[[Layer], tuple[str, Mapping[str, object]]],
    common: Mapping[str, float],
) -> Tensor:
    """The rule that the composite has for this layer."""
    return rule_at(linear.layer, choose, common)(linear, m)


def rule_at(
    layer: Layer,
    choose: Callable[[Layer], tuple[str, Mapping[str, object]]],
    common: Mapping[str, float],
) -> Rule:
    """The composite's rule for a layer, with its parameters."""
    name, own = choose(layer)
    if name not in RULES:
        raise expected(
            f"a rule for hidden layers ({', '.join(RULES)})",
            f"{name!r} at {layer.name}",
            "Rules that hand back relevance are for the input layer.",
        )
    rule, takes = RULES[name]
    return partial(rule, **{key: common[key] for key in takes if key in common} | dict(own))


def at_input(
    linear: LinearMap,
    m: Tensor,
    low: object = None,
    high: object = None,
    *,
    choose: Callable[[Layer], tuple[str, Mapping[str, object]]],
) -> Tensor | None:
    """Relevance by the input layer's rule, or None where that is a rule like any other."""
    rule = input_rule_at(linear.layer, low, high, choose=choose)
    return None if rule is None else rule(linear, m)


def input_rule_at(
    layer: Layer,
    low: object = None,
    high: object = None,
    *,
    choose: Callable[[Layer], tuple[str, Mapping[str, object]]],
) -> Rule | None:
    """The rule of an input layer that hands back relevance, with its parameters."""
    name, own = choose(layer)
    if name not in INPUT_RULES:
        return None
    rule, takes = INPUT_RULES[name]
    bounds = {"low": low, "high": high} | dict(own) if takes else {}
    if takes and bounds["low"] is None:
        raise expected("low and high for the box rule", "none", "Give the input's range.")
    return partial(rule, **bounds)


def _by_place(row: Preset, layer: Layer) -> str:
    by_kind = row.convolution if layer.kind == "convolution" else row.dense
    return row.input if layer.first else by_kind


def _chosen(layer: Layer, rules: Choice) -> tuple[str, Mapping[str, object]]:
    """The name of a layer's rule, and parameters of its own."""
    choice = rules(layer)
    name, own = choice if isinstance(choice, tuple) else (choice, {})
    if name not in _KNOWN:
        raise unknown("rule", name, _KNOWN)
    for key in own:
        if key not in _KNOWN[name].takes:
            raise unknown("parameter of this rule", key, _KNOWN[name].takes)
    return name, own
