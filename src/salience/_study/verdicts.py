"""What a randomisation test concludes about each method, with its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

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
from salience._tables import html_table, text_table

if TYPE_CHECKING:
    import xarray

THRESHOLDS = (0.2, 0.4)  # of the retention: sensitive below, insensitive above
SCORE = "spearman_abs"  # that verdicts are about, where none is named
_NEEDED = ("method", "role", "constant_over_inputs", "number", "stage_count")
Array = np.ndarray[Any, Any]
Evidence = tuple[float, float, float, int]  # retention, low, high, undefined


@dataclass(frozen=True)
class Verdict:
    """A method's verdict: how much of its maps is left when the network has forgotten everything.

    retention   mean similarity over the chosen stages, samples and repeats
    low, high   its 95% bootstrap interval
    last        mean of every score at the last stage
    undefined   how many of the retention's scores were undefined (NaN) and left out
    """

    method: str
    role: str
    verdict: str
    retention: float
    low: float
    high: float
    last: dict[str, float]
    undefined: int
    sentence: str


class Verdicts(dict[str, Verdict]):
    """Verdicts by method, printed as a table; `score` is what they are about."""

    def __init__(self, found: Iterable[tuple[str, Verdict]] = (), score: str = SCORE) -> None:
        super().__init__(found)
        self.score = score

    def __str__(self) -> str:
        return text_table(self._head(), self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._head(), self._rows())

    def _head(self) -> Sequence[str]:
        kept = "rise" if self.score == RISE else "retention"
        return ("method", kept, "95% interval", "last", "verdict")

    def _rows(self) -> list[list[str]]:
        return [
            [
                name,
                f"{v.retention:.2f}",
                f"[{v.low:.2f}, {v.high:.2f}]",
                f"{v.last.get(self.score, math.nan):.2f}",
                v.verdict if v.role == "method" else v.role,
            ]
            for name, v in self.items()
        ]


def verdicts(
    dataset: xarray.Dataset,
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

    dataset  from `randomization_test`
    score    "spearman_abs" unless the test was of the kind "efficient"; the interval of a score
             that has bounds stays inside them

    Errors: SalienceError for what is no such dataset, a score that it lacks, and an unknown choice
    of stages.

    Known limits: top-down cascades keep the scale of activations, and an uninformative map scores
    well (Binder 2023); hold the verdict beside a test of faithfulness.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> data = salience.randomization_test(
    ...     net.eval(), torch.randn(3, 6), "gradient", cascade=salience.Cascade(repeats=2),
    ...     progress=False)
    >>> list(salience.verdicts(data))
    ['gradient', 'input', 'random_map']
    """
    score = _score(dataset, score)
    numbers = isinstance(sensitive, Real) and isinstance(insensitive, Real)
    if not numbers or not 0 <= sensitive <= insensitive <= 1:
        cure = f"The defaults are {THRESHOLDS[0]} and {THRESHOLDS[1]}."
        raise expected(
            "0 <= sensitive <= insensitive <= 1", f"{sensitive!r}, {insensitive!r}", cure
        )
    whole_number("resamples", resamples, 1, "The default is 2000.")
    whole_number("seed", seed, 0, "The default is 0.")
    chosen = _stages(dataset, stages)
    evidence: dict[str, Evidence] = {}
    for name in map(str, dataset["method"].values):
        values = dataset[score].sel({"method": name}).values[chosen]  # (stage, repeat, sample)
        ends = interval(values, bounds=bounds_of(score), resamples=resamples, seed=seed)
        evidence[name] = (_mean(values), *ends, int(np.isnan(values).sum()))
    rises = score == RISE
    limits = (0.0, 0.0) if rises else (sensitive, insensitive)
    kept = {name: found[0] for name, found in evidence.items()}
    doubt = "" if rises else why_uninformative(kept, sensitive)
    found = ((n, _verdict(dataset, n, score, evidence[n], doubt, limits)) for n in evidence)
    return Verdicts(found, score)


def scores_of(dataset: xarray.Dataset) -> list[str]:
    """The scores of a randomisation test: what it has for each stage, repeat and sample."""
    dims = {"method", "stage", "repeat", "sample"}
    return [str(name) for name, held in dataset.data_vars.items() if set(held.dims) == dims]


def _score(dataset: xarray.Dataset, score: str | None) -> str:
    """The score that verdicts are about."""
    import xarray

    if not isinstance(dataset, xarray.Dataset) or not (measured := scores_of(dataset)):
        raise expected(
            "the dataset of a randomisation test", f"a {type(dataset).__name__} without one",
            "Maps alone have no verdict: give what salience.randomization_test(model, x) returns.",
        )  # fmt: skip
    held = {*dataset.variables, *dataset.attrs}
    if lost := [name for name in _NEEDED if name not in held]:
        raise expected(
            f"the dataset of a randomisation test, with {', '.join(_NEEDED)}",
            f"one without {', '.join(lost)}",
            "Select from the whole dataset; arithmetic drops what xarray was not told to keep.",
        )  # fmt: skip
    default = RISE if dataset.attrs.get("kind") == "efficient" else SCORE
    if score is None and default not in measured:
        raise expected(
            f"a test with {default!r}, which verdicts are about by default",
            f"one with {', '.join(measured)}", f"Name a score: score={measured[0]!r}.",
        )  # fmt: skip
    if score is not None and score not in measured:
        raise unknown("score of this dataset", score, measured)
    return score or default


def _stages(dataset: xarray.Dataset, stages: str) -> Array:
    """Which scored stages count: from the middle of the whole cascade, of which they are a part."""
    numbers, total = dataset["number"].values, int(dataset.attrs["stage_count"])
    first = {"second_half": min(total // 2, numbers[-1]), "all": 0, "last": numbers[-1]}
    if stages not in first:
        raise unknown("choice of stages", stages, first)
    return numbers >= first[stages]


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


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
    dataset: xarray.Dataset,
    name: str,
    score: str,
    evidence: Evidence,
    doubt: str,
    thresholds: tuple[float, float],
) -> Verdict:
    retention, low, high, undefined = evidence
    row = dataset.sel({"method": name})
    role = str(row["role"].item())
    verdict = judge_rise(low, high) if score == RISE else judge(low, high, thresholds)
    if bool(row["constant_over_inputs"].item()):
        verdict = CONSTANT
    elif role == "method" and doubt and verdict != UNDEFINED:
        verdict = UNINFORMATIVE
    last = {held: _mean(row[held].values[-1]) for held in scores_of(dataset)}
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
