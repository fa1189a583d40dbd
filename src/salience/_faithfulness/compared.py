"""All scores of some samples: maps on one side, what removing parts does on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salience._faithfulness.candidates import Sums, Surface
from salience._faithfulness.effects import Passes
from salience._faithfulness.judged import effects_of, judged
from salience._faithfulness.plan import Plan
from salience._faithfulness.replacements import replacement_of
from salience._faithfulness.subject import at_leaves, subject_of
from salience._inputs import trees
from salience._inputs.targets import Scalar, Target, resolve, rows_of
from salience._inputs.trees import Inputs
from salience._names import ERRORS, OCCLUSION
from salience._randomization.cascade import randomized_tapes
from salience._recording.run import checked_pass
from salience._scores.similarity import similarities
from salience._tape.tape import Tape
from salience._tape.together import as_one, some, spread

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """All scores of some samples; NaN where there is none.

    scores      score -> (candidate, sample)
    untrained   score -> (candidate, network, sample), of the method's maps on untrained networks
    effects     "deletion" (sample, cell), "subsets" (sample, set)
    value       (sample,) the target
    emptied     (sample,) the target once everything is replaced
    dependence  (network, sample) what replacing everything does to it on untrained networks
    errors      name -> (candidate, sample)
    other       (candidate, sample) |Spearman| of the map and that for another target
    first       method -> the first sample's map; spread: largest difference from it
    """

    scores: Mapping[str, Numbers]
    untrained: Mapping[str, Numbers]
    effects: Mapping[str, Numbers]
    value: Numbers
    emptied: Numbers
    dependence: Numbers
    errors: Mapping[str, Numbers]
    other: Numbers
    first: Mapping[str, Tensor]
    spread: Mapping[str, float]


def compared(
    plan: Plan,
    x: Inputs,
    rows: slice,
    before: Batch | None,
    size: int,
    done: Callable[[int], object],
) -> Batch:
    """The scores of some samples of x, of which `before` has those before them.

    size  samples per perturbed pass
    done  is told how many samples have gone through the network
    """
    question, here = plan.question, some(x, rows)
    tape = Tape(checked_pass(question.model, here, question.output, keep=True))
    wanted = rows_of(question.target, rows, trees.samples_of(x), tape.output)
    scalar, other = resolve(wanted, tape.output), _another(wanted, tape.output)
    passes = _passes(plan, tape, scalar, size, done)
    scores, names = question.scores, list(plan.roles)
    effects = effects_of(passes, plan.sets, {score.of for score in scores.values()})
    sizes = None if effects.windows is None else effects.windows.abs()
    heights = None if sizes is None else plan.grid.over_positions(sizes)
    surface = Surface(plan.grid, tape.leaves, heights)
    maps, errors, others = _maps(plan, tape, scalar, other)
    told = {name: surface.sums(own) for name, own in maps.items()}
    given = {n: m[rows].to(tape.output.device) for n, m in question.given.items()}
    told |= {name: surface.sums_of_given(own) for name, own in given.items()}
    told |= surface.controls(question.removal.seed, rows.start)
    if effects.windows is not None:
        told[OCCLUSION] = surface.effects(effects.windows)
    ones = {name: as_one(tape.x, own) for name, own in maps.items()}
    first = before.first if before else {name: m[:1].clone() for name, m in ones.items()}
    untrained, dependence = _untrained(plan, tape, scalar, passes, surface)
    count = trees.samples_of(here)
    steps, networks = question.removal.steps, range(plan.networks)
    trained = judged(scores, [told[name] for name in names], effects, passes, steps)
    random = [untrained[name][r] if name in untrained else None for name in names for r in networks]
    known = any(sums is not None for sums in random)
    floor = judged(scores, random, effects, passes, steps) if known else None
    drops = {"deletion_effect": effects.windows, "subset_effect": effects.drops}
    return Batch(
        scores=dict(zip(scores, on_host(trained), strict=True)),
        untrained={} if floor is None else _by_network(scores, on_host(floor), plan.networks),
        effects={name: on_host(found) for name, found in drops.items() if found is not None},
        value=on_host(effects.value),
        emptied=on_host(effects.emptied),
        dependence=on_host(dependence),
        errors={name: _errors(plan, name, errors, count) for name in ERRORS},
        other=_rows(names, others, count),
        first=first,
        spread={name: spread(m, first[name]) for name, m in ones.items()},
    )


def on_host(values: Tensor) -> Numbers:
    """On the host, once for all."""
    return values.double().cpu().numpy()


def _by_network(names: Iterable[str], values: Numbers, networks: int) -> dict[str, Numbers]:
    """score -> (candidate, network, sample) of (score, candidate * network, sample)."""
    wide = values.reshape(len(values), -1, networks, values.shape[-1])
    return dict(zip(names, wide, strict=True))


def _maps(
    plan: Plan, tape: Tape, scalar: Scalar, other: Scalar | None
) -> tuple[dict[str, tuple[Tensor, ...]], dict[str, Tensor], dict[str, Tensor]]:
    """The maps of every method, their errors, and how alike they are to those for another
    target."""
    maps, errors, others = dict[str, tuple[Tensor, ...]](), dict[str, Tensor](), dict[str, Tensor]()
    for method in plan.methods:
        made = tape.explain_leaves(method, scalar, seed=plan.question.removal.seed)
        maps[method.name] = made.maps
        if made.error is not None:
            errors[method.name] = made.error
        if other is not None and method.single_pass:
            else_ = tape.explain_leaves(method, other).maps
            pair = (as_one(tape.x, found) for found in (made.maps, else_))
            others[method.name] = similarities["spearman_abs"](*pair)
    return maps, errors, others


def _untrained(
    plan: Plan, tape: Tape, scalar: Scalar, passes: Passes, surface: Surface
) -> tuple[dict[str, list[Sums]], Tensor]:
    """The sums of each method's maps on networks whose weights are all random; and (network, B)
    what replacing everything does to the target there."""
    found: dict[str, list[Sums]] = {method.name: [] for method in plan.methods}
    dependence: list[Tensor] = []
    cascade, model = plan.question.cascade, plan.question.model
    for repeat in range(plan.networks):
        assert cascade is not None
        for _, random in randomized_tapes(model, tape, cascade, repeat, [plan.stages - 1]):
            for method in plan.methods:
                made = random.explain_leaves(method, scalar, seed=plan.question.removal.seed)
                found[method.name].append(surface.sums(made.maps))
            dependence.append(_dependence(plan, random, passes))
    return found, torch.stack(dependence) if dependence else torch.empty(0, len(tape.output))


def _dependence(plan: Plan, random: Tape, passes: Passes) -> Tensor:
    """f(x) - f(x with everything replaced) on an untrained network, (B,) float64."""
    cascade = plan.question.cascade
    here = passes.scalar(random.output).double()
    if plan.ids or cascade is None or cascade.batch_norm != "keep":  # it cannot run again
        return torch.full_like(here, torch.nan)
    emptied = random.again(*at_leaves(random.leaves, passes.emptied()))
    return here - passes.scalar(emptied.output).double()


def _another(target: Target, output: Tensor) -> Scalar | None:
    """The largest output (B, K) that is not explained; None where there is no such thing."""
    if output.ndim != 2 or output.shape[1] < 2:
        return None
    if isinstance(target, str):
        explained = output.argmax(1)
    elif isinstance(target, int) or _classes(target):
        explained = torch.as_tensor(target, device=output.device).expand(len(output))
    else:
        return None
    other = output.scatter(1, explained[:, None] % output.shape[1], -torch.inf).argmax(1)
    return resolve(other, output)


def _classes(target: Target) -> bool:
    return isinstance(target, list) and all(isinstance(number, int) for number in target)


def _passes(
    plan: Plan, tape: Tape, scalar: Scalar, size: int, done: Callable[[int], object]
) -> Passes:
    question = plan.question
    subject, seed = subject_of(tape, plan.plain, plan.ids), question.removal.seed
    pairs = zip(subject.values, plan.means, strict=True)
    replace = [replacement_of(plan.replacement, v, plan.grid, mean, seed) for v, mean in pairs]
    if question.removal.probability:
        logits = scalar
        scalar = lambda out: logits(out.softmax(1))  # noqa: E731
    return Passes(subject, scalar, plan.grid, replace, size, done)


def _errors(plan: Plan, name: str, errors: Mapping[str, Tensor], count: int) -> Numbers:
    kinds = {method.name: method.error for method in plan.methods}
    return _rows(list(plan.roles), {m: e for m, e in errors.items() if kinds[m] == name}, count)


def _rows(names: list[str], values: Mapping[str, Tensor], count: int) -> Numbers:
    found = np.full((len(names), count), np.nan)
    for row, name in enumerate(names):
        if name in values:
            found[row] = on_host(values[name])
    return found
