"""What a randomisation test concludes about each method, with its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from salience._errors import expected, unknown
from salience._inputs.validation import whole_number
from salience._names import POSITIVE_METHOD, RANDOM_MAP, RISE
from salience._scores.interval import interval
from salience._scores.similarity import bounds_of
from salience._study.sentences import (
    CONSTANT,
    INSENSITIVE,
    PARTIAL,
    SENSITIVE,
    UNDEFINED,
    UNINFORMATIVE,
    of_control,
    of_method,
    of_rise,
)
from salience._study.study import Array, Study, no_test, study_of
from salience._study.verdicts import STAGES, THRESHOLDS, Verdict, Verdicts

if TYPE_CHECKING:
    import xarray

_NEEDED = ("method", "role", "constant_over_inputs", "number", "stage_count")


class Row(NamedTuple):
    """What a test has of a method or a control.

    constant  whether its maps are the same for all inputs
    scores    name -> values (stage, repeat, sample)
    """

    name: str
    role: str
    constant: bool
    scores: Mapping[str, Array]


class Evidence(NamedTuple):
    """A mean over stages, repeats and samples, its interval, and how many scores have none."""

    mean: float
    low: float
    high: float
    undefined: int


def verdicts(
    study: Study | xarray.Dataset,
    *,
    score: str | None = None,
    stages: str = "second_half",
    sensitive: float = THRESHOLDS[0],
    insensitive: float = THRESHOLDS[1],
    resamples: int = 2000,
    seed: int = 0,
) -> Verdicts:
    """The verdict about every method of a randomisation test.

    Retention is the mean of the score over the stages ("second_half" of the cascade, "all" or
    "last"), samples and repeats. A method is `sensitive` if the 95% bootstrap interval of its
    retention lies below `sensitive`, `insensitive` if it lies above `insensitive`, else `partial`.
    Maps that are the same for all inputs are `constant over inputs`. Where the plain gradient's
    own retention is not below `sensitive`, the test is `uninformative` about all methods.
    For kind="efficient" the rise of complexity stands in the place of retention: `sensitive` if its
    interval lies above 0, `insensitive` if it lies below.

    study  from `randomization_test`, or its dataset
    score  the attribute `score` of the dataset, where it has one; else "spearman_abs", unless the
           test was of the kind "efficient"; the interval of a score that has bounds stays inside

    Errors: SalienceError for what is no such study, a score that it lacks, and an unknown choice
    of stages.

    Known limits: top-down cascades keep the scale of activations, and an uninformative map scores
    well (Binder 2023); hold the verdict beside a test of faithfulness.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> study = salience.randomization_test(
    ...     net.eval(), torch.randn(3, 6), "gradient", progress=False,
    ...     cascade=salience.Cascade(repeats=2))
    >>> list(salience.verdicts(study))
    ['gradient', 'input', 'random_map']
    """
    study = study_of(study)
    score = _judged_by(study, score)
    limits = _limits(sensitive, insensitive)
    whole_number("resamples", resamples, 1, "The default is 2000.")
    whole_number("seed", seed, 0, "The default is 0.")
    rows = list(_rows(study))
    chosen, evidence = _chosen(study, stages), {}
    for row in rows:
        values = row.scores[score][chosen]
        ends = interval(values, bounds=bounds_of(score), resamples=resamples, seed=seed)
        evidence[row.name] = Evidence(_mean(values), *ends, int(np.isnan(values).sum()))
    kept = {name: found.mean for name, found in evidence.items()}
    doubt = "" if score == RISE else why_uninformative(kept, limits[0])
    found = {row.name: _verdict(row, score, evidence[row.name], doubt, limits) for row in rows}
    return Verdicts(found, score, stages, limits, study.samples, study.repeats)


def _rows(study: Study) -> Iterator[Row]:
    tables = {name: study.values(name) for name in study.scores}
    named = zip(study.roles.items(), study.constant, strict=True)
    for place, ((name, role), constant) in enumerate(named):
        scores = {score: held[place] for score, held in tables.items()}
        yield Row(name, role, constant, scores)


def _judged_by(study: Study, score: str | None) -> str:
    """The score that verdicts are about."""
    if not (scores := study.scores):
        raise no_test(study.data)
    held = {*study.data.variables, *study.data.attrs}
    if lost := [name for name in _NEEDED if name not in held]:
        raise expected(
            f"the dataset of a randomisation test, with {', '.join(_NEEDED)}",
            f"one without {', '.join(lost)}",
            "Select from the whole dataset; arithmetic drops what xarray was not told to keep.",
        )
    if score is None and study.score not in scores:
        raise expected(
            f"a test with {study.score!r}, which verdicts are about by default",
            f"one with {', '.join(scores)}",
            f"Name a score: score={scores[0]!r}.",
        )
    if score is not None and score not in scores:
        raise unknown("score of this dataset", score, scores)
    return score or study.score


def _chosen(study: Study, stages: str) -> Array:
    """Which scored stages count: from the middle of the whole cascade, which they are of."""
    numbers, total = study.data["number"].values, int(study.data.attrs["stage_count"])
    first = {"second_half": min(total // 2, numbers[-1]), "all": 0, "last": numbers[-1]}
    if stages not in STAGES:
        raise unknown("choice of stages", stages, STAGES)
    return numbers >= first[stages]


def _limits(sensitive: float, insensitive: float) -> tuple[float, float]:
    numbers = isinstance(sensitive, Real) and isinstance(insensitive, Real)
    if not numbers or not 0 <= sensitive <= insensitive <= 1:
        cure = f"The defaults are {THRESHOLDS[0]} and {THRESHOLDS[1]}."
        raise expected(
            "0 <= sensitive <= insensitive <= 1", f"{sensitive!r}, {insensitive!r}", cure
        )
    return sensitive, insensitive


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def why_uninformative(kept: Mapping[str, float], sensitive: float) -> str:
    """What keeps a test from telling methods apart, as a clause; empty if nothing does.

    Random maps come first: where they are similar by chance (they are on tiny inputs), so are the
    plain gradient's, through no fault of theirs.

    kept  the retention of each method and control
    """
    for name, maps, alike in (
        (RANDOM_MAP, "random maps", "are similar by chance, as maps of few entries are"),
        (POSITIVE_METHOD, "the plain gradient's maps", "stay similar"),
    ):
        retention = kept.get(name, 0.0)
        if math.isnan(retention):
            return f"the similarity of {maps} is undefined"
        if retention >= sensitive:
            return f"even {maps} {alike} ({retention:.2f}, not below {sensitive:g})"
    return ""


def _verdict(
    row: Row, score: str, evidence: Evidence, doubt: str, thresholds: tuple[float, float]
) -> Verdict:
    retention, low, high, undefined = evidence
    name, role, constant, scores = row
    verdict = judge_rise(low, high) if score == RISE else judge(low, high, thresholds)
    if constant:
        verdict = CONSTANT
    elif role == "method" and doubt and verdict != UNDEFINED:
        verdict = UNINFORMATIVE
    last = {held: _mean(values[-1]) for held, values in scores.items()}
    ends = (low, high)
    if role != "method":
        sentence = of_control(name, role, retention, ends, rises=score == RISE)
    elif score == RISE:
        sentence = of_rise(name, verdict, retention, ends)
    else:
        sentence = of_method(name, verdict, retention, ends, thresholds, doubt)
    return Verdict(name, role, verdict, retention, low, high, last, undefined, sentence)


def judge(low: float, high: float, thresholds: Sequence[float]) -> str:
    """The verdict that an interval of the retention stands for."""
    if np.isnan(low):
        return UNDEFINED
    if high < thresholds[0]:
        return SENSITIVE
    return INSENSITIVE if low > thresholds[1] else PARTIAL


def judge_rise(low: float, high: float) -> str:
    """The verdict that an interval of the rise of complexity stands for."""
    if np.isnan(low):
        return UNDEFINED
    if low > 0:
        return SENSITIVE
    return INSENSITIVE if high < 0 else PARTIAL
