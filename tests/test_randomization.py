"""The randomisation test against its naive reference, its random weights, controls and promises."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray
from hypothesis import given
from hypothesis import strategies as st
from reference_randomization import Case, cases, draws, naive_test
from scipy import stats
from torch import Tensor, nn

import salience
from salience import comparison
from salience.cascade import evenly_spread
from salience.errors import SalienceError
from salience.randomize import random_weights, stages_of, stream
from salience.tape import run_pass

CASES = cases()
ORDERS = ["top_down", "bottom_up", "independent"]
SCORES = ["spearman", "spearman_abs", "spearman_of_abs", "pearson"]


def run(model, x, methods="gradient", **options) -> xarray.Dataset:
    options = {"repeats": 2, "target": 0, "progress": False, "scores": SCORES, **options}
    return salience.randomization_test(model, x, methods, **options)


def values(data: xarray.Dataset, name: str, method: str) -> np.ndarray:
    return data[name].sel({"method": method}).values


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv_net(depth: int = 2, **options) -> nn.Module:
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Conv2d(4 if k else 1, 4, 3, padding=1, **options), nn.ReLU()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        for layer in net:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
    return net.eval()


# -- the naive reference ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CASES)
def test_scores_equal_the_naive_reference(name, order):
    case = CASES[name]
    scores = [*SCORES, "ssim"] if name == "residual" else SCORES
    options = {"order": order, "repeats": 2, "seed": 11, "weights": "own"}
    data = salience.randomization_test(
        case.model, case.x, case.methods, scores=scores, progress=False, **options,
        batch_size=None if name == "branching" else 2,  # it branches on the batch's mean
    )  # fmt: skip
    stages = [stage[0] for stage in case.stages]
    assert list(data.stage.values) == (stages[::-1] if order == "top_down" else stages)
    for score, expected in naive_test(case, scores, **options).items():
        found = data[score].values[: len(case.methods)]
        # rounding may order a tied pair of entries either way, in one of some hundred ranks
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9, err_msg=score)
    assert data.attrs["parameters_not_randomised"] == []


@pytest.mark.parametrize("weights", ["normal", "permute"])
def test_other_weights_equal_the_naive_reference(weights):
    case = CASES["residual"]
    options = {"order": "top_down", "repeats": 2, "seed": 3, "weights": weights}
    data = run(case.model, case.x, case.methods, **{**options, "target": "argmax"})
    expected = naive_test(case, SCORES, **options)
    for score in SCORES:
        found = data[score].values[: len(case.methods)]
        np.testing.assert_allclose(found, expected[score], rtol=0, atol=1e-9)


def test_the_target_is_that_of_the_trained_network_unless_retargeted():
    case = CASES["mlp"]
    trained = case.model(case.x).argmax(1).tolist()
    kept = run(case.model, case.x, target="argmax")
    xarray.testing.assert_identical(
        kept.drop_attrs(), run(case.model, case.x, target=trained).drop_attrs()
    )
    moved = run(case.model, case.x, target="argmax", retarget=True, repeats=1, seed=5)
    drawn = draws(case, 5, 0, "own")
    for place, row in zip((2, 1, 0), values(moved, "pearson", "gradient")[:, 0], strict=True):
        copied = copy.deepcopy(case.model)
        named = dict(copied.named_parameters())
        with torch.no_grad():
            for stage in drawn[place:]:
                for name, value in stage.items():
                    named[name].copy_(value)
        maps = salience.record(copied, case.x).explain("gradient", "argmax").numpy()
        before = salience.record(case.model, case.x).explain("gradient", trained).numpy()
        expected = [stats.pearsonr(p, q).statistic for p, q in zip(before, maps, strict=True)]
        np.testing.assert_allclose(row, expected, atol=1e-9)


# -- random weights --------------------------------------------------------------------------------


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


def test_own_draws_follow_the_layers_initialiser():
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


# -- controls --------------------------------------------------------------------------------------


def test_controls():
    x = images(3, 3, 64, 64)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data = salience.randomization_test(
        net.eval(), x, ["lrp_epsilon"], target=0, repeats=3, progress=False
    )
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
    single = [name for name, method in salience.methods.items() if method.run is None]
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
        conv_net(1), images(4, 1, 128, 128), [detector, random], target=0, repeats=3, progress=False
    )
    verdicts = salience.verdicts(data)
    assert verdicts["edge_detector"].retention == pytest.approx(1, abs=1e-12)
    assert verdicts["edge_detector"].verdict == "insensitive"
    assert verdicts["noise"].retention < 0.02
    assert verdicts["noise"].verdict == "sensitive"


# -- promises --------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_dataset():
    case = CASES["residual"]
    first, second = (run(case.model, case.x, case.methods, seed=5) for _ in range(2))
    xarray.testing.assert_identical(first, second)
    assert first.attrs == second.attrs
    other = run(case.model, case.x, case.methods, seed=6)
    assert not np.allclose(first.spearman.values[0], other.spearman.values[0])


def test_batches_agree_to_rounding():
    model, x = conv_net(), images(5, 1, 16, 16)
    whole = run(model, x, None)
    for size in (1, 2, 3):
        parts = run(model, x, None, batch_size=size)
        xarray.testing.assert_allclose(whole, parts, rtol=0, atol=1e-4)


def test_memory_that_runs_out_changes_nothing(monkeypatch):
    model, x = conv_net(), images(6, 1, 8, 8)
    expected = run(model, x, ["gradient", "lrp_epsilon"], batch_size=3)
    whole, failed = comparison.Comparison._score, []

    def small(self, kept, maps, *rest):
        if len(maps) > 2 and len(failed) < 2 and len(rest[1]) == 3 and self._last:
            failed.append(len(maps))
            raise RuntimeError("CUDA out of memory")
        return whole(self, kept, maps, *rest)

    monkeypatch.setattr(comparison.Comparison, "_score", small)
    found = run(model, x, ["gradient", "lrp_epsilon"], batch_size=3)
    assert failed
    xarray.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_nothing_of_the_users_is_touched():
    case = CASES["residual"]
    model = copy.deepcopy(case.model)
    model.conv1.weight.requires_grad_(False)  # randomised all the same
    hook = model.conv2.register_forward_hook(lambda module, args, output: None)
    state = copy.deepcopy(model.state_dict())
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    ids = {name: id(p) for name, p in model.named_parameters()}
    versions = {name: p._version for name, p in model.named_parameters()}
    x = case.x.clone()
    torch.manual_seed(17)
    np.random.seed(17)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for weights in ("own", "normal", "permute"):
        for batch_norm in ("keep", "recalibrate", "reset"):
            data = run(model, x, None, weights=weights, batch_norm=batch_norm, repeats=1)
            assert data.stage.values[-1] == "conv1.weight"
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(x, case.x)
    assert not x.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert {name: id(p) for name, p in model.named_parameters()} == ids
    assert {name: p._version for name, p in model.named_parameters()} == versions
    assert list(model.conv2._forward_hooks) == [hook.id]
    assert all(p.grad is None for p in model.parameters())
    assert not any(vars(p) for p in model.parameters())
    assert not model.training


@pytest.mark.parametrize("order", ["top_down", "independent"])
def test_some_stages_are_those_of_the_whole_test(order):
    """The cascade randomises all stages, whichever are scored."""
    model, x = conv_net(6), images(2, 1, 12, 12)
    whole = run(model, x, order=order)
    assert whole.sizes["stage"] == 7
    for count in (1, 3, 7):
        some = run(model, x, order=order, stages=count)
        assert some.sizes["stage"] == count
        assert some.stage.values[-1] == whole.stage.values[-1]
        same = whole.sel({"stage": some.stage.values})
        np.testing.assert_allclose(some.spearman, same.spearman, atol=1e-9)


@given(st.integers(1, 60), st.data())
def test_stages_are_evenly_spread(total, data):
    count = data.draw(st.integers(1, total))
    chosen = evenly_spread(count, total)
    assert len(chosen) == len(set(chosen)) == count
    assert chosen[-1] == total - 1
    gaps = np.diff([-1 if count == total else 0, *chosen])
    assert gaps.max() - gaps.min() <= 1


def test_the_dataset_holds_what_repeats_the_run():
    case = CASES["mlp"]
    given = {"lrp_epsilon": {"eps": 0.25}}
    data = run(case.model, case.x, ["lrp_epsilon"], parameters=given, order="bottom_up", seed=9)
    attributes = data.attrs
    for name, value in {
        "order": "bottom_up", "repeats": 2, "stages": "all", "seed": 9, "weights": "own",
        "batch_norm": "keep", "retarget": 0, "target": "0", "torch": torch.__version__,
        "output": "None", "data_shape": "(4, 6)", "dtype": "torch.float64", "device": "cpu",
    }.items():  # fmt: skip
        assert attributes[name] == value, name
    assert "'eps': 0.25" in attributes["method_parameters"]
    same = run(copy.deepcopy(case.model), case.x.clone())
    assert same.attrs["model_fingerprint"] == attributes["model_fingerprint"]
    assert same.attrs["data_fingerprint"] == attributes["data_fingerprint"]
    changed = copy.deepcopy(case.model)
    changed[0].bias.data[0] += 1e-9
    other = run(changed, case.x + 1e-9)
    assert other.attrs["model_fingerprint"] != attributes["model_fingerprint"]
    assert other.attrs["data_fingerprint"] != attributes["data_fingerprint"]


@pytest.mark.parametrize("unused", [False, True])
def test_the_dataset_survives_its_files(tmp_path, unused):
    case = CASES["residual"]
    model = copy.deepcopy(case.model)
    if unused:
        model.one, model.two = nn.Linear(2, 2).double().eval(), nn.Linear(2, 2).double().eval()
    data = run(model, case.x, ["gradient", "deconvnet"])
    if unused:
        expected = [f"{layer}.{kind}" for layer in ("one", "two") for kind in ("bias", "weight")]
        assert data.attrs["parameters_not_randomised"] == expected
    data.to_netcdf(tmp_path / "test.nc")
    data.to_zarr(tmp_path / "test.zarr", consolidated=False)
    for held in (
        xarray.load_dataset(tmp_path / "test.nc"),
        xarray.open_zarr(tmp_path / "test.zarr", consolidated=False).load(),
    ):
        xarray.testing.assert_equal(held, data)
        assert {name: _plain(value) for name, value in held.attrs.items()} == data.attrs
        assert str(salience.verdicts(held)) == str(salience.verdicts(data))


def _plain(value):
    """netCDF reads a list as an array, and an empty one as no number."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "topdown"}, "Did you mean 'top_down'"),
        ({"weights": "norml"}, "Did you mean 'normal'"),
        ({"batch_norm": "recalibrated"}, "Did you mean 'recalibrate'"),
        ({"scores": ["spearmann"]}, "Did you mean 'spearman"),
        ({"methods": "gradiant"}, "Did you mean 'gradient'"),
        ({"methods": ["gradient", "gradient"]}, "'gradient' twice"),
        ({"methods": [replace(salience.methods["gradient"], name="edges")]}, "'edges' twice"),
        ({"parameters": {"gradeint": {}}}, "Did you mean 'gradient'"),
        ({"methods": "lrp_epsilon", "parameters": {"lrp_epsilon": {"epsilon": 1}}}, "'eps'"),
        ({"repeats": 0}, "at least one repeat"),
        ({"stages": 0}, r'"all" or a number of stages; got 0 \(the network has 3\)'),
        ({"stages": 4}, r"got 4 \(the network has 3\)"),
        ({"stages": "second_half"}, "got 'second_half'"),
        ({"stages": 1.5}, "got 1.5"),
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
    with pytest.raises(SalienceError, match="at least one repeat and one sample; got 2 and 0"):
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
        verdict = salience.verdicts(data, stages="all")[method]
        assert verdict.undefined == 6
        assert verdict.retention == pytest.approx(found[:-1].mean())
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
        assert salience.verdicts(data)[control].verdict == "undefined"
    assert data.attrs["undefined_spearman"] == 2 * values(data, "spearman", "input").size
    assert np.isfinite(values(data, "spearman", "gradient")).all()
