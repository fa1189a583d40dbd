"""Composites: rules of several kinds in one network, chosen layer by layer.

Practice gives convolutions a rule that keeps positive contributions, dense layers the epsilon rule
and the input layer one of its own (Montavon 2019, Kohlbrenner 2020). A preset is a row of the table
below; a user's own choice is a function of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from salience._errors import expected, unknown
from salience._inputs.validation import at_least_0, check_bounds
from salience._recording.linear_maps import Layer, LinearMap
from salience.rules import _rules as rules


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

RULES: dict[str, Callable[..., Tensor]] = {
    "gradient": rules.unchanged,
    "epsilon": rules.epsilon,
    "gamma": rules.gamma,
    "plus": partial(rules.alpha_beta, alpha=1.0, beta=0.0),
    "alpha2beta1": partial(rules.alpha_beta, alpha=2.0, beta=1.0),
}
# these hand back relevance, and only an input layer may
INPUT_RULES: dict[str, Callable[..., Tensor]] = {
    "flat": rules.flat, "w_squared": rules.w_squared, "box": rules.z_bounded,
}  # fmt: skip

Choice = Callable[[Layer], Any]  # -> the name of a rule, or (name, {parameter: value})
PARAMETERS: dict[str, Any] = {
    "preset": "epsilon-plus-flat", "rules": None, "eps": 1e-6, "gamma": 0.25, "low": None,
    "high": None,
}  # fmt: skip


def by_layer(
    map: LinearMap, m: Tensor, preset: str, rules: Choice | None, eps: float, gamma: float
) -> Tensor:
    """The rule that the composite has for this layer."""
    name, own = _chosen(map.layer, preset, rules)
    if name not in RULES:
        raise expected(
            f"a rule for hidden layers ({', '.join(RULES)})", f"{name!r} at {map.layer.name}",
            "Rules that hand back relevance are for the input layer.",
        )  # fmt: skip
    return _bound(RULES[name], {"eps": eps, "gamma": gamma}, own)(map, m)


def at_input(
    map: LinearMap, m: Tensor, preset: str, rules: Choice | None, low: Any, high: Any
) -> Tensor | None:
    """Relevance by the input layer's rule, or None where that is a rule like any other."""
    name, own = _chosen(map.layer, preset, rules)
    if name not in INPUT_RULES:
        return None
    if name == "box" and low is None and "low" not in own:
        raise expected("low and high for the box rule", "none", "Give the input's range.")
    return _bound(INPUT_RULES[name], {"low": low, "high": high}, own)(map, m)


def _chosen(layer: Layer, preset: str, choose: Choice | None) -> tuple[str, Mapping[str, Any]]:
    if choose is None:
        row = PRESETS[preset]
        by_kind = row.convolution if layer.kind == "convolution" else row.dense
        return (row.input if layer.first else by_kind), {}
    choice = choose(layer)
    name, own = choice if isinstance(choice, tuple) else (choice, {})
    known = {**RULES, **INPUT_RULES}
    if name not in known:
        raise unknown("rule", name, known)
    return name, own


def _bound(
    rule: Callable[..., Tensor], common: Mapping[str, Any], own: Mapping[str, Any]
) -> Callable[..., Tensor]:
    """The rule with the parameters that it takes, a layer's own before the composite's."""
    takes = rules.parameters_of(rule)
    for name in own:
        if name not in takes:
            raise unknown("parameter of this rule", name, takes)
    return partial(rule, **{name: common[name] for name in common if name in takes} | dict(own))


def check(parameters: Mapping[str, Any]) -> None:
    """Raise for presets that are not there, and for a box without its bounds."""
    preset, choose = parameters["preset"], parameters["rules"]
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    if choose is not None and not callable(choose):
        raise expected("rules, a function layer -> name of a rule", repr(choose), "See the README.")
    for name in ("eps", "gamma"):
        at_least_0(name, parameters[name], PARAMETERS[name])
    check_bounds(parameters)
    if choose is None and PRESETS[preset].input == "box" and parameters["low"] is None:
        cure = "Give the range of the input's values."
        raise expected(f"low and high for the preset {preset!r}", "none", cure)
