"""Models of several inputs: a map for each, together one explanation. Oracle: plain autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from chosen import with_error
from torch import Tensor, nn
from two_streams import close, data, gradients, streams

import salience
from salience import SalienceError
from salience._recording.linear_maps import Weights
from salience._recording.replay import replay
from salience._recording.run import run_pass
from salience._tape.tape import Tape

SINGLE = [name for name, method in salience.methods.items() if method.single_pass]


CONTAINERS: dict[str, Any] = {
    "tuple": tuple, "list": list, "dict": lambda x: {"row": x[1], "image": x[0]},
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTAINERS)
def test_each_input_has_its_gradient_in_the_container_that_was_given(kind: str):
    model, x = streams(), data()
    facts = gradients(model, x, 2)
    given = CONTAINERS[kind](x)
    tape = salience.record(model, given)
    maps = tape.explain("gradient", target=2)
    assert type(maps) is (dict if kind == "dict" else tuple)
    if isinstance(maps, dict):
        assert list(maps) == list(given)
        maps = maps["image"], maps["row"]
    for map, fact in zip(maps, facts, strict=True):
        close(map, fact)
    products = tape.explain("input_x_gradient", target=2)
    products = products.values() if isinstance(products, Mapping) else products
    totals = sum(float(map.sum()) for map in products)
    assert totals == pytest.approx(sum(float((a * b).sum()) for a, b in zip(x, facts, strict=True)))


def test_relevance_of_all_inputs_adds_up_to_the_output_and_is_that_of_gradients():
    model, x = streams(), data()
    maps, error = with_error(salience.record(model, x), "lrp_epsilon", 1, eps=0.0)
    for map, value, fact in zip(maps, x, gradients(model, x, 1), strict=True):
        close(map, value * fact)
    output = model(*x)[:, 1].detach()
    fact = ((maps[0].sum((1, 2, 3)) + maps[1].sum(1) - output) / output).abs()
    assert float(fact.min()) > 1e-3  # biases keep some
    close(error, fact)
    _, error = with_error(salience.record(streams(bias=False), x), "lrp_epsilon", 1, eps=0.0)
    assert float(error.max()) < 1e-9


class Sum(nn.Module):
    """Two networks that meet in a sum alone, so that each has the maps that it has by itself."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.first(a) + self.second(b)


BY_VALUE = ["deep_taylor", "lrp_epsilon", "lrp_alpha_beta", "guided_backprop", "deconvnet"]


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("method", BY_VALUE)
def test_a_sum_of_networks_has_the_maps_of_each(method: str, bounded: bool):
    nets = [
        nn.Sequential(nn.Linear(n, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval() for n in (4, 6)
    ]
    x = {"a": torch.rand(2, 4).double() - 0.5, "b": 3 * torch.rand(2, 6).double()}
    own, alone = {}, ({}, {})
    if bounded:
        if method != "deep_taylor":
            return
        own = {"low": {"a": -0.5, "b": 0.0}, "high": {"a": 0.5, "b": 3.0}}
        alone = {"low": -0.5, "high": 0.5}, {"low": 0.0, "high": 3.0}
    maps = salience.record(Sum(*nets).eval(), x).explain(method, target=0, **own)
    for net, key, bounds in zip(nets, x, alone, strict=True):
        close(maps[key], salience.record(net, x[key]).explain(method, target=0, **bounds))


@pytest.mark.parametrize("bounds", [{}, {"low": {"a": 0, "b": -1}, "high": {"a": 1, "b": 2}}])
def test_input_layer_rules_see_inputs_through_their_concatenation(bounds: dict[str, Any]):
    net = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    x = {"a": torch.rand(2, 3).double(), "b": 3 * torch.rand(2, 4).double() - 1}
    ends = {
        end: torch.tensor([own["a"]] * 3 + [own["b"]] * 4).double() for end, own in bounds.items()
    }
    fact = salience.record(net, torch.cat([*x.values()], 1)).explain("deep_taylor", 1, **ends)
    tape = salience.record(lambda a, b: net(torch.cat([a, b], 1)), x)
    maps = tape.explain("deep_taylor", 1, **bounds)
    close(torch.cat([maps["a"], maps["b"]], 1), fact)
    tape = salience.record(lambda a, b: net(torch.cat([a - b[:, :3], b], 1)), x)
    with pytest.raises(SalienceError, match="between the input and the input layer; got 'sub'"):
        tape.explain("deep_taylor", 1)


def test_relevance_comes_back_on_every_way_to_the_input():
    net = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    x = torch.rand(3, 4).double()
    twice = salience.record(net, torch.cat([x, x.flip(1)], 1)).explain("deep_taylor", 1)
    tape = salience.record(lambda x: net(torch.cat([x, x.flip(1)], 1)), x)
    close(tape.explain("deep_taylor", 1), twice[:, :4] + twice[:, 4:].flip(1))


def test_smoothgrad_is_the_mean_over_draws_in_the_range_of_each_input():
    model, (image, row) = streams(), data(2)
    row = 100 * row
    ours = salience.record(model, (image, row)).explain(
        "smoothgrad", target=0, n=20, noise=0.3, seed=4
    )
    generator = torch.Generator().manual_seed(4)
    total = [torch.zeros_like(image), torch.zeros_like(row)]
    for _ in range(20):
        noisy = []
        for x in (image, row):
            step = torch.randn(x.shape[1:], generator=generator).double()
            ends = torch.aminmax(x.flatten(1), dim=1)
            s = 0.3 * (ends.max - ends.min)
            noisy.append(x + s.view(-1, *[1] * (x.ndim - 1)) * step)
        for sum_, part in zip(total, gradients(model, tuple(noisy), 0), strict=True):
            sum_ += part / 20
    close(ours[0], total[0])
    close(ours[1], total[1])


@pytest.mark.parametrize("baseline", [0.0, (0.5, -1.0), (0.5, torch.ones(5))])
def test_integrated_gradients_go_from_all_baselines_together(baseline: Any):
    model, x = streams(), data()
    tape = salience.record(model, x)
    own = {"baseline": baseline, "tol": 0, "max_steps": 4}
    maps, error = with_error(tape, "integrated_gradients", 0, **own)
    pair = baseline if isinstance(baseline, tuple) else (baseline, baseline)
    begins = [torch.zeros_like(v) + b for v, b in zip(x, pair, strict=True)]
    steps, means = 4, [torch.zeros_like(v) for v in x]
    for t in (torch.arange(steps).double() + 0.5) / steps:
        point = tuple(b + t * (v - b) for v, b in zip(x, begins, strict=True))
        for mean, part in zip(means, gradients(model, point, 0), strict=True):
            mean += part / steps
    for map, mean, v, b in zip(maps, means, x, begins, strict=True):
        close(map, (v - b) * mean)
    difference = (model(*x) - model(*begins))[:, 0].detach()
    missing = (maps[0].sum((1, 2, 3)) + maps[1].sum(1) - difference) / difference
    close(error, missing.abs(), 1e-6)


@pytest.mark.parametrize("method", ["gradient", "smoothgrad", "integrated_gradients"])
def test_masks_flags_and_numbers_are_passed_along_with_their_samples(method: str):
    model, (image, row) = streams(), data(4)
    keep = torch.tensor([True, False, True, True])
    x = {"image": image, "row": row, "keep": keep, "scale": torch.tensor(2.0)}
    maps = salience.record(model, x).explain(method, target=1)
    assert list(maps) == ["image", "row"]
    assert float(maps["image"][1].abs().max()) == 0.0
    for i in range(4):
        alone = salience.record(model, (image[i : i + 1], row[i : i + 1], keep[i : i + 1], 2.0))
        first, second, *rest = alone.explain(method, target=1)
        assert rest == [None, None]
        close(maps["image"][i : i + 1], first)
        close(maps["row"][i : i + 1], second)


def test_an_input_that_the_output_ignores_has_a_map_of_zeros():
    net = nn.Linear(4, 2).double().eval()
    x = torch.randn(3, 4).double()
    for method in SINGLE:
        maps = salience.record(lambda a, b: net(a), (x, x)).explain(method, target=0)
        assert float(maps[0].abs().max()) > 0
        assert float(maps[1].abs().max()) == 0


def test_the_users_tensors_are_left_alone_by_a_model_that_writes_into_its_inputs():
    def model(a: Tensor, ids: Tensor) -> Tensor:
        ids.clamp_(max=1)
        return a.mul_(2) @ a.new_ones(4, 2) + ids[:, None]

    a, ids = torch.randn(3, 4), torch.tensor([0, 1, 2])
    before = a.clone(), ids.clone()
    maps = salience.record(model, (a, ids)).explain("gradient", target=0)
    assert torch.equal(a, before[0]) and torch.equal(ids, before[1]) and not a.requires_grad
    close(maps[0], torch.full_like(a, 2.0))


def test_replay_with_several_leaves_equals_a_new_pass():
    model, x = streams(), data()
    tape = Tape(run_pass(model, x, keep=True))
    index = next(
        i for i, name in tape.recording.trace.parameters.items() if name == "read.0.weight"
    )
    new = torch.randn(6, 5).double()
    replayed = Tape(replay(tape.recording, {index: new}, Weights(), lambda: None))
    with torch.no_grad():
        model.read[0].weight.copy_(new)
    again = Tape(run_pass(model, x))
    for method in SINGLE:
        pairs = replayed.explain(method, target=0), again.explain(method, target=0)
        for ours, fact in zip(*pairs, strict=True):
            close(ours, fact)
