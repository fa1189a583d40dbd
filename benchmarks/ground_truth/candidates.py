"""The maps that are judged: methods, controls, and the methods on networks that learned nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from ground_truth.question import Question, effects, occluded
from salience import Maps, Method, explain, rules
from salience import methods as registry

Named = dict[str, Tensor]  # maps (N, ...) like x, by name
CONTROLS = ("random", "input", "edges")
# neither methods of the package nor maps that know nothing
REFERENCES = ("occlusion", "occlusion by others")
# the time of a map, in gradients: as budgeted in the package's own benchmark, draws times passes
COST = {
    "gradient": 1.0, "input_x_gradient": 1.0, "smoothgrad": 6.0, "integrated_gradients": 8.0,
    "guided_backprop": 1.05, "deconvnet": 1.05, "deep_taylor": 1.8, "lrp_epsilon": 1.2,
    "lrp_alpha_beta": 2.4, "lrp_gamma": 2.4, "lrp_composite": 1.8, "excitation_backprop": 1.8,
    "lrp_alpha1_beta0": 1.8, "lrp_epsilon_coarse": 1.2, "epsilon_plus": 1.8, "a2b1_flat": 2.4,
    "attnlrp_gamma": 2.4, "smooth_input_x_gradient": 6.0, "ig_from_mean": 8.0,
}  # fmt: skip


def methods(mean: Tensor) -> dict[str, str | Method]:
    """Every method of the package, those of several passes with few, and known variants.

    mean  (...) of the data: the other baseline of integrated gradients
    """
    few = {"tol": 0.1, "max_steps": 8}
    return {
        **{name: name for name in registry},
        "smoothgrad": rules.smoothgrad(n=6),
        "integrated_gradients": rules.integrated_gradients(**few),
        "lrp_alpha1_beta0": rules.lrp_alpha_beta(1.0, 0.0),
        "lrp_epsilon_coarse": rules.lrp_epsilon(0.25),
        "epsilon_plus": rules.lrp_composite("epsilon-plus"),
        "a2b1_flat": rules.lrp_composite("alpha2beta1-flat"),
        "attnlrp_gamma": rules.lrp_composite("attnlrp-gamma"),
        "smooth_input_x_gradient": rules.smoothgrad("input_x_gradient", n=6),
        "ig_from_mean": rules.integrated_gradients(mean, **few),
    }


def explained(network: nn.Module, question: Question) -> Maps[Tensor]:
    """The maps of all methods of a network, trained or not, for the target of a question."""
    given = methods(question.mean)
    return explain(network, question.x, given, question.target.tolist(), batch_size=32)


def controls(question: Question, generator: Generator) -> Named:
    """Maps that know nothing of the network, and what deletion says without any method."""
    found = {"random": torch.randn(question.x.shape, generator=generator), "input": question.x}
    if question.x.ndim > 2:
        found["edges"] = edges(question.x)
    return found | {
        "occlusion": occluded(question, effects(question, "windows").drop),
        "occlusion by others": occluded(question, effects(question, "windows", "others").magnitude),
    }


def edges(x: Tensor) -> Tensor:
    """The magnitude of the input's slope along its space."""
    slopes = torch.gradient(x, dim=list(range(2, x.ndim)))
    return torch.stack(slopes).square().sum(0).sqrt()


def untrained(networks: Sequence[nn.Module], question: Question) -> Named:
    """`method@0`, `method@1`, ...: the methods' maps of untrained networks."""
    return {
        f"{name}@{number}": maps
        for number, network in enumerate(networks)
        for name, maps in of_tensors(explained(network, question)).items()
    }


def of_tensors(maps: Mapping[str, Tensor]) -> Named:
    return {name: maps[name].detach() for name in maps}
