"""Methods of several passes add up to what they say, and the errors that maps carry are real."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chosen import chosen, with_error
from closeness import within
from nets import chain, fill, new, small_nets
from oracles import ORACLES
from torch import Tensor, nn

import salience
from salience.rules import _several_passes

NETS = small_nets()
RELEVANCE = [name for name, method in salience.methods.items() if method.relevance]


class Counting(nn.Module):
    """A model that notes the number of samples of each of its forward passes."""

    def __init__(self, net: nn.Module, most: int | None = None) -> None:
        super().__init__()
        self.net, self.most, self.batches = net, most, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        if self.most is not None and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.batches.append(len(x))
        return self.net(x)


close = within(1e-12)


def hinge() -> Counting:
    """f(x) = max(x - 1, 0): on the way from 0 to x the derivative jumps at t = 1 / x."""
    linear = new(nn.Linear, 1, 1)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(-1.0)
    return Counting(chain(linear, nn.ReLU())).eval()


def at_jumps(*jumps: float) -> Tensor:
    """Inputs (B, 1) of `hinge` whose derivative jumps at these fractions of the way."""
    return torch.tensor([[1 / t] for t in jumps], dtype=torch.float64)


# The maps of 4 panels of the way put a jump at .515 at .5, and so do those of 8, 12, 16 gradients,
# which halve the panel behind .5; from 20 on it is at .515625, the begin of a panel of 1 / 64. With
# f(x) / x = .485 the completeness error is 3.1%, then 0.13%. At .5 it is 0 from the start.
HARD, EASY = 0.515, 0.5
OPEN = {4: 0.5, 8: 0.5, 12: 0.5, 16: 0.5, 20: 1 - 0.515625}


# ---------------------------------------------------------------- integrated gradients


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("tol", [0.1, 0.02])
def test_each_sample_is_complete_within_the_tolerance(name: str, tol: float):
    net, x = NETS[name]
    target = [b % 3 for b in range(len(x))]
    tape = salience.record(net, x)
    maps, told = with_error(tape, "integrated_gradients", target, tol=tol, max_steps=2048)
    gap = (net(x) - net(torch.zeros_like(x))).detach()[range(len(x)), target]
    error = (maps.flatten(1).sum(1) - gap).abs() / gap.abs()
    assert bool((error <= tol).all())
    torch.testing.assert_close(told, error, rtol=1e-6, atol=1e-12)


def test_panels_are_halved_for_each_sample_until_it_is_complete():
    model, x = hinge(), at_jumps(EASY, HARD)
    maps, error = with_error(salience.record(model, x), "integrated_gradients", 0)
    close(maps, x * torch.tensor([[0.5], [OPEN[20]]], dtype=torch.float64))
    expected = torch.tensor([0.0, abs(OPEN[20] / 0.485 - 1)], dtype=torch.float64)
    torch.testing.assert_close(error, expected, rtol=1e-9, atol=1e-14)
    # the recorded pass and the panels' begins, then both samples at 4 + 4 * 4 points
    assert sum(model.batches) == 2 * (1 + 4 + 20)


def test_an_easy_batch_stops_at_sixteen_gradients():
    model, x = hinge(), at_jumps(EASY, EASY, EASY)
    salience.record(model, x).explain("integrated_gradients", target=0)
    assert sum(model.batches) == 3 * (1 + 4 + 16)


@pytest.mark.parametrize(
    ("most", "used"),
    [(24, 24), (23, 20), (20, 20), (17, 16), (16, 16), (8, 8), (7, 4), (4, 4), (3, 3), (1, 1)],
)
def test_max_steps_is_never_exceeded(most: int, used: int):
    model, x = hinge(), at_jumps(HARD)
    tape = salience.record(model, x)
    maps, error = with_error(tape, "integrated_gradients", 0, tol=0.0, max_steps=most)
    assert sum(model.batches) == 1 + min(used, 4) + used
    close(maps, ORACLES["integrated_gradients"](model.net, x, [0], steps=used))
    if used in OPEN:
        assert error.item() == pytest.approx(abs(OPEN[used] / 0.485 - 1), rel=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_the_halving_is_that_of_the_oracle(name: str):
    net, x = NETS[name]
    target = [b % 3 for b in range(len(x))]
    for tol, steps in ((0.0, 48), (0.01, 200)):
        given = {"baseline": 0.1, "tol": tol}
        maps = salience.record(net, x).explain(
            "integrated_gradients", target, max_steps=steps, **given
        )
        close(maps, ORACLES["integrated_gradients"](net, x, target, steps=steps, **given), 1e-10)


def test_what_max_steps_did_not_reach_is_said_with_its_error():
    x, name = at_jumps(EASY, HARD, 0.9), "integrated_gradients"
    method = salience.rules.integrated_gradients(max_steps=16)
    told = (
        "integrated_gradients: after max_steps = 16 gradients the maps of 2 of 3 inputs do not add "
        r"up to f\(x\) - f\(baseline\) within tol = 0.01; the largest error is 0.063 of it"
    )
    for run in (
        lambda: salience.record(hinge(), x).explain(method, target=0),
        lambda: salience.record(hinge(), x).maps([method], target=0),
        lambda: salience.explain(hinge(), x, [method], 0, batch_size=1),
    ):
        with pytest.warns(salience.SalienceWarning, match=told) as noted:
            run()
        assert len(noted) == 1 and noted[0].filename == __file__
    error = salience.explain(hinge(), x, ["gradient", name], 0).error[name]
    assert float(error.max()) <= 0.01


def test_the_default_tolerance_and_steps():
    parameters = salience.methods["integrated_gradients"].parameters
    assert parameters == {"baseline": 0.0, "tol": 0.01, "max_steps": 256}


def test_a_sample_is_refined_no_further_for_its_batch():
    x = at_jumps(HARD, EASY, 0.31, HARD, 0.77, 0.123)
    together = salience.record(hinge(), x).explain("integrated_gradients", target=0)
    for b in range(len(x)):
        alone = salience.record(hinge(), x[b : b + 1]).explain("integrated_gradients", target=0)
        close(together[b : b + 1], alone, 1e-14)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_integrated_gradients_do_not_depend_on_the_split_of_the_data(size: int):
    x = at_jumps(HARD, EASY, 0.31, 0.9, 0.123)
    name = "integrated_gradients"
    whole = salience.explain(hinge(), x, name, 0)
    split = salience.explain(hinge(), x, name, 0, batch_size=size)
    close(split[name], whole[name], 1e-14)
    torch.testing.assert_close(split.error[name], whole.error[name], rtol=1e-9, atol=1e-14)
    assert split.error[name].shape == (5,)


BASELINES: dict[str, Any] = {
    "a number": 0.25,
    "an integer": 1,
    "one value per channel": torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1),
    "one sample": torch.linspace(-1, 1, 192).view(3, 8, 8),
    "a batch": torch.linspace(-1, 1, 384).view(2, 3, 8, 8),
    "an array": torch.linspace(-1, 1, 192).view(3, 8, 8).numpy(),
}


@pytest.mark.parametrize("form", BASELINES)
def test_baselines(form: str):
    net, x = NETS["conv2d"]
    baseline = BASELINES[form]
    given = {"baseline": baseline, "max_steps": 8, "tol": 0.0}
    maps, told = with_error(salience.record(net, x), "integrated_gradients", 1, **given)
    start = torch.as_tensor(baseline, dtype=x.dtype).expand_as(x)
    oracle = ORACLES["integrated_gradients"](net, x, [1, 1], baseline=start, steps=8)
    close(maps, oracle, 1e-11)
    gap = (net(x) - net(start)).detach()[:, 1]
    error = (maps.flatten(1).sum(1) - gap).abs() / gap.abs()
    torch.testing.assert_close(told, error, rtol=1e-8, atol=0)


@pytest.mark.parametrize("shape", [(5,), (4, 8, 8), (3, 3, 8, 8), (1, 2, 3, 8, 8)])
def test_a_baseline_of_another_shape_is_refused(shape: tuple[int, ...]):
    net, x = NETS["conv2d"]
    message = r"a baseline that broadcasts to \(2, 3, 8, 8\); got .*one for each"
    with pytest.raises(salience.SalienceError, match=message):
        salience.record(net, x).explain(
            "integrated_gradients", target=1, baseline=torch.zeros(shape)
        )


def test_the_input_as_its_own_baseline_has_an_empty_map_without_error():
    net, x = NETS["conv2d"]
    maps, error = with_error(salience.record(net, x), "integrated_gradients", 1, baseline=x)
    assert torch.equal(maps, torch.zeros_like(x))
    assert error.tolist() == [0, 0]


def test_argmax_means_the_class_of_the_input_on_the_whole_way():
    net, x = NETS["conv2d"]
    tape = salience.record(net, x)
    best = net(x).argmax(1)
    assert not torch.equal(net(torch.full_like(x, 3.0)).argmax(1), best), "the way changes class"
    given = {"baseline": 3.0, "max_steps": 8, "tol": 0.0}
    maps = tape.explain("integrated_gradients", "argmax", **given)
    assert torch.equal(maps, tape.explain("integrated_gradients", best.tolist(), **given))


# ---------------------------------------------------------------- smoothgrad


def draws(x: Tensor, n: int, seed: int) -> Tensor:
    """The documented draws: one per pass, for all samples, from one generator on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(x.shape[1:], generator=generator) for _ in range(n)]).to(x)


@pytest.mark.parametrize(
    "base", [name for name, method in salience.methods.items() if method.single_pass]
)
def test_smoothgrad_is_the_mean_of_its_bases_maps(base: str):
    net, x = NETS["conv_bn_relu"]
    target, n, noise = [0, 3, 1], 5, 0.2
    maps = salience.record(net, x).explain(
        "smoothgrad", target=target, seed=4, base=base, n=n, noise=noise
    )
    total = torch.zeros_like(x)
    for e in draws(x, n, 4):
        for b in range(len(x)):
            spread = noise * (x[b].max() - x[b].min())
            noisy = (x[b] + spread * e)[None]
            total[b] += salience.record(net, noisy).explain(base, target=target[b])[0]
    close(maps, total / n, 1e-10)


@pytest.mark.parametrize("per_pass", [1, 4, 100])
def test_the_sampling_error_is_that_of_a_mean(per_pass: int, monkeypatch: pytest.MonkeyPatch):
    net, x = NETS["conv_bn_relu"]
    monkeypatch.setattr(_several_passes, "SAMPLES_PER_PASS", per_pass)
    target, n = [0, 3, 1], 7
    given = salience.rules.smoothgrad(n=n, noise=0.2)
    told = salience.explain(net, x, given, target, seed=4).error["smoothgrad"]
    for b in range(len(x)):
        spread = 0.2 * (x[b].max() - x[b].min())
        noisy = x[b] + spread * draws(x, n, 4)
        maps = salience.record(net, noisy).explain("gradient", target=target[b]).flatten(1)
        of_mean = maps.var(0, correction=1) / n
        fact = (of_mean.sum() / maps.mean(0).square().sum()).sqrt()
        assert told[b].item() == pytest.approx(fact.item(), rel=1e-9)


def test_the_sampling_error_says_how_far_the_map_is_from_that_of_many_draws():
    net, x = NETS["conv_bn_relu"]
    tape = salience.record(net, x)
    far = tape.explain("smoothgrad", 1, n=3000, seed=99)
    off, told = [], []
    for seed in range(20):
        maps, error = with_error(tape, "smoothgrad", 1, n=10, seed=seed)
        off.append((maps - far).flatten(1).norm(dim=1) / maps.flatten(1).norm(dim=1))
        told.append(error)
    ratio = torch.stack(off).square().mean(0).sqrt() / torch.stack(told).square().mean(0).sqrt()
    assert bool((ratio > 0.7).all()) and bool((ratio < 1.3).all()), ratio


def test_one_draw_tells_no_sampling_error_and_no_noise_has_none():
    net, x = NETS["mlp"]
    tape = salience.record(net, x)
    assert with_error(tape, "smoothgrad", 1, n=1)[1].isnan().all()
    assert (with_error(tape, "smoothgrad", 1, n=4, noise=0.0)[1] < 1e-7).all()


def test_smoothgrad_by_default_takes_fifty_gradients_at_fifteen_percent():
    net, x = NETS["mlp"]
    parameters = salience.methods["smoothgrad"].parameters
    assert parameters == {"base": "gradient", "n": 50, "noise": 0.15}
    model = Counting(net).eval()
    maps = salience.record(model, x).explain("smoothgrad", target=2)
    assert sum(model.batches) == len(x) * (1 + 50)
    oracle = ORACLES["smoothgrad"](net, x, [2] * len(x), draws=draws(x, 50, 0))
    close(maps, oracle)


def test_no_noise_is_the_base_method():
    net, x = NETS["conv2d"]
    tape = salience.record(net, x)
    close(tape.explain("smoothgrad", target=1, noise=0.0), tape.explain("gradient", target=1))


def test_seeds_give_the_same_maps_again_or_others():
    net, x = NETS["conv2d"]
    tape = salience.record(net, x)
    maps = [tape.explain("smoothgrad", target=1, n=4, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])


def test_smoothgrad_leaves_the_global_generator_alone():
    net, x = NETS["conv2d"]
    before = torch.random.get_rng_state()
    salience.record(net, x).explain("smoothgrad", target=1, n=4)
    assert torch.equal(before, torch.random.get_rng_state())


PASSES = {"smoothgrad": {"n": 20}, "integrated_gradients": {"max_steps": 20, "tol": 0.0}}


@pytest.mark.parametrize("method", PASSES)
@pytest.mark.parametrize("per_pass", [1, 7, 1000])
def test_maps_do_not_depend_on_the_split_into_passes(
    method: str, per_pass: int, monkeypatch: pytest.MonkeyPatch
):
    net, x = NETS["max_pool"]
    model = Counting(net).eval()
    default = salience.record(net, x).explain(method, target=1, **PASSES[method])
    monkeypatch.setattr(_several_passes, "SAMPLES_PER_PASS", per_pass)
    maps = salience.record(model, x).explain(method, target=1, **PASSES[method])
    close(maps, default)
    largest = {1: len(x), 7: 2 * len(x), 1000: (20 if method == "smoothgrad" else 4) * len(x)}
    assert max(model.batches) == largest[per_pass]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_smoothgrad_does_not_depend_on_the_split_of_the_data(size: int):
    net, x = NETS["max_pool"]
    given = salience.rules.smoothgrad(n=6)
    whole = salience.explain(net, x, given, 1)["smoothgrad"]
    split = salience.explain(net, x, given, 1, batch_size=size)
    close(split["smoothgrad"], whole)


def test_a_sample_has_the_same_draws_in_any_batch():
    net, x = NETS["max_pool"]
    whole = salience.record(net, x).explain("smoothgrad", target=1, n=6)
    reverse = salience.record(net, x.flip(0)).explain("smoothgrad", target=1, n=6)
    close(reverse.flip(0), whole)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"n": 0}, "at least 1; got 0"), ({"n": 2.5}, "n, a whole number of at least 1; got 2.5"),
     ({"noise": -0.1}, "noise >= 0; got -0.1"),
     ({"base": "smoothgrad"}, "a single-pass base method; got smoothgrad"),
     ({"base": "gradiant"}, "Did you mean 'gradient'")],
)  # fmt: skip
def test_smoothgrad_refuses(given: dict[str, Any], message: str):
    net, x = NETS["mlp"]
    with pytest.raises(salience.SalienceError, match=message):
        salience.record(net, x).explain("smoothgrad", target=1, **given)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("most", [3, 4, 7, 13, 40])
@pytest.mark.parametrize("method", PASSES)
def test_passes_are_halved_where_memory_runs_out(method: str, most: int):
    net, x = NETS["max_pool"]
    model = Counting(net, most).eval()
    fact = salience.record(net, x).explain(method, target=1, **PASSES[method])
    maps = salience.record(model, x).explain(method, target=1, **PASSES[method])
    close(maps, fact)
    assert max(model.batches) <= most


@pytest.mark.parametrize("most", [1, 2, 3])
def test_batches_and_passes_are_halved_together(most: int):
    net, _ = NETS["mlp"]
    x = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    target = [b % 4 for b in range(7)]
    names = ["gradient", "lrp_epsilon", *PASSES]
    fact = salience.explain(net, x, chosen(PASSES, names), target)
    model = Counting(net, most).eval()
    maps = salience.explain(model, x, chosen(PASSES, names), target)
    assert max(model.batches) <= most
    for name in names:
        close(maps[name], fact[name])
    assert list(maps.error) == ["lrp_epsilon", *PASSES]
    for name, error in maps.error.items():
        torch.testing.assert_close(error, fact.error[name], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("method", PASSES)
def test_one_copy_that_does_not_fit_is_an_error(method: str):
    net, x = NETS["mlp"]
    model = Counting(net).eval()
    tape = salience.record(model, x)
    model.most = len(x) - 1
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        tape.explain(method, target=1)


def test_other_errors_are_raised_at_once():
    net, x = NETS["mlp"]
    tries: list[int] = []

    def model(x: Tensor) -> Tensor:
        tries.append(len(x))
        if len(tries) > 1:
            raise RuntimeError("a shape of the model's own is wrong")
        return net(x)

    tape = salience.record(model, x)
    with pytest.raises(RuntimeError, match="of the model's own"):
        tape.explain("smoothgrad", target=1)
    assert len(tries) == 2


# ---------------------------------------------------------------- conservation


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", RELEVANCE)
def test_the_conservation_error_is_the_relative_gap(method: str, name: str):
    net, x = NETS[name]
    target = [b % 3 for b in range(len(x))]
    tape = salience.record(net, x)
    value = net(x).detach()[range(len(x)), target]
    maps, told = with_error(tape, method, target)
    start = torch.ones_like(value) if method == "excitation_backprop" else value
    error = (maps.flatten(1).sum(1) - start).abs() / start.abs()
    assert told.shape == (len(x),)
    torch.testing.assert_close(told, error, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("method", RELEVANCE)
@pytest.mark.parametrize("start", [2.0, -0.5, [1.0, -3.0, 0.25]])
def test_another_start_scales_map_and_error(method: str, start: Any):
    net, x = NETS["conv_bn_relu"]
    start = torch.tensor(start, dtype=x.dtype).expand(3)
    tape = salience.record(net, x)
    ones = tape.explain(method, target=2, start=1.0)
    maps, told = with_error(tape, method, 2, start=start)
    close(maps, ones * start.view(-1, 1, 1, 1))
    error = (maps.flatten(1).sum(1) - start).abs() / start.abs()
    torch.testing.assert_close(told, error, rtol=1e-9, atol=1e-13)


def test_the_conservation_error_by_hand():
    # f = 3 - 1 + 2 = 4; alpha1-beta0 gives x1 its 3 of z+ = 3 + 2 and the bias the rest
    linear = new(nn.Linear, 2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, -1.0]]))
        linear.bias.fill_(2.0)
    tape = salience.record(chain(linear).eval(), torch.ones(1, 2, dtype=torch.float64))
    maps, error = with_error(tape, "lrp_alpha_beta", 0, alpha=1.0, beta=0.0)
    assert maps.tolist() == [[pytest.approx(4 * 3 / 5), 0]]
    assert error.item() == pytest.approx(2 / 5)
    maps, error = with_error(tape, "lrp_epsilon", 0, eps=0.0)
    assert maps.tolist() == [[3, -1]]
    assert error.item() == pytest.approx(2 / 4)
    assert with_error(tape, "deep_taylor", 0)[1].item() < 1e-15
    assert with_error(tape, "excitation_backprop", 0)[1].item() < 1e-15


@pytest.mark.parametrize("size", [1, 2, None])
def test_errors_are_joined_over_batches(size: int | None):
    net, x = NETS["conv_bn_relu"]
    names = [*RELEVANCE, "integrated_gradients"]
    maps = salience.explain(net, x, names, [0, 1, 2], batch_size=size)
    tape = salience.record(net, x)
    for name in names:
        error = "conservation_error" if name in RELEVANCE else "completeness_error"
        assert maps.error_names[name] == error
        _, fact = with_error(tape, name, [0, 1, 2])
        torch.testing.assert_close(maps.error[name], fact, rtol=1e-7, atol=1e-12)
    assert not salience.explain(net, x, "gradient").error


def test_half_precision_sums_are_not_the_error():
    net = chain(new(nn.Linear, 4096, 1, bias=False))
    fill(net, torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.layers[0].weight.fill_(1.0)
    x = torch.ones(1, 4096)
    tape = salience.record(net.bfloat16().eval(), x.bfloat16())
    assert with_error(tape, "lrp_epsilon", 0, eps=0.0)[1].item() < 1e-6
