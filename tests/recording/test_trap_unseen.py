"""Traps of peers.md: outputs, and what a recorded pass cannot see through."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from traps import (
    RULED,
    SINGLE,
    Model,
    Parts,
    as_module,
    close,
    gradient_of,
    images,
    record_exactly,
    same,
    tail,
)

import salience

# ---------------------------------------------------------------- outputs


@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_outputs_written_in_place_after_they_were_packed(container):
    p = Parts()

    def forward(x: Tensor) -> Any:
        h = p.fc(x.flatten(1)[:, :36])
        packed = container(out=h)
        h.relu_()
        return packed

    x = images()
    tape = salience.record(as_module(forward), x)
    assert torch.equal(tape.output, forward(x)["out"])
    assert (tape.output == 0).any()


def test_an_output_that_is_the_input_itself():
    x = images().flatten(1)
    tape = salience.record(as_module(lambda x: x), x)
    assert torch.equal(tape.explain("gradient", target=2), torch.eye(108).double()[[2, 2]])


# ---------------------------------------------------------------- what cannot be seen through


class Custom(torch.autograd.Function):
    """A ReLU with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.relu(x)

    @staticmethod
    def backward(ctx: Any, *m: Tensor) -> Tensor:
        return m[0] * (ctx.saved_tensors[0] > 0) * 0.5


class CustomNumpy(Custom):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy().clip(0))


@pytest.mark.parametrize("function", [
    CustomNumpy,
    Custom,
])  # fmt: skip
def test_a_custom_function_is_opaque_and_not_covered(function):
    model = Model(lambda p, x: tail(p, function.apply(p.conv1(x))))
    tape = record_exactly(model, images())
    for method in RULED:
        assert tape.coverage(method).uncovered, method
        with pytest.raises(salience.SalienceError, match="Backward"):
            tape.explain(method, target=1, strict=True)


def test_vmap_is_opaque_and_its_gradient_right():
    model = Model(lambda p, x: tail(p, torch.vmap(lambda y: F.relu(y))(p.conv1(x))))
    tape = record_exactly(model, images())
    assert tape.coverage("guided_backprop").uncovered


def test_checkpointing_without_reentry():
    same(
        lambda p, x: tail(p, checkpoint(lambda h: F.relu(p.bn(h)), p.conv1(x),  # type: ignore
                                        use_reentrant=False)),
        lambda p, x: tail(p, F.relu(p.bn(p.conv1(x)))),
    )  # fmt: skip


def test_detach_in_the_middle_is_not_covered_and_its_gradient_right():
    model = Model(lambda p, x: tail(p, p.conv1(x) * (1 + F.relu(p.bn(p.conv1(x)).detach()))))
    tape = record_exactly(model, images())
    for method in RULED:
        assert "detach" in tape.coverage(method).uncovered


def test_a_branch_under_no_grad_is_a_constant():
    def form(p: Parts, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = p.conv1(x)
        return tail(p, p.conv1(x) + gate)

    record_exactly(Model(form), images())


def test_data_cuts_the_input_off():
    with pytest.raises(salience.SalienceError, match=r"depends on the input.*\.data"):
        salience.record(Model(lambda p, x: tail(p, p.conv1(x.data))), images())


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_gelu_is_not_covered_by_relu_methods(method):
    tape = record_exactly(
        Model(lambda p, x: p.fc(F.gelu(p.conv3(p.conv1(x).repeat(1, 2, 1, 1))).flatten(1))),
        images(),
    )
    assert tape.coverage(method).uncovered == ["gelu"]
    tape.explain(method, target=1)
    with pytest.raises(salience.SalienceError, match=f"{method} has rules for; got gelu"):
        tape.explain(method, target=1, strict=True)
    assert not tape.coverage("lrp_epsilon").uncovered


def test_smoothgrad_is_strict_about_its_base_method():
    tape = salience.record(Model(lambda p, x: torch.cumprod(tail(p, p.conv1(x)), 1)), images())
    with pytest.raises(salience.SalienceError, match="cumprod"):
        tape.explain("smoothgrad", base="lrp_epsilon", n=1, target=1, strict=True)


SEQUENCE = 36


def _sequence(x: Tensor) -> Tensor:
    return x.flatten(2)  # (B, 3, 36)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(SEQUENCE, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = _sequence(x)
        return self.layer(h, h, h)[0][:, -1]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(SEQUENCE, 4, 20, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(_sequence(x))[:, -1]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer = kind(SEQUENCE, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(_sequence(x))[0][:, -1]


COMPOSITE: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "attention": (Attention, set()),
    "encoder layer": (Encoder, set()),
    "lstm": (lambda: Recurrent(nn.LSTM), {"sigmoid", "tanh"}),
    "gru": (lambda: Recurrent(nn.GRU), {"sigmoid", "tanh"}),
    "rnn": (lambda: Recurrent(nn.RNN), {"tanh"}),
}


@pytest.mark.parametrize(("make", "no_relu"), COMPOSITE.values(), ids=COMPOSITE)
def test_composite_layers_are_recorded_as_their_parts(make, no_relu):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double().eval().requires_grad_(False)
    x = images()
    tape = salience.record(model, x)
    # the parts round differently from torch's fused kernels
    torch.testing.assert_close(tape.output, model(x).detach(), rtol=1e-12, atol=1e-12)
    close(tape.explain("gradient", target=1), gradient_of(model, x))
    for method in ("lrp_epsilon", "lrp_alpha_beta", "excitation_backprop", "deep_taylor"):
        assert not tape.coverage(method).uncovered
        assert torch.isfinite(tape.explain(method, target=1, strict=True)).all()
    assert set(tape.coverage("guided_backprop").uncovered) == no_relu


class Variable:
    """A parameter of another library: torch's functions take it for the tensor that it holds."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [arg.value if isinstance(arg, cls) else arg for arg in args]
        return func(*given, **(kwargs or {}))


class Scaled(nn.Module):
    def __init__(self, kind: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(108, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.randn(6))
        self.double().eval()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x.flatten(1)) * self.kind(self.scale)))


def test_variables_of_other_libraries_are_the_parameters_that_they_hold():
    own, other = Scaled(lambda scale: scale), Scaled(Variable)
    other.load_state_dict(own.state_dict())
    for method in SINGLE:
        one, two = (
            salience.record(net, images()).explain(method, target=1) for net in (own, other)
        )
        close(one, two)
    stages = [
        salience.randomization_test(
            net, images(), "gradient", 1, cascade=salience.Cascade(repeats=1)
        ).stages
        for net in (own, other)
    ]
    assert stages[0] == stages[1]
