"""Faithfulness of each map beside its controls, as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import expected, printable, unknown
from salience._names import ERRORS
from salience._scores.interval import interval
from salience._study.schema import FAITHFUL, UNTRAINED
from salience._study.verdicts import counted, number, span
from salience._tables import html_table, text_table

if TYPE_CHECKING:
    import pandas as pd
    import xarray

DEFAULT = ("occlusion_auc", "deletion_absolute_pearson", "subsets_absolute_pearson", "srg_absolute")
LEAST = ("most_first",)  # scores of which less is better
_HEAD = (
    "map",
    "score",
    "95% interval",
    "untrained",
    "gain",
    "95% interval",
    "p",
    "other target",
)

Array = np.ndarray


@dataclass(frozen=True)
class Faithful:
    """How well one map tells what removing parts does.

    score       its mean over samples, with the interval low, high
    untrained   the mean score of the method's maps on untrained networks; NaN for others
    gain        score - untrained, paired per sample, with its interval over samples and networks
    p           (1 + untrained networks that score as high) / (1 + networks)
    error       the largest error of its maps by their sum or draws; NaN where it has none
    other       mean |Spearman| of its map and that for another target
    undefined   samples without a score, which are left out
    """

    name: str
    role: str
    score: float
    low: float
    high: float
    untrained: float
    gain: float
    gain_low: float
    gain_high: float
    p: float
    error: float
    other: float
    undefined: int


@dataclass(frozen=True, eq=False, repr=False)
class Faithfulness(Mapping[str, Faithful]):
    """Faithfulness by name of map, shown as a table.

    score     what the numbers are: a name in `salience.faithfulness_scores`
    samples   inputs of the test
    networks  untrained networks
    told      how it was measured, in a line
    """

    found: Mapping[str, Faithful]
    score: str
    samples: int
    networks: int
    told: str

    def __getitem__(self, name: str) -> Faithful:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each map, a column for each number."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.values()]).set_index("name")

    def __repr__(self) -> str:
        return "\n".join([text_table(_HEAD, self._rows()), *self.caption()])

    def _repr_html_(self) -> str:
        return html_table(_HEAD, self._rows(), "; ".join(self.caption()))

    def _rows(self) -> list[list[str]]:
        return [
            [
                printable(name if f.role == "method" else f"{name} ({f.role})"),
                number(f.score),
                span(f.low, f.high),
                number(f.untrained),
                number(f.gain),
                span(f.gain_low, f.gain_high),
                number(f.p),
                number(f.other),
            ]
            for name, f in self.items()
        ]

    def caption(self) -> list[str]:
        """What the numbers of the table are."""
        counts = f"{counted(self.samples, 'input')}, {counted(self.networks, 'untrained network')}"
        lines = [f"score: {self.score} ({counts}); {self.told}"]
        if any(not math.isnan(f.other) for f in self.values()):
            lines.append(
                "other target: |Spearman| of the map and that for the largest other output"
            )
        return lines


def scores_of(data: xarray.Dataset) -> list[str]:
    """The scores of faithfulness that a dataset has."""
    names = [str(name) for name in data.data_vars if str(name).startswith(FAITHFUL)]
    return [name.removeprefix(FAITHFUL) for name in names]


def score_of(data: xarray.Dataset, score: str | None) -> str:
    """The score that is meant, by default the first of those that are best known to predict.

    Errors: SalienceError for a dataset without any, and for a score that it lacks.
    """
    if not (known := scores_of(data)):
        cure = "Give what salience.faithfulness(model, x) returns."
        raise expected("a study with a test of faithfulness", "one without", cure)
    if score is not None and score not in known:
        raise unknown("score of faithfulness in this study", score, known)
    return score or next((name for name in DEFAULT if name in known), known[0])


def values_of(data: xarray.Dataset, score: str) -> tuple[Array, Array]:
    """Scores (candidate, sample) and (candidate, network, sample), of which more is better."""
    held = data[FAITHFUL + score].transpose("candidate", "sample").values
    sign = -1.0 if score in LEAST else 1.0
    if UNTRAINED + score not in data:
        return sign * held, np.full((len(held), 0, held.shape[1]), np.nan)
    floor = data[UNTRAINED + score].transpose("candidate", "network", "sample").values
    return sign * held, sign * floor


def faithfulness_of(data: xarray.Dataset, score: str | None = None) -> Faithfulness:
    """The table of a score of a dataset."""
    score = score_of(data, score)
    trained, untrained = values_of(data, score)
    names = list(map(str, data["candidate"].values))
    roles = list(map(str, data["candidate_role"].values))
    found = {
        name: _row(data, name, role, score, trained[row], untrained[row])
        for row, (name, role) in enumerate(zip(names, roles, strict=True))
    }
    networks = untrained.shape[1]
    return Faithfulness(found, score, trained.shape[1], networks, _told(data))


def _row(
    data: xarray.Dataset, name: str, role: str, score: str, trained: Array, untrained: Array
) -> Faithful:
    least, most = bounds_of(score)
    low, high = interval(trained[None], bounds=(least, most))
    known = not np.isnan(untrained).all() if untrained.size else False
    differences = trained - untrained
    inside = (least - most, most - least)
    ends = interval(differences, bounds=inside) if known else (math.nan, math.nan)
    return Faithful(
        name=name,
        role=role,
        score=mean(trained),
        low=low,
        high=high,
        untrained=mean(untrained) if known else math.nan,
        gain=mean(differences) if known else math.nan,
        gain_low=ends[0],
        gain_high=ends[1],
        p=permutation_p(trained, untrained) if known else math.nan,
        error=_error(data, name),
        other=mean(data["other_target"].sel({"candidate": name}).values),
        undefined=int(np.isnan(trained).sum()),
    )


def bounds_of(score: str) -> tuple[float, float]:
    """The lowest and the highest score that there is."""
    if score.startswith("occlusion"):
        return 0.0, 1.0
    most = 1.0 if score.endswith(("pearson", "spearman")) else math.inf
    return -most, most


def permutation_p(trained: Array, untrained: Array) -> float:
    """(1 + #{untrained networks whose mean score reaches the trained one's}) / (1 + networks)."""
    means = [mean(network) for network in untrained]
    return (1 + sum(value >= mean(trained) for value in means)) / (1 + len(means))


def mean(values: Array) -> float:
    """The mean of what is defined."""
    return float(np.nanmean(values)) if values.size and not np.isnan(values).all() else math.nan


def _error(data: xarray.Dataset, name: str) -> float:
    for error in ERRORS:
        if f"candidate_{error}" not in data:
            continue
        values = data[f"candidate_{error}"].sel({"candidate": name}).values
        if not np.isnan(values).all():
            return float(np.nanmax(values))
    return math.nan


def _told(data: xarray.Dataset) -> str:
    """How it was measured."""
    attributes = data.attrs
    cell, window = (_sizes(attributes.get(name)) for name in ("cell", "window"))
    probability = ", effects on probabilities" if attributes.get("probability") else ""
    return (
        f"cells of {cell}, windows of {window}, replaced by {attributes.get('replacement')}"
        f"{probability}{_lost(data)}"
    )


def _lost(data: xarray.Dataset) -> str:
    """How much of what replacing everything takes away is gone with a random set of cells.

    Far more than the set's share says that the network is out of what it knows already.
    """
    if "subset_effect" not in data:
        return ""
    some = np.nanmean(np.abs(data["subset_effect"].values))
    every = mean(np.abs(data["target_value"].values - data["target_emptied"].values))
    if not every > 0 or not some > 0:
        return ""
    share = data.attrs.get("share", math.nan)
    return (
        f"; a random {share:.0%} of the cells changes the target by {some / every:.0%} of what "
        "all of them do"
    )


def _sizes(sizes: object) -> str:
    return " x ".join(str(size) for size in np.ravel(np.asarray(sizes)))
