"""What a randomisation test concludes about each method, with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from salience.controls import POSITIVE_METHOD, RANDOM_MAP
from salience.errors import expected, unknown
from salience.sanity import RISE
from salience.tables import html_table, text_table

if TYPE_CHECKING:
    import xarray

THRESHOLDS = (0.2, 0.4)  # of the retention: sensitive below, insensitive above
SENSITIVE, PARTIAL, INSENSITIVE = "sensitive", "partial", "insensitive"
CONSTANT, UNINFORMATIVE, UNDEFINED = "constant over inputs", "uninformative", "undefined"
Array = np.ndarray[Any, Any]


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
    """Verdicts by method, printed as a table."""

    _head = ("method", "retention", "95% interval", "last", "verdict")

    def __str__(self) -> str:
        return text_table(self._head, self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._head, self._rows())

    def _rows(self) -> list[list[str]]:
        return [
            [
                name,
                f"{v.retention:.2f}",
                f"[{v.low:.2f}, {v.high:.2f}]",
                f"{v.last.get('spearman_abs', np.nan):.2f}",
                v.verdict,
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
    score    "spearman_abs" unless the test was of the kind "efficient"

    Errors: SalienceError for an unknown score or choice of stages.

    Known limits: top-down cascades keep the scale of activations, and an uninformative map scores
    well (Binder 2023); hold the verdict beside a test of faithfulness.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> data = salience.randomization_test(
    ...     net.eval(), torch.randn(3, 6), "gradient", repeats=2, progress=False)
    >>> list(salience.verdicts(data))
    ['gradient', 'input', 'random_map']
    """
    rises = dataset.attrs.get("kind") == "efficient"
    score = score or (RISE if rises else "spearman_abs")
    if score not in (held := _scores(dataset)):
        raise unknown("score of this dataset", score, held)
    if not 0 <= sensitive <= insensitive <= 1:
        raise expected("0 <= sensitive <= insensitive <= 1", f"{sensitive} and {insensitive}", "")
    chosen = _stages(dataset, stages)
    evidence: dict[str, tuple[float, float, float, int]] = {}
    for name in map(str, dataset["method"].values):
        values = dataset[score].sel({"method": name}).values[chosen]  # (stage, repeat, sample)
        low, high = interval(values, resamples=resamples, seed=seed)
        if score == "spearman_abs":  # it has no values beyond these
            low, high = max(low, 0.0), min(high, 1.0)
        evidence[name] = (_mean(values), low, high, int(np.isnan(values).sum()))
    limits = (0.0, 0.0) if rises else (sensitive, insensitive)
    informative = rises or _informative(evidence, sensitive)
    return Verdicts(
        (name, _verdict(dataset, name, evidence[name], informative, limits)) for name in evidence
    )


def _scores(dataset: xarray.Dataset) -> list[str]:
    return [str(name) for name in dataset.data_vars if "stage" in dataset[name].dims]


def _stages(dataset: xarray.Dataset, stages: str) -> Array:
    """Which scored stages count: from the middle of the whole cascade, of which they are a part."""
    numbers, total = dataset["number"].values, int(dataset.attrs["stage_count"])
    first = {"second_half": min(total // 2, numbers[-1]), "all": 0, "last": numbers[-1]}
    if stages not in first:
        raise unknown("choice of stages", stages, first)
    return numbers >= first[stages]


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def interval(
    values: Array, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the mean of values (..., repeat, sample).

    Repeats and samples are resampled one at a time and their deviations added, since all samples
    share the random networks and all networks the samples (a crossed design; Owen 2007). Deviations
    of a factor with n levels are widened by sqrt(n / chi^2), chi^2 with n - 1 degrees of freedom:
    Student's interval for a normal factor, where percentiles of 5 repeats cover 80 to 90%. A factor
    with one level adds nothing: one repeat says nothing about others. NaN is left out.
    """
    table = values.reshape(-1, *values.shape[-2:])  # (stage, repeat, sample)
    weight = (~np.isnan(table)).sum(0).astype(float)  # (repeat, sample)
    total = np.nansum(table, 0)
    if not weight.any() or weight.size == 1:  # one number says nothing about its spread
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    centre = total.sum() / weight.sum()
    means = np.full(resamples, centre)
    for axis in (1, 0):
        sums, counts = total.sum(axis), weight.sum(axis)
        sums, counts = sums[counts > 0], counts[counts > 0]
        levels = len(sums)
        if levels > 1:
            draws = random.multinomial(levels, np.full(levels, 1 / levels), resamples)
            widened = np.sqrt(levels / random.chisquare(levels - 1, resamples))
            means += widened * ((draws @ sums) / (draws @ counts) - centre)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _informative(evidence: dict[str, tuple[float, float, float, int]], sensitive: float) -> bool:
    """Whether the gradient's maps change, and chance stays low (it does not on tiny inputs)."""
    controls = [evidence[name] for name in (POSITIVE_METHOD, RANDOM_MAP) if name in evidence]
    return all(control[0] < sensitive for control in controls)


def _verdict(
    dataset: xarray.Dataset,
    name: str,
    evidence: tuple[float, float, float, int],
    informative: bool,
    thresholds: tuple[float, float],
) -> Verdict:
    retention, low, high, undefined = evidence
    row = dataset.sel({"method": name})
    constant = bool(row["constant_over_inputs"].item())
    role = str(row["role"].item())
    rises = dataset.attrs.get("kind") == "efficient"
    verdict = judge_rise(low, high) if rises else judge(low, high, thresholds)
    if constant:
        verdict = CONSTANT
    elif role == "method" and not informative and verdict != UNDEFINED:
        verdict = UNINFORMATIVE
    last = {score: _mean(row[score].values[-1]) for score in _scores(dataset)}
    words = _sentence if not rises else _sentence_of_rise
    sentence = words(name, verdict, retention, (low, high), thresholds)
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


def _sentence_of_rise(
    name: str, verdict: str, rise: float, interval: tuple[float, float], _: Sequence[float]
) -> str:
    seen = f"complexity rises by {rise:+.0%} [{interval[0]:+.0%}, {interval[1]:+.0%}]"
    return f"{name}: {verdict} ({seen} when all weights are randomised)."


def _sentence(
    name: str,
    verdict: str,
    retention: float,
    interval: tuple[float, float],
    limits: Sequence[float],
) -> str:
    kept = f"retention {retention:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
    return {
        SENSITIVE: f"{name} depends on what the network learned: its maps change when the weights "
        f"are randomised ({kept}, all below {limits[0]:g}).",
        PARTIAL: f"{name} depends on the weights in part ({kept}, not clear of {limits[0]:g} and "
        f"{limits[1]:g}): compare its maps with a sensitive method's before you believe them.",
        INSENSITIVE: f"{name} hardly depends on what the network learned ({kept}, all above "
        f"{limits[1]:g}): a network with random weights gives nearly the same maps.",
        CONSTANT: f"{name} gives the same map for every input: it says nothing about the inputs.",
        UNINFORMATIVE: f"no verdict about {name} ({kept}): on this network and these inputs even "
        f"the plain gradient's maps, or random ones, stay similar; see the controls.",
        UNDEFINED: f"no verdict about {name}: its similarity is undefined at every stage.",
    }[verdict]
