"""The smooth and the efficient randomisation test (Hedström 2024)."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

import salience
from salience._randomization.cascade import randomized_tapes
from salience._randomization.comparison import SMOOTH_DRAWS
from salience._recording.run import run_pass
from salience._scores.complexity import complexity
from salience._tape.tape import Tape


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(4 * 64, 3),
        ).double().eval()  # fmt: skip


X = torch.randn(3, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_complexity_is_the_entropy_of_a_histogram():
    maps = torch.randn(4, 2, 30, 30, generator=torch.Generator().manual_seed(2)).double()
    for m, found in zip(maps, complexity(maps), strict=True):
        counts, _ = np.histogram(m.numpy(), bins=100)
        assert float(found) == pytest.approx(scipy.stats.entropy(counts), abs=1e-12)


def test_complexity_is_undefined_for_constant_maps_and_nan():
    maps = torch.stack([torch.ones(9), torch.full((9,), torch.nan), torch.arange(9.0)])
    assert torch.isnan(complexity(maps)).tolist() == [True, True, False]


def test_efficient_compares_the_complexity_of_trained_and_fully_random_maps():
    net = network()
    data = salience.randomization_test(
        net,
        X,
        ["gradient", "guided_backprop"],
        1,
        kind="efficient",
        cascade=salience.Cascade(repeats=2),
        progress=False,
    ).data
    assert data.sizes["stage"] == 1
    tape = Tape(run_pass(net, X, keep=True))
    before = complexity(tape.explain("guided_backprop", 1))
    for repeat in range(2):
        ((_, randomized),) = randomized_tapes(net, tape, salience.Cascade(), repeat, {2})
        after = complexity(randomized.explain("guided_backprop", 1))
        rise = data["complexity_rise"].sel({"method": "guided_backprop"})[0, repeat].values
        np.testing.assert_allclose(rise, (after - before) / before, atol=1e-12)
    found = salience.verdicts(data)
    assert found["guided_backprop"].retention == pytest.approx(
        float(data["complexity_rise"].sel({"method": "guided_backprop"}).mean())
    )
    assert found["input"].retention == 0
    assert found["input"].verdict == "negative control"
    assert "the complexity of its maps rises with all 3 stages random" in found["gradient"].sentence


def test_smooth_compares_means_over_noisy_copies():
    net = network()
    data = salience.randomization_test(
        net,
        X,
        ["deconvnet"],
        1,
        kind="smooth",
        cascade=salience.Cascade(repeats=1),
        scores=["spearman"],
        progress=False,
    ).data
    tape = Tape(run_pass(net, X, keep=True))
    smooth = {"base": "deconvnet", "n": SMOOTH_DRAWS}
    trained = tape.explain("smoothgrad", 1, **smooth)
    for number, randomized in randomized_tapes(net, tape, salience.Cascade(), 0, {0, 1, 2}):
        maps = randomized.explain("smoothgrad", 1, **smooth)
        expected = salience.similarities["spearman"](trained, maps)
        found = data["spearman"].sel({"method": "deconvnet"})[number, 0].values
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_unknown_kind_is_refused():
    with pytest.raises(salience.SalienceError, match="Did you mean 'efficient'"):
        salience.randomization_test(network(), X, kind="eficient", progress=False)
