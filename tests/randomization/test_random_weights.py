"""Random weights: each layer's own initialiser, normal and permuted ones, independent streams."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from randomized import ORDERS, SCORES, conv_net, images, run, values
from reference_randomization import Case, cases, draws
from scipy import stats
from torch import Tensor, nn

from salience._errors import SalienceError
from salience._randomization.weights import random_weights, stages_of, stream
from salience._recording.run import run_pass

CASES = cases()


def drawn_by_name(model, x, weights, seed=0, repeat=0) -> dict[str, Tensor]:
    parts = draws(Case(model.eval(), x, [], []), seed, repeat, weights)
    return {name: value for part in parts for name, value in part.items()}


def wide_net() -> nn.Module:
    """Equal-shaped layers, far from their initialisers."""
    net = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.no_grad():
        for k, parameter in enumerate(net.parameters()):
            parameter.copy_(0.5 + k + torch.randn(parameter.shape, generator=stream(k)) ** 2)
    return net


def test_own_draws_follow_the_layers_initializer():
    drawn = drawn_by_name(wide_net(), torch.randn(1, 64), "own")
    bound = 1 / math.sqrt(64)  # nn.Linear draws from U(-1, 1) / sqrt(inputs)
    for layer in ("0", "2", "3"):
        for kind in ("weight", "bias"):
            sample = drawn[f"{layer}.{kind}"].flatten().numpy()
            assert stats.kstest(sample, "uniform", (-bound, 2 * bound)).pvalue > 1e-3
    assert torch.equal(drawn["1.weight"], torch.ones(64))
    assert torch.equal(drawn["1.bias"], torch.zeros(64))


def test_normal_draws_have_the_parameters_mean_and_deviation():
    net = wide_net()
    drawn = drawn_by_name(net, torch.randn(1, 64), "normal")
    for name, parameter in net.named_parameters():
        mean, std = float(parameter.data.mean()), float(parameter.data.std(correction=0))
        assert stats.kstest(drawn[name].flatten().numpy(), "norm", (mean, std)).pvalue > 1e-3


def test_permuted_draws_are_the_parameters_entries():
    net = wide_net()
    drawn = drawn_by_name(net, torch.randn(1, 64), "permute")
    for name, parameter in net.named_parameters():
        assert torch.equal(drawn[name].flatten().sort()[0], parameter.detach().flatten().sort()[0])
        assert not torch.equal(drawn[name], parameter)


@pytest.mark.parametrize("weights", ["own", "normal", "permute"])
def test_equal_shaped_layers_and_repeats_have_independent_weights(weights):
    x = torch.randn(1, 64)
    net = wide_net()
    with torch.no_grad():
        net[2].weight.copy_(net[0].weight)
        net[3].weight.copy_(net[0].weight)
    draws = [
        drawn_by_name(net, x, weights, seed, repeat)[f"{layer}.weight"].flatten().numpy()
        for seed in (0, 1)
        for repeat in range(3)
        for layer in ("0", "2", "3")
    ]
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert abs(correlation).max() < 5 / math.sqrt(64 * 64)  # 153 pairs


def test_batch_norm_goes_back_to_the_identity():
    case = CASES["residual"]
    drawn = drawn_by_name(case.model, case.x[:1], "own")
    assert torch.equal(drawn["norm1.weight"], torch.ones(4, dtype=torch.float64))
    assert torch.equal(drawn["norm2.bias"], torch.zeros(4, dtype=torch.float64))


def test_raw_parameters_are_drawn_like_themselves():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(3 + 0.5 * images(4000))

        def forward(self, x):
            return x * self.scale

    drawn = drawn_by_name(Net(), torch.randn(1, 4000), "own")["scale"]
    assert stats.kstest(drawn.numpy(), "norm", (3, 0.5)).pvalue > 1e-3


@pytest.mark.parametrize("name", ["weight norm", "transformer"])
def test_no_parameter_that_a_reset_does_not_reach_stays_trained(name):
    """Weight norm's factors are not the layer's own; attention resets only some parameters."""
    case = CASES[name]
    drawn = drawn_by_name(case.model, case.x[:1], "own")
    for parameter, before in case.model.named_parameters():
        assert not torch.equal(drawn[parameter], before), parameter


def test_a_reset_through_data_and_one_of_some_parameters():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.gain = nn.Parameter(images(300)), nn.Parameter(images(300, seed=1))

        def reset_parameters(self):
            self.weight.data.fill_(7.0)

        def forward(self, x):
            return x * self.weight * self.gain

    layer = Layer()
    drawn = drawn_by_name(layer, torch.randn(1, 300), "own")
    assert torch.equal(drawn["weight"], torch.full((300,), 7.0))
    assert abs(np.corrcoef(drawn["gain"], layer.gain.detach())[0, 1]) < 0.3


def test_orders_give_a_stage_the_same_weights():
    """The last step of both cascades is one network, and independent steps are its stages."""
    case = CASES["residual"]
    down, up, single = (run(case.model, case.x, order=order, seed=2) for order in ORDERS)
    for score in SCORES:
        kept = [values(data, score, "gradient") for data in (down, up, single)]
        np.testing.assert_allclose(kept[0][-1], kept[1][-1], atol=1e-12)
        np.testing.assert_allclose(kept[0][0], kept[2][-1], atol=1e-12)
        np.testing.assert_allclose(kept[1][0], kept[2][0], atol=1e-12)
        assert not np.allclose(kept[0][0], kept[0][-1])
    assert list(down.place.values) == [2, 1, 0]
    assert list(up.place.values) == list(single.place.values) == [0, 1, 2]


def test_unknown_weights():
    net = conv_net()
    trace = run_pass(net, images(1, 1, 8, 8)).trace
    with pytest.raises(SalienceError, match="Did you mean 'permute'"):
        random_weights(net, trace, stages_of(trace)[0], (0, 0, 0), "permuted")
