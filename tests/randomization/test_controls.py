"""Controls of the randomisation test: what cannot change, what must, and chance."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from randomized import SCORES, conv_net, images, run, values
from reference_randomization import cases, draws, score
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
    for name in scores:
        for control in ("input", "edges"):
            np.testing.assert_allclose(values(data, str(name), control), 1, rtol=0, atol=1e-12)
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
        a, b = torch.from_numpy(a), torch.from_numpy(b)
        return np.array([score(name, a, b) for name in SCORES])

    between, other = data.between_random.values[0], data.other_inputs.values[0]
    assert list(data.score.values) == SCORES
    assert np.isnan(between[:, 0]).all()
    np.testing.assert_allclose(between[:, 1], correlations(last[0], last[1]), atol=1e-9)
    np.testing.assert_allclose(between[:, 2], correlations(last[1], last[2]), atol=1e-9)
    assert np.isnan(other[:, 0]).all()
    np.testing.assert_allclose(other[:, 1:], correlations(trained[:-1], trained[1:]), atol=1e-9)
    for floor in (data.between_random, data.other_inputs, data.other_multipliers):
        assert np.isnan(floor.values[2:]).all()  # controls have no networks, and no other inputs


XM = ["input_x_gradient", "lrp_epsilon", "excitation_backprop"]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("case", ["residual", "mlp"])
def test_the_factor_x_with_the_multipliers_of_another_input(case, batch_size):
    """By naive walks: m is what x * m has for x, read off without dividing by x."""
    model, x = CASES[case].model, CASES[case].x
    x = torch.cat([x, x.flip(0) * 2 + 0.5])[:5]
    x[1].flatten()[0] = 0  # nothing is divided by x
    methods = [*XM, "deep_taylor", "guided_backprop", "smoothgrad"]
    few = [salience.rules.smoothgrad(n=2) if name == "smoothgrad" else name for name in methods]
    data = run(model, x, few, repeats=1, batch_size=batch_size)
    tape = salience.record(model, x)
    for name, found in zip(methods, data.other_multipliers.values, strict=False):
        if name not in XM:  # read as m, relevance handed back by an input rule, several passes
            assert np.isnan(found).all(), name
            continue
        bare = replace(salience.methods[name], readout="m")
        ms, maps = tape.explain(bare, 0), tape.explain(name, 0)
        np.testing.assert_allclose(maps, x * ms, rtol=1e-12, atol=0)
        mixed = torch.stack([x[i] * ms[i - 1] for i in range(1, len(x))])
        if name == "excitation_backprop":  # whose maps are positive, whatever the sign of x
            assert bool((maps >= 0).all()) and bool((x < 0).any())
            mixed = mixed.abs()
        assert np.isnan(found[:, 0]).all()
        expected = [score(kind, maps[1:], mixed) for kind in SCORES]
        np.testing.assert_allclose(found[:, 1:], expected, rtol=0, atol=1e-9, err_msg=name)


def test_other_multipliers_of_a_composite_depend_on_its_input_rule():
    composite = salience.rules.lrp_composite
    methods = {"plus": composite("epsilon-plus"), "flat": composite("epsilon-plus-flat")}
    data = run(conv_net(), images(3, 1, 8, 8), methods, repeats=1)
    known = ~np.isnan(data.other_multipliers.values[:2, :, 1:])
    assert known[0].all() and not known[1].any()


def test_the_factor_x_is_no_verdict_about_a_method():
    """x times positive noise of its own for every network keeps most of its ranks."""
    x = images(4, 1, 16, 16).abs() ** 4
    net = nn.Sequential(nn.Flatten(), Noisy(256)).eval()
    data = run(net, x, "input_x_gradient", repeats=3, target=0)
    found = salience.verdicts(data)["input_x_gradient"]
    assert found.value > 0.7
    assert found.floors["other_multipliers"].mean == pytest.approx(1)  # one m for all inputs
    assert found.floors["other_inputs"].mean < 0.2
    assert found.verdict == "changes completely"


class Noisy(nn.Module):
    """A linear output whose weights are positive, and drawn anew when they are reset."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(count))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.uniform_(0.1, 1.0)

    def forward(self, x):
        return (x * self.weight).sum(1, keepdim=True)


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
    edges, random = verdicts["edge_detector"], verdicts["noise"]
    assert edges.value == edges.retention == pytest.approx(1, abs=1e-12)
    assert edges.verdict == "hardly"
    # no floor: a map that no weight can change is what random networks have in common
    assert edges.floors["between_random"].mean == pytest.approx(1, abs=1e-12)
    assert max(random.value, random.retention) < 0.02
    assert random.verdict == "changes completely"
