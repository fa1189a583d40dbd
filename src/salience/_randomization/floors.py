"""What scores are for maps that share less than a method's maps of one input and two networks do.

A similarity of 0.3 says nothing by itself: smooth maps are that alike by chance, and so are maps
that have the input as a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salience._scores.similarity import Similarity

Numbers = NDArray[np.float64]
Maps = dict[str, Tensor]  # by method: (B, ...) like x, or (B, n) of several inputs
Prepared = dict[Callable[[Tensor], Tensor], Tensor]  # what scores keep of maps
Scores = Mapping[str, Similarity]


def prepared(scores: Scores, maps: Tensor) -> Prepared:
    """What the scores keep of maps."""
    return {prepare: prepare(maps) for prepare in {score.prepare for score in scores.values()}}


def scored(scores: Scores, kept: Prepared, maps: Tensor) -> dict[str, Numbers]:
    """The scores (sample,) of maps against what is kept of others."""
    own = prepared(scores, maps)
    return {
        name: score.compare(kept[score.prepare], own[score.prepare]).cpu().numpy()
        for name, score in scores.items()
    }


def undefined(names: Sequence[str], scores: Scores, *sizes: int) -> Numbers:
    """NaN (method, score, ...)."""
    return np.full((len(names), len(scores), *sizes), np.nan)


def of_pairs(
    names: Sequence[str], scores: Scores, kept: Mapping[str, Prepared], maps: Maps, count: int
) -> Numbers:
    """Scores (method, score, sample) of each method's maps against what is kept of other ones.

    names  of the rows; NaN where there are no maps
    count  of samples
    """
    found = undefined(names, scores, count)
    for name, own in maps.items():
        found[names.index(name)] = list(scored(scores, kept[name], own).values())
    return found


def of_sample_before(maps: Maps, last: Maps | None) -> Maps:
    """For each sample what the one before it has; `last` has that of the sample before these."""
    return {
        name: torch.cat([own[:1] if last is None else last[name], own[:-1]])
        for name, own in maps.items()
        if last is None or name in last
    }
