"""Faithfulness, naively: does a map tell what deleting parts of the input does to the output?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ground_truth.localization import area_under_curve, mass, ranks
from ground_truth.question import (
    Question,
    absolute,
    effects,
    flat,
    heights,
    regions,
    replacements,
    signed,
    value,
)
from salience import similarities

STEPS = 8  # of a curve, from the whole input to none of it


def correlations(
    question: Question, maps: Mapping[str, Tensor], parts: str, replaced: str = "mean"
) -> dict[str, Tensor]:
    """Correlation over parts, per map and sample (maps, N), of what deletion does and the map's
    sums there.

    signed     the drop with the sum
    positive   the drop with the sum of what is positive
    absolute   the drop with the sum of magnitudes
    magnitude  the drop's magnitude with the sum of magnitudes
    """
    effect, within = effects(question, parts, replaced), regions(question, parts).T
    signs, sizes = signed(maps), absolute(maps)
    pairs = {
        "signed": (effect.drop, signs @ within),
        "positive": (effect.drop, signs.clamp(min=0) @ within),
        "absolute": (effect.drop, sizes @ within),
        "magnitude": (effect.magnitude, sizes @ within),
    }
    return {
        f"{variant} {name}": _each(name, change, sums)
        for variant, (change, sums) in pairs.items()
        for name in ("pearson", "spearman")
    }


def _each(name: str, change: Tensor, sums: Tensor) -> Tensor:
    """(maps, N) of changes (N, parts) and sums (maps, N, parts)."""
    wide = change.expand_as(sums).flatten(0, 1)
    return similarities[name](wide, sums.flatten(0, 1)).view(sums.shape[:2])


def places(
    question: Question, maps: Mapping[str, Tensor], parts: str, replaced: str = "mean"
) -> dict[str, Tensor]:
    """Localisation of what deletion finds, (maps, N): the truth's scores with h in its place, the
    mean drop of the parts over each position, or its mean magnitude.

    auc, mass            of |map| for the positions where h is over half of its highest
    soft auc, soft mass  without a threshold: the mean rank under h, the mean h under |map|
    """
    sizes, members = absolute(maps), regions(question, parts)
    found: dict[str, Tensor] = {}
    for kind, change in effects(question, parts, replaced)._asdict().items():
        height = heights(change, members).clamp(min=0)  # (N, positions)
        top = height.amax(1, keepdim=True)
        there = height > top / 2
        found |= {
            f"auc {kind}": area_under_curve(sizes, there),
            f"mass {kind}": mass(sizes, there),
            f"soft auc {kind}": (ranks(sizes) * height).sum(-1) / height.sum(-1) / sizes.shape[-1],
            f"soft mass {kind}": (sizes * height).sum(-1) / sizes.sum(-1) / top[:, 0],
        }
    return found


def curves(
    question: Question, maps: Mapping[str, Tensor], replaced: str = "mean"
) -> dict[str, Tensor]:
    """Areas of curves (maps, N), in units of the target's scale; larger is better.

    srg  least relevant first less most relevant first; lrf and mrf: either of them alone, against
         the whole input's output
    """
    found: dict[str, Tensor] = {}
    start = value(question.network, question.x, question.target)
    for variant, held in (("signed", signed(maps)), ("absolute", absolute(maps))):
        sums = held @ regions(question, "cells").T  # (maps, N, cells)
        least, most = (
            (_curve(question, order, replaced) - start[:, None]) / question.scale
            for order in (sums.argsort(-1), sums.argsort(-1, descending=True))
        )  # (maps, N, steps)
        found |= {
            f"srg {variant}": (least - most).mean(-1),
            f"lrf {variant}": least.mean(-1),
            f"mrf {variant}": -most.mean(-1),
        }
        if variant == "absolute":
            found["srg magnitude"] = (most.abs() - least.abs()).mean(-1)
    return found


def _curve(question: Question, order: Tensor, replaced: str) -> Tensor:
    """(maps, N, steps) the target while the cells go in an order (maps, N, cells)."""
    x, instead = flat(question.x), replacements(question, replaced)[0]
    cells = regions(question, "cells")
    place = order.argsort(-1)  # when each cell goes
    along = []
    for step in range(1, STEPS):
        gone = (place < step * cells.shape[0] / STEPS).double() @ cells > 0  # (maps, N, positions)
        mixed = torch.where(gone[:, :, None], instead, x)
        target = question.target.repeat(len(order))
        at = value(question.network, mixed.view(-1, *question.x.shape[1:]), target)
        along.append(at.view(order.shape[:2]))
    return torch.stack(along, -1)
