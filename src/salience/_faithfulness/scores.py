"""How well a map tells what removing parts does: one number per sample, on the tensors' device."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from salience._scores.similarity import similarities

SIGNS = ("signed", "absolute")
CORRELATIONS = ("pearson", "spearman")


class Score(NamedTuple):
    """A score of faithfulness.

    of       "deletion": single windows; "subsets": random sets of cells; "curves": cells removed
             in the order of the map
    sign     "signed": a map's sums; "absolute": the sums of its absolute values, beside the
             absolute effects
    how      a correlation over windows or sets; or "most" or "least" relevant first, the mean of
             the target along a curve; or "difference", least less most
    better   1 where more is better, -1 where less is
    summary  in a line
    """

    of: str
    sign: str
    how: str
    better: int
    summary: str


def _correlations(of: str, what: str) -> dict[str, Score]:
    return {
        f"{of}_{sign}_{how}": Score(
            of,
            sign,
            how,
            1,
            f"{how.capitalize()} correlation of {what} and {sign} sums of the map",
        )
        for sign in SIGNS
        for how in CORRELATIONS
    }


SCORES: dict[str, Score] = {
    **_correlations("deletion", "the effects of removing single windows"),
    **_correlations("subsets", "the effects of removing random sets of cells"),
    "srg": Score("curves", "signed", "difference", 1, "least relevant first - most relevant first"),
    "most_first": Score("curves", "signed", "most", -1, "mean target, most relevant first"),
    "least_first": Score("curves", "signed", "least", 1, "mean target, least relevant first"),
    "srg_absolute": Score("curves", "absolute", "difference", 1, "the same in the order of |map|"),
}  # fmt: skip


def correlation(how: str, effects: Tensor, sums: Tensor) -> Tensor:
    """Per sample, of effects (B, K) and what maps say (..., B, K): (..., B) float64.

    NaN where either is the same everywhere.
    """
    score = similarities[how]
    told = score.prepare(sums.flatten(0, -2)).view(sums.shape)
    return (told * score.prepare(effects)).sum(-1).clamp(-1.0, 1.0)
