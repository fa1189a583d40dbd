"""Stages of a network and random weights for them.

A stage is one parameterised operation in execution order, with the normalisation (or separate bias
and scale) that directly follows it. A parameter belongs to the first stage that reads it, so tied
weights are one stage.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from salience._errors import SalienceError, unknown
from salience._recording.beside import SEEDED, copy_of, generators_kept
from salience._recording.trace import Operation, Trace

INITIALIZERS = ("own", "normal", "permute")


@dataclass(frozen=True)
class Stage:
    """Parameters that are randomised together: value on the trace -> name in the model."""

    parameters: Mapping[int, str]

    @property
    def name(self) -> str:
        return next(iter(self.parameters.values()))


def stages_of(trace: Trace) -> list[Stage]:
    """The stages of a recorded pass, in execution order.

    Errors: SalienceError for a pass without parameters.
    """
    groups: list[dict[int, str]] = []
    last_output: dict[int, int] = {}  # value -> the group whose operation made it
    seen: set[int] = set()
    roots = _parameter_roots(trace)
    for operation in trace.operations:
        if not operation.depends:
            continue
        inputs = operation.inputs()
        own = [p for i in inputs for p in sorted(roots.get(i, ()))]
        new = {p: trace.parameters[p] for p in dict.fromkeys(own) if p not in seen}
        before = next((last_output[i] for i in inputs if i in last_output), None)
        if not own:
            continue
        if before is None or not _belongs_to_stage_before(operation):
            if new:
                groups.append({})
            # tied weights: what follows belongs to the stage that has them
            tied = next((k for k, group in enumerate(groups) if own[0] in group), 0)
            before = len(groups) - 1 if new else tied
        groups[before].update(new)
        last_output.update(dict.fromkeys(operation.outputs, before))
        seen.update(new)
    if not groups:
        raise SalienceError(
            "expected a model with parameters; got none that the output depends on. "
            "There is nothing to randomise."
        )
    return [Stage(group) for group in groups]


def _parameter_roots(trace: Trace) -> dict[int, set[int]]:
    """Value -> the parameters it is made of, for values made of parameters alone."""
    roots = {index: {index} for index in trace.parameters}
    for operation in trace.operations:
        if not operation.depends:
            made_of = set().union(*(roots.get(i, set()) for i in operation.inputs()))
            roots.update(dict.fromkeys(operation.outputs, made_of))
    return roots


def _belongs_to_stage_before(operation: Operation) -> bool:
    follows = operation.name in ("add", "sub", "subtract", "mul", "multiply")
    return operation.kind in ("batch_norm", "normalization") or follows


def stream(seed: int, *path: int) -> torch.Generator:
    """An independent generator for a place in the study, such as (repeat, stage, parameter)."""
    state = np.random.SeedSequence([seed, *path]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of a CPU generator, whatever torch's defaults are."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def random_weights(
    model: object, trace: Trace, stage: Stage, place: tuple[int, ...], weights: str = "own"
) -> dict[int, Tensor]:
    """New values for the parameters of a stage, from the independent stream of its place.

    own      the layer's own initialiser (`reset_parameters` on a copy of the layer); a raw
             parameter, of no layer that has one, is drawn like "normal"
    normal   a normal distribution with the parameter's own mean and standard deviation
    permute  the parameter's own entries in random order
    """
    if weights not in INITIALIZERS:
        raise unknown("initialiser", weights, INITIALIZERS)
    layers = model if weights == "own" and isinstance(model, nn.Module) else None
    fresh = _reset_layers(layers, stage, place) if layers is not None else {}
    drawn = {}
    for number, (value, name) in enumerate(stage.parameters.items()):
        parameter = trace.constants[value]
        if name in fresh:
            drawn[value] = fresh[name].to(parameter)
            continue
        generator = stream(*place, number)
        draw = _permuted if weights == "permute" else _normal
        drawn[value] = draw(parameter, generator)
    return drawn


def _normal(parameter: Tensor, generator: torch.Generator) -> Tensor:
    spread = parameter.std(correction=0) if parameter.numel() > 1 else parameter.abs().sum()
    noise = normal(parameter.shape, generator).to(parameter)
    return parameter.mean() + spread * noise


def _permuted(parameter: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(parameter.numel(), generator=generator, device="cpu")
    order = order.to(parameter.device)
    return parameter.flatten()[order].view_as(parameter)


def _reset_layers(model: nn.Module, stage: Stage, place: tuple[int, ...]) -> dict[str, Tensor]:
    """Parameters by name from `reset_parameters` on CPU copies of the stage's layers."""
    known = {name for name, _ in model.named_parameters()}
    names = [name for name in stage.parameters.values() if name in known]
    owners = dict.fromkeys(name.rpartition(".")[0] for name in names)
    fresh: dict[str, Tensor] = {}
    for number, owner in enumerate(owners):
        layer = model.get_submodule(owner)
        reset = getattr(type(layer), "reset_parameters", None)
        reset = reset or getattr(type(layer), "_reset_parameters", None)
        if reset is None:
            continue
        layer = copy_of(layer, dict(layer.named_parameters())).cpu()
        before = {name: (p._version, p.detach().clone()) for name, p in layer.named_parameters()}
        # initialisers draw from the global generator, which is put back as it was
        with SEEDED, generators_kept(torch.device("cpu")), torch.no_grad():
            seed = stream(*place, number, 1).initial_seed()
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            reset(layer)
        prefix = f"{owner}." if owner else ""
        for name, p in layer.named_parameters():
            version, value = before[name]
            # a reset need not reach them all: not those of a weight norm, nor raw ones
            if p._version != version or not torch.equal(p, value):
                fresh[f"{prefix}{name}"] = p.detach()
    return fresh
