"""Rank correlation, intervals and rules of choice, on tables small enough to see through."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from ground_truth import rules, statistics
from ground_truth.statistics import Result, kendall, lower_bound, over_networks

SAMPLES = 12


def test_tau_is_scipys_with_ties_and_without_what_is_missing():
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.integers(0, 6, (2, 15)).astype(float)
        assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
    assert kendall([1, 2, math.nan, 4], [10, 20, 5, 20]) == pytest.approx(2 / math.sqrt(6))
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]))


def test_networks_count_once_however_often_they_are_explained():
    values, networks = [0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"]
    mean, low, high = over_networks(values, networks)
    assert mean == 0.5
    assert low == 0 and high == 1
    assert over_networks([2.0, math.nan], ["a", "b"]) == (2, 2, 2)
    assert math.isnan(over_networks([math.nan], ["a"])[0])


def test_the_lower_bound_is_two_errors_below_the_mean():
    samples = np.array([1.0, 2.0, 3.0, 6.0])
    error = math.sqrt(np.var(samples, ddof=1) / 4)
    assert lower_bound(samples) == pytest.approx(3 - 2 * error)
    table = np.array([samples, samples + 1.0])
    error = math.sqrt(np.var(samples, ddof=1) / 4 + 0.5 / 2)
    assert lower_bound(table) == pytest.approx(3.5 - 2 * error)
    assert lower_bound(np.array([1.0, math.nan, 2.0, 3.0, 6.0])) == lower_bound(samples)
    assert lower_bound(np.array([math.nan])) == -math.inf


def around(mean: float, seed: int) -> np.ndarray:
    return mean + 0.01 * np.random.default_rng(seed).standard_normal(SAMPLES)


def toy(score: dict[str, float], auc: dict[str, float], **line) -> Result:
    """A network of some methods, controls and untrained networks with these mean scores."""
    methods = [name for name in score if name in auc]
    table = {name: around(mean, seed) for seed, (name, mean) in enumerate(score.items())}
    quality = {name: around(mean, 99) for name, mean in auc.items()}
    line = {"methods": methods, "uncovered": {}, **line}
    return Result(line, {"auc": quality, "mass": quality}, {"s": table, "t": table})


SCORE = {
    "gradient": 0.3, "lrp_gamma": 0.6, "lrp_epsilon": 0.6, "guided_backprop": 0.9, "deconvnet": 0.1,
    "random": 0.0, "input": 0.2, "gradient@0": 0.0, "lrp_gamma@0": 0.1, "lrp_epsilon@0": 0.1,
    "guided_backprop@0": 0.9, "deconvnet@0": 0.0, "rough: 0": 5.0, "occlusion": 2.0,
}  # fmt: skip
AUC = {
    "gradient": 0.9, "lrp_gamma": 0.8, "lrp_epsilon": 0.97, "guided_backprop": 0.5, "deconvnet": 1.0
}  # fmt: skip


def test_each_gate_stops_what_it_is_for():
    result = toy(SCORE, AUC, uncovered={"gradient": ["gelu"]})
    stopped = {name: rules.stopped_by(name, "s", result) for name in AUC}
    assert stopped == {
        "gradient": "no rule", "lrp_gamma": None, "lrp_epsilon": None, "guided_backprop": "gain",
        "deconvnet": "control",
    }  # fmt: skip
    result.scores["s"]["lrp_gamma"][:] = np.nan
    assert rules.stopped_by("lrp_gamma", "s", result) == "no score"


def test_the_cheapest_of_those_that_are_not_separable_is_chosen():
    result = toy(SCORE, AUC)
    assert set(rules.inseparable("s", result)) == {"lrp_gamma", "lrp_epsilon"}
    assert rules.cheapest("s", result) == "lrp_epsilon"
    result.scores["s"]["lrp_gamma"] += 0.2
    assert rules.cheapest("s", result) == "lrp_gamma"


def test_no_method_is_chosen_where_none_beats_the_controls():
    result = toy(SCORE | {"input": 2.0}, AUC)
    assert rules.cheapest("s", result) is None
    assert rules.gated(["s"], result) is None
    assert rules.outcome(rules.rules(["s"])["gates, cheapest: s"], result).near == {
        "auc": False,
        "mass": False,
    }


def test_the_highest_score_may_be_that_of_a_control_and_counts_as_such():
    result = toy(SCORE | {"input": 2.0}, AUC)
    assert rules.highest(["s"], result) == "input"
    found = rules.outcome(rules.rules(["s"])["best: s"], result)
    assert found == rules.Outcome("input", {"auc": False, "mass": False}, control=True)
    found = rules.outcome(rules.rules(["s"])["best: s"], toy(SCORE | {"gradient@0": 3.0}, AUC))
    assert (found.choice, found.control) == ("gradient@0", True)


def test_ranks_of_several_scores_are_added():
    result = toy(SCORE, AUC)
    result.scores["t"] = {name: around(-mean, 0) for name, mean in SCORE.items()}
    result.scores["t"]["lrp_gamma"] += 5
    assert rules.gated(["s", "t"], result) == "lrp_gamma"
    assert rules.two_steps("s", "t", result) == "lrp_gamma"


def test_near_is_within_5_percent_of_the_best():
    result = toy(SCORE, AUC)
    near = {n: rules.outcome(lambda r, n=n: rules.always(n, r), result).near["auc"] for n in AUC}
    assert near == {
        "gradient": False, "lrp_gamma": False, "lrp_epsilon": True, "guided_backprop": False,
        "deconvnet": True,
    }  # fmt: skip
    assert rules.by_chance("auc", [result]) == pytest.approx(2 / 5)


def test_choice_and_judgement_see_other_samples():
    values = np.arange(10.0)
    assert set(rules.for_choosing(values)) | set(rules.for_judging(values)) == set(values)
    assert not set(rules.for_choosing(values)) & set(rules.for_judging(values))
    result = toy(SCORE, AUC)
    result.scores["s"]["lrp_gamma"][1::2] = 100.0
    assert rules.cheapest("s", result) == "lrp_epsilon"


def test_a_line_is_read_with_what_is_missing_as_nan():
    line = {"name": "n", "localization": {"auc": {"a": [1.0, None]}}, "scores": {}}
    found = statistics.read(line)
    assert found.line == {"name": "n"}
    np.testing.assert_array_equal(found.quality["auc"]["a"], [1.0, np.nan])
