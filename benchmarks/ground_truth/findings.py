"""What the lines of all networks come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ground_truth import ladder
from ground_truth.candidates import CONTROLS
from ground_truth.rules import Outcome, Rule, by_chance, outcome
from ground_truth.statistics import Result, kendall, mean, over_networks

QUALITIES = ("auc", "mass", "auc of cells")
TRUE = 1 / 3  # of the change inside: above it, what lies outside of the truth decides as well
HALVES, SEED = 200, 0


class Estimate(NamedTuple):
    """A mean over networks and its 95% interval."""

    mean: float
    low: float
    high: float


def learned(result: Result) -> bool:
    """Whether the network reached what was asked of it."""
    return not result.line["dead"] and result.line["accuracy"] >= result.line["need"]


def holds(result: Result) -> bool:
    """Whether the truth is what the network uses, by intervention."""
    found = result.line["truth"]
    return found["outside"] < TRUE * found["inside"]


def kind(result: Result) -> str:
    """What the data and the target are."""
    family, head = result.line["family"], result.line["head"]
    shapes = {
        "series": "pulse chirp",
        "table": "table switch product",
        "tokens": "word marked equal",
    }
    shape = next((s for s, families in shapes.items() if family in families.split()), "pictures")
    return f"{shape}, {head}"


# -- tau ------------------------------------------------------------------------------------------


def tau(score: str, quality: str, result: Result, with_controls: bool = False) -> float:
    """Kendall's tau over methods between a score and localisation, of means over samples.

    with_controls  over methods, controls, and methods on untrained networks
    """
    table, truth = result.scores.get(score, {}), result.quality[quality]
    names = [name for name in result.methods if name in table]
    if with_controls:
        names += [n for n in table if n in CONTROLS or "@" in n]
    return kendall([mean(table[n]) for n in names], [mean(truth[n]) for n in names])


def taus(
    results: Sequence[Result], quality: str, with_controls: bool = False
) -> dict[str, Estimate]:
    """score -> its tau over networks."""
    networks = [result.line["network"] for result in results]
    return {
        score: Estimate(
            *over_networks([tau(score, quality, r, with_controls) for r in results], networks)
        )
        for score in scores_of(results)
    }


def scores_of(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(score for result in results for score in result.scores))


def by_kind(results: Sequence[Result], quality: str) -> dict[str, dict[str, Estimate]]:
    """kind -> score -> its tau."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(kind(result), []).append(result)
    return {name: taus(group, quality) for name, group in sorted(groups.items())}


# -- ladders --------------------------------------------------------------------------------------


def ordered(score: str, noise: str, results: Sequence[Result]) -> dict[str, float] | None:
    """How often a score falls with each step of noise: the share of networks, by the mean over
    samples, the share of samples, and the mean tau of samples."""
    networks, samples = [], []
    for result in results:
        table = result.scores[score]
        rungs = [table.get(f"{noise}: {step:g}") for step in ladder.STEPS]
        if any(rung is None for rung in rungs):
            return None
        steps = np.stack([rung for rung in rungs if rung is not None])
        falling = -np.array(ladder.STEPS)
        networks.append(kendall([mean(step) for step in steps], falling))
        samples += [kendall(steps[:, sample], falling) for sample in range(steps.shape[1])]
    every = np.nan_to_num(np.array(samples), nan=0.0)
    return {
        "networks": float(np.mean(np.array(networks) > 0.999)),
        "samples": float(np.mean(every > 0.999)),
        "tau": float(every.mean()),
    }


# -- rules ----------------------------------------------------------------------------------------


def halves(results: Sequence[Result], seed: int = SEED) -> tuple[list[Result], list[Result]]:
    """The networks in two halves by a seed; what is explained of one network stays together."""
    networks = sorted({result.line["network"] for result in results})
    order = np.random.default_rng(seed).permutation(len(networks))
    first = {networks[i] for i in order[: len(networks) // 2]}
    return (
        [r for r in results if r.line["network"] in first],
        [r for r in results if r.line["network"] not in first],
    )


def outcomes(results: Sequence[Result], every: dict[str, Rule]) -> dict[str, dict[str, Outcome]]:
    """rule -> name of the case -> what became of it."""
    return {
        name: {result.line["name"]: outcome(rule, result) for result in results}
        for name, rule in every.items()
    }


def shares(found: dict[str, Outcome], results: Iterable[Result]) -> dict[str, float]:
    """The shares of cases where a rule is near the best, says none, and prefers a control."""
    some = [found[result.line["name"]] for result in results]
    return {
        "auc": float(np.mean([o.near["auc"] for o in some])),
        "mass": float(np.mean([o.near["mass"] for o in some])),
        "both": float(np.mean([o.near["auc"] and o.near["mass"] for o in some])),
        "none": float(np.mean([o.choice is None for o in some])),
        "control": float(np.mean([o.control for o in some])),
    }


def chance(results: Sequence[Result]) -> dict[str, float]:
    """What a random choice comes to."""
    return {quality: by_chance(quality, results) for quality in ("auc", "mass")}


def picked_on_one_half(
    results: Sequence[Result],
    found: dict[str, dict[str, Outcome]],
    among: Callable[[str], bool],
    by: Callable[[dict[str, float]], float],
) -> dict[str, Any]:
    """What the rule that is best on one half of the networks comes to on the other one, over many
    halves; and how often each rule was it."""
    names = [name for name in found if among(name)]
    reported, counts = [], dict[str, int]()
    for seed in range(HALVES):
        first, second = halves(results, seed)
        best = max(names, key=lambda name: by(shares(found[name], first)))
        counts[best] = counts.get(best, 0) + 1
        reported.append(shares(found[best], second))
    often = sorted(counts.items(), key=lambda item: -item[1])[:5]
    return {
        "other half": {key: float(np.mean([r[key] for r in reported])) for key in reported[0]},
        "picked": {name: count / HALVES for name, count in often},
    }
