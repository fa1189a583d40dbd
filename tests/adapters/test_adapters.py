"""Methods in the calling conventions of captum and Quantus, without either package."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from chosen import with_error
from nets import small_nets
from torch import nn

import salience
from salience import adapters
from salience._errors import SalienceError

NET, X = small_nets()["conv_bn_relu"]
CLASSES = [i % 3 for i in range(len(X))]


class Scaled(nn.Module):
    """relu(W x) times a factor that is not explained."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, factor, power=1):
        return self.last(self.first(x * factor**power).relu())


@pytest.fixture
def scaled():
    return Scaled().double().eval(), torch.randn(5, 4).double(), torch.rand(5, 1).double() + 0.5


class Dense(nn.Module):
    """An output of any shape, from a dense layer."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape
        self.dense = nn.Linear(4, int(np.prod(shape, initial=1)))

    def forward(self, x):
        return self.dense(x).tanh().reshape(len(x), *self.shape)


def test_neither_package_is_imported():
    code = "import sys, salience.adapters as a; a.captum('gradient'); a.quantus('gradient');"
    code += "assert not {'captum', 'quantus', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- captum ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "given"), [
    ("gradient", {}),
    ("guided_backprop", {}),
    ("lrp_epsilon", {"eps": 0.1}),
    ("lrp_composite", {"preset": "epsilon-plus"}),
    ("smoothgrad", {"n": 2, "seed": 3}),
])  # fmt: skip
def test_maps_are_those_of_the_tape(method, given):
    expected = salience.record(NET, X).explain(method, CLASSES, **given)
    attribution = adapters.captum(method, **given)(NET)
    found = attribution.attribute(X, target=torch.tensor(CLASSES))
    assert torch.equal(found, expected) and not found.requires_grad
    (alone,) = attribution.attribute((X,), CLASSES)
    assert torch.equal(alone, expected)


def test_a_method_of_ones_own():
    doubled = salience.Method("doubled", "twice x df/dx", "", readout="x * m", start=2.0)
    found = adapters.captum(doubled)(NET).attribute(X, 1)
    single = salience.record(NET, X).explain("input_x_gradient", target=[1] * len(X))
    torch.testing.assert_close(found, 2 * single)
    arrays = adapters.quantus(doubled)(NET, X.numpy(), np.ones(len(X), dtype=int))
    torch.testing.assert_close(torch.from_numpy(arrays), found)


def test_several_inputs_have_a_map_each():
    model, x = nn.Bilinear(3, 5, 2).double().eval(), torch.randn(4, 3).double()
    other = torch.randn(4, 5).double()
    maps = adapters.captum("gradient")(model).attribute((x, other), target=1)
    a, b = x.clone().requires_grad_(), other.clone().requires_grad_()
    expected = torch.autograd.grad(model(a, b)[:, 1].sum(), (a, b))
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted)


SELECTED = [
    ((3,), 2, lambda out: out[:, 2]),
    ((3,), -1, lambda out: out[:, -1]),
    ((3,), (2,), lambda out: out[:, 2]),
    ((3,), torch.tensor(1), lambda out: out[:, 1]),
    ((3,), torch.tensor([[1]]), lambda out: out[:, 1]),
    ((3,), torch.tensor([2, 0]), lambda out: out[[0, 1], [2, 0]]),
    ((3,), [2, 0], lambda out: out[[0, 1], [2, 0]]),
    ((3,), [(2,), (0,)], lambda out: out[[0, 1], [2, 0]]),
    ((3, 1), 2, lambda out: out[:, 2, 0]),
    ((3, 1), [(2,), (0,)], lambda out: out[[0, 1], [2, 0], 0]),
    ((3, 4), (1, 2), lambda out: out[:, 1, 2]),
    ((3, 4), (-1, -2), lambda out: out[:, -1, -2]),
    ((3, 4), [(1, 2), (0, 3)], lambda out: out[[0, 1], [1, 0], [2, 3]]),
    ((2, 3, 4), (1, 2, 3), lambda out: out[:, 1, 2, 3]),
    ((), None, lambda out: out),
    ((1,), None, lambda out: out[:, 0]),
    ((1, 1), None, lambda out: out[:, 0, 0]),
]  # fmt: skip
REFUSED = [
    ((3,), (1, 2)),  # a difference of logits in salience's grammar
    ((3,), None),
    ((3,), "argmax"),
    ((3,), True),
    ((3,), 1.0),
    ((3,), [1, -1]),
    ((3,), torch.tensor([1, -1])),
    ((3,), torch.tensor([1.0, 0.0])),
    ((3,), torch.tensor([[1, 2], [0, 1]])),
    ((3,), torch.ones(2, 3)),
    ((3,), lambda out: out[:, 1]),
    ((3, 4), 1),
    ((3, 4), [1, 2]),
    ((3, 4), [(1,), (2,)]),
    ((3, 4), (1, 2, 0)),
    ((3, 1), [1, 2]),
    ((), 0),
    ((), [0, 0]),
    ((1,), [(0, 0), (0, 0)]),
]


@pytest.mark.parametrize(("shape", "target", "select"), SELECTED)
def test_targets_select_what_they_select_in_captum(shape, target, select):
    model, x = Dense(*shape).double().eval(), torch.randn(2, 4).double().requires_grad_()
    (expected,) = torch.autograd.grad(select(model(x)).sum(), x)
    found = adapters.captum("gradient")(model).attribute(x, target)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("shape", "target"), REFUSED)
def test_targets_without_one_value_per_sample_are_refused(shape, target):
    model, x = Dense(*shape).eval(), torch.randn(2, 4)
    with pytest.raises(SalienceError, match="a captum target with one value per sample"):
        adapters.captum("gradient")(model).attribute(x, target)


@pytest.mark.parametrize(("target", "match"), [
    (3, "a target from -3 to 2"), ([0, 3], "a target from -3 to 2"), ([1], "one target per sample"),
])  # fmt: skip
def test_targets_that_are_not_there(target, match):
    with pytest.raises(SalienceError, match=match):
        adapters.captum("gradient")(Dense(3).eval()).attribute(torch.randn(2, 4), target)


@pytest.mark.parametrize("several", [False, True])
def test_additional_arguments_are_constants_of_the_model(scaled, several):
    model, x, factor = scaled
    extra = (factor, 2) if several else factor
    power = 2 if several else 1
    found = adapters.captum("lrp_epsilon")(model).attribute(x, 1, extra)
    constant = adapters.captum("lrp_epsilon")(lambda x: model(x, factor, power)).attribute(x, 1)
    torch.testing.assert_close(found, constant)
    # as an input, the factor would take its share of the relevance
    shared, _ = salience.record(model, (x, factor)).explain("lrp_epsilon", target=[1] * len(x))
    assert (found - shared).abs().max() > 1e-3
    of_function = adapters.captum("lrp_epsilon")(model.forward).attribute(x, 1, extra)
    assert torch.equal(found, of_function)


def test_additional_arguments_leave_names_and_the_model_alone(scaled):
    model, x, factor = scaled
    names = []
    adapters.captum("lrp_composite", rules=lambda at: names.append(at.name) or "epsilon")(
        model
    ).attribute(x, 1, factor)
    assert set(names) >= {"first.weight", "last.weight"}
    assert not any(name.startswith("model.") for name in names)
    before = dict(model.__dict__)
    model.train()
    with pytest.raises(SalienceError, match="a model in eval mode"):
        adapters.captum("gradient")(model).attribute(x, 1, factor)
    assert model.training and model.first.training and set(model.__dict__) == set(before)
    with pytest.raises(SalienceError, match=r"dtype torch\.float64"):
        adapters.captum("gradient")(model.eval()).attribute(x.float(), 1, factor)


@pytest.mark.parametrize(("method", "given", "starts"), [
    ("lrp_epsilon", {"eps": 0.3}, lambda value: value),
    ("excitation_backprop", {}, lambda value: 1.0),
    ("lrp_alpha_beta", {"start": 2.0}, lambda value: torch.full_like(value, 2.0)),
])  # fmt: skip
def test_the_delta_of_relevance_methods_is_what_is_missing(method, given, starts):
    attribution = adapters.captum(method, **given)(NET)
    maps, delta = attribution.attribute(X, CLASSES, return_convergence_delta=True)
    value = NET(X).detach().gather(1, torch.tensor(CLASSES)[:, None])[:, 0]
    torch.testing.assert_close(delta, starts(value) - maps.flatten(1).sum(1))
    assert delta.shape == (len(X),)
    _, error = with_error(salience.record(NET, X), method, CLASSES, **given)
    torch.testing.assert_close((delta / starts(value)).abs(), error)
    (alone,), same = attribution.attribute((X,), CLASSES, None, True)
    assert torch.equal(alone, maps) and torch.equal(same, delta)


def test_the_delta_of_integrated_gradients_is_what_is_too_much():
    x, other = torch.randn(4, 3).double(), torch.randn(4, 5).double()
    net = nn.Bilinear(3, 5, 2).double().eval()
    IG = adapters.captum("integrated_gradients", baseline=0.5, tol=0.0, max_steps=1)

    def model(a, b):
        return net(a, b).tanh()

    maps, delta = IG(model).attribute((x, other), 1, return_convergence_delta=True)
    with torch.no_grad():
        half = (torch.full_like(x, 0.5), torch.full_like(other, 0.5))
        gone = (model(x, other) - model(*half))[:, 1]
    torch.testing.assert_close(delta, maps[0].sum(1) + maps[1].sum(1) - gone)
    assert (delta.abs() > 1e-3).all()


def test_what_a_method_says_of_itself():
    said = {
        name: (own.multiplies_by_inputs, own.has_convergence_delta())
        for name in salience.methods
        for own in [adapters.captum(name)(NET)]
    }
    sensitivities = {"gradient", "smoothgrad", "guided_backprop", "deconvnet"}
    assert {name for name, (by_inputs, _) in said.items() if not by_inputs} == sensitivities
    without = sensitivities | {"input_x_gradient"}
    assert {name for name, (_, delta) in said.items() if not delta} == without
    assert adapters.captum("smoothgrad", base="lrp_epsilon")(NET).multiplies_by_inputs


def test_errors_of_captum_calls():
    with pytest.raises(SalienceError, match="Did you mean 'lrp_epsilon'"):
        adapters.captum("lrp_epsilom")
    with pytest.raises(SalienceError, match="parameter of lrp_epsilon"):
        adapters.captum("lrp_epsilon", epsilon=1)(NET).attribute(X, 1)
    plain = adapters.captum("gradient")(NET)
    with pytest.raises(TypeError, match="attribute_to_layer_input"):
        plain.attribute(X, 1, attribute_to_layer_input=True)
    with pytest.raises(SalienceError, match=r"a method whose maps add up.*got gradient"):
        plain.attribute(X, 1, return_convergence_delta=True)
    with pytest.raises(SalienceError, match="a tensor or a tuple of tensors; got dict"):
        plain.attribute({"x": X}, 1)
    with pytest.raises(SalienceError, match="a tensor or a tuple of tensors; got list"):
        plain.attribute([X], 1)

    def masked(x, mask):
        return x.masked_fill(mask, 0.0)

    x, mask = torch.randn(2, 3), torch.tensor([[True, False, False]] * 2)
    with pytest.raises(SalienceError, match=r"one map each; got none for input 1.*additional_forw"):
        adapters.captum("gradient")(masked).attribute((x, mask), 1)
    assert adapters.captum("gradient")(masked).attribute(x, 0, mask).abs().sum() == 0


def test_a_model_that_returns_a_dict():
    def model(x):
        return {"features": x, "logits": x @ torch.eye(4)[:, :2]}

    x = torch.randn(3, 4)
    found = adapters.captum("gradient", output="logits")(model).attribute(x, 1)
    assert torch.equal(found, torch.eye(4)[1].expand(3, 4))
    arrays = adapters.quantus("gradient", output="logits")(model, x.numpy(), np.array([1, 1, 1]))
    assert np.array_equal(arrays, found.numpy())


# -- Quantus --------------------------------------------------------------------------------------


def test_arrays_in_and_out():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    x, y = np.random.default_rng(0).normal(size=(20, 3, 6, 6)), np.arange(20) % 5
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = adapters.quantus("lrp_epsilon", eps=0.1)(net, inputs=x, targets=y, device="cpu")
    tape = salience.record(net, torch.from_numpy(x).float())
    expected = tape.explain("lrp_epsilon", y.tolist(), eps=0.1)
    assert found.dtype == np.float32 and found.shape == x.shape
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)  # other batches
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training and x.dtype == np.float64


def test_keywords_of_the_call_come_before_those_of_the_method():
    explain_func = adapters.quantus("lrp_epsilon", eps=0.1)
    x, y = X.numpy(), np.array(CLASSES)
    found = explain_func(NET, x, y, eps=0.7, method="what evaluate calls it", device="cpu")
    expected = salience.record(NET, X).explain("lrp_epsilon", CLASSES, eps=0.7)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-12)
    again = explain_func(NET, x, y)
    assert np.abs(again - found).max() > 1e-6
    with pytest.raises(SalienceError, match="parameter of lrp_epsilon"):
        explain_func(NET, x, y, normalize=True)


def test_seed_and_strict():
    x, y = X.numpy(), np.array(CLASSES)
    first, second = (adapters.quantus("smoothgrad", n=2, seed=s)(NET, x, y) for s in (0, 1))
    assert np.abs(first - second).max() > 1e-6
    gelu = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).eval()
    with pytest.raises(SalienceError, match="operations that guided_backprop has rules for"):
        adapters.quantus("guided_backprop", strict=True)(gelu, np.ones((2, 3)), np.array([0, 1]))


def test_half_precision_read_only_arrays_and_ids():
    explain_func, y = adapters.quantus("gradient"), np.array([0, 1])
    net = nn.Linear(3, 2).bfloat16().eval()
    x = np.ones((2, 3))[:, ::-1]
    x.flags.writeable = False
    found = explain_func(net, x, y)
    assert found.dtype == np.float32 and np.array_equal(found, net.weight.float().detach().numpy())
    tokens = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2)).eval()
    assert explain_func(tokens, np.array([[1, 2], [3, 4]]), y).shape == (2, 2, 4)


def test_errors_of_quantus_calls():
    with pytest.raises(SalienceError, match="Did you mean 'gradient'"):
        adapters.quantus("gradeint")
    explain_func, x = adapters.quantus("gradient"), X.numpy()
    with pytest.raises(SalienceError, match="one target per sample"):
        explain_func(NET, x, np.array([1, 2]))
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train()
    with pytest.raises(SalienceError, match="a model in eval mode"):
        explain_func(net, np.ones((2, 3)), np.array([0, 1]))
    assert net.training and net[1].training
