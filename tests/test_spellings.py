"""The same function has the same maps, whatever calls it is spelled with."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from traps import close

import salience

METHODS = [name for name, method in salience.methods.items() if method.run is None]
ROOT = math.sqrt(2 / math.pi)

# the first spelling is torch's own
ACTIVATIONS = {
    "silu": [F.silu, nn.SiLU(), lambda x: x * torch.sigmoid(x), lambda x: x / (1 + torch.exp(-x)),
             lambda x: x * (1 / (1 + torch.exp(-x)))],
    "gelu": [F.gelu, nn.GELU(), lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
             lambda x: x * 0.5 * torch.erfc(-x / math.sqrt(2))],
    "gelu_tanh": [
        nn.GELU(approximate="tanh"),
        lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * x * x * x))),
        lambda x: x * torch.sigmoid(2 * ROOT * (x + 0.044715 * x**3))],
    "quick_gelu": [lambda x: F.silu(1.702 * x) / 1.702, lambda x: x * torch.sigmoid(1.702 * x),
                   lambda x: x / (1 + torch.exp(-1.702 * x))],
    "hardswish": [F.hardswish, lambda x: x * F.relu6(x + 3) / 6,
                  lambda x: x * ((x + 3).clamp(0, 6) / 6)],
    "hardsigmoid": [lambda x: (x / 6 + 0.5).clamp(0, 1), lambda x: F.relu6(x + 3) / 6,
                    lambda x: F.hardtanh(x + 3, 0, 6) / 6],
    "sigmoid": [torch.sigmoid, nn.Sigmoid(), lambda x: 1 / (1 + torch.exp(-x)),
                lambda x: 0.5 * (torch.tanh(x / 2) + 1), lambda x: (1 + (-x).exp()).reciprocal()],
    "softplus": [F.softplus, lambda x: torch.log(1 + torch.exp(x)), lambda x: x.exp().log1p()],
    "mish": [F.mish, lambda x: x * F.softplus(x).tanh(),
             lambda x: x * torch.tanh(torch.log1p(torch.exp(x)))],
    "leaky_relu": [lambda x: F.leaky_relu(x, 0.1), lambda x: torch.where(x > 0, x, 0.1 * x),
                   lambda x: torch.maximum(x, 0.1 * x), lambda x: F.relu(x) - 0.1 * F.relu(-x)],
    "elu": [F.elu, nn.ELU(), lambda x: torch.where(x > 0, x, torch.expm1(x)),
            lambda x: x.clamp(min=0) + (torch.exp(x) - 1).clamp(max=0)],
    "relu": [F.relu, nn.ReLU(), lambda x: x * (x > 0), lambda x: (x + x.abs()) / 2,
             lambda x: torch.where(x > 0, x, 0.0), lambda x: x.masked_fill(x < 0, 0)],
    "softsign": [lambda x: x / (1 + x.abs()), lambda x: x * (1 / (1 + x.abs())),
                 lambda x: torch.where(x > 0, x / (1 + x.abs()), x / (1 - x))],
    "tanh": [torch.tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1,
             lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())],
    "square": [torch.square, lambda x: x * x, lambda x: x**2],
    "power": [lambda x: torch.exp2(x), lambda x: 2**x, lambda x: torch.exp(x * math.log(2))],
}  # fmt: skip


class Net(nn.Module):
    """Two dense layers, with a function between them."""

    def __init__(self, function) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

        self.one, self.bias, self.two = drawn(6, 5), drawn(6), drawn(3, 6)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.function(F.linear(x, self.one, self.bias)), self.two)


def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 5, generator=generator, dtype=torch.float64)


def kinds(tape: salience.Tape, method: str) -> set[tuple[str, str]]:
    """What a method does, but for reshapes, shifts and scalings."""
    rows = tape.coverage(method)
    return {(row.kind, row.treatment) for row in rows if row.kind != "structural"}


PAIRS = [
    pytest.param(functions[0], function, id=f"{name}-{i}")
    for name, functions in ACTIVATIONS.items()
    for i, function in enumerate(functions[1:], 1)
]


@pytest.mark.parametrize(("own", "spelled"), PAIRS)
def test_an_activation_in_its_parts(own, spelled):
    plain = salience.record(Net(own).eval(), inputs())
    tape = salience.record(Net(spelled).eval(), inputs())
    for method in METHODS:
        close(tape.explain(method, target=1), plain.explain(method, target=1))
        assert kinds(tape, method) == kinds(plain, method), method


@pytest.mark.parametrize(("own", "spelled"), PAIRS)
def test_an_activation_in_its_parts_when_replayed(own, spelled):
    options = {"repeats": 1, "controls": False, "progress": False, "scores": ["pearson"]}
    methods = ["lrp_epsilon", "guided_backprop", "lrp_alpha_beta"]
    one, two = (
        salience.randomization_test(Net(f).eval(), inputs(), methods, 1, **options)
        for f in (own, spelled)
    )
    torch.testing.assert_close(
        torch.tensor(two.pearson.values), torch.tensor(one.pearson.values), rtol=0, atol=1e-8,
        equal_nan=True,
    )  # fmt: skip


def test_slopes_of_a_function_may_be_parameters():
    slope = nn.Parameter(torch.linspace(0.1, 0.6, 6, dtype=torch.float64))
    own = salience.record(Net(lambda x: F.prelu(x, slope)).eval(), inputs())
    for function in (
        lambda x: torch.where(x > 0, x, slope * x),
        lambda x: x.clamp(min=0) + slope * x.clamp(max=0),
        lambda x: F.relu(x) - slope * F.relu(-x),
    ):
        tape = salience.record(Net(function).eval(), inputs())
        for method in METHODS:
            close(tape.explain(method, target=1), own.explain(method, target=1))


def test_a_gate_of_another_value_is_no_activation():
    def gated(x: Tensor) -> Tensor:
        return x.flip(-1) * torch.sigmoid(x)

    tape = salience.record(Net(gated).eval(), inputs())
    assert ("product", "shared") in kinds(tape, "lrp_epsilon")


def test_a_variance_under_a_root_stays_a_divisor():
    def norm(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    own = salience.record(Net(lambda x: F.rms_norm(x, (6,), eps=1e-6)).eval(), inputs())
    tape = salience.record(Net(norm).eval(), inputs())
    for method in METHODS:
        close(tape.explain(method, target=1), own.explain(method, target=1))
