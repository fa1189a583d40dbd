"""One network, from its training to the line of its results."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ground_truth import candidates, localization
from ground_truth.cases import Case
from ground_truth.data import Data
from ground_truth.ladder import ladder
from ground_truth.networks import HEADS
from ground_truth.question import PASS, Question
from ground_truth.scores import COSTLY, OF_MAPS, OF_METHODS, few
from ground_truth.train import stream, trained, untrained
from ground_truth.truth import interventions

SAMPLES, UNTRAINED, FOR_MEAN = 32, 3, 2000
DRAWS = 4  # other samples in the place of what is deleted


def measure(case: Case) -> dict[str, Any]:
    """Everything that is known of a case, as JSON; per map and sample."""
    torch.set_num_threads(1)
    recipe, begin = case.recipe, time.perf_counter()
    network, accuracy, seconds = trained(recipe)
    head = HEADS[case.head]()
    question, data = _question(case, nn.Sequential(network, head).eval())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what has no rule is a column of the table
        found = candidates.explained(question.network, question)
        others = [nn.Sequential(untrained(recipe, k), head).eval() for k in range(UNTRAINED)]
        maps = candidates.of_tensors(found)
        maps |= candidates.controls(question, stream(case.name, "controls"))
        maps |= candidates.untrained(others, question)
        best, rungs = _ladder(maps, list(found), data.truth, stream(case.name, "ladder"))
        scores = _scores(question, maps | rungs, list(found), stream(case.name, "scores"))
    return {
        "name": case.name, "network": recipe.name, "family": case.family, "head": case.head,
        "accuracy": accuracy, "need": recipe.need, "regression": recipe.regression,
        "dead": recipe.shuffled, "training_seconds": seconds,
        "truth": interventions(question.network, data, question.target, question.scale),
        "share": float(data.truth.double().mean()),
        "methods": list(found), "uncovered": {k: list(v) for k, v in found.uncovered.items() if v},
        "good": best,
        "localization": {
            name: _numbers(maps | rungs, score(maps | rungs, data.truth))
            for name, score in localization.SCORES.items()
        },
        "scores": scores, "seconds": time.perf_counter() - begin,
    }  # fmt: skip


def _question(case: Case, network: nn.Module) -> tuple[Question, Data]:
    """Samples that the network gets right, and what it says of the data at large."""
    recipe = case.recipe
    network.requires_grad_(False)
    large = recipe.generate(FOR_MEAN, stream(recipe.name, "mean"))
    data = recipe.generate(8 * SAMPLES, stream(recipe.name, "explained"))
    target = torch.zeros_like(data.y).long() if recipe.regression else data.y
    with torch.no_grad():
        chosen = torch.arange(SAMPLES)
        if not recipe.regression and not recipe.shuffled:
            chosen = (network(data.x).argmax(1) == data.y).nonzero()[:SAMPLES, 0]
        spread = torch.cat([network(some) for some in large.x.split(PASS)]).std(0).mean()
    question = Question(
        network=network, x=data.x[chosen], target=target[chosen], mean=large.x.mean(0),
        others=large.x[: DRAWS * SAMPLES].view(DRAWS, *data.x[:SAMPLES].shape), scale=float(spread),
    )  # fmt: skip
    return question, Data(*(part[chosen] for part in data))


def _ladder(
    maps: candidates.Named, among: list[str], truth: Tensor, generator: Generator
) -> tuple[str, candidates.Named]:
    """The method that finds the truth best, and its maps down the ladder."""
    own = {name: maps[name] for name in among}
    found = localization.SCORES["auc"](own, truth).nanmean(1)
    best = among[int(found.nan_to_num(0).argmax())]
    return best, ladder(maps[best], generator)


def _scores(
    question: Question, maps: candidates.Named, methods: list[str], generator: Generator
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family, score in OF_MAPS.items():
        given = few(maps) if family in COSTLY else maps
        for variant, numbers in score(question, given).items():
            found[f"{family}, {variant}"] = _numbers(given, numbers)
    for family, of_methods in OF_METHODS.items():
        for variant, numbers in of_methods(question, generator).items():
            found[f"{family}, {variant}"] = _numbers(methods, numbers)
    return found


def _numbers(names: Any, table: Tensor) -> dict[str, list[float | None]]:
    """name -> a number for each sample, None where there is none."""
    return {
        name: [None if value != value else round(value, 4) for value in row]
        for name, row in zip(names, table.tolist(), strict=True)
    }
