"""Verdicts: by what is left at full randomisation, by the retention, and on trained networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray
from verdict_data import controlled, dataset, flat, retention, with_floors

import salience
from salience import Study
from salience._errors import SalienceError
from salience._study.evidence import Evidence
from salience._study.judge import judge_retention, judge_rise, judge_share
from salience._study.sentences import of_retention
from salience._study.verdicts import Mean
from salience.report._words import answer

DATASET_SCORES = ["spearman_abs", "pearson"]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0, 0.19, "sensitive"), (0.0, 0.2, "partial"), (0.19, 0.41, "partial"),
        (0.4, 0.9, "partial"), (0.41, 0.9, "insensitive"), (np.nan, np.nan, "undefined"),
    ],
)  # fmt: skip
def test_the_interval_of_the_retention_decides(low, high, verdict):
    assert judge_retention(Mean(0.0, low, high), (0.2, 0.4)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.2, 0.0, "changes completely"), (0.05, 0.49, "changes completely"),
        (-0.1, 0.5, "undecided"), (0.06, 0.4, "in part"), (0.06, 0.9, "in part"),
        (0.5, 0.9, "in part"), (0.51, 0.9, "hardly"),
    ],
)  # fmt: skip
def test_the_interval_of_the_share_decides(low, high, verdict):
    assert judge_share(low, high) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "rises"), (-0.1, 0.2, "undecided"), (-0.2, -0.1, "does not rise"),
     (0.0, 0.2, "undecided"), (np.nan, np.nan, "undefined")],
)  # fmt: skip
def test_the_interval_of_the_rise_decides(low, high, verdict):
    assert judge_rise(Mean(0.0, low, high)) == verdict


# -- the retention ---------------------------------------------------------------------------------


def test_verdicts_by_the_retention():
    data = dataset(gradient=flat(0.05), medium=flat(0.3), strong=flat(0.8), constant=flat(0.1))
    found = retention(data)
    assert {name: verdict.verdict for name, verdict in found.items()} == {
        "gradient": "sensitive", "medium": "partial", "strong": "insensitive",
        "constant": "constant over inputs",
    }  # fmt: skip
    strong = found["strong"]
    assert strong.retention == pytest.approx(data.spearman_abs.values[2, 2:].mean())
    assert strong.value == strong.retention
    assert strong.low < strong.retention < strong.high
    assert strong.last["pearson"] == pytest.approx(data.pearson.values[2, -1].mean())
    assert set(strong.last) == {"spearman_abs", "pearson"}
    assert strong.undefined == 0
    assert strong.sentence.startswith("strong keeps strong correlations (retention 0.80 [0.")
    assert "all above 0.4" in strong.sentence
    moved = retention(data, sensitive=0.35, insensitive=0.9)
    assert [v.verdict for v in moved.values()][:3] == ["sensitive", "sensitive", "partial"]
    assert "all below 0.35" in moved["medium"].sentence


def test_the_table_of_the_retention():
    lines = str(retention(dataset(gradient=flat(0.05), strong=flat(0.8)))).splitlines()
    assert lines[0].split() == ["method", "retention", "95%", "interval", "last", "verdict"]
    assert lines[2].split()[:2] == ["strong", "0.80"]
    assert lines[2].endswith("insensitive")


@pytest.mark.parametrize(
    ("stages", "count", "chosen"),
    [("second_half", 7, [3, 4, 5, 6]), ("second_half", 4, [2, 3]), ("second_half", 1, [0]),
     ("all", 5, [0, 1, 2, 3, 4]), ("last", 5, [4])],
)  # fmt: skip
def test_which_stages_count(stages, count, chosen):
    table = np.arange(count, dtype=float)[:, None, None] * np.ones((count, 2, 3))
    for criterion in ("full", "retention"):
        judged = salience.verdicts(dataset(gradient=table / 10), stages=stages, criterion=criterion)
        assert judged["gradient"].retention == pytest.approx(np.mean(chosen) / 10)
    assert judged["gradient"].value == pytest.approx(np.mean(chosen) / 10)


def test_the_second_half_is_that_of_the_whole_cascade():
    data = dataset(gradient=np.arange(4.0)[:, None, None] / 10 * np.ones((4, 2, 3)))
    data = data.assign_coords(number=("stage", [1, 3, 5, 7])).assign_attrs(stage_count=8)
    assert salience.verdicts(data)["gradient"].retention == pytest.approx(0.25)
    data = data.assign_coords(number=("stage", [0, 3, 4, 5])).assign_attrs(stage_count=6)
    assert salience.verdicts(data)["gradient"].retention == pytest.approx(0.2)


@pytest.mark.parametrize("level", [0.25, np.nan])
def test_a_gradient_that_survives_makes_the_test_uninformative(level):
    nothing = np.full((4, 5, 6), np.nan)
    data = dataset(gradient=flat(0) + level, weak=flat(0.05), constant=flat(0.9), none=nothing)
    found = {name: verdict.verdict for name, verdict in retention(data).items()}
    assert found["weak"] == "uninformative"
    assert found["constant"] == "constant over inputs"
    assert found["none"] == "undefined"
    assert found["gradient"] == ("undefined" if np.isnan(level) else "uninformative")


@pytest.mark.parametrize("criterion", ["full", "retention"])
def test_controls_have_their_role_and_never_a_verdict(criterion):
    found = salience.verdicts(controlled(0.5), criterion=criterion)
    assert [(v.role, v.verdict) for v in found.values()][1:] == [
        ("negative control", "negative control"), ("floor control", "floor control")
    ]  # fmt: skip


def test_controls_have_sentences_and_words_of_controls():
    found = salience.verdicts(controlled(0.05))
    assert found["input"].sentence == (
        "input is a control, a map that no weight can change (|Spearman| 1.00 [1.00, 1.00])."
    )
    assert found["random_map"].sentence.startswith(
        "random_map is a control, noise: what chance gives (|Spearman| 0.00 ["
    )
    rows = str(found).splitlines()[1:4]
    assert [row.split("  ")[-1].strip() for row in rows] == [
        "changes completely", "negative control", "floor control",
    ]  # fmt: skip
    silent = controlled(np.nan, np.nan)
    sentence = salience.verdicts(silent)["random_map"].sentence
    assert sentence == "random_map is a control, noise: what chance gives (undefined)."


GRADIENT = "even the plain gradient's maps stay similar (0.25, not below 0.2)"
CHANCE = "even random maps are similar by chance, as maps of few entries are (0.35, not below 0.2)"


@pytest.mark.parametrize(
    ("gradient", "chance", "clause"),
    [
        (0.25, 0.0, GRADIENT),
        (0.05, 0.35, CHANCE),
        (0.25, 0.35, CHANCE),  # of which the gradient's retention is a consequence
        (np.nan, 0.0, "the similarity of the plain gradient's maps is undefined"),
        (0.05, np.nan, "the similarity of random maps is undefined"),
    ],
)
def test_an_uninformative_test_names_its_cause_and_no_other(gradient, chance, clause):
    data = controlled(gradient, chance, weak=flat(0.05))
    found = retention(data)
    assert found["weak"].verdict == "uninformative"
    assert found["weak"].sentence == (
        f"no verdict about weak (retention 0.05 [{found['weak'].low:.2f}, {found['weak'].high:.2f}]"
        f"): on this network and these inputs {clause}."
    )


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.26, 0.29), "keeps some correlation (retention 0.27 [0.26, 0.29], between 0.2 and 0.4)"),
        ((0.2, 0.4), "keeps some correlation (retention 0.30 [0.20, 0.40], between 0.2 and 0.4)"),
        ((0.1, 0.3), "keeps some correlation (retention 0.20 [0.10, 0.30], not clear of 0.2)"),
        ((0.3, 0.5), "keeps some correlation (retention 0.40 [0.30, 0.50], not clear of 0.4)"),
        ((0.1, 0.5), "is undecided (retention 0.30 [0.10, 0.50], from below 0.2 to above 0.4): "),
    ],
)
def test_a_partial_verdict_says_where_its_interval_lies(ends, words):
    value = Mean(sum(ends) / 2 - 1e-9, *ends)
    assert judge_retention(value, (0.2, 0.4)) == "partial"
    nothing = Evidence("mine", "method", False, value, {}, "", value, 0.0, None, {}, 0)
    assert words in of_retention(nothing, "partial", (0.2, 0.4), "")


def test_intervals_of_scores_stay_inside_their_bounds():
    """Two networks of one kind and the other: Student's interval is wider than the score is."""
    scores = np.zeros((2, 2, 3))
    scores[:, 1] = 0.9
    data = dataset(gradient=scores).assign(own=(("method", "stage", "repeat", "sample"), [scores]))
    bounded, signed = (salience.verdicts(data, score=s)["gradient"] for s in DATASET_SCORES)
    assert (bounded.low, bounded.high) == (0, 1)
    assert (signed.low, signed.high) == (-1, 1)  # -scores
    own = salience.verdicts(data, score="own")["gradient"]  # of unknown bounds
    assert own.low < -1 and own.high > 1


def test_the_table_is_about_the_score():
    data = dataset(gradient=flat(0.05), strong=flat(0.8))
    table = retention(data, score="pearson")
    last = float(data.pearson.values[1, -1].mean())
    assert str(table).splitlines()[2].split()[-2:] == [f"{last:.2f}", "sensitive"]
    assert table.score == "pearson"
    told = dict(answer(Study(data), salience.verdicts(data, score="pearson")))["What that means"]
    assert told.startswith("Similarity is Pearson between the maps of the trained network and")


def test_scores_are_what_every_stage_repeat_and_sample_has():
    data = dataset(gradient=flat(0.05)).assign(
        conservation_error=(("method", "sample"), np.zeros((1, 6))),
        between_random=(("method", "repeat", "sample"), np.zeros((1, 5, 6))),
    )  # fmt: skip
    data = with_floors(data, other_inputs=0.1, other_multipliers=0.1)
    for name in ("conservation_error", "between_random", "other_inputs", "other_multipliers"):
        with pytest.raises(SalienceError) as raised:
            salience.verdicts(data, score=name)
        assert str(raised.value).startswith(
            f"expected a known score of this dataset (pearson, spearman_abs); got {name!r}. "
        )


def test_a_test_without_the_default_score_is_told_so():
    data = dataset(gradient=flat(0.05)).drop_vars("spearman_abs")
    with pytest.raises(SalienceError) as raised:
        salience.verdicts(data)
    assert str(raised.value) == (
        "expected a test with 'spearman_abs', which verdicts are about by default; got one with "
        "pearson. Name a score: score='pearson'."
    )
    assert salience.verdicts(data, score="pearson")["gradient"].verdict == "changes completely"


def test_what_is_no_test_has_no_verdict():
    net = torch.nn.Linear(3, 2).eval()
    maps = salience.explain(net, torch.ones(2, 3), "gradient")
    cases: list[Any] = [maps, xarray.Dataset({"maps": ("sample", [1.0])}), None]
    for given in cases:
        with pytest.raises(SalienceError, match="the dataset of a randomisation test; got a") as e:
            salience.verdicts(given)
        assert f"got a {type(given).__name__} without one. Maps alone have no verdict" in str(
            e.value
        )


def test_bad_options():
    data = dataset(gradient=flat(0.05))
    with pytest.raises(SalienceError, match="Did you mean 'pearson'"):
        salience.verdicts(data, score="pearsen")
    with pytest.raises(SalienceError, match="Did you mean 'second_half'"):
        salience.verdicts(data, stages="second")
    with pytest.raises(SalienceError, match="Did you mean 'retention'"):
        salience.verdicts(data, criterion="retentoin")
    with pytest.raises(SalienceError, match="0 <= sensitive <= insensitive <= 1"):
        salience.verdicts(data, sensitive=0.5)
    for score in (3, "number", "constant_over_inputs", ["pearson"]):
        with pytest.raises(SalienceError, match="expected a known score of this dataset"):
            salience.verdicts(data, score=score)  # type: ignore[arg-type]
