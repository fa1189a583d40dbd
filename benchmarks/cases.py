"""What is measured: salience's methods and the same methods of the peers, by public interfaces.

A case opens on a model and a batch and hands out a function of no arguments that returns maps.
What a user does once per model (registering hooks, folding BatchNorm) is done on opening, so that
it is not part of a peer's time; recording is part of salience's.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

import salience

EPS = 1e-3
# Peers add a small number to every denominator; in this one only rounding is left of it.
STABILIZER = 1e-12

Maps = Callable[[], Tensor]
Open = Callable[[nn.Module, Tensor, Tensor], AbstractContextManager[Maps]]

# row -> (method, parameters) of every single-pass method
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient": ("gradient", {}),
    "input_x_gradient": ("input_x_gradient", {}),
    "guided_backprop": ("guided_backprop", {}),
    "deconvnet": ("deconvnet", {}),
    "lrp_epsilon": ("lrp_epsilon", {"eps": EPS}),
    "lrp_alpha1_beta0": ("lrp_alpha_beta", {"alpha": 1.0, "beta": 0.0}),
    "lrp_alpha2_beta1": ("lrp_alpha_beta", {"alpha": 2.0, "beta": 1.0}),
    "lrp_gamma": ("lrp_gamma", {}),
    "lrp_composite": ("lrp_composite", {}),
    "excitation_backprop": ("excitation_backprop", {}),
    "deep_taylor": ("deep_taylor", {}),
}
# row -> (budget, limit by counting operations), in plain gradients
BUDGETS: dict[str, tuple[float, float]] = {
    "guided_backprop": (1.05, 1.0),
    "deconvnet": (1.05, 1.0),
    "lrp_epsilon": (1.2, 1.0),
    "lrp_alpha1_beta0": (1.8, 1.5),
    "excitation_backprop": (1.8, 1.5),
    "deep_taylor": (1.8, 1.5),
    "lrp_alpha2_beta1": (2.4, 2.0),
    "lrp_gamma": (2.4, 2.0),
    "lrp_composite": (1.8, 1.5),
}
TOGETHER_BUDGET = 0.6  # of the sum of the parts
MEMORY_BUDGET = 1.5  # of the gradient's peak


@dataclass(frozen=True, eq=False)
class Case:
    """One method of one package.

    wrong  network -> why this package's maps are not the method's there; they are still timed
    """

    package: str
    row: str
    open: Open
    wrong: Mapping[str, str] = field(default_factory=dict)


def plain_gradient(model: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """Forward and input gradient with parameters frozen: the unit of every time here."""
    leaf = x.detach().requires_grad_()
    model(leaf).gather(1, classes[:, None]).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@contextmanager
def _plain(model: nn.Module, x: Tensor, classes: Tensor) -> Iterator[Maps]:
    yield lambda: plain_gradient(model, x, classes)


# -- salience -------------------------------------------------------------------------------------


@contextmanager
def _ours(row: str, model: nn.Module, x: Tensor, classes: Tensor) -> Iterator[Maps]:
    name, parameters = OURS[row]
    target = classes.tolist()
    yield lambda: salience.record(model, x).explain(name, target, **parameters)


@contextmanager
def together(model: nn.Module, x: Tensor, classes: Tensor) -> Iterator[Maps]:
    """Every single-pass method on one tape; hands back the last map."""
    target = classes.tolist()

    def maps() -> Tensor:
        tape = salience.record(model, x)
        every = [tape.explain(name, target, **given) for name, given in OURS.values()]
        return every[-1]

    yield maps


@contextmanager
def _next_batch(row: str, model: nn.Module, x: Tensor, classes: Tensor) -> Iterator[Maps]:
    """A further batch of a data set: what derives from weights alone is there already."""
    name, parameters = OURS[row]
    target = classes.tolist()
    first = salience.record(model, x[:1])
    first.explain(name, target[:1], **parameters)
    yield lambda: first.again(x).explain(name, target, **parameters)


# -- captum ---------------------------------------------------------------------------------------


@contextmanager
def _captum(make: Callable[[nn.Module], Maps], model: nn.Module, x: Tensor, classes: Tensor):
    own = copy.deepcopy(model)  # captum leaves activations on layers

    def maps() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(own)(x.detach().clone(), target=classes).detach()  # type: ignore[call-arg]

    yield maps


def captum_attribution(name: str, **options: Any) -> Callable[[nn.Module], Any]:
    def make(model: nn.Module) -> Any:
        from captum import attr  # type: ignore[import-not-found]

        return partial(getattr(attr, name)(model).attribute, **options)

    return make


def captum_lrp(rule: str, **options: Any) -> Callable[[nn.Module], Any]:
    """LRP with one rule for all linear maps; captum forgets rules after every call."""

    def make(model: nn.Module) -> Any:
        from captum.attr import LRP  # type: ignore[import-not-found]
        from captum.attr._utils import lrp_rules  # type: ignore[import-not-found]

        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.rule = getattr(lrp_rules, rule)(**options)  # type: ignore[assignment]
        return LRP(model).attribute

    return make


# -- zennit ---------------------------------------------------------------------------------------


@contextmanager
def _zennit(
    make: Callable[[], tuple[list[Any], list[Any]]], start: str, canonize: bool,
    model: nn.Module, x: Tensor, classes: Tensor,
) -> Iterator[Maps]:  # fmt: skip
    """make() -> (layer map, first layer's map); start: "1", or "value" of the target."""
    from zennit.attribution import Gradient  # type: ignore[import-not-found]
    from zennit.composites import SpecialFirstLayerMapComposite  # type: ignore[import-not-found]
    from zennit.torchvision import (  # type: ignore[import-not-found]
        ResNetCanonizer,
        VGGCanonizer,
    )

    residual = type(model).__name__ == "ResNet"
    layers, first = make()
    canonizers = [ResNetCanonizer() if residual else VGGCanonizer()] if canonize else []
    composite = SpecialFirstLayerMapComposite(layers, first, canonizers=canonizers)

    def seed(output: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(classes, output.shape[1]).to(output)
        return one_hot if start == "1" else one_hot * output

    own = copy.deepcopy(model)
    with Gradient(own, composite) as attributor:
        yield lambda: attributor(x.detach().clone(), seed)[1].detach()


def zennit_relu(hook: str) -> Callable[[], tuple[list[Any], list[Any]]]:
    def make() -> tuple[list[Any], list[Any]]:
        from zennit import rules  # type: ignore[import-not-found]

        return [(nn.ReLU, getattr(rules, hook)())], []

    return make


def zennit_lrp(rule: str, first: str | None = None, **options: Any):
    """One rule for all linear maps, another one for the first where given."""

    def make() -> tuple[list[Any], list[Any]]:
        from zennit import rules  # type: ignore[import-not-found]
        from zennit.composites import layer_map_base  # type: ignore[import-not-found]
        from zennit.types import Convolution, Linear  # type: ignore[import-not-found]

        def linear(name: str) -> list[Any]:
            return [((Convolution, Linear), getattr(rules, name)(**options))]

        return layer_map_base(STABILIZER) + linear(rule), linear(first) if first else []

    return make


# -- tables ---------------------------------------------------------------------------------------

_SUMS = "relevance explodes at residual sums"
_SIGNED = "negative inputs of the first layer meet W+"
_NO_BIAS = {"stabilizer": STABILIZER, "zero_params": ["bias"]}

PLAIN = Case("torch", "gradient", _plain)
SALIENCE = [Case("salience", row, partial(_ours, row)) for row in OURS]
NEXT_BATCH = [Case("salience, next batch", row, partial(_next_batch, row)) for row in BUDGETS]
TOGETHER = Case("salience", "all on one tape", together)


def of_captum(row: str, make: Callable[[nn.Module], Any], **wrong: str) -> Case:
    return Case("captum", row, partial(_captum, make), wrong)


def of_zennit(
    row: str, make: Callable[[], Any], start: str = "value", canonize: bool = True, **wrong: str
) -> Case:
    return Case("zennit", row, partial(_zennit, make, start, canonize), wrong)


PEERS = [
    of_captum("gradient", captum_attribution("Saliency", abs=False)),
    of_captum("input_x_gradient", captum_attribution("InputXGradient")),
    of_captum("guided_backprop", captum_attribution("GuidedBackprop")),
    of_captum("deconvnet", captum_attribution("Deconvolution")),
    of_captum("lrp_epsilon", captum_lrp("EpsilonRule", epsilon=EPS), resnet18=_SUMS),
    of_captum(
        "excitation_backprop", captum_lrp("Alpha1_Beta0_Rule", set_bias_to_zero=True),
        resnet18=_SUMS, vgg16=_SIGNED,
    ),
    of_zennit("guided_backprop", zennit_relu("ReLUGuidedBackprop"), "1"),
    of_zennit("deconvnet", zennit_relu("ReLUDeconvNet"), "1"),
    of_zennit("lrp_epsilon", zennit_lrp("Epsilon", epsilon=EPS)),
    of_zennit(
        "lrp_alpha1_beta0", zennit_lrp("AlphaBeta", alpha=1.0, beta=0.0, stabilizer=STABILIZER)
    ),
    of_zennit(
        "lrp_alpha2_beta1", zennit_lrp("AlphaBeta", alpha=2.0, beta=1.0, stabilizer=STABILIZER)
    ),
    of_zennit("excitation_backprop", zennit_lrp("ZPlus", **_NO_BIAS), "1"),
    of_zennit("deep_taylor", zennit_lrp("ZPlus", "WSquare", **_NO_BIAS)),
]  # fmt: skip


# -- correctness ----------------------------------------------------------------------------------


def maps_of(case: Case, model: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """The maps of one case, (batch, 3, height, width)."""
    with case.open(model, x, classes) as maps:
        return maps()


def difference(found: Tensor, reference: Tensor) -> float:
    """The largest difference over the largest value of the reference; infinite for NaN."""
    error = ((found - reference).abs().amax() / reference.abs().amax()).item()
    return error if error == error else float("inf")


def as_gradient(model: nn.Module, x: Tensor, classes: Tensor) -> dict[str, float]:
    """Differences that must vanish whatever the network: by the law of eps -> 0, and the gradient.

    Law: on nets of linear maps, ReLU, pooling and BatchNorm LRP with eps -> 0 is input x gradient.
    """
    plain = plain_gradient(model, x, classes)
    tape = salience.record(model, x)
    target = classes.tolist()
    return {
        "gradient": difference(tape.explain("gradient", target), plain),
        "lrp_epsilon, eps = 1e-12": difference(
            tape.explain("lrp_epsilon", target, eps=1e-12), x * plain
        ),
    }
