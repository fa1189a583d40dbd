"""How many treatments agree on a word."""

from __future__ import annotations

import numpy as np
import pytest
import xarray
from randomized import conv_net, images, run

import salience
from salience import SalienceError

DIMS = ("method", "stage", "repeat", "sample")


def made(
    order: str = "top_down", methods: tuple[str, ...] = ("a", "b"), **scores
) -> xarray.Dataset:
    """Scores by name: for each method a level, or one for each of three stages."""
    noise = 0.001 * np.random.default_rng(0).standard_normal((len(methods), 3, 4, 5))
    levels = {
        name: np.stack([np.broadcast_to(np.asarray(of, dtype=float), 3) for of in given])
        for name, given in scores.items()
    }
    return xarray.Dataset(
        {name: (DIMS, held[:, :, None, None] + noise) for name, held in levels.items()},
        {
            "method": list(methods), "stage": ["c", "b", "a"],
            "role": ("method", ["method"] * len(methods)),
            "constant_over_inputs": ("method", [0] * len(methods)),
            "number": ("stage", range(3)),
        },
        {"stage_count": 3, "order": order},
    )  # fmt: skip


def test_scores_of_one_study():
    data = made(spearman_abs=(0.01, 0.3), pearson=(0.0, 0.8), ssim=(0.02, 0.31))
    found = salience.agreement(data)
    assert found["a"][:3] == ("changes completely", 3, 3)
    assert found["b"][:3] == ("in part", 2, 3)
    assert found["b"].words == {"|Spearman|": "in part", "Pearson": "hardly", "SSIM": "in part"}
    assert str(found).splitlines() == [
        "method  verdict             agrees  elsewhere",
        "a       changes completely  3 of 3",
        "b       in part             2 of 3  hardly: Pearson",
    ]
    assert "hardly: Pearson" in found._repr_html_()


def test_stages_are_treatments_of_the_retention():
    data = made(spearman_abs=((0.9, 0.1, 0.1), (0.9, 0.9, 0.1)))
    found = salience.agreement(data, criterion="retention")
    assert list(found["a"].words.values()) == ["sensitive", "partial", "sensitive"]
    assert found["a"][:3] == ("sensitive", 2, 3)
    assert found["b"][:3] == ("insensitive", 2, 3)


def test_studies_are_named_by_what_they_differ_in():
    one = made("top_down", spearman_abs=(0.01, 0.3)).assign_attrs(batch_norm="keep", seed=0)
    two = made("bottom_up", spearman_abs=(0.3, 0.3)).assign_attrs(batch_norm="reset", seed=0)
    three = made("top_down", ("b", "c"), spearman_abs=(0.3, 0.3)).assign_attrs(
        batch_norm="reset", seed=0
    )
    found = salience.agreement([one, two])
    assert found["a"].words == {
        "top_down, keep, |Spearman|": "changes completely",
        "bottom_up, reset, |Spearman|": "in part",
    }
    assert (found["a"].agrees, found["b"].agrees, found["b"].of) == (1, 2, 2)
    assert list(salience.agreement([one, two, three])) == ["b"]  # which all of them have
    assert list(salience.agreement([one, one])["a"].words) == [
        "study 1, |Spearman|", "study 2, |Spearman|"
    ]  # fmt: skip


def test_what_has_no_verdict_is_not_counted():
    data = made(spearman_abs=(0.01, np.nan), pearson=(np.nan, np.nan))
    found = salience.agreement(data)
    assert found["a"][:3] == ("changes completely", 1, 1)
    assert found["b"][:3] == ("undefined", 0, 0)


def test_orders_agree_once_all_stages_are_random():
    """The same weights are random in the end, whichever came first; another order has no end."""
    net, x = conv_net(), images(4, 1, 12, 12)
    top, bottom, alone = (
        run(net, x, None, order=order, repeats=3)
        for order in ("top_down", "bottom_up", "independent")
    )
    one, two = (salience.verdicts(data) for data in (top, bottom))
    for name, v in one.items():
        assert (v.verdict, v.value) == (two[name].verdict, pytest.approx(two[name].value, abs=1e-6))
        assert v.share == pytest.approx(two[name].share, abs=1e-6, nan_ok=True)
    found = salience.agreement([top, bottom, alone])
    for name, agreed in found.items():
        last = [word for by, word in agreed.words.items() if by.startswith("independent")]
        assert set(last) <= {"undefined", "constant over inputs"}, name
        assert agreed.of in (8, 12)


def test_mistakes():
    with pytest.raises(SalienceError, match="at least one study"):
        salience.agreement([])
    with pytest.raises(SalienceError, match="known criterion"):
        salience.agreement(made(spearman_abs=(0.1, 0.1)), criterion="half")
    with pytest.raises(SalienceError, match="the dataset of a randomisation test"):
        salience.agreement([3])  # type: ignore[list-item]
