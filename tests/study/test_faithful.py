"""Tables of faithfulness and the recommendation, on datasets whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
import xarray
from torch import nn

import salience
from salience import Removal, SalienceError, Study
from salience._study.faithful import permutation_p

SCORE = "subsets_signed_pearson"
ROLES = {
    "input": "negative control",
    "random_map": "floor control",
    "occlusion": "reference",
}


def toy(
    trained: Mapping[str, float],
    untrained: Mapping[str, float],
    samples: int = 40,
    networks: int = 5,
    **coordinates: Mapping[str, object],
) -> Study:
    """A study in which maps score about what is said, with a spread of .02."""
    random = np.random.default_rng(1)
    names = [*trained, *(name for name in ROLES if name not in trained)]
    level = {"input": 0.1, "random_map": 0.0, "occlusion": 0.95} | dict(trained)
    scores = np.array([[level[name]] * samples for name in names])
    floor = np.full((len(names), networks, samples), np.nan)
    for row, name in enumerate(names):
        if name in untrained:
            floor[row] = untrained[name]
    noise = 0.02 * random.standard_normal((len(names), samples))
    told = {
        "candidate_role": [ROLES.get(name, "method") for name in names],
        "candidate_uncovered": [""] * len(names),
        "candidate_constant": [0] * len(names),
    }
    for key, values in coordinates.items():
        told[key] = [values.get(n, old) for n, old in zip(names, told[key], strict=True)]
    nothing = np.full((len(names), samples), np.nan)
    return Study(
        xarray.Dataset(
            {
                f"faithful_{SCORE}": (("candidate", "sample"), scores + noise),
                f"untrained_{SCORE}": (("candidate", "network", "sample"), floor + noise[:, None]),
                "candidate_conservation_error": (("candidate", "sample"), nothing),
                "candidate_completeness_error": (("candidate", "sample"), nothing),
                "other_target": (("candidate", "sample"), nothing),
                "target_value": (("sample",), np.ones(samples)),
                "target_emptied": (("sample",), np.zeros(samples)),
                "deletion_effect": (("sample", "cell"), random.standard_normal((samples, 4))),
            },
            {"candidate": names, **{key: (("candidate",), v) for key, v in told.items()}},
            {"cell": [2, 2], "window": [2, 2], "replacement": "mean"},
        )
    )


def test_the_best_is_recommended_and_others_by_the_gate_that_stops_them():
    study = toy(
        {"best": 0.8, "worse": 0.5, "blind": 0.79, "below": 0.05, "stuck": 0.8, "open": 0.9},
        {"best": 0.1, "worse": 0.1, "blind": 0.79, "below": 0.0, "stuck": 0.1, "open": 0.1},
        candidate_constant={"stuck": 1},
        candidate_uncovered={"open": "gelu"},
    )
    found = study.recommend()
    assert found.methods == ("best",)
    gates = {name: passed.gate for name, passed in found.passed.items()}
    assert gates == {
        "best": "", "worse": "best", "blind": "learned", "below": "faithful", "stuck": "valid",
        "open": "valid",
    }  # fmt: skip
    assert found.passed["open"].why == "no rule for gelu"
    assert "Use best" in found.sentence and "0.80" in found.sentence
    assert "blind" in repr(found) and "learned" in found._repr_html_()


def test_what_cannot_be_told_apart_is_recommended_together_best_first():
    level = {"one": 0.8, "two": 0.802, "three": 0.6}
    found = toy(level, dict.fromkeys(level, 0.1)).recommend()
    assert found.methods == ("two", "one")
    assert "best: the score cannot be told" in repr(found)  # what the gate asks that stopped three


def test_a_gain_that_is_not_known_is_said():
    found = toy({"mine": 0.8}, {}).recommend()
    assert found.methods == ("mine",) and "not known" in found.passed["mine"].why


def test_none_where_no_method_beats_the_controls():
    study = toy({"one": 0.1, "two": 0.08}, {"one": 0.0, "two": 0.0})
    found = study.recommend()
    assert found.methods == () and found.sentence.startswith("None: ")
    assert "2 by 'faithful'" in found.sentence


def test_a_network_that_does_not_depend_on_its_inputs_has_no_recommendation():
    study = toy({"one": 0.9}, {"one": 0.0})
    data = study.data.assign(deletion_effect=study.data.deletion_effect * 1e-12)
    found = Study(data).recommend()
    assert found.methods == () and "does not depend enough" in found.sentence


def test_one_half_of_the_inputs_chooses_and_the_other_is_reported():
    study = toy({"a": 0.8, "b": 0.8}, {"a": 0.1, "b": 0.1})
    data = study.data.copy(deep=True)
    data[f"faithful_{SCORE}"].loc[{"candidate": "a"}][0::2] += 0.1  # a wins where it is chosen
    data[f"faithful_{SCORE}"].loc[{"candidate": "a"}][1::2] -= 0.3  # and loses elsewhere
    found = Study(data).recommend()
    assert found.methods == ("a",)
    assert found.measured["a"].score == pytest.approx(0.5, abs=0.02)


def test_the_table_has_gains_and_a_permutation_p():
    table = toy({"one": 0.8}, {"one": 0.3}).faithfulness()
    row = table["one"]
    assert row.gain == pytest.approx(0.5, abs=1e-9)  # paired: the noise is the same
    assert row.gain_low <= 0.5 <= row.gain_high
    assert row.p == pytest.approx(1 / 6)
    assert np.isnan(table["input"].gain) and table["occlusion"].role == "reference"
    assert "one" in repr(table) and "replaced by mean" in repr(table)
    assert table.to_dataframe().loc["one", "gain"] == pytest.approx(0.5)


@pytest.mark.parametrize(("untrained", "p"), [([0.1, 0.2, 0.9], 0.5), ([0.9] * 3, 1), ([0.1], 0.5)])
def test_p_counts_untrained_networks_that_score_as_high(untrained: list[float], p: float):
    assert permutation_p(np.array([0.5, 0.7]), np.array(untrained)[:, None].repeat(2, 1)) == p


def test_intervals_stay_in_the_range_of_the_score():
    row = toy({"one": 0.999}, {"one": -0.999}, samples=3, networks=2).faithfulness()["one"]
    assert row.high <= 1 and row.gain_high <= 2


def test_a_study_without_faithfulness_says_so():
    data = xarray.Dataset(
        {"maps": (("map_method", "map_stage", "map_sample", "axis_1"), [[[[1.0]]]])}
    )
    with pytest.raises(SalienceError, match="test of faithfulness"):
        Study(data).faithfulness()
    with pytest.raises(SalienceError, match="subsets_signed_pearson"):
        toy({"one": 0.5}, {"one": 0.1}).faithfulness("subset_signed_pearson")


@pytest.mark.parametrize("form", [".nc", ".zarr"])
def test_a_study_of_both_tests_is_stored_whole(form: str, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    x, cascade = torch.randn(9, 6), salience.Cascade(repeats=2)
    test = salience.randomization_test(net, x, "gradient", 0, cascade, progress=False)
    removal = Removal(subsets=5)
    other = salience.faithfulness(net, x, "gradient", 0, removal, cascade=cascade, progress=False)
    both = test.with_faithfulness(other)
    opened = salience.open(both.save(tmp_path / f"study{form}"))
    assert isinstance(opened, Study) and opened.data.equals(both.data)
    assert opened.recommend().methods == other.recommend().methods
    assert list(opened.verdicts()) == list(test.verdicts())
    alone = salience.open(other.save(tmp_path / f"alone{form}"))
    assert isinstance(alone, Study) and repr(alone) == repr(other)


def test_tests_of_other_inputs_are_not_joined():
    net = nn.Linear(6, 2).eval()
    cascade = salience.Cascade(repeats=2)
    test = salience.randomization_test(
        net, torch.ones(3, 6), "gradient", 0, cascade, progress=False
    )
    other = salience.faithfulness(
        net, torch.randn(3, 6), "gradient", 0, Removal(subsets=5), cascade=None, progress=False
    )
    with pytest.raises(SalienceError, match="data_fingerprint"):
        test.with_faithfulness(other)
