"""Rank correlation of scores with the truth, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
RESAMPLES = 2000


class Result(NamedTuple):
    """What rules and tables read of a line: per map, numbers of all samples, NaN where none is.

    quality  score of localization -> map -> (samples,)
    scores   score -> map -> (samples,)
    """

    line: dict[str, Any]
    quality: dict[str, dict[str, Values]]
    scores: dict[str, dict[str, Values]]

    @property
    def methods(self) -> list[str]:
        return self.line["methods"]


def read(line: dict[str, Any]) -> Result:
    """A line of results with its numbers as arrays."""

    def arrays(tables: dict[str, Any]) -> dict[str, dict[str, Values]]:
        return {
            score: {name: np.array(row, dtype=float) for name, row in table.items()}
            for score, table in tables.items()
        }

    rest = {k: v for k, v in line.items() if k not in ("localization", "scores")}
    return Result(rest, arrays(line["localization"]), arrays(line["scores"]))


def mean(values: Values) -> float:
    """The mean of what is there; NaN where nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def kendall(a: Sequence[float] | Values, b: Sequence[float] | Values) -> float:
    """tau-b: pairs in the same order less pairs in the opposite one, over sqrt of the numbers of
    pairs that are not tied in a and in b; without what is NaN in either."""
    first, second = np.asarray(a, float), np.asarray(b, float)
    there = ~(np.isnan(first) | np.isnan(second))
    first, second = first[there], second[there]
    over = np.triu_indices(len(first), 1)
    one, two = (np.sign(v[:, None] - v[None])[over] for v in (first, second))
    pairs = np.sqrt((one != 0).sum() * (two != 0).sum())
    return float((one * two).sum() / pairs) if pairs else float("nan")


def over_networks(values: Sequence[float], networks: Sequence[str]) -> tuple[float, float, float]:
    """Mean over networks of the mean of each, with a bootstrap interval over networks (95%)."""
    table = np.array([
        mean(np.array([v for v, own in zip(values, networks, strict=True) if own == network]))
        for network in dict.fromkeys(networks)
    ])  # fmt: skip
    table = table[~np.isnan(table)]
    if not len(table):
        return float("nan"), float("nan"), float("nan")
    draws = np.random.default_rng(0).integers(len(table), size=(RESAMPLES, len(table)))
    low, high = np.quantile(table[draws].mean(1), [0.025, 0.975])
    return float(table.mean()), float(low), float(high)


def lower_bound(differences: Values) -> float:
    """Mean less two standard errors of differences (networks, samples) or (samples,).

    Networks and samples are crossed: the variance of the mean is that over networks of their means
    by their number, and the same of samples.
    """
    table = np.atleast_2d(differences)
    table = table[:, ~np.isnan(table).any(0)]
    if not table.size:
        return float("-inf")
    error = sum(
        table.mean(axis).var(ddof=1) / table.shape[1 - axis]
        for axis in (0, 1)
        if table.shape[1 - axis] > 1
    )
    return float(table.mean() - 2 * np.sqrt(error))
