"""A sweep shows the numbers that each point has on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import salience
from salience import Removal, SalienceError, Sweep


def net() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    return nn.Sequential(*layers).eval()


def data() -> torch.Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def swept(grid: dict[str, Any], method: Any = "lrp_epsilon") -> Sweep:
    removal = Removal(cell=2, window=2, subsets=20)
    return salience.sweep(net(), data(), method, grid, 1, removal, progress=False)


def test_points_have_their_own_numbers():
    found = swept({"eps": [1e-3, 0.5], "eps_relative": [0, 1]})
    assert [point.name for point in found.points] == [
        "eps=0.001, eps_relative=0", "eps=0.001, eps_relative=1",
        "eps=0.5, eps_relative=0", "eps=0.5, eps_relative=1",
    ]  # fmt: skip
    x, model = data(), net()
    default = salience.explain(model, x, "lrp_epsilon", 1)
    point = found.points[3]
    method = salience.rules.lrp_epsilon(eps=0.5, eps_relative=1)
    maps = salience.explain(model, x, method, 1)
    spearman = salience.similarities["spearman"](maps["lrp_epsilon"], default["lrp_epsilon"])
    assert point.similarity == pytest.approx(spearman.numpy())
    assert point.error == pytest.approx(maps.error["lrp_epsilon"].numpy())
    alone = salience.faithfulness(
        model, x, method, 1, Removal(cell=2, window=2, subsets=20), cascade=None, progress=False
    )
    score = alone.data[f"faithful_{found.score}"].sel(candidate="lrp_epsilon")
    assert point.score == pytest.approx(score.values)


def test_the_default_is_like_itself():
    found = swept({"eps": [1e-3]})
    assert found.points[0].similarity == pytest.approx(1)
    assert "eps=0.001" in repr(found) and "grain" in found._repr_html_()


def test_it_is_one_recording_of_a_batch_and_its_figure_is_drawn(recordings: list[int]):
    found = swept({"eps": [0, 1e-3, 0.1, 1]})
    assert recordings == [6, 1, 6]  # all maps; the plan of faithfulness and its batch
    figure = found.plot()
    assert len(figure.axes) == 4
    names = swept({"preset": ["epsilon-plus", "epsilon-plus-flat"]}, "lrp_composite").plot()
    labels = [text.get_text() for text in names.axes[2].get_xticklabels()]
    assert labels == ["preset=epsilon-plus", "preset=epsilon-plus-flat"]


@pytest.mark.parametrize(
    ("grid", "told"),
    [({"epz": [1]}, "eps"), ({}, "a grid"), ({"eps": 3}, "values of eps"),
     ({"eps": [0.1] * 3 + list(range(400))}, "at most 200")],
)  # fmt: skip
def test_grids_that_cannot_be(grid: dict[str, Any], told: str):
    with pytest.raises(SalienceError, match=told):
        swept(grid)
