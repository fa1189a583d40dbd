"""Composites: which rule a layer gets, by its place or by a function of the layer."""

from functools import partial

import pytest
import torch
from chosen import with_error
from nets import small_nets
from oracles import ORACLES
from torch import nn

import salience
from salience._errors import SalienceError
from salience.rules._composites import INPUT_RULES, PRESETS, RULES

NET, X = small_nets()["conv_bn_relu"]
TARGET = [1] * len(X)


def maps(model=NET, x=X, **parameters):
    return salience.record(model, x).explain("lrp_composite", target=TARGET, **parameters)


@pytest.mark.parametrize(("rule", "method", "given"), [
    ("gradient", "input_x_gradient", {}),
    ("epsilon", "lrp_epsilon", {"eps": 0.3}),
    (("epsilon", {"eps": 0.3}), "lrp_epsilon", {"eps": 0.3}),
    (("gamma", {"gamma": 0.7}), "lrp_gamma", {"gamma": 0.7}),
    ("plus", "lrp_alpha_beta", {"alpha": 1.0, "beta": 0.0}),
    ("alpha2beta1", "lrp_alpha_beta", {}),
])  # fmt: skip
def test_one_rule_everywhere_is_the_method_of_that_rule(rule, method, given):
    expected = ORACLES[method](NET, X, TARGET, **given)
    found = maps(rules=lambda layer: rule, eps=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_function_sees_every_layer_and_presets_are_such_functions():
    seen = {}

    def by_place(layer):
        seen[layer.number] = layer
        if layer.first:
            return "flat"
        return "plus" if layer.kind == "convolution" else ("epsilon", {"eps": 1e-6})

    torch.testing.assert_close(maps(rules=by_place), maps(preset="epsilon-plus-flat"))
    layers = [seen[i] for i in sorted(seen)]
    assert [layer.first for layer in layers] == [True] + [False] * (len(layers) - 1)
    named = dict(NET.named_parameters())
    for layer in layers:
        assert (named[layer.name].ndim == 4) == (layer.kind == "convolution")


def test_deep_taylor_is_a_composite_without_biases():
    mlp, x = small_nets()["mlp_no_bias"]
    found = salience.record(mlp, x).explain(
        "lrp_composite", target=[1] * len(x), rules=lambda at: "w_squared" if at.first else "plus"
    )
    expected = salience.record(mlp, x).explain("deep_taylor", target=[1] * len(x))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_lone_batch_norm_counts_as_dense():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(6, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
        ).double().eval()  # fmt: skip
    kinds = {}
    salience.record(net, torch.ones(1, 6).double()).explain(
        "lrp_composite", target=1, rules=lambda at: kinds.update({at.number: at.kind}) or "epsilon"
    )
    assert kinds == {0: "dense", 1: "batch_norm", 2: "dense"}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_keeps_the_relevance_of_nets_without_bias(preset):
    net, x = small_nets()["mlp_no_bias"]
    x = x.abs() + 0.1  # no input of 0, and units with terms of both signs
    given = {"preset": preset, "low": -1.0, "high": 9.0, "eps": 0.0}
    _, error = with_error(salience.record(net, x), "lrp_composite", [0] * len(x), **given)
    assert error.max() < 1e-9


def test_every_rule_can_be_chosen():
    for name in RULES:
        assert torch.isfinite(maps(rules=lambda layer, name=name: name)).all()
    for name in INPUT_RULES:
        choose = partial(lambda layer, name: name if layer.first else "epsilon", name=name)
        assert torch.isfinite(maps(rules=choose, low=-9.0, high=9.0)).all()


@pytest.mark.parametrize(("given", "match"), [
    ({"preset": "epsilon_plus"}, "Did you mean 'epsilon-plus'"),
    ({"preset": "epsilon-gamma-box"}, "low and high for the preset 'epsilon-gamma-box'"),
    ({"low": 0.0}, "both low and high, or neither"),
    ({"rules": "plus"}, "rules, a function layer -> name"),
    ({"rules": lambda layer: "pluss"}, "Did you mean 'plus'"),
    ({"rules": lambda layer: ("plus", {"eps": 1})}, "parameter of this rule"),
    ({"rules": lambda layer: "flat"}, "a rule for hidden layers.*'flat' at"),
    ({"rules": lambda layer: "box" if layer.first else "plus"}, "low and high for the box rule"),
    ({"gamma": -1}, "gamma >= 0"),
    ({"eps": -1}, "eps >= 0"),
])  # fmt: skip
def test_errors(given, match):
    with pytest.raises(SalienceError, match=match):
        maps(**given)


def test_the_randomization_test_takes_composites():
    data = salience.randomization_test(
        NET,
        X,
        ["lrp_composite"],
        1,
        cascade=salience.Cascade(repeats=1),
        progress=False,
        scores=["spearman"],
    ).data
    assert torch.isfinite(torch.as_tensor(data["spearman"].values)).all()
