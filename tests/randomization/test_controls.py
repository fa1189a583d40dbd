"""Controls of the randomisation test: what cannot change, what must, and chance."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from randomized import conv_net, images, run, values
from reference_randomization import cases, draws
from scipy import stats
from torch import nn

import salience

CASES = cases()


def test_controls():
    x = images(3, 3, 64, 64)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data = salience.randomization_test(
        net.eval(),
        x,
        ["lrp_epsilon"],
        target=0,
        cascade=salience.Cascade(repeats=3),
        progress=False,
    ).data
    names = ["lrp_epsilon", "gradient", "input", "edges", "random_map"]
    assert list(data.method.values) == names
    roles = ["method"] * 2 + ["negative control"] * 2 + ["floor control"]
    assert list(data.role.values) == roles
    scores = [name for name in data.data_vars if "stage" in data[name].dims]
    assert set(scores) == set(salience.similarities)
    for score in scores:
        for control in ("input", "edges"):
            np.testing.assert_allclose(values(data, str(score), control), 1, rtol=0, atol=1e-12)
    noise = values(data, "spearman_abs", "random_map")
    assert noise.mean() < 0.02
    assert len(np.unique(noise[0].round(12))) == 9  # each sample and repeat its own
    np.testing.assert_array_equal(noise, noise[:1].repeat(len(noise), 0))


def test_without_controls():
    data = run(conv_net(), images(2, 1, 8, 8), "lrp_epsilon", controls=False)
    assert list(data.method.values) == ["lrp_epsilon"]


def test_inputs_without_space_have_no_edges():
    data = run(CASES["mlp"].model, CASES["mlp"].x)
    assert list(data.method.values) == ["gradient", "input", "random_map"]
    assert data.attrs["undefined_spearman"] == 0


def test_all_single_pass_methods_by_default():
    single = [name for name, method in salience.methods.items() if method.single_pass]
    data = run(conv_net(), images(2, 1, 8, 8), None)
    assert list(data.method.values) == [*single, "input", "edges", "random_map"]
    joined = run(conv_net(), images(2, 1, 8, 8), ["smoothgrad"], stages=1, repeats=1)
    assert list(joined.method.values)[:2] == ["smoothgrad", "gradient"]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_networks_and_inputs_against_each_other(batch_size):
    case = CASES["residual"]
    x = torch.cat([case.x, case.x.flip(0) * 2 + 0.5])[:5]
    data = run(case.model, x, ["lrp_epsilon"], repeats=3, seed=8, batch_size=batch_size)
    trained = salience.record(case.model, x).explain("lrp_epsilon", 0).flatten(1).numpy()
    last = []
    for repeat in range(3):
        copied = copy.deepcopy(case.model)
        named = dict(copied.named_parameters())
        for stage in draws(case, 8, repeat, "own"):
            for name, value in stage.items():
                named[name].data.copy_(value)
        last.append(salience.record(copied, x).explain("lrp_epsilon", 0).flatten(1).numpy())

    def correlations(a, b):
        return [abs(stats.spearmanr(p, q).statistic) for p, q in zip(a, b, strict=True)]

    between, other = data.between_random.values[0], data.other_inputs.values[0]
    assert np.isnan(between[0]).all()
    np.testing.assert_allclose(between[1], correlations(last[0], last[1]), atol=1e-9)
    np.testing.assert_allclose(between[2], correlations(last[1], last[2]), atol=1e-9)
    assert np.isnan(other[0])
    np.testing.assert_allclose(other[1:], correlations(trained[:-1], trained[1:]), atol=1e-9)
    assert np.isnan(data.between_random.values[2:]).all()  # controls have no random networks


def test_maps_that_are_the_same_for_all_inputs_are_reported():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, bias=False),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2, bias=False),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for k, parameter in enumerate(net.parameters()):
            parameter.copy_(images(*parameter.shape, seed=k))
    x = images(5, 1, 16, 16)
    assert bool((salience.record(net, x).explain("deconvnet", 0).flatten(1).std(1) > 0).all())
    methods = ["gradient", "deconvnet", "guided_backprop"]
    for batch_size in (1, 2, 5):
        data = run(net, x, methods, batch_size=batch_size)
        assert list(data.constant_over_inputs.values) == [0, 1, 0, 0, 0, 0]
        verdict = salience.verdicts(data)["deconvnet"]
        assert verdict.verdict == "constant over inputs"
        assert "the same map for every input" in verdict.sentence
    one = run(net, x[:1], methods)  # one input cannot tell
    assert not one.constant_over_inputs.values.any()


def sobel(tape, target, seed):
    return torch.stack(torch.gradient(tape.x, dim=(2, 3))).square().sum(0)


def noise(tape, target, seed):
    noise.generator.seed = getattr(noise.generator, "seed", 0) + 1
    generator = torch.Generator().manual_seed(noise.generator.seed)
    return torch.randn(tape.x.shape, generator=generator)


class _State:
    seed = 0


noise.generator = _State()


def test_a_users_method_that_cannot_change_and_one_of_noise():
    detector = salience.Method("edge_detector", "edges of x", "here", run=sobel)
    random = salience.Method("noise", "new noise for every map", "here", run=noise)
    data = salience.randomization_test(
        conv_net(1),
        images(4, 1, 128, 128),
        [detector, random],
        target=0,
        cascade=salience.Cascade(repeats=3),
        progress=False,
    ).data
    verdicts = salience.verdicts(data)
    assert verdicts["edge_detector"].retention == pytest.approx(1, abs=1e-12)
    assert verdicts["edge_detector"].verdict == "insensitive"
    assert verdicts["noise"].retention < 0.02
    assert verdicts["noise"].verdict == "sensitive"
