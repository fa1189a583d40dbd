"""How well a map tells what removing parts does: one number per sample, on the tensors' device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from salience._scores.ranks import ranks
from salience._scores.similarity import similarities

SIGNS = ("signed", "absolute")
CORRELATIONS = ("pearson", "spearman")
OVER = 0.5  # of the highest effect: positions above it are where occlusion says that the answer is


class Score(NamedTuple):
    """A score of faithfulness.

    of       "places": where single windows have an effect; "deletion": single windows; "subsets":
             random sets of cells; "curves": cells removed in the order of the map
    sign     "signed": a map's sums; "absolute": the sums of its absolute values, beside the
             absolute effects
    how      "auc" or "mass" of |map| at the places; a correlation over windows or sets; or "most"
             or "least" relevant first, the mean of the target along a curve; or "difference", least
             less most
    summary  in a line
    """

    of: str
    sign: str
    how: str
    summary: str


def _correlations(of: str, what: str) -> dict[str, Score]:
    return {
        f"{of}_{sign}_{how}": Score(
            of, sign, how, f"{how.capitalize()} correlation of {what} and {sign} sums of the map"
        )
        for sign in SIGNS
        for how in CORRELATIONS
    }


SCORES: dict[str, Score] = {
    "occlusion_auc": Score("places", "absolute", "auc", "AUC of |map| for where effects are high"),
    "occlusion_mass": Score("places", "absolute", "mass", "share of |map| that lies there"),
    **_correlations("deletion", "the effects of removing single windows"),
    **_correlations("subsets", "the effects of removing random sets of cells"),
    "srg": Score("curves", "signed", "difference", "least relevant first - most relevant first"),
    "most_first": Score("curves", "signed", "most", "mean target, most relevant first"),
    "least_first": Score("curves", "signed", "least", "mean target, least relevant first"),
    "srg_absolute": Score("curves", "absolute", "difference", "the same in the order of |map|"),
}  # fmt: skip


def of_windows(kinds: set[str]) -> bool:
    """Whether scores of these kinds need the effects of single windows."""
    return bool(kinds & {"places", "deletion"})


def at_places(sizes: Tensor, heights: Tensor) -> dict[str, Tensor]:
    """How |map| (B, P) lies where the effect over each position (B, P) is over half its highest.

    auc   the chance that a position there has a larger |map| than one elsewhere, ties a half
    mass  sum of |map| there / sum of |map|

    (B,) float64 each; NaN where nothing, or everything, is there.
    """
    top = heights.amax(1, keepdim=True)
    there = ((heights > OVER * top) & (top > 0)).double()
    inside = there.sum(1)
    outside = there.shape[1] - inside
    above = (ranks(sizes) * there).sum(1) - inside * (inside + 1) / 2
    none = torch.where((inside > 0) & (outside > 0), 0.0, torch.nan)
    return {
        "auc": above / (inside * outside) + none,
        "mass": (sizes * there).sum(1) / sizes.sum(1) + none,
    }


def correlation(how: str, effects: Tensor, sums: Tensor) -> Tensor:
    """Per sample, of effects (B, K) and what maps say (..., B, K): (..., B) float64.

    NaN where either is the same everywhere.
    """
    score = similarities[how]
    told = score.prepare(sums.flatten(0, -2)).view(sums.shape)
    return (told * score.prepare(effects)).sum(-1).clamp(-1.0, 1.0)
