"""The methods: functions of their parameters that make tables of rules, and the table of them all.

To add a method, write the function that makes it and name it in `_ALL`; everything else (the tape,
the command line, the tests over the registry) finds it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from salience._errors import expected, squeezed, unknown, warn
from salience._inputs.validation import at_least_0, check_bounds, listed, whole_number
from salience.rules import _composites as composites
from salience.rules import _integrated_gradients as way
from salience.rules import _rules as backward
from salience.rules import _several_passes as passes
from salience.rules._method import LINEAR, Method, named

Methods = str | Method | Sequence[str | Method] | Mapping[str, str | Method]

_SMOOTH = frozenset(
    {"product", "division", "reciprocal", "attention", "softmax", "normalization", "smooth"}
)
_GATED = LINEAR | _SMOOTH
_LRP_PLAIN = LINEAR | {"relu", "softmax"}
# beyond networks of linear maps and ReLU, all relevance methods are AttnLRP (Achtibat 2024)
_LRP_ELSEWHERE = {
    "bounded_relu": backward.proportional, "activation": backward.proportional,
    "product": backward.shared, "division": backward.shared, "attention": backward.shared,
    "normalization": backward.spread_held,
}  # fmt: skip


def _relevance(name: str, summary: str, source: str, linear: Any, **own: Any) -> Method:
    """A method of relevance by its rule for linear maps."""
    own = {"start": None, **own}
    rules = {"linear": linear, **_LRP_ELSEWHERE}
    return Method(
        name, summary, source, "x * m", rules=rules, plain=_LRP_PLAIN, relevance=True, **own
    )


def gradient() -> Method:
    """df/dx, signed (Simonyan 2013)."""
    return Method("gradient", "df/dx, signed", "Simonyan 2013", make=gradient)


def input_x_gradient() -> Method:
    """x df/dx (Shrikumar 2016)."""
    return Method("input_x_gradient", "x df/dx", "Shrikumar 2016", "x * m", make=input_x_gradient)


def smoothgrad(base: str | Method = "gradient", n: int = 50, noise: float = 0.15) -> Method:
    """The mean of a method's maps over noisy copies of the input (Smilkov 2017).

    base   a method of a single pass: a name, or a `Method` with its own parameters
    n      draws
    noise  their standard deviation, in parts of each sample's max x - min x

    >>> smoothgrad(lrp_epsilon(eps=1e-2), n=10)
    smoothgrad(base=lrp_epsilon(eps=0.01, eps_relative=0.0), n=10, noise=0.15)
    """
    whole_number("n", n, 1, "The default is 50.")
    at_least_0("noise", noise, 0.15)
    found = find(base)
    if not found.single_pass:
        single = ", ".join(name for name, method in methods.items() if method.single_pass)
        raise expected("a single-pass base method", found.name, f"Choose from {single}.")
    return Method(
        "smoothgrad", "mean of a method's maps over noisy copies of the input", "Smilkov 2017",
        parameters={"base": base, "n": n, "noise": noise}, make=smoothgrad,
        run=partial(passes.smoothgrad, base=found, n=n, noise=noise), sampled=True,
    )  # fmt: skip


def integrated_gradients(baseline: object = 0.0, tol: float = 0.01, max_steps: int = 256) -> Method:
    """(x - x0) times the mean gradient on the way from x0 to x (Sundararajan 2017).

    baseline   x0: a number, values for one sample or for each of (N, ...); for several inputs a
               container like theirs
    tol        of the completeness error, under which no part of the way is halved any more
    max_steps  gradients, at most
    """
    whole_number("max_steps", max_steps, 1, "The default is 256.")
    at_least_0("tol", tol, 0.01)
    given = {"baseline": baseline, "tol": tol, "max_steps": max_steps}
    return Method(
        "integrated_gradients", "(x - x0) times the mean gradient on the way from x0 to x",
        "Sundararajan 2017", parameters=given,
        run=partial(way.integrated_gradients, gradient=gradient(), **given),
        complete=True, make=integrated_gradients,
    )  # fmt: skip


def guided_backprop() -> Method:
    """m [y > 0] [m > 0] at each ReLU (Springenberg 2014)."""
    return Method(
        "guided_backprop", "m [y > 0] [m > 0] at each ReLU", "Springenberg 2014",
        rules={"relu": backward.guided, "bounded_relu": backward.guided}, plain=_GATED,
        make=guided_backprop,
    )  # fmt: skip


def deconvnet() -> Method:
    """max(m, 0) at each ReLU, max-pooling by its switches (Zeiler and Fergus 2014)."""
    return Method(
        "deconvnet", "max(m, 0) at each ReLU, max-pooling by its switches", "Zeiler & Fergus 2014",
        rules={"relu": backward.rectified, "bounded_relu": backward.rectified}, plain=_GATED,
        make=deconvnet,
    )  # fmt: skip


def deep_taylor(low: object = None, high: object = None) -> Method:
    """The z+ rule; at the input w^2, or z^B for one between low and high (Montavon 2017).

    low, high  bounds of the input: numbers, values for one sample or for each of (N, ...)
    """
    check_bounds(low, high)
    return _relevance(
        "deep_taylor", "z+ rule; at the input w^2, or z^B if low and high are given",
        "Montavon 2017", backward.z_plus,
        input_rule=backward.w_squared if low is None else backward.z_bounded,
        bounds=None if low is None else (low, high),
        parameters={"low": low, "high": high}, make=deep_taylor,
    )  # fmt: skip


def lrp_epsilon(eps: float = 1e-3, eps_relative: float = 0.0) -> Method:
    """Relevance in proportion to a_i w_ij / (z_j + e sign z_j), e = eps + eps_relative mean |z|
    (Bach 2015).

    eps           in units of z, which mean something else in every layer and network
    eps_relative  in units of the layer's mean |z|, over a sample's units that relevance reaches

    >>> lrp_epsilon(eps=0, eps_relative=0.1)
    lrp_epsilon(eps=0, eps_relative=0.1)
    """
    at_least_0("eps", eps, 1e-3)
    at_least_0("eps_relative", eps_relative, 0.0)
    return _relevance(
        "lrp_epsilon", "relevance in proportion to a_i w_ij / (z_j + eps sign z_j)", "Bach 2015",
        partial(backward.epsilon, eps=eps, eps_relative=eps_relative),
        parameters={"eps": eps, "eps_relative": eps_relative}, make=lrp_epsilon,
    )  # fmt: skip


def lrp_alpha_beta(alpha: float = 2.0, beta: float = 1.0) -> Method:
    """alpha times the positive minus beta times the negative contributions (Bach 2015)."""
    at_least_0("alpha", alpha, 2.0)
    at_least_0("beta", beta, 1.0)
    if abs(alpha - beta - 1) > 1e-9:
        warn(
            f"expected alpha - beta = 1; got {alpha} - {beta} = {alpha - beta:g}: the maps' "
            f"relevance does not add up to the output. Use for example alpha=2, beta=1."
        )
    return _relevance(
        "lrp_alpha_beta", "alpha times the positive minus beta times the negative contributions",
        "Bach 2015", partial(backward.alpha_beta, alpha=alpha, beta=beta),
        parameters={"alpha": alpha, "beta": beta}, make=lrp_alpha_beta,
    )  # fmt: skip


def lrp_gamma(gamma: float = 0.25) -> Method:
    """Contributions of the sign of z_j count 1 + gamma times (Montavon 2019)."""
    at_least_0("gamma", gamma, 0.25)
    return _relevance(
        "lrp_gamma", "contributions of the sign of z_j count 1 + gamma times", "Montavon 2019",
        partial(backward.gamma, gamma=gamma), parameters={"gamma": gamma}, make=lrp_gamma,
    )  # fmt: skip


def lrp_composite(
    preset: str = "epsilon-plus-flat",
    rules: composites.Choice | None = None,
    eps: float = 1e-6,
    gamma: float = 0.25,
    low: object = None,
    high: object = None,
) -> Method:
    """A rule for convolutions, one for dense layers, one for the input (Kohlbrenner 2020).

    preset      a row of `composites.PRESETS`, unless rules are given
    rules       layer -> the name of a rule, or (name, {parameter: value})
    eps, gamma  of the rules of these names
    low, high   bounds of the input, for the rule "box"

    >>> lrp_composite("epsilon-gamma-box", low=-2, high=2).bounds
    (-2, 2)
    """
    given = {
        "preset": preset, "rules": rules, "eps": eps, "gamma": gamma, "low": low, "high": high,
    }  # fmt: skip
    hidden, at_input = composites.rules_of(**given)
    return _relevance(
        "lrp_composite", "a rule for convolutions, one for dense layers, one for the input layer",
        "Kohlbrenner 2020", hidden, input_rule=at_input,
        bounds=None if low is None else (low, high), parameters=given, make=lrp_composite,
    )  # fmt: skip


def excitation_backprop() -> Method:
    """Positive contributions without bias, from 1 at the target (Zhang 2016)."""
    return _relevance(
        "excitation_backprop", "positive contributions without bias, from 1 at the target",
        "Zhang 2016", backward.z_plus, start=1.0, make=excitation_backprop,
    )  # fmt: skip


_ALL: tuple[Callable[[], Method], ...] = (
    gradient, input_x_gradient, smoothgrad, integrated_gradients, guided_backprop, deconvnet,
    deep_taylor, lrp_epsilon, lrp_alpha_beta, lrp_gamma, lrp_composite, excitation_backprop,
)  # fmt: skip

# names, without case and signs, that others have and that are close to none of ours
_NOT_HERE = frozenset(
    "ablationcam attentionrollout blurig cam deeplift deepliftshap deepshap eigencam "
    "expectedgradients featureablation featurepermutation fullgrad gradcam gradcampp "
    "gradcamplusplus gradientshap guidedgradcam guidedig hirescam kernelshap layercam lime "
    "occlusion patternattribution patternnet rectgrad rise rollout scorecam shap "
    "shapleyvaluesampling vargrad xgradcam xrai".split()
)

methods: dict[str, Method] = {}


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


def choose(given: Methods | None) -> list[Method]:
    """The methods meant by a name or a method, several of them, or names for each; None: all.

    Errors: SalienceError for what is no method, and for two methods of one name.
    """
    if given is None:
        return list(methods.values())
    if isinstance(given, Mapping):
        return [named(find(method), str(name)) for name, method in given.items()]
    each = [given] if isinstance(given, Method) else listed("methods", given, methods)
    chosen: dict[str, Method] = {}
    for method in map(find, each):
        if method.name in chosen:
            cure = 'Give each a name of its own: {"coarse": lrp_epsilon(eps=0.1), ...}.'
            raise expected("methods of different names", f"{method.name!r} twice", cure)
        chosen[method.name] = method
    return list(chosen.values())


for _make in _ALL:  # in order: smoothgrad finds its base among those before it
    methods[_make.__name__] = _make()
