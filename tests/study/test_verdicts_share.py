"""Verdicts by what is left once all stages are random."""

from __future__ import annotations

import numpy as np
import pytest
from verdict_data import controlled, dataset, flat, retention, with_floors

import salience
from salience import Study
from salience.report._words import answer


def naive(scores: np.ndarray, floor: np.ndarray) -> tuple[float, float, float, int | None]:
    """value, floor, share and half of scores (stage, repeat, sample), floor (repeat, sample)."""
    total = entries = 0.0
    for repeat in floor:
        for value in repeat:
            if value == value:
                total, entries = total + value, entries + 1
    level, last = total / entries, scores[-1]
    shares, values = [], []
    for r in range(last.shape[0]):
        for i in range(last.shape[1]):
            own = floor[r % len(floor), i]
            values.append(last[r, i])
            if own == own:
                shares.append((last[r, i] - own) / (1 - level))
    half = None
    for number, stage in reversed(list(enumerate(scores, 1))):
        if sum(stage.flat) / stage.size < level + (1 - level) / 2:
            half = number
    return sum(values) / len(values), level, sum(shares) / len(shares), half


def test_numbers_equal_the_naive_reference():
    random = np.random.default_rng(0)
    scores = random.uniform(0, 1, (4, 5, 6)) * np.linspace(1, 0.5, 4)[:, None, None]
    others = random.uniform(0, 0.4, (1, 5, 6))
    others[..., 0] = np.nan
    data = with_floors(dataset(mine=scores), other_inputs=others, other_multipliers=0.01)
    found = salience.verdicts(data)["mine"]
    value, floor, share, half = naive(scores, others[0, :1])
    assert (found.value, found.floor) == pytest.approx((value, floor))
    assert found.share.mean == pytest.approx(share)
    assert found.half == half
    assert found.low < value < found.high
    assert found.share.low < share < found.share.high
    assert {name: held.mean for name, held in found.floors.items()} == pytest.approx(
        {"other_inputs": floor, "other_multipliers": 0.01}
    )
    assert found.floors["other_inputs"].low < floor < found.floors["other_inputs"].high


@pytest.mark.parametrize(
    ("level", "floors", "verdict"),
    [
        (0.02, {}, "changes completely"),
        (0.3, {}, "in part"),
        (0.6, {}, "hardly"),
        (0.3, {"other_inputs": 0.31}, "changes completely"),
        (0.3, {"other_inputs": 0.1, "other_multipliers": 0.31}, "changes completely"),
        (0.6, {"other_inputs": 0.3}, "in part"),
        (0.7, {"other_inputs": 0.3}, "hardly"),
        (0.87, {"other_inputs": 0.02, "other_multipliers": 0.87}, "changes completely"),
        # a map that no weight can change: that is what random networks have in common
        (0.99, {"other_inputs": 0.02, "between_random": 1.0}, "hardly"),
        (0.97, {"other_inputs": 0.96}, "uninformative"),
        (0.5, {"other_inputs": 0.96}, "changes completely"),
    ],
)
def test_a_similarity_is_held_against_its_largest_floor(level, floors, verdict):
    data = with_floors(dataset(mine=flat(level)), **floors)
    assert salience.verdicts(data)["mine"].verdict == verdict


def test_a_share_is_paired_with_the_floor_of_its_input():
    """Inputs differ far more than what is left above their floors does."""
    inputs = np.linspace(0.1, 0.8, 6)
    scores = np.clip(inputs + 0.1 + 0 * flat(0.5), 0, 1)
    data = with_floors(dataset(mine=scores), other_inputs=inputs)
    found = salience.verdicts(data)["mine"]
    assert found.high - found.low > 0.5
    assert found.share == pytest.approx([0.1 / 0.55] * 3)
    assert found.verdict == "in part"


def test_a_wide_interval_is_undecided():
    scores = np.full((4, 3, 4), 0.1)
    scores[:, 0] = 0.9
    found = salience.verdicts(dataset(mine=scores))["mine"]
    assert found.verdict == "undecided"
    assert found.sentence.startswith(
        "undecided about mine: with all 4 stages random (from z to w), anything up to"
    )


def test_sentences_name_the_layers_the_floor_and_where_the_change_happens():
    curve = np.array([0.95, 0.8, 0.5, 0.3])[:, None, None] + 0 * flat(0.1)
    data = with_floors(dataset(mine=curve), other_inputs=0.1, between_random=0.4)
    assert salience.verdicts(data)["mine"].sentence == (
        "mine changes in part: with all 4 stages random (from z to w), 22% [22%, 22%] of the "
        "pattern is left beyond what maps of two inputs have in common (|Spearman| 0.30 [0.30, "
        "0.30], floor 0.10, two random networks 0.40); half of the pattern survives until 3 of 4 "
        "stages are random."
    )
    words = {
        0.1: ("changes completely", "nothing of", "; less than half of the pattern survives the f"),
        0.9: ("hardly changes", "89% [89%, 89%] of", "; more than half of the pattern survives ev"),
    }
    for level, (changes, left, where) in words.items():
        held = np.full((4, 5, 6), level)
        data = with_floors(dataset(mine=held), other_inputs=0.1)
        sentence = salience.verdicts(data)["mine"].sentence
        assert sentence.startswith(
            f"mine {changes}: with all 4 stages random (from z to w), {left}"
        )
        assert where in sentence


def test_no_word_promises_more_than_the_test_shows():
    data = controlled(0.05, weak=flat(0.3), strong=flat(0.9), constant=flat(0.5))
    for judged in (salience.verdicts(data), retention(data)):
        told = [*(v.sentence for v in judged.values()), str(judged), judged._repr_html_()]
        told += [sentence for pair in answer(Study(data), judged) for sentence in pair]
        for sentence in told:
            for word in ("believe", "learned", "depends on what", "passed", "trust"):
                assert word not in sentence.lower(), sentence


@pytest.mark.parametrize(
    ("floors", "chance", "clause"),
    [
        ({}, 0.95, "random maps of so few entries are as alike by chance"),
        ({"other_inputs": 0.95}, 0.0, "the trained network gives maps as alike for other inputs"),
        ({"other_inputs": 0.1, "other_multipliers": 0.95}, 0.0,
         "the factor x alone makes maps as alike"),
    ],
)  # fmt: skip
def test_a_score_that_cannot_tell_names_its_cause_and_no_other(floors, chance, clause):
    data = with_floors(controlled(0.96, chance, weak=flat(0.05)), **floors)
    found = salience.verdicts(data)
    assert found["gradient"].verdict == "uninformative"
    assert found["gradient"].sentence.endswith(f"): {clause}, so that the score cannot tell.")
    assert found["weak"].verdict == "changes completely"  # which is far below
    told = dict(answer(Study(data), found))["No verdict"]
    assert told == "gradient: the score cannot tell, since maps that share less are as alike by it."


def test_where_half_is_gone_is_unknown_before_the_first_scored_stage():
    data = dataset(lost=flat(0.1), kept=flat(0.9)).isel(stage=[2, 3])
    found = salience.verdicts(data)
    assert (found["lost"].half, found["kept"].half) == (None, None)
    assert "survives" not in found["lost"].sentence
    assert "more than half of the pattern survives every stage" in found["kept"].sentence
    assert "all 4 stages random (the last one w)" in found["lost"].sentence


@pytest.mark.parametrize("order", ["independent", "top_down"])
def test_without_a_network_that_is_random_as_a_whole_there_is_no_verdict(order):
    data = dataset(mine=flat(0.05)).assign_attrs(order=order)
    if order == "top_down":
        data = data.isel(stage=slice(3))  # the cascade has 4
    judged = salience.verdicts(data)
    found = judged["mine"]
    assert (found.verdict, np.isnan(found.value), found.half) == ("undefined", True, None)
    assert found.sentence == (
        "no verdict about mine: there is no network all of whose stages are random."
    )
    assert "no network is random as a whole: no verdict" in str(judged)
    assert answer(Study(data), judged)[0] == (
        "No verdict", "mine: no network of this test is random as a whole."
    )  # fmt: skip
    assert retention(data)["mine"].verdict == "sensitive"


@pytest.mark.parametrize("criterion", ["full", "retention"])
def test_one_random_network_has_no_verdict(criterion):
    data = dataset(mine=flat(0.05)[:, :1])
    judged = salience.verdicts(data, criterion=criterion)
    found = judged["mine"]
    assert (found.verdict, np.isnan(found.low), np.isnan(found.high)) == ("undefined", True, True)
    assert found.sentence.startswith("no verdict about mine (")
    assert found.sentence.endswith(": one random network says nothing about others.")
    assert "one random network says nothing about others: no verdict" in str(judged)
    assert answer(Study(data), judged)[0] == (
        "No verdict", "mine: one random network says nothing about others."
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2])
def test_few_inputs_have_no_two_floors_and_no_verdict(count):
    floors = np.array([np.nan, 0.1, 0.1, 0.1, 0.1, 0.1])
    data = with_floors(dataset(mine=flat(0.05)), other_inputs=floors)
    assert salience.verdicts(data.isel(sample=slice(3)))["mine"].verdict == "changes completely"
    few = data.isel(sample=slice(count))
    judged = salience.verdicts(few)
    assert judged["mine"].verdict == "undefined"
    assert judged["mine"].low < judged["mine"].value < judged["mine"].high
    assert judged["mine"].sentence.endswith(": a floor takes the maps of three inputs or more.")
    told = ("No verdict", "mine: a floor takes the maps of three inputs or more.")
    assert answer(Study(few), judged)[0] == told
    assert retention(few)["mine"].verdict == "sensitive"  # which has no floors


def test_undefined_scores_have_no_verdict():
    data = dataset(gradient=np.full((4, 2, 3), np.nan))
    judged = salience.verdicts(data)
    assert judged["gradient"].sentence == (
        "no verdict about gradient: its score is undefined (constant maps)."
    )
    assert answer(Study(data), judged)[0] == (
        "No verdict", "gradient: the score is undefined (constant maps)."
    )  # fmt: skip


def test_the_table_has_the_floor_and_where_half_is_gone():
    data = with_floors(controlled(0.05, 0.01, strong=flat(0.8)), other_inputs=0.2)
    lines = str(salience.verdicts(data)).splitlines()
    assert lines[0].split() == ["method", "similarity", "95%", "interval", "floor", "half",
                                "verdict"]  # fmt: skip
    assert lines[1].split()[-5:] == ["0.06]", "0.20", "1/4", "changes", "completely"]
    assert lines[2].split()[-3:] == ["0.20", "-", "hardly"]
    assert lines[3].split()[-3:] == ["1.00]", "negative", "control"]
    assert lines[5] == "similarity: mean spearman_abs (6 inputs, 5 random networks)"
    assert lines[6] == "all 4 stages random (from z to w)"
    assert max(map(len, lines)) <= 80
