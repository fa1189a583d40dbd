"""What a method costs: exact numbers of convolutions per layer, counted where torch runs them.

The budget (forward + backward, the recorded pass included): gradient 1 + 1, LRP-epsilon 1 + 1,
alpha1-beta0 2 + 1, alpha2-beta1 2 + 2. A backward convolution is one that computes the gradient of
its input; gradients of weights are never computed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from chosen import chosen
from counting import Convolutions, Counts
from nets import Add, GraphNet, chain, fill, graph, new
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import salience

aten = torch.ops.aten

SINGLE = [name for name, method in salience.methods.items() if method.single_pass]
ALPHA1_BETA0 = {"alpha": 1.0, "beta": 0.0}
# method, parameters -> hidden layers; first layer for x >= 0; first layer for x of either sign
BUDGET: dict[str, tuple[str, dict[str, Any], tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "gradient": ("gradient", {}, (1, 1), (1, 1), (1, 1)),
    "input_x_gradient": ("input_x_gradient", {}, (1, 1), (1, 1), (1, 1)),
    "guided_backprop": ("guided_backprop", {}, (1, 1), (1, 1), (1, 1)),
    "deconvnet": ("deconvnet", {}, (1, 1), (1, 1), (1, 1)),
    "lrp_epsilon": ("lrp_epsilon", {}, (1, 1), (1, 1), (1, 1)),
    # inputs of either sign: z+ = W+ a+ + W- a- is one convolution of twice as many channels
    "excitation_backprop": ("excitation_backprop", {}, (2, 1), (2, 1), (2, 1)),
    "alpha1_beta0": ("lrp_alpha_beta", ALPHA1_BETA0, (2, 1), (2, 1), (2, 1)),
    # z- = z - z+ and P^T (alpha s+ + beta s-) - beta W^T s-: one transpose more than alpha1-beta0
    "alpha2_beta1": ("lrp_alpha_beta", {}, (2, 2), (2, 2), (2, 2)),
    "lrp_gamma": ("lrp_gamma", {}, (2, 2), (2, 2), (2, 2)),
    # alpha1-beta0 at convolutions, the flat rule (a convolution with ones) at the input
    "lrp_composite": ("lrp_composite", {}, (2, 1), (2, 1), (2, 1)),
    # w^2 at the input has one sign whatever the input's is: W^2 1 and its transpose
    "deep_taylor": ("deep_taylor", {}, (2, 1), (2, 1), (2, 1)),
    # z^B: W+ (a - low) and W- (a - high), and their transposes
    "deep_taylor_bounded": ("deep_taylor", {"low": -9.0, "high": 9.0}, (2, 1), (3, 2), (3, 2)),
}


class Counting(nn.Module):
    """A model that counts the calls of its own forward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.count = net, [0]  # what forward assigns is put back

    def forward(self, x: Tensor) -> Tensor:
        self.count[0] += 1
        return self.net(x)

    @property
    def calls(self) -> int:
        return self.count[0]


def _make() -> dict[str, GraphNet]:
    conv, bn, relu = nn.Conv2d, nn.BatchNorm2d, nn.ReLU
    head = (nn.Flatten(), new(nn.Linear, 80, 3))
    nets = {
        "plain": chain(
            new(conv, 2, 3, 3, padding=1), relu(), new(conv, 3, 4, 3, padding=1), relu(),
            new(conv, 4, 5, 3), relu(), *head),
        "conv_bn": chain(
            new(conv, 2, 3, 3, padding=1, bias=False), new(bn, 3), relu(),
            new(conv, 3, 4, 3, padding=1), new(bn, 4), relu(),
            new(conv, 4, 5, 3, bias=False), new(bn, 5), relu(), *head),
        "residual": graph(
            new(conv, 2, 3, 3, padding=1), relu(), new(conv, 3, 4, 3, padding=1), new(bn, 4),
            relu(), new(conv, 4, 3, 1), (Add(), 6, 2), nn.ReLU(inplace=True), new(conv, 3, 5, 3),
            relu(), *head),
    }  # fmt: skip
    for seed, net in enumerate(nets.values()):
        fill(net, torch.Generator().manual_seed(seed))
        net.eval()
    return nets


NETS = _make()
NOISE = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
INPUTS = {"either sign": NOISE, "non-negative": NOISE.abs()}


def layers(net: nn.Module, first: tuple[int, int], hidden: tuple[int, int]) -> Counts:
    convolutions = sum(isinstance(module, nn.Conv2d) for module in net.modules())
    return [first, *[hidden] * (convolutions - 1)]


# ---------------------------------------------------------------- one method


@pytest.mark.parametrize("sign", INPUTS)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("case", BUDGET)
def test_convolutions_of_one_method(case: str, name: str, sign: str):
    method, given, hidden, non_negative, either = BUDGET[case]
    net = NETS[name]
    with Convolutions() as count:
        salience.record(net, INPUTS[sign]).explain(method, target=1, **given)
    first = either if sign == "either sign" else non_negative
    assert count.of(net) == layers(net, first, hidden)
    assert count.masks == {(True, False, False)}


def test_the_counter_sees_gradients_of_weights():
    net = NETS["plain"]
    with Convolutions() as count:
        torch.autograd.grad(net(NOISE).sum(), list(net.parameters()))
    assert count.of(net) == [(1, 1)] * 3
    assert count.masks == {(False, True, True), (True, True, True)}


def test_every_single_pass_method_has_a_budget():
    assert {method for method, *_ in BUDGET.values()} == set(SINGLE)


@pytest.mark.parametrize(
    ("case", "products"),
    [("gradient", 2), ("guided_backprop", 2), ("lrp_epsilon", 2), ("excitation_backprop", 3),
     ("alpha1_beta0", 3), ("alpha2_beta1", 4)],
)  # fmt: skip
def test_linear_layers_cost_what_convolutions_do(case: str, products: int):
    method, given, *_ = BUDGET[case]
    net = chain(new(nn.Linear, 4, 6), nn.ReLU(), new(nn.Linear, 6, 5), nn.ReLU(),
                new(nn.Linear, 5, 3)).eval()  # fmt: skip
    fill(net, torch.Generator().manual_seed(0))
    x = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with Convolutions() as count:
        salience.record(net, x).explain(method, target=1, **given)
    assert count.products == 3 * products


@pytest.mark.parametrize("name", NETS)
def test_gradients_cost_what_autograd_does_with_frozen_parameters(name: str):
    net = NETS[name]
    x = NOISE.clone().requires_grad_()
    with Convolutions() as plain:
        frozen = {key: value.detach() for key, value in net.named_parameters()}
        out = torch.func.functional_call(net, frozen, (x,))
        torch.autograd.grad(out[:, 1].sum(), x)
    with Convolutions() as ours:
        salience.record(net, NOISE).explain("gradient", target=1)
    assert ours.of(net) == plain.of(net)


# ---------------------------------------------------------------- many methods on one tape


@pytest.mark.parametrize("name", NETS)
def test_all_single_pass_methods_on_one_tape(name: str):
    net = NETS[name]
    with Convolutions() as count:
        tape = salience.record(net, INPUTS["non-negative"])
        for method in SINGLE:
            tape.explain(method, target=1)
        tape.explain("lrp_alpha_beta", target=1, **ALPHA1_BETA0)
    # hidden: the pass and one z+ for six methods; one transpose each, two of alpha2-beta1 and of
    # gamma, one for both the gradient and input x gradient.
    # The first layer has the responses W^2 1 of deep Taylor and 1 1 of the flat rule besides.
    assert count.of(net) == layers(net, (4, len(SINGLE) + 2), (2, len(SINGLE) + 2))
    assert count.masks == {(True, False, False)}


@pytest.mark.parametrize("name", NETS)
def test_all_single_pass_methods_on_one_tape_for_inputs_of_either_sign(name: str):
    net = NETS[name]
    with Convolutions() as count:
        tape = salience.record(net, INPUTS["either sign"])
        for method in SINGLE:
            tape.explain(method, target=1)
        tape.explain("lrp_alpha_beta", target=1, **ALPHA1_BETA0)
    assert count.of(net) == layers(net, (4, len(SINGLE) + 2), (2, len(SINGLE) + 2))


@pytest.mark.parametrize("first", ["excitation_backprop", "deep_taylor", "lrp_alpha_beta"])
@pytest.mark.parametrize("second", ["excitation_backprop", "deep_taylor", "lrp_alpha_beta"])
@pytest.mark.parametrize("name", NETS)
def test_positive_responses_are_shared_between_methods_and_targets(
    first: str, second: str, name: str
):
    net = NETS[name]
    tape = salience.record(net, INPUTS["non-negative"])
    tape.explain(first, target=0)
    with Convolutions() as count:
        tape.explain(second, target=2)
    forward = [layer[0] for layer in count.of(net)]
    assert forward[1:] == [0] * (len(forward) - 1)
    if "deep_taylor" not in (first, second):  # deep Taylor has a rule of its own at the input
        assert forward[0] == 0


@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "lrp_epsilon"])
def test_a_second_target_runs_nothing_forward(method: str):
    net = NETS["plain"]
    tape = salience.record(net, NOISE)
    tape.explain(method, target=0)
    with Convolutions() as count:
        tape.explain(method, target=[1, 2])
    assert count.of(net) == [(0, 1)] * 3


@pytest.mark.parametrize("name", NETS)
def test_the_models_forward_is_called_once_for_all_single_pass_methods(name: str):
    model = Counting(NETS[name]).eval()
    tape = salience.record(model, NOISE)
    assert model.calls == 1
    for method in SINGLE:
        tape.explain(method, target=0)
        tape.explain(method, target=1)
    assert model.calls == 1


def test_all_methods_call_the_models_forward_once_besides_their_own_passes():
    model = Counting(NETS["plain"]).eval()
    given = {
        "smoothgrad": {"n": 3},
        "integrated_gradients": {"max_steps": 8, "tol": 0.0},
    }
    salience.explain(model, NOISE, chosen(given), target=1)
    # SmoothGrad: 3 draws of 2 samples in one pass; integrated gradients: the values, then the
    # gradients, of 2 samples at 4 points, then gradients at 4 more, a pass each
    assert model.calls == 1 + 1 + 3


# ---------------------------------------------------------------- waits


class Waits(TorchDispatchMode):
    """How often a value is handed to Python, for which a device waits."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket is torch.ops.aten._local_scalar_dense
        return func(*args, **(kwargs or {}))


# the one of excitation backprop asks whether a target is 0, which it is divided by; alpha2-beta1 in
# float32 asks every layer whether its z- would drown in z+
WAITS = {"excitation_backprop": 1, "lrp_alpha_beta": None}


@pytest.mark.parametrize("sign", INPUTS)
@pytest.mark.parametrize("name", NETS)
def test_nothing_waits_between_the_target_and_the_map(name: str, sign: str):
    with Waits() as recording:
        tape = salience.record(NETS[name], INPUTS[sign])
    assert recording.count <= 2  # is the input finite, is it nowhere negative
    for method in SINGLE:
        with Waits() as waits:
            tape.explain(method, target=0)
        allowed = WAITS.get(method, 0)
        assert allowed is None or waits.count == allowed, method


# ---------------------------------------------------------------- across batches


@pytest.mark.parametrize("name", NETS)
def test_what_derives_from_weights_is_computed_once_for_all_batches(name: str):
    net = NETS[name]
    positive = ["excitation_backprop", "deep_taylor", "lrp_alpha_beta"]

    def clamps(batches: int) -> Counter[torch.Size]:
        x = INPUTS["non-negative"][:1].repeat(batches, 1, 1, 1)
        with Convolutions() as count:
            salience.explain(net, x, positive, target=1, batch_size=1)
        weights = {m.weight.shape for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        return Counter({s: k for s, k in count.clamped.items() if s in weights})

    one = clamps(1)
    assert set(one.values()) == {1}
    assert clamps(4) == one


def test_batches_cost_their_number_of_passes_and_no_more():
    net = NETS["plain"]
    x = INPUTS["non-negative"].repeat(2, 1, 1, 1)
    with Convolutions() as count:
        salience.explain(net, x, ["lrp_alpha_beta", "gradient"], target=1, batch_size=1)
    assert count.of(net) == [(2 * 4, 3 * 4)] * 3
