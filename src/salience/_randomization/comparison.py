"""Maps of a network on its way to random weights, compared with the trained network's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salience._inputs import trees
from salience._inputs.targets import Target, resolve, rows_of
from salience._names import ERRORS, RANDOM_MAP
from salience._randomization import controls
from salience._randomization.cascade import randomized_tapes
from salience._randomization.floors import (
    Maps,
    Numbers,
    Prepared,
    Scores,
    of_pairs,
    of_sample_before,
    prepared,
    scored,
    undefined,
)
from salience._randomization.plan import Plan
from salience._recording.run import checked_pass
from salience._tape.tape import Tape
from salience._tape.together import as_one, numbers, shown, some, spread, values_of
from salience.rules._table import smoothgrad

SMOOTH_DRAWS = 10  # noisy copies that the maps of kind="smooth" are averaged over


@dataclass(frozen=True)
class Ends:
    """Maps of the trained network that the next samples are held against.

    first        of the first sample of all
    last         of the last sample so far
    multipliers  of that sample, by the methods whose maps are x times them
    """

    first: Maps
    last: Maps
    multipliers: Maps


class Made(NamedTuple):
    """The maps of every method, with the errors and the multipliers of those that have them."""

    maps: Maps
    errors: Maps
    multipliers: Maps


@dataclass(frozen=True)
class Pictures:
    """Maps to be looked at.

    inputs  (sample, ...) what they explain
    maps    (method, 1 + stage, sample, ...) trained, and of the first repeat
    """

    inputs: NDArray[np.generic]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """All scores of some samples; NaN for what a control does not have.

    scores             score -> (method, stage, repeat, sample)
    between_random     (method, score, repeat, sample) the last stages of two repeats
    other_inputs       (method, score, sample) the trained network's maps of two inputs
    other_multipliers  (method, score, sample) x * m beside the same x times another input's m
    errors             name -> (method, sample) of the trained network's maps
    spread             method -> largest difference from the first map, relative to it
    """

    scores: Mapping[str, Numbers]
    between_random: Numbers
    other_inputs: Numbers
    other_multipliers: Numbers
    errors: Mapping[str, Numbers]
    spread: Mapping[str, float]
    ends: Ends
    pictures: Pictures | None


def compared(
    plan: Plan, x: Any, rows: slice, before: Batch | None, done: Callable[[int], object]
) -> Batch:
    """The scores of some samples of x, of which `before` has those before them.

    done  is told how many samples are done with a stage
    """
    question, here = plan.question, some(x, rows)
    tape = Tape(checked_pass(question.model, here, question.output, keep=True))
    wanted = rows_of(question.target, rows, trees.samples_of(x), tape.output)
    target = wanted if question.retarget else resolve(wanted, tape.output)
    (trained, errors, multipliers), count = _maps(plan, tape, target), trees.samples_of(here)
    values, scores = values_of(here, tape.leaves), _unscored(plan, count)
    if plan.controls:
        _score_controls(plan, values, rows.start, scores)
    kept = max(0, min(question.keep_maps - rows.start, count))
    pictures = [_pictured(tape, trained, kept)] if kept else []
    held = {name: prepared(question.scores, maps) for name, maps in trained.items()}
    between = undefined(plan.names, question.scores, question.cascade.repeats, count)
    other: Maps = {}  # of the repeat before, all of whose stages are random
    for repeat, place, maps in _randomized(plan, tape, target):
        for row, (name, changed) in enumerate(maps.items()):
            _score(question.scores, held[name], changed, scores, (row, place, repeat))
        if repeat == 0 and kept:
            pictures.append(_pictured(tape, maps, kept))
        if place == len(plan.stages.names) - 1:
            between[:, :, repeat] = _two_networks(plan, other, maps)
            other = maps
        done(count)
    ends = before and before.ends
    first = ends.first if ends else _samples(trained, 0)
    return Batch(
        scores=scores,
        between_random=between,
        other_inputs=_other_inputs(plan, held, trained, ends),
        other_multipliers=_other_multipliers(plan, held, values, multipliers, ends),
        errors={name: _errors(plan, name, errors, count) for name in ERRORS},
        spread={name: spread(maps, first[name]) for name, maps in trained.items()},
        ends=Ends(first, last=_samples(trained, -1), multipliers=_samples(multipliers, -1)),
        pictures=Pictures(numbers(here[:kept]), np.stack(pictures, 1)) if kept else None,
    )


def _randomized(plan: Plan, tape: Tape, target: Target) -> Iterator[tuple[int, int, Maps]]:
    """(repeat, place among the scored stages, maps) of each random network."""
    model, cascade, numbers = plan.question.model, plan.question.cascade, plan.stages.numbers
    for repeat in range(cascade.repeats):
        tapes = randomized_tapes(model, tape, cascade, repeat, numbers)
        for place, (_, randomized) in enumerate(tapes):
            yield repeat, place, _maps(plan, randomized, target)[0]


def _maps(plan: Plan, tape: Tape, target: Target) -> Made:
    question, made = plan.question, Made({}, {}, {})
    for method in plan.methods:
        smooth = question.kind == "smooth" and method.single_pass
        used = smoothgrad(method, n=SMOOTH_DRAWS) if smooth else method
        found = tape.explain_leaves(used, target, seed=question.cascade.seed)
        made.maps[method.name] = as_one(tape.x, found.maps)
        if found.error is not None:
            made.errors[method.name] = found.error
        if found.multipliers is not None:
            made.multipliers[method.name] = as_one(tape.x, found.multipliers)
    return made


def _unscored(plan: Plan, count: int) -> dict[str, Numbers]:
    """NaN (method, stage, repeat, sample) for each score."""
    sizes = len(plan.names), len(plan.stages.names), plan.question.cascade.repeats, count
    return {name: np.full(sizes, np.nan) for name in plan.question.scores}


def _score(
    scores: Scores,
    kept: Prepared,
    maps: Tensor,
    into: Mapping[str, Numbers],
    at: tuple[int | slice, ...],
) -> None:
    """Write what maps score against what is kept of others."""
    for name, values in scored(scores, kept, maps).items():
        into[name][at] = values


def _score_controls(plan: Plan, x: Tensor, first: int, into: Mapping[str, Numbers]) -> None:
    """Scores that no stage changes, once for all stages; x in the form of its maps."""
    scores, cascade = plan.question.scores, plan.question.cascade
    for name, maps in controls.unchanging(x).items():
        _score(scores, prepared(scores, maps), maps, into, (plan.names.index(name),))
    row = plan.names.index(RANDOM_MAP)
    fixed = prepared(scores, controls.random_maps(x, cascade.seed, 0, first))
    for repeat in range(cascade.repeats):
        maps = controls.random_maps(x, cascade.seed, 1 + repeat, first)
        _score(scores, fixed, maps, into, (row, slice(None), repeat))


def _two_networks(plan: Plan, other: Maps, maps: Maps) -> Numbers:
    """The maps of a random network against those of another one, which the first one lacks."""
    scores, count = plan.question.scores, len(next(iter(maps.values())))
    kept = {name: prepared(scores, own) for name, own in other.items()}
    return of_pairs(plan.names, scores, kept, maps if other else {}, count)


def _other_inputs(
    plan: Plan, held: Mapping[str, Prepared], trained: Maps, before: Ends | None
) -> Numbers:
    """Each trained map against that of the sample before it, which the first one lacks."""
    others = of_sample_before(trained, before and before.last)
    count = len(next(iter(trained.values())))
    return _without_first(of_pairs(plan.names, plan.question.scores, held, others, count), before)


def _other_multipliers(
    plan: Plan, held: Mapping[str, Prepared], x: Tensor, ms: Maps, before: Ends | None
) -> Numbers:
    """Each trained map x * m against the same x times the m of the sample before it."""
    others = of_sample_before(ms, before and before.multipliers)
    maps = {name: _of_its_sign(x * ms[name], x * m) for name, m in others.items()}
    return _without_first(of_pairs(plan.names, plan.question.scores, held, maps, len(x)), before)


def _of_its_sign(own: Tensor, mixed: Tensor) -> Tensor:
    """The magnitudes of mixed maps where the own map of a sample has one sign, with that sign.

    A method whose maps have one sign gives m the sign of x; another input's m has the signs of
    another x, and x times it would be alike to nothing, for that reason alone.
    """
    flat = trees.rows(own)
    one = (flat.amin(1) >= 0) | (flat.amax(1) <= 0)
    return torch.where(
        trees.columns(one, own), trees.columns(flat.sum(1).sign(), own) * mixed.abs(), mixed
    )


def _without_first(found: Numbers, before: Ends | None) -> Numbers:
    if before is None:
        found[..., 0] = np.nan
    return found


def _samples(trained: Maps, number: int) -> Maps:
    """The maps of one sample, counted from the end if negative, as a batch of one."""
    return {name: maps[number][None].clone() for name, maps in trained.items()}


def _errors(plan: Plan, name: str, errors: Mapping[str, Tensor], count: int) -> Numbers:
    found = np.full((len(plan.names), count), np.nan)
    for row, method in enumerate(plan.methods):
        if method.error == name and method.name in errors:
            found[row] = numbers(errors[method.name])
    return found


def _pictured(tape: Tape, maps: Maps, count: int) -> NDArray[np.float32]:
    """The maps of the first samples, (method, sample, ...)."""
    return np.stack([numbers(shown(tape.x, tape.leaves, m)[:count]) for m in maps.values()])
