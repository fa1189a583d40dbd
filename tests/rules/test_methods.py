"""Every method of the public registry against its oracle, on every kind of small network."""

import pytest
import torch
from nets import small_nets
from oracles import ORACLES

import salience

NETS = small_nets()
PARAMETERS = {
    "lrp_epsilon": [
        {},
        {"eps": 0.3},
        {"eps": 0.0},
        {"eps": 0.0, "eps_relative": 0.2},
        {"eps": 0.1, "eps_relative": 2.0},
    ],
    "lrp_alpha_beta": [{}, {"alpha": 1.0, "beta": 0.0}, {"alpha": 1.5, "beta": 0.5}],
    "lrp_gamma": [{}, {"gamma": 2.0}],
    "lrp_composite": [
        {},
        {"preset": "epsilon-plus"},
        {"preset": "epsilon-gamma-box", "low": -4.0, "high": 4.0, "eps": 0.1},
        {"preset": "alpha2beta1-flat"},
        {"preset": "attnlrp"},
        {"preset": "attnlrp-gamma", "gamma": 0.1},
    ],
    "deep_taylor": [{}, {"low": -4.0, "high": 4.0}],
    "smoothgrad": [{"n": 3}, {"n": 2, "noise": 0.3, "base": "lrp_epsilon"}],
    "integrated_gradients": [{}, {"baseline": 0.5}],
}
CASES = [(name, given) for name in salience.methods for given in PARAMETERS.get(name, [{}])]


def test_every_public_method_has_an_oracle():
    assert set(salience.methods) == set(ORACLES)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("method", "given"), CASES, ids=lambda v: str(v))
def test_method_equals_its_oracle(net, method, given):
    model, x = NETS[net]
    target = [i % 3 for i in range(len(x))]
    expected = dict(given)
    if method == "smoothgrad":
        generator = torch.Generator().manual_seed(7)
        draws = [torch.randn(x.shape[1:], generator=generator) for _ in range(given["n"])]
        expected["draws"] = torch.stack(draws).to(x)
    if method == "integrated_gradients":
        # one fixed number of steps: the doubling is tested by the completeness law
        given, expected = {**given, "max_steps": 8, "tol": 0}, {**given, "steps": 8}
    maps = salience.record(model, x).explain(method, target=target, seed=7, **given)
    oracle = ORACLES[method](model, x, target, **expected)
    scale = oracle.abs().max()
    assert scale > 0
    torch.testing.assert_close(maps, oracle, rtol=0, atol=1e-9 * float(scale))


@pytest.mark.parametrize("net", ["mlp", "mlp_no_bias", "conv_bn_relu"])
@pytest.mark.parametrize("block", [1, 7, 16])
def test_large_dense_layers_in_blocks_of_rows(net, block, monkeypatch):
    model, x = NETS[net]
    target = [1] * len(x)
    monkeypatch.setattr("salience._recording.linear_maps.BLOCK", block)
    for method in ("lrp_alpha_beta", "excitation_backprop", "deep_taylor"):
        maps = salience.record(model, x).explain(method, target=target)
        torch.testing.assert_close(maps, ORACLES[method](model, x, target), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("net", NETS)
def test_methods_on_one_tape_do_not_disturb_each_other(net):
    model, x = NETS[net]
    single = [name for name, method in salience.methods.items() if method.single_pass]
    tape = salience.record(model, x)
    together = {name: tape.explain(name, target=1) for name in single}
    for name in reversed(single):
        torch.testing.assert_close(tape.explain(name, target=1), together[name], rtol=0, atol=0)
        alone = salience.record(model, x).explain(name, target=1)
        torch.testing.assert_close(alone, together[name], rtol=1e-12, atol=1e-14)
