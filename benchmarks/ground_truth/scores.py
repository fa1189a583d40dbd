"""Every score that is held against localisation. To add one, add its line to a table here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Generator, Tensor

from ground_truth import deletions
from ground_truth.candidates import explained, methods
from ground_truth.question import Question, absolute
from salience import Cascade, Removal, faithfulness, randomization_test, similarities

Numbers = dict[str, Tensor]  # variant -> (maps, N), larger is better

# scores of maps, whoever made them: (question, maps by name) -> numbers of each map and sample
OF_MAPS: dict[str, Callable[[Question, Mapping[str, Tensor]], Numbers]] = {
    "cells": partial(deletions.correlations, parts="cells"),
    "windows": partial(deletions.correlations, parts="windows"),
    "subsets 10%": partial(deletions.correlations, parts="subsets-0.1"),
    "subsets 25%": partial(deletions.correlations, parts="subsets-0.25"),
    "subsets 50%": partial(deletions.correlations, parts="subsets-0.5"),
    "places by cells": partial(deletions.places, parts="cells"),
    "places by windows": partial(deletions.places, parts="windows"),
    "curves": deletions.curves,
    "cells, others": partial(deletions.correlations, parts="cells", replaced="others"),
    "subsets 25%, others": partial(deletions.correlations, parts="subsets-0.25", replaced="others"),
    "places by windows, others": partial(deletions.places, parts="windows", replaced="others"),
    "curves, others": partial(deletions.curves, replaced="others"),
    "package": lambda question, maps: package(question, maps),
    "complexity": lambda question, maps: {"low": -entropy(absolute(maps))},
}


COSTLY = {"curves, others"}  # passes of their own for each map: not of every untrained network


def package(question: Question, maps: Mapping[str, Tensor]) -> Numbers:
    """What `salience.faithfulness` says of the same maps, with its own cells and windows."""
    given = {f"map {name}": held for name, held in maps.items()}  # no control's name
    study = faithfulness(
        question.network, question.x, given, question.target.tolist(),
        Removal(replacement=question.mean), cascade=None, progress=False,
    )  # fmt: skip
    rows = study.data.sel({"candidate": list(given)})
    begin = "faithful_"
    return {
        str(name).removeprefix(begin): torch.from_numpy(held.values)
        for name, held in rows.data_vars.items()
        if str(name).startswith(begin)
    }


def few(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without all untrained networks but the first."""
    return {name: held for name, held in maps.items() if not name.endswith(("@1", "@2"))}


def entropy(heights: Tensor) -> Tensor:
    """(maps, N) of each map's shares of its sum, in nats (Bhatt 2020)."""
    shares = heights / heights.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1)


def randomization(question: Question, generator: Generator) -> Numbers:
    """How much a method's maps change from the trained network to random ones.

    change       1 - retention: mean |Spearman| over the second half of the cascade
    full change  1 - |Spearman| at full randomisation
    """
    cascade = Cascade(repeats=2, seed=int(torch.randint(2**31, (), generator=generator)))
    named = methods(question.mean)
    study = randomization_test(
        question.network, question.x, named, question.target.tolist(), cascade,
        scores=["spearman_abs"], controls=False, progress=False,
    )  # fmt: skip
    table = study.data["spearman_abs"].sel({"method": list(named)})
    along = torch.from_numpy(table.transpose("method", "sample", "stage", "repeat").values)
    stages = along.shape[2]
    return {
        "change": 1 - along[:, :, stages // 2 :].nanmean((2, 3)),
        "full change": 1 - along[:, :, -1].nanmean(2),
    }


def stability(question: Question, generator: Generator) -> Numbers:
    """Spearman of a method's maps of x and of x + noise, a tenth of its standard deviation."""
    here = explained(question.network, question)
    size, found = 0.1 * question.x.std(), []
    for _ in range(2):
        noise = size * torch.randn(question.x.shape, generator=generator)
        moved = Question(**{**vars(question), "x": question.x + noise})
        there = explained(question.network, moved)
        found.append(torch.stack([similarities["spearman"](here[n], there[n]) for n in here]))
    return {"spearman": torch.stack(found).mean(0)}


# scores of methods, which make maps of other networks or inputs as well: (question, random stream)
OF_METHODS: dict[str, Callable[[Question, Generator], Numbers]] = {
    "randomization": randomization,
    "stability": stability,
}
