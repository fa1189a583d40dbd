"""Bad options, bad inputs and undefined scores of the randomisation test."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from randomized import conv_net, images, run, values
from torch import nn

import salience
from salience._errors import SalienceError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ["spearmann"]}, "Did you mean 'spearman"),
        ({"methods": "gradiant"}, "Did you mean 'gradient'"),
        ({"methods": ["gradient", "gradient"]}, "'gradient' twice"),
        ({"methods": [replace(salience.methods["gradient"], name="edges")]}, "'edges' twice"),
        ({"methods": {"edges": "gradient"}}, "'edges' twice"),
        ({"stages": 4}, r"got 4 \(the network has 3\)"),
        ({"target": 3}, r"target from (0|-3) to 2; got 3"),
        ({"scores": ["hog"]}, "at least 24 x 24 pixels for hog"),
    ],
)  # fmt: skip
def test_bad_options(options, message):
    with pytest.raises(SalienceError, match=message):
        run(conv_net(), images(2, 1, 8, 8), **options)


def test_bad_inputs():
    net = conv_net()
    with pytest.raises(SalienceError, match="expected finite input; got 1 NaN"):
        run(net, torch.full((1, 1, 1, 1), torch.nan))
    with pytest.raises(SalienceError, match="expected a model in eval mode"):
        run(conv_net().train(), images(2, 1, 8, 8))
    with pytest.raises(SalienceError, match="at least one sample; got none"):
        run(net, torch.empty(0, 1, 8, 8))


def test_a_model_without_parameters():
    with pytest.raises(SalienceError, match="expected a model with parameters; got none"):
        run(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), images(2, 1, 8, 8))


class Broken(nn.Linear):
    """A layer whose initialiser is wrong."""

    broken = False

    def reset_parameters(self):
        super().reset_parameters()
        if self.broken:
            self.weight.data.fill_(torch.nan)


def test_a_stage_that_makes_nan_is_counted_and_not_averaged():
    net = nn.Sequential(Broken(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    net[0].broken = True
    data = run(net, images(3, 6), ["gradient", "lrp_epsilon"])
    for method in ("gradient", "lrp_epsilon"):
        found = values(data, "spearman_abs", method)
        assert np.isnan(found[-1]).all()
        assert np.isfinite(found[:-1]).all()
        verdict = salience.verdicts(data, stages="all", criterion="retention")[method]
        assert verdict.undefined == 6
        assert verdict.retention == pytest.approx(found[:-1].mean())
        full = salience.verdicts(data, stages="all")[method]
        assert (full.verdict, full.undefined) == ("undefined", 6)
        assert full.retention == verdict.retention
    assert data.attrs["undefined_spearman_abs"] == 2 * 6
    last = salience.verdicts(data, stages="last")["gradient"]
    assert last.verdict == "undefined"
    assert math.isnan(last.retention)


def test_one_sample():
    data = run(conv_net(), images(1, 1, 8, 8), ["gradient", "lrp_epsilon"])
    assert data.sizes["sample"] == 1
    assert np.isnan(data.other_inputs).all()
    assert np.isfinite(data.spearman).all()


def test_constant_inputs_have_no_correlation():
    data = run(conv_net(), torch.ones(2, 1, 8, 8), ["gradient"])
    for control in ("input", "edges"):
        assert np.isnan(values(data, "spearman", control)).all()
        found = salience.verdicts(data)[control]
        assert found.verdict == "negative control" and found.sentence.endswith("(undefined).")
    assert data.attrs["undefined_spearman"] == 2 * values(data, "spearman", "input").size
    assert np.isfinite(values(data, "spearman", "gradient")).all()


def test_samples_that_name_one_another():
    """Nodes of a graph, whose edges are numbers of samples."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 3)
            self.register_buffer("edges", torch.randint(0, 12, (2, 40)))

        def forward(self, x):
            for layer in (self.one, self.two):
                h = layer(x)
                begin, end = self.edges
                x = torch.zeros_like(h).index_add(0, end, h[begin])
                x = x.relu() if layer is self.one else x
            return x

    net, x = Graph().eval(), torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    study = salience.randomization_test(
        net, x, ["gradient", "lrp_epsilon"], 1, cascade=salience.Cascade(repeats=1), controls=False
    ).data
    assert dict(study.sizes)["stage"] == 2
    assert bool(study.spearman.notnull().all())
