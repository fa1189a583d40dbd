"""The randomisation test against its naive reference, and its promises."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray
from chosen import chosen
from hypothesis import given
from hypothesis import strategies as st
from randomized import ORDERS, SCORES, conv_net, images, run, study_of, values
from reference_randomization import cases, draws, naive_test
from scipy import stats
from torch import nn

import salience
from salience._randomization import comparison
from salience._study.stages import evenly_spread

CASES = cases()


# -- the naive reference ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CASES)
def test_scores_equal_the_naive_reference(name, order):
    case = CASES[name]
    scores = [*SCORES, "ssim"] if name == "residual" else SCORES
    options = {"order": order, "repeats": 2, "seed": 11, "weights": "own"}
    data = study_of(
        case.model, case.x, case.methods, scores=scores, progress=False, **options,
        batch_size=None if name == "branching" else 2,  # it branches on the batch's mean
    )  # fmt: skip
    stages = [stage[0] for stage in case.stages]
    assert list(data.stage.values) == (stages[::-1] if order == "top_down" else stages)
    for score, expected in naive_test(case, scores, **options).items():
        found = data[score].values[: len(case.methods)]
        # rounding may order a tied pair of entries either way, in one of some hundred ranks
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9, err_msg=score)
    assert data.attrs["parameters_not_randomized"] == []


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
    same = run(case.model, case.x, target=trained)
    xarray.testing.assert_identical(kept.drop_attrs(), same.drop_attrs())
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


# -- promises --------------------------------------------------------------------------------------


def bits(data: xarray.Dataset) -> dict[str, object]:
    """All that a dataset holds, numbers as they lie in memory."""
    found = {
        str(name): (v.dims, v.dtype, v.values.tolist() if v.dtype == object else v.values.tobytes())
        for name, v in data.variables.items()
    }
    return {**found, "attributes": [data.attrs, *(v.attrs for v in data.variables.values())]}


def test_the_same_seed_gives_the_same_dataset_to_the_last_bit():
    case = CASES["residual"]
    options = {"keep_maps": 2, "batch_size": 2}
    methods = [*case.methods, salience.rules.smoothgrad(n=2)]
    first, second = (run(case.model, case.x, methods, seed=5, **options) for _ in range(2))
    assert bits(first) == bits(second)
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
    whole, begun, failed = comparison._other_inputs, [], []

    def small(plan, held, trained, before):
        """Fails late in the second batch, and once more in its first half."""
        begun.append(before is not None)
        if sum(begun) in (1, 2) and begun[-1]:
            failed.append(len(trained["gradient"]))
            raise RuntimeError("CUDA out of memory")
        return whole(plan, held, trained, before)

    monkeypatch.setattr(comparison, "_other_inputs", small)
    found = run(model, x, ["gradient", "lrp_epsilon"], batch_size=3)
    assert failed == [3, 2]
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
    method = salience.rules.lrp_epsilon(eps=0.25)
    data = run(case.model, case.x, method, order="bottom_up", seed=9)
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


def test_the_trained_maps_tell_their_errors():
    net = conv_net()
    x = images(5, 1, 12, 12)
    given = {"integrated_gradients": {"max_steps": 8, "tol": 0.0}}
    methods = chosen(given, ["gradient", "lrp_epsilon", "lrp_alpha_beta", "integrated_gradients"])
    data = run(net, x, methods, batch_size=2, repeats=1)
    maps = salience.explain(net, x, methods, 0)
    for name, wanted in {
        "conservation_error": ["lrp_epsilon", "lrp_alpha_beta"],
        "completeness_error": ["integrated_gradients"],
    }.items():
        for method in map(str, data.method.values):
            found = values(data, name, method)
            if method in wanted:
                assert maps.error_names[method] == name
                expected = maps.error[method].numpy()
                # float32 sums of terms that cancel, in batches of another size
                np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
                assert found.max() > 1e-8
            else:
                assert np.isnan(found).all(), (name, method)


def test_operations_without_a_rule_are_named():
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    data = run(net, images(2, 6), ["guided_backprop", "gradient"], repeats=1)
    assert dict(zip(data.method.values, data.uncovered.values, strict=True)) == {
        "guided_backprop": "gelu", "gradient": "", "input": "", "random_map": "",
    }  # fmt: skip


@pytest.mark.parametrize("unused", [False, True])
def test_the_dataset_survives_its_files(tmp_path, unused):
    case = CASES["residual"]
    model = copy.deepcopy(case.model)
    if unused:
        model.one, model.two = nn.Linear(2, 2).double().eval(), nn.Linear(2, 2).double().eval()
    data = run(model, case.x, ["gradient", "deconvnet"])
    if unused:
        expected = [f"{layer}.{kind}" for layer in ("one", "two") for kind in ("bias", "weight")]
        assert data.attrs["parameters_not_randomized"] == expected
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
