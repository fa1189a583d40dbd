"""Verdicts, and the groups of methods on trained networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray

import salience
from salience import Study
from salience._errors import SalienceError
from salience._study.judge import judge
from salience._study.sentences import of_method
from salience.report._words import answer

LENSING = Path(__file__).parents[2] / "examples" / "weak_lensing"
DATASET_SCORES = ["spearman_abs", "pearson"]
METHODS = ["gradient", "input_x_gradient", "lrp_epsilon", "guided_backprop", "deconvnet",
           "excitation_backprop"]  # fmt: skip


def dataset(**methods) -> xarray.Dataset:
    """Scores (stage, repeat, sample) of each method, as a randomisation test would return them."""
    dims = ("method", "stage", "repeat", "sample")
    scores = np.stack([np.asarray(value, dtype=float) for value in methods.values()])
    return xarray.Dataset(
        {"spearman_abs": (dims, scores), "pearson": (dims, -scores)},
        {
            "method": list(methods),
            "role": ("method", ["method"] * len(methods)),
            "constant_over_inputs": ("method", [int(name == "constant") for name in methods]),
            "number": ("stage", np.arange(scores.shape[1])),
        },
        {"stage_count": scores.shape[1], "kind": "standard"},
    )


def flat(level: float, stages: int = 4, noise: float = 0.01) -> np.ndarray:
    generator = np.random.default_rng(int(1000 * level))
    return level + noise * generator.standard_normal((stages, 5, 6))


# -- verdicts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0, 0.19, "sensitive"), (0.0, 0.2, "partial"), (0.19, 0.41, "partial"),
        (0.4, 0.9, "partial"), (0.41, 0.9, "insensitive"), (np.nan, np.nan, "undefined"),
    ],
)  # fmt: skip
def test_the_interval_decides(low, high, verdict):
    assert judge(low, high, (0.2, 0.4)) == verdict


def test_verdicts():
    data = dataset(gradient=flat(0.05), medium=flat(0.3), strong=flat(0.8), constant=flat(0.1))
    found = salience.verdicts(data)
    assert {name: verdict.verdict for name, verdict in found.items()} == {
        "gradient": "sensitive", "medium": "partial", "strong": "insensitive",
        "constant": "constant over inputs",
    }  # fmt: skip
    strong = found["strong"]
    assert strong.retention == pytest.approx(data.spearman_abs.values[2, 2:].mean())
    assert strong.low < strong.retention < strong.high
    assert strong.last["pearson"] == pytest.approx(data.pearson.values[2, -1].mean())
    assert set(strong.last) == {"spearman_abs", "pearson"}
    assert strong.undefined == 0
    assert strong.sentence.startswith("strong hardly depends on what the network learned")
    assert "all above 0.4" in strong.sentence
    moved = salience.verdicts(data, sensitive=0.35, insensitive=0.9)
    assert [v.verdict for v in moved.values()][:3] == ["sensitive", "sensitive", "partial"]
    assert "all below 0.35" in moved["medium"].sentence


def test_the_table():
    lines = str(salience.verdicts(dataset(gradient=flat(0.05), strong=flat(0.8)))).splitlines()
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
    found = salience.verdicts(dataset(gradient=table / 10), stages=stages)["gradient"]
    assert found.retention == pytest.approx(np.mean(chosen) / 10)


def test_the_second_half_is_that_of_the_whole_cascade():
    data = dataset(gradient=np.arange(4.0)[:, None, None] / 10 * np.ones((4, 2, 3)))
    data = data.assign_coords(number=("stage", [1, 3, 5, 7])).assign_attrs(stage_count=8)
    assert salience.verdicts(data)["gradient"].retention == pytest.approx(0.25)
    data = data.assign_coords(number=("stage", [0, 3, 4, 5])).assign_attrs(stage_count=6)
    assert salience.verdicts(data)["gradient"].retention == pytest.approx(0.2)


def test_one_number_has_no_interval_and_no_verdict():
    data = dataset(gradient=np.full((4, 1, 1), 0.05))
    judged = salience.verdicts(data)
    found = judged["gradient"]
    assert (found.verdict, np.isnan(found.low)) == ("undefined", True)
    assert found.sentence == (
        "no verdict about gradient (retention 0.05): one input and one repeat have no interval."
    )
    assert answer(Study(data), judged)[0] == ("No verdict", "gradient: one number has no interval.")
    nothing = dataset(gradient=np.full((4, 2, 3), np.nan))
    judged = salience.verdicts(nothing)
    assert judged["gradient"].sentence == (
        "no verdict about gradient: its score is undefined at every stage."
    )
    undefined = ("No verdict", "gradient: the score is undefined (constant maps).")
    assert answer(Study(nothing), judged)[0] == undefined


@pytest.mark.parametrize("level", [0.25, np.nan])
def test_a_gradient_that_survives_makes_the_test_uninformative(level):
    nothing = np.full((4, 5, 6), np.nan)
    data = dataset(gradient=flat(0) + level, weak=flat(0.05), constant=flat(0.9), none=nothing)
    found = {name: verdict.verdict for name, verdict in salience.verdicts(data).items()}
    assert found["weak"] == "uninformative"
    assert found["constant"] == "constant over inputs"
    assert found["none"] == "undefined"
    assert found["gradient"] == ("undefined" if np.isnan(level) else "uninformative")


def test_controls_keep_their_verdict_on_an_uninformative_network():
    found = {name: verdict.verdict for name, verdict in salience.verdicts(controlled(0.5)).items()}
    assert found == {"gradient": "uninformative", "input": "insensitive", "random_map": "sensitive"}


def controlled(gradient: float, chance: float = 0.0, **methods: np.ndarray) -> xarray.Dataset:
    data = dataset(
        gradient=flat(0) + gradient,
        **methods,
        input=flat(1.0, noise=0),
        random_map=flat(0) + chance,
    )
    roles = ["method"] * (1 + len(methods)) + ["negative control", "floor control"]
    return data.assign_coords(role=("method", roles))


def test_controls_have_sentences_and_words_of_controls():
    found = salience.verdicts(controlled(0.05))
    assert found["input"].sentence == (
        "input is a control, a map that no weight can change: retention 1.00 [1.00, 1.00]."
    )
    assert found["random_map"].sentence.startswith(
        "random_map is a control, noise, for what chance gives: retention 0.00 ["
    )
    rows = str(found).splitlines()[1:-2]  # without what is said below
    assert [row.split("  ")[-1].strip() for row in rows] == [
        "sensitive", "negative control", "floor control",
    ]  # fmt: skip
    silent = controlled(np.nan, np.nan)
    sentence = salience.verdicts(silent)["random_map"].sentence
    assert sentence == "random_map is a control, noise, for what chance gives: undefined."


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
    found = salience.verdicts(data)
    assert found["weak"].verdict == "uninformative"
    assert found["weak"].sentence == (
        f"no verdict about weak (retention 0.05 [{found['weak'].low:.2f}, {found['weak'].high:.2f}]"
        f"): on this network and these inputs {clause}."
    )
    heading, sentence = answer(Study(data), found)[0]
    assert heading == "No verdict"
    assert sentence == (
        f"On this network and these inputs {clause}, so the test cannot tell its methods apart."
    )


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.26, 0.29), "learned in part (retention 0.27 [0.26, 0.29], between 0.2 and 0.4): comp"),
        ((0.2, 0.4), "learned in part (retention 0.30 [0.20, 0.40], between 0.2 and 0.4): compare"),
        ((0.1, 0.3), "at least in part (retention 0.20 [0.10, 0.30], not clear of 0.2): compare"),
        ((0.3, 0.5), "at most in part (retention 0.40 [0.30, 0.50], not clear of 0.4): compare"),
        ((0.1, 0.5), "is undecided (retention 0.30 [0.10, 0.50], from below 0.2 to above 0.4): "),
    ],
)
def test_a_partial_verdict_says_where_its_interval_lies(ends, words):
    assert judge(ends[0], ends[1], (0.2, 0.4)) == "partial"
    assert words in of_method("mine", "partial", sum(ends) / 2 - 1e-9, ends, (0.2, 0.4), "")


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
    table = salience.verdicts(data, score="pearson")
    last = float(data.pearson.values[1, -1].mean())
    assert str(table).splitlines()[2].split()[-2:] == [f"{last:.2f}", "sensitive"]
    assert table.score == "pearson"
    assert dict(answer(Study(data), table))["Why"].startswith(
        "Retention is how much of a method's maps is left, as Pearson, once"
    )


def test_scores_are_what_every_stage_repeat_and_sample_has():
    data = dataset(gradient=flat(0.05)).assign(
        conservation_error=(("method", "sample"), np.zeros((1, 6))),
        between_random=(("method", "repeat", "sample"), np.zeros((1, 5, 6))),
    )  # fmt: skip
    for name in ("conservation_error", "between_random"):
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
    assert salience.verdicts(data, score="pearson")["gradient"].verdict == "sensitive"


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
    with pytest.raises(SalienceError, match="0 <= sensitive <= insensitive <= 1"):
        salience.verdicts(data, sensitive=0.5)


# -- real networks ---------------------------------------------------------------------------------


def lensing_like(count: int) -> torch.Tensor:
    """Skewed maps (count, 1, 128, 128) with the falling spectrum of smoothed convergence maps."""
    generator = torch.Generator().manual_seed(0)
    k = torch.fft.fftfreq(128)[:, None].square() + torch.fft.rfftfreq(128)[None].square()
    amplitude = (k.sqrt() + 1 / 128) ** -0.75 * torch.exp(-0.5 * k * (2 * np.pi * 0.6) ** 2)
    amplitude[0, 0] = 0
    white = torch.fft.rfft2(torch.randn(count, 128, 128, generator=generator))
    g = torch.fft.irfft2(white * amplitude, s=(128, 128))
    return 0.02 * torch.expm1(0.8 * g / g.std() - 0.32)[:, None]


def lensing_network(name: str) -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("lensing_network", LENSING / "network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load_network(LENSING / "weights" / f"{name}.safetensors")


@pytest.mark.parametrize("name", ["noiseless", "ngal30"])
def test_methods_fall_into_their_groups_on_trained_lensing_networks(name):
    data = salience.randomization_test(
        lensing_network(name), lensing_like(3), METHODS, target=1, scores=["spearman_abs"],
        progress=False,
    ).data  # fmt: skip
    assert data.sizes["stage"] == 7
    found = salience.verdicts(data)
    for method in ("gradient", "input_x_gradient", "lrp_epsilon"):
        assert found[method].verdict == "sensitive"
        assert found[method].retention < 0.1
    for method in ("guided_backprop", "excitation_backprop"):
        assert found[method].verdict == "insensitive"
    # measured .50 and .39: the second one's interval reaches below .4
    assert found["deconvnet"].retention > 0.35
    assert found["deconvnet"].verdict == ("insensitive" if name == "noiseless" else "partial")
    assert not data.constant_over_inputs.sel({"method": METHODS}).values.any()


def test_deconvnet_gives_one_map_for_all_inputs_of_an_average_pool_network():
    data = salience.randomization_test(
        lensing_network("average_pool"),
        lensing_like(3),
        ["deconvnet", "guided_backprop"],
        target=1,
        scores=["spearman_abs"],
        cascade=salience.Cascade(repeats=3),
        progress=False,
    ).data
    found = {name: verdict.verdict for name, verdict in salience.verdicts(data).items()}
    assert found["deconvnet"] == "constant over inputs"
    assert found["guided_backprop"] != "constant over inputs"


def test_the_notebook_table_escapes_names_and_says_what_the_text_does():
    found = salience.verdicts(dataset(gradient=flat(0.05), **{"<b>mine</b>": flat(0.8)}))
    page = found._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert page.count("<tr>") == 3
    assert "insensitive" in page
