"""What a test has of each method, as numbers: words come after them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from salience._names import MULTIPLIERS, OTHERS, RANDOM_MAP, RISE
from salience._scores.interval import interval
from salience._scores.similarity import bounds_of
from salience._study.study import Array, Study
from salience._study.verdicts import NOTHING, Mean

COUNTING = (RANDOM_MAP, OTHERS, MULTIPLIERS)  # floors of a similarity


class Trial(NamedTuple):
    """What was tested.

    score       that is looked at
    randomized  "all 3 stages random (from c to a)"; "" where no network is random as a whole
    total       stages of the cascade
    repeats     random networks
    chosen      which scored stages the retention is the mean over
    draws       resamples and seed of the bootstrap
    """

    study: Study
    score: str
    randomized: str
    total: int
    repeats: int
    chosen: Array
    draws: Mapping[str, int]


class Evidence(NamedTuple):
    """What a test has of a method or a control.

    constant   whether its maps are the same for all inputs
    value      what the verdict is about
    floors     name -> what the same score is for maps that share less
    floor      the name of the largest that counts; "" without one
    share      (value - floor) / (1 - floor), paired: how much is left of what chance does not give
    retention  mean over the chosen stages
    half       how many stages are random when less than half is left; None: never, or before
               the first stage that is scored
    last       score -> mean at the last stage
    undefined  how many of the scores have no number
    """

    name: str
    role: str
    constant: bool
    value: Mean
    floors: Mapping[str, Mean]
    floor: str
    share: Mean
    retention: float
    half: int | None
    last: Mapping[str, float]
    undefined: int


def evidence_of(test: Trial, criterion: str) -> Iterator[Evidence]:
    """Of each method, then of each control; criterion: "full", "retention" or "rise"."""
    study, score = test.study, test.score
    tables = {name: study.values(name) for name in study.scores}
    floors = study.floors(score)
    for row, (name, role) in enumerate(study.roles.items()):
        values = tables[score][row]  # (stage, repeat, sample)
        counted = values[test.chosen] if criterion == "retention" else values[-1:]
        if criterion == "full" and not test.randomized:
            counted = np.full_like(counted, np.nan)
        own = {kind: held[row] for kind, held in floors.items()} if role == "method" else {}
        own = {kind: held for kind, held in own.items() if not np.isnan(held).all()}
        floor = _largest(own)
        base = own[floor] if floor else np.zeros((1, 1))
        share = _of_networks(test, share_of(counted, base, **test.draws))
        yield Evidence(
            name=name,
            role=role,
            constant=study.constant[row],
            value=_of_networks(test, _seen(test, counted, bounds_of(score))),
            floors={kind: _seen(test, held, bounds_of(score)) for kind, held in own.items()},
            floor=floor,
            share=share if role == "method" else NOTHING,
            retention=_mean(values[test.chosen]),
            half=_half(test, values, _mean(base)) if role == "method" else None,
            last={kind: _mean(held[row, -1]) for kind, held in tables.items()},
            undefined=int(np.isnan(counted).sum()),
        )


def floors_of(study: Study, score: str) -> dict[str, tuple[str, float]]:
    """The floor that counts of each method, by its name and mean; without those that have none."""
    floors, found = study.floors(score), dict[str, tuple[str, float]]()
    for row, (name, role) in enumerate(study.roles.items()):
        own = {kind: held[row] for kind, held in floors.items() if not np.isnan(held[row]).all()}
        if role == "method" and (floor := _largest(own)):
            found[name] = floor, _mean(own[floor])
    return found


def _largest(floors: Mapping[str, Array]) -> str:
    """The name of the largest floor that counts; "" without one."""
    counting = [name for name in COUNTING if name in floors]
    return max(counting, key=lambda name: _mean(floors[name]), default="")


def _seen(test: Trial, values: Array, bounds: tuple[float, float]) -> Mean:
    return Mean(_mean(values), *interval(values, bounds=bounds, **test.draws))


def _of_networks(test: Trial, seen: Mean) -> Mean:
    """One random network says nothing about others: no interval."""
    return seen if test.repeats > 1 else Mean(seen.mean, *NOTHING[1:])


def share_of(values: Array, floor: Array, **draws: int) -> Mean:
    """(value - floor) / (1 - floor) of scores (..., repeat, sample), each beside its own floor.

    floor  (repeat, sample) or (1, sample); a sample that has none is left out
    draws  resamples and seed of the bootstrap
    """
    base = _mean(floor)
    if base >= 1 - 1e-9:
        return NOTHING
    left = (values - floor) / (1 - base)
    return Mean(_mean(left), *interval(left, bounds=(-math.inf, 1.0), **draws))


def _half(test: Trial, values: Array, floor: float) -> int | None:
    """How many stages are random when a score is less than half way from its floor to 1."""
    if test.score == RISE or not test.randomized:
        return None
    numbers = test.study.data["number"].values
    means = [_mean(stage) for stage in values]
    lost = [number for number, mean in zip(numbers, means, strict=True) if mean < (1 + floor) / 2]
    unknown = bool(lost) and lost[0] == numbers[0] > 0  # it may have been lost before
    return int(lost[0]) + 1 if lost and not unknown else None


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def randomized_in(study: Study) -> str:
    """Which stages are random at the end of the cascade; "" where some are not."""
    numbers, total = study.data["number"].values, int(study.data.attrs["stage_count"])
    if study.order == "independent" or int(numbers[-1]) != total - 1:
        return ""
    named = study.stages or [f"stage {number + 1}" for number in numbers]
    stages = [name.removesuffix(".weight") for name in named]
    if total == 1:
        return f"its one stage random ({stages[0]})"
    begin = f"from {stages[0]} to" if numbers[0] == 0 else "the last one"
    return f"all {total} stages random ({begin} {stages[-1]})"
