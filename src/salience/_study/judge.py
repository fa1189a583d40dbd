"""What a randomisation test concludes about each method, with its evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import expected, unknown
from salience._inputs.validation import whole_number
from salience._names import OTHERS, POSITIVE_METHOD, RANDOM_MAP
from salience._study import sentences as words
from salience._study.evidence import Evidence, Trial, evidence_of, randomized_in
from salience._study.study import Array, Study, no_test, study_of
from salience._study.verdicts import (
    CRITERIA,
    CRITERION,
    FEWEST,
    HALF,
    NEAR_1,
    SMALL,
    STAGES,
    THRESHOLDS,
    Mean,
    Verdict,
    Verdicts,
)

if TYPE_CHECKING:
    import xarray

_NEEDED = ("method", "role", "constant_over_inputs", "number", "stage_count")


def verdicts(
    study: Study | xarray.Dataset,
    *,
    criterion: str = CRITERION,
    score: str | None = None,
    stages: str = "second_half",
    sensitive: float = THRESHOLDS[0],
    insensitive: float = THRESHOLDS[1],
    resamples: int = 2000,
    seed: int = 0,
) -> Verdicts:
    """How much of every method's maps is left when the network's weights are random.

    The score between the maps of the trained network and those of one all of whose stages are
    random (the last stage of a cascade) is held against its floor: the largest of what it is for
    random maps, for the trained network's maps of two inputs, and, where maps are x * m, for the
    same x times the m of another input. Of what lies between the floor and 1, a share is left:
    share = (score - floor) / (1 - floor). By the 95% interval of the share a method
    `changes completely` (it reaches below .05, and stays below .5), changes `in part` (above .05)
    or `hardly` (above .5); it is `undecided` if the interval reaches from below .05 to above .5.
    Maps that are the same for all inputs are `constant over inputs`; where the floor is above .9,
    the score is `uninformative`. What two random networks have in common is told beside it; it is
    no floor, since maps that no weight can change have it, too. One random network, or fewer than
    three inputs, which have no two floors, have no verdict. Controls have their role in its place.

    criterion="retention" is that of Zorrilla Matilla 2020, whether a strong correlation survives
    the cascade: the mean of the score over the stages ("second_half" of the cascade, "all" or
    "last") is `sensitive` if its interval lies below `sensitive`, `insensitive` if it lies above
    `insensitive`, else `partial`; where the plain gradient's own retention is not below
    `sensitive`, the test is `uninformative`.

    For kind="efficient" the complexity of maps `rises` or `does not rise` (Hedström 2024).

    study  from `randomization_test`, or its dataset
    score  the attribute `score` of the dataset, where it has one; else "spearman_abs", unless the
           test was of the kind "efficient"; the interval of a score that has bounds stays inside

    Errors: SalienceError for what is no such study, a score that it lacks, and an unknown choice
    of criterion and stages.

    Known limits: that a map changes says that it depends on the weights, not that it is right: a
    random map changes completely, too. Cascades keep the scale of activations (Binder 2023).

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
    if criterion not in CRITERIA:
        raise unknown("criterion", criterion, CRITERIA)
    criterion = "rise" if study.rises else criterion
    limits = _limits(sensitive, insensitive)
    whole_number("resamples", resamples, 1, "The default is 2000.")
    whole_number("seed", seed, 0, "The default is 0.")
    trial = Trial(
        study,
        score,
        randomized_in(study),
        int(study.data.attrs["stage_count"]),
        study.repeats,
        _chosen(study, stages),
        {"resamples": resamples, "seed": seed},
    )
    evidence = list(evidence_of(trial, criterion))
    kept = {found.name: found.value.mean for found in evidence}
    doubt = why_uninformative(kept, limits[0]) if criterion == "retention" else ""
    found = {one.name: _verdict(one, trial, criterion, doubt, limits) for one in evidence}
    return Verdicts(
        found,
        score,
        criterion,
        stages,
        limits,
        study.samples,
        study.repeats,
        trial.randomized,
        trial.total,
    )


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


def why_uninformative(kept: Mapping[str, float], sensitive: float) -> str:
    """What keeps the retention from telling methods apart, as a clause; empty if nothing does.

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
    found: Evidence, trial: Trial, criterion: str, doubt: str, limits: tuple[float, float]
) -> Verdict:
    if found.role != "method":
        verdict = found.role
        sentence = words.of_control(found, words.seen_of(found, criterion, trial))
    elif criterion == "full":
        verdict = words.CONSTANT if found.constant else judge(found, trial)
        sentence = words.of_full(found, verdict, trial)
    elif criterion == "rise":
        verdict = words.CONSTANT if found.constant else judge_rise(found.value)
        sentence = words.of_rise(found, verdict, trial)
    else:
        verdict = words.CONSTANT if found.constant else judge_retention(found.value, limits)
        if doubt and verdict not in (words.CONSTANT, words.UNDEFINED):
            verdict = words.UNINFORMATIVE
        sentence = words.of_retention(found, verdict, limits, doubt)
    return Verdict(
        method=found.name,
        role=found.role,
        verdict=verdict,
        value=found.value.mean,
        low=found.value.low,
        high=found.value.high,
        floor=found.floors[found.floor].mean if found.floor else math.nan,
        floors=dict(found.floors),
        share=found.share,
        half=found.half,
        retention=found.retention,
        last=dict(found.last),
        undefined=found.undefined,
        sentence=sentence,
    )


def judge(found: Evidence, trial: Trial) -> str:
    """The word for what is left of a method's maps once all stages are random."""
    few = trial.study.samples < FEWEST and OTHERS in trial.study.data
    if np.isnan(found.value.low) or few:
        return words.UNDEFINED
    if found.floor and found.floors[found.floor].mean > NEAR_1:
        if found.value.high >= found.floors[found.floor].mean:
            return words.UNINFORMATIVE
        return words.COMPLETELY
    return judge_share(found.share.low, found.share.high)


def judge_share(low: float, high: float) -> str:
    """The word that an interval of the share stands for that is left above the floor."""
    if low > HALF:
        return words.HARDLY
    if low > SMALL:
        return words.PART
    return words.COMPLETELY if high < HALF else words.UNDECIDED


def judge_retention(seen: Mean, thresholds: Sequence[float]) -> str:
    """The word that an interval of the retention stands for."""
    if np.isnan(seen.low):
        return words.UNDEFINED
    if seen.high < thresholds[0]:
        return words.SENSITIVE
    return words.INSENSITIVE if seen.low > thresholds[1] else words.PARTIAL


def judge_rise(seen: Mean) -> str:
    """The word that an interval of the rise of complexity stands for."""
    if np.isnan(seen.low):
        return words.UNDEFINED
    if seen.low > 0:
        return words.RISES
    return words.FALLS if seen.high < 0 else words.UNDECIDED
