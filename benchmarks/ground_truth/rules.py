"""Rules that choose a method for a network without knowing the truth, and how well they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ground_truth.candidates import CONTROLS, COST
from ground_truth.statistics import Result, Values, lower_bound, mean

NEAR = 0.95  # of the best quality, to count as good
Rule = Callable[[Result], "str | None"]  # the name of a map, or None: no method can be used


def for_choosing(values: Values) -> Values:
    """Every other sample: rules see these."""
    return values[..., ::2]


def for_judging(values: Values) -> Values:
    """The samples between them, on which the choice is judged."""
    return values[..., 1::2]


# -- rules ----------------------------------------------------------------------------------------


def always(name: str, result: Result) -> str | None:
    return name if name in result.methods else None


def highest(scores: Sequence[str], result: Result) -> str | None:
    """The best map by the mean rank over scores, controls and untrained networks included."""
    return _best(scores, list(result.scores[scores[0]]), result)


def gated(scores: Sequence[str], result: Result, among: int | None = None) -> str | None:
    """The best by mean rank, of the methods that pass the gates of the first score."""
    return _best(scores, passing(scores[0], result), result)


def cheapest(score: str, result: Result) -> str | None:
    """The cheapest method that passes the gates and is not separable from the best one."""
    return min(inseparable(score, result), key=COST.__getitem__, default=None)


def two_steps(first: str, second: str, result: Result) -> str | None:
    """The best by a second score among those not separable from the best by a first one."""
    return _best([second], inseparable(first, result), result)


def passing(score: str, result: Result) -> list[str]:
    """The methods that pass the gates: a rule for every operation, a score that depends on what was
    learned, and one above every control's."""
    return [name for name in result.methods if stopped_by(name, score, result) is None]


def stopped_by(name: str, score: str, result: Result) -> str | None:
    """The first gate that a method does not pass."""
    table = {key: for_choosing(values) for key, values in result.scores[score].items()}
    if name in result.line["uncovered"]:
        return "no rule"
    if np.isnan(table[name]).all():
        return "no score"
    untrained = [table[key] for key in table if key.startswith(f"{name}@")]
    if untrained and lower_bound(table[name] - np.stack(untrained)) <= 0:
        return "gain"
    controls = [table[key] for key in CONTROLS if key in table]
    if any(lower_bound(table[name] - control) <= 0 for control in controls):
        return "control"
    return None


def inseparable(score: str, result: Result) -> list[str]:
    """The best of those that pass the gates, and those whose difference to it may be 0."""
    table, names = result.scores[score], passing(score, result)
    if not names:
        return []
    best = max(names, key=lambda name: mean(for_choosing(table[name])))
    worse = {name: for_choosing(table[best] - table[name]) for name in names if name != best}
    return [best, *(name for name, gap in worse.items() if lower_bound(gap) <= 0)]


def _best(scores: Sequence[str], names: Sequence[str], result: Result) -> str | None:
    """The lowest sum of ranks; what has no score comes last, ladders are left out."""
    maps = [name for name in names if not name.startswith(("rough:", "smooth:", "occlusion"))]
    if not maps:
        return None
    total = np.zeros(len(maps))
    for score in scores:
        table = result.scores[score]
        height = [mean(for_choosing(table[name])) if name in table else np.nan for name in maps]
        falling = -np.nan_to_num(np.array(height), nan=-np.inf)
        total += (falling[:, None] > falling[None]).sum(1)
    return maps[int(total.argmin())]


# -- how well they do -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a rule's choice on one network.

    near     quality -> whether it is within 5% of the best method's
    control  whether the choice is a control, or an untrained network's map
    """

    choice: str | None
    near: dict[str, bool]
    control: bool


def outcome(rule: Rule, result: Result, qualities: Sequence[str] = ("auc", "mass")) -> Outcome:
    choice = rule(result)
    method = choice is not None and choice in result.methods
    near = {q: method and good(q, result)[result.methods.index(str(choice))] for q in qualities}
    return Outcome(choice, near, choice is not None and not method)


def good(quality: str, result: Result) -> list[bool]:
    """Per method, whether it is within 5% of the best."""
    heights = [mean(for_judging(result.quality[quality][name])) for name in result.methods]
    best = float(np.nanmax(heights))
    return [height >= NEAR * best for height in heights]


def by_chance(quality: str, results: Sequence[Result]) -> float:
    """The share of methods that are good: what a random choice comes to."""
    return float(np.mean([np.mean(good(quality, result)) for result in results]))


def rules(scores: Sequence[str]) -> dict[str, Rule]:
    """Every rule that is compared, by name."""
    found: dict[str, Rule] = {
        f"always {name}": partial(always, name)
        for name in ("lrp_composite", "a2b1_flat", "gradient", "integrated_gradients")
    }
    for score in scores:
        found[f"best: {score}"] = partial(highest, [score])
    for score in scores:
        if not score.startswith(("randomization", "stability")):
            found[f"gates, best: {score}"] = partial(gated, [score])
            found[f"gates, cheapest: {score}"] = partial(cheapest, score)
            found[f"gates, stable: {score}"] = partial(gated, [score, "stability, spearman"])
            found[f"gates, most stable: {score}"] = partial(two_steps, score, "stability, spearman")
    return found
