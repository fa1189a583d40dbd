"""Maps of a network on its way to random weights, compared with the trained network's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salience._inputs import trees
from salience._inputs.targets import Target, resolve, rows_of
from salience._names import ERRORS, RANDOM_MAP
from salience._randomization import controls
from salience._randomization.cascade import randomized_tapes
from salience._randomization.plan import Plan
from salience._recording.run import checked_pass
from salience._scores.similarity import Similarity, similarities
from salience._tape.tape import Tape
from salience._tape.together import as_one, numbers, shown, some, values_of
from salience.rules._table import smoothgrad

SMOOTH_DRAWS = 10  # noisy copies that the maps of kind="smooth" are averaged over

Numbers = NDArray[np.float64]
Maps = dict[str, Tensor]  # by method: (B, ...) like x, or (B, n) of several inputs
Prepared = dict[Callable[[Tensor], Tensor], Tensor]  # what scores keep of maps


@dataclass(frozen=True)
class Ends:
    """Maps of the trained network that the next samples are held against.

    first  of the first sample of all
    last   of the last sample so far
    """

    first: Maps
    last: Maps


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

    scores          score -> (method, stage, repeat, sample)
    between_random  (method, repeat, sample) the last stages of two repeats
    other_inputs    (method, sample) the trained network's maps of two inputs
    errors          name -> (method, sample) of the trained network's maps
    spread          method -> largest difference from the first map, relative to it
    """

    scores: Mapping[str, Numbers]
    between_random: Numbers
    other_inputs: Numbers
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
    (trained, errors), count = _maps(plan, tape, target), trees.samples_of(here)
    scores = {name: _undefined(plan, count, stages=True) for name in question.scores}
    if plan.controls:
        _score_controls(plan, values_of(here, tape.leaves), rows.start, scores)
    kept = max(0, min(question.keep_maps - rows.start, count))
    pictures = [_pictured(tape, trained, kept)] if kept else []
    prepared = {name: _prepared(question.scores, maps) for name, maps in trained.items()}
    between, ranks = _undefined(plan, count), dict[str, Tensor]()
    for repeat, place, maps in _randomized(plan, tape, target):
        for row, (name, changed) in enumerate(maps.items()):
            _score(question.scores, prepared[name], changed, scores, (row, place, repeat))
        if repeat == 0 and kept:
            pictures.append(_pictured(tape, maps, kept))
        if place == len(plan.stages.names) - 1:
            ranks = _compare_networks(ranks, maps, between[:, repeat])
        done(count)
    ends = Ends(before.ends.first if before else _samples(trained, 0), _samples(trained, -1))
    return Batch(
        scores=scores,
        between_random=between,
        other_inputs=_other_inputs(plan, trained, before and before.ends.last),
        errors={name: _errors(plan, name, errors, count) for name in ERRORS},
        spread=_spread(trained, ends.first),
        ends=ends,
        pictures=Pictures(numbers(here[:kept]), np.stack(pictures, 1)) if kept else None,
    )


def _randomized(plan: Plan, tape: Tape, target: Target) -> Iterator[tuple[int, int, Maps]]:
    """(repeat, place among the scored stages, maps) of each random network."""
    model, cascade, numbers = plan.question.model, plan.question.cascade, plan.stages.numbers
    for repeat in range(cascade.repeats):
        tapes = randomized_tapes(model, tape, cascade, repeat, numbers)
        for place, (_, randomized) in enumerate(tapes):
            yield repeat, place, _maps(plan, randomized, target)[0]


def _maps(plan: Plan, tape: Tape, target: Target) -> tuple[Maps, dict[str, Tensor]]:
    """The maps of every method, and the errors of those that have one."""
    question, maps, errors = plan.question, dict[str, Tensor](), dict[str, Tensor]()
    for method in plan.methods:
        smooth = question.kind == "smooth" and method.single_pass
        used = smoothgrad(method, n=SMOOTH_DRAWS) if smooth else method
        made = tape.explain_leaves(used, target, seed=question.cascade.seed)
        maps[method.name] = as_one(tape.x, made.maps)
        if made.error is not None:
            errors[method.name] = made.error
    return maps, errors


def _undefined(plan: Plan, count: int, stages: bool = False) -> Numbers:
    """NaN for (method, repeat, sample), or (method, stage, repeat, sample)."""
    between = [len(plan.stages.names)] if stages else []
    repeats = plan.question.cascade.repeats
    return np.full((len(plan.names), *between, repeats, count), np.nan)


def _prepared(scores: Mapping[str, Similarity], maps: Tensor) -> Prepared:
    prepares = {similarity.prepare for similarity in scores.values()}
    return {prepare: prepare(maps) for prepare in prepares}


def _score(
    scores: Mapping[str, Similarity],
    kept: Prepared,
    maps: Tensor,
    into: Mapping[str, Numbers],
    at: tuple[int | slice, ...],
) -> None:
    """Write what maps score against what is kept of others."""
    prepared = _prepared(scores, maps)
    for name, similarity in scores.items():
        value = similarity.compare(kept[similarity.prepare], prepared[similarity.prepare])
        into[name][at] = value.cpu().numpy()


def _score_controls(plan: Plan, x: Tensor, first: int, into: Mapping[str, Numbers]) -> None:
    """Scores that no stage changes, once for all stages; x in the form of its maps."""
    scores, cascade = plan.question.scores, plan.question.cascade
    for name, maps in controls.unchanging(x).items():
        _score(scores, _prepared(scores, maps), maps, into, (plan.names.index(name),))
    row = plan.names.index(RANDOM_MAP)
    fixed = _prepared(scores, controls.random_maps(x, cascade.seed, 0, first))
    for repeat in range(cascade.repeats):
        maps = controls.random_maps(x, cascade.seed, 1 + repeat, first)
        _score(scores, fixed, maps, into, (row, slice(None), repeat))


def _compare_networks(before: Maps, maps: Maps, into: Numbers) -> Maps:
    """The last maps of a repeat against those of the repeat before; their ranks."""
    ranked = {name: similarities["spearman"].prepare(m) for name, m in maps.items()}
    for row, name in enumerate(before):
        score = similarities["spearman_abs"].compare(before[name], ranked[name])
        into[row] = score.cpu().numpy()
    return ranked


def _other_inputs(plan: Plan, trained: Maps, last: Maps | None) -> Numbers:
    """Each trained map against that of the sample before it, which the first one lacks."""
    found = _undefined(plan, len(next(iter(trained.values()))))[:, 0]
    for row, (name, maps) in enumerate(trained.items()):
        before = torch.cat([maps[:1] if last is None else last[name], maps[:-1]])
        found[row] = similarities["spearman_abs"](before, maps).cpu().numpy()
        if last is None:
            found[row, 0] = np.nan
    return found


def _spread(trained: Maps, first: Maps) -> dict[str, float]:
    spread: dict[str, float] = {}
    for name, maps in trained.items():
        scale = first[name].abs().max().clamp(min=torch.finfo(maps.dtype).tiny)
        spread[name] = float((maps - first[name]).abs().max() / scale)
    return spread


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
