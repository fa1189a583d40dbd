"""The methods: tables of rules with their read-out, defaults and sources.

A method is data. To add one, put a `Method` into `methods`; everything else (the tape, the command
line, the tests over the registry) finds it there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor

from salience._errors import SalienceWarning, expected, squeezed, unknown
from salience._inputs.validation import at_least_0, check_bounds, whole_number
from salience.rules import _composites as composites
from salience.rules import _rules as rules
from salience.rules._several_passes import integrated_gradients, smoothgrad

_NO_RULE_NEEDED = frozenset({"structural", "weights"})
_LINEAR = frozenset({"linear", "batch_norm", "affine"})
_SMOOTH = frozenset({"product", "division", "reciprocal", "softmax", "normalization", "smooth"})


@dataclass(frozen=True)
class Method:
    """A saliency method: what backward means for each kind of operation, and how a map is read off.

    rules       kind of operation (see `_operations.kinds`) -> rule; no rule means plain autograd
    plain       kinds where plain autograd is what the method means; None: everywhere
    input_rule  a rule for the input layer that hands back relevance instead of a multiplier
    readout     "m": the multiplier at the input; "x * m": the relevance of the input
    relevance   whether the map adds up to what it starts from (its conservation error is reported)
    start       what flows in at the target; None: the target's value
    run         replaces the backward walk, for methods that need several passes
    check       raises or warns about the values of parameters
    """

    name: str
    summary: str
    source: str
    readout: Literal["m", "x * m"] = "m"
    rules: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    plain: frozenset[str] | None = None
    input_rule: Callable[..., Tensor | None] | None = None
    relevance: bool = False
    start: float | None = 1.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run: Callable[..., Any] | None = None
    check: Callable[[Mapping[str, Any]], None] | None = None

    def treatment(self, kind: str) -> str | None:
        """The name of the rule for a kind, "autograd", or None where the method has no answer."""
        rule = self.rules.get("linear" if kind in _LINEAR else kind)
        if rule is not None:
            return _name_of(rule)
        covered = self.plain is None or kind in self.plain or kind in _NO_RULE_NEEDED
        return "autograd" if covered else None

    def bound(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The method's parameters with the given ones in place of their defaults."""
        for name in given:
            if name not in self.parameters:
                raise unknown(f"parameter of {self.name}", name, self.parameters)
        return {**self.parameters, **given}


def _name_of(rule: Callable[..., Any]) -> str:
    function = rule.func if isinstance(rule, partial) else rule
    return getattr(function, "__name__", type(rule).__name__)


def bind(rule: Callable[..., Tensor], parameters: Mapping[str, Any]) -> Callable[..., Tensor]:
    """The rule with those of the method's parameters that it takes."""
    takes = rules.parameters_of(rule)
    return partial(rule, **{name: parameters[name] for name in parameters if name in takes})


def _check_smoothgrad(parameters: Mapping[str, Any]) -> None:
    whole_number("n", parameters["n"], 1, "The default is 50.")
    at_least_0("noise", parameters["noise"], 0.15)
    base = find(parameters["base"])
    if base.run is not None:
        single = [name for name, method in methods.items() if method.run is None]
        raise expected("a single-pass base method", base.name, f"Choose from {', '.join(single)}.")


def _check_integrated_gradients(parameters: Mapping[str, Any]) -> None:
    whole_number("max_steps", parameters["max_steps"], 1, "The default is 256.")
    at_least_0("tol", parameters["tol"], 0.01)


def _check_eps(parameters: Mapping[str, Any]) -> None:
    at_least_0("eps", parameters["eps"], 1e-3)


def _check_gamma(parameters: Mapping[str, Any]) -> None:
    at_least_0("gamma", parameters["gamma"], 0.25)


def _check_alpha_beta(parameters: Mapping[str, Any]) -> None:
    alpha, beta = parameters["alpha"], parameters["beta"]
    at_least_0("alpha", alpha, 2.0)
    at_least_0("beta", beta, 1.0)
    if abs(alpha - beta - 1) > 1e-9:
        warnings.warn(
            f"expected alpha - beta = 1; got {alpha} - {beta} = {alpha - beta:g}: the maps' "
            f"relevance does not add up to the output. Use for example alpha=2, beta=1.",
            SalienceWarning, stacklevel=4,
        )  # fmt: skip


_LRP_PLAIN = _LINEAR | {"relu", "softmax"}
# beyond networks of linear maps and ReLU, all relevance methods are AttnLRP (Achtibat 2024)
_LRP_ELSEWHERE = {
    "bounded_relu": rules.proportional, "activation": rules.proportional,
    "product": rules.shared, "division": rules.shared, "normalization": rules.spread_held,
}  # fmt: skip
_GATED = _LINEAR | _SMOOTH

_ALL = (
    Method(
        "gradient", "df/dx, signed", "Simonyan 2013",
    ),
    Method(
        "input_x_gradient", "x df/dx", "Shrikumar 2016", readout="x * m",
    ),
    Method(
        "smoothgrad", "mean of a method's maps over noisy copies of the input", "Smilkov 2017",
        parameters={"base": "gradient", "n": 50, "noise": 0.15}, run=smoothgrad,
        check=_check_smoothgrad,
    ),
    Method(
        "integrated_gradients", "(x - x0) times the mean gradient on the way from x0 to x",
        "Sundararajan 2017",
        parameters={"baseline": 0.0, "tol": 0.01, "max_steps": 256}, run=integrated_gradients,
        check=_check_integrated_gradients,
    ),
    Method(
        "guided_backprop", "m [y > 0] [m > 0] at each ReLU", "Springenberg 2014",
        rules={"relu": rules.guided, "bounded_relu": rules.guided}, plain=_GATED,
    ),
    Method(
        "deconvnet", "max(m, 0) at each ReLU, max-pooling by its switches", "Zeiler & Fergus 2014",
        rules={"relu": rules.rectified, "bounded_relu": rules.rectified}, plain=_GATED,
    ),
    Method(
        "deep_taylor", "z+ rule; at the input w^2, or z^B if low and high are given",
        "Montavon 2017", readout="x * m", relevance=True, start=None,
        rules={"linear": rules.z_plus, **_LRP_ELSEWHERE}, plain=_LRP_PLAIN,
        input_rule=rules.deep_taylor_input, parameters={"low": None, "high": None},
        check=check_bounds,
    ),
    Method(
        "lrp_epsilon", "relevance in proportion to a_i w_ij / (z_j + eps sign z_j)", "Bach 2015",
        readout="x * m", relevance=True, start=None, parameters={"eps": 1e-3},
        rules={"linear": rules.epsilon, **_LRP_ELSEWHERE}, plain=_LRP_PLAIN, check=_check_eps,
    ),
    Method(
        "lrp_alpha_beta", "alpha times the positive minus beta times the negative contributions",
        "Bach 2015", readout="x * m", relevance=True, start=None,
        parameters={"alpha": 2.0, "beta": 1.0},
        rules={"linear": rules.alpha_beta, **_LRP_ELSEWHERE}, plain=_LRP_PLAIN,
        check=_check_alpha_beta,
    ),
    Method(
        "lrp_gamma", "contributions of the sign of z_j count 1 + gamma times", "Montavon 2019",
        readout="x * m", relevance=True, start=None, parameters={"gamma": 0.25},
        rules={"linear": rules.gamma, **_LRP_ELSEWHERE}, plain=_LRP_PLAIN, check=_check_gamma,
    ),
    Method(
        "lrp_composite", "a rule for convolutions, one for dense layers, one for the input layer",
        "Kohlbrenner 2020", readout="x * m", relevance=True, start=None,
        parameters=composites.PARAMETERS, rules={"linear": composites.by_layer, **_LRP_ELSEWHERE},
        plain=_LRP_PLAIN, input_rule=composites.at_input, check=composites.check,
    ),
    Method(
        "excitation_backprop", "positive contributions without bias, from 1 at the target",
        "Zhang 2016", readout="x * m", relevance=True,
        rules={"linear": rules.z_plus, **_LRP_ELSEWHERE}, plain=_LRP_PLAIN,
    ),
)  # fmt: skip

# names, without case and signs, that others have and that are close to none of ours
_NOT_HERE = frozenset(
    "ablationcam attentionrollout blurig cam deeplift deepliftshap deepshap eigencam "
    "expectedgradients featureablation featurepermutation fullgrad gradcam gradcampp "
    "gradcamplusplus gradientshap guidedgradcam guidedig hirescam kernelshap layercam lime "
    "occlusion patternattribution patternnet rectgrad rise rollout scorecam shap "
    "shapleyvaluesampling vargrad xgradcam xrai".split()
)

methods: dict[str, Method] = {method.name: method for method in _ALL}


def find(name: str | Method) -> Method:
    """The method of this name; unknown names get the nearest known one suggested."""
    if isinstance(name, Method):
        return name
    if not isinstance(name, str):
        raise expected("the name of a method", repr(name), f"Choose one of: {', '.join(methods)}.")
    if name in methods:
        return methods[name]
    if squeezed(name) in _NOT_HERE - {squeezed(known) for known in methods}:
        got = f"{name!r}, a method of the field that is not among them"
        raise expected("a method that is implemented", got, f"Choose one of: {', '.join(methods)}.")
    raise unknown("method", name, methods)
