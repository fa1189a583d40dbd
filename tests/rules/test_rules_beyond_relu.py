"""LRP through activations, products, divisions, norms and transposed maps against the oracle."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import oracle_lrp as lrp
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given as hypothesis_given
from hypothesis import settings
from oracle_elements import BIAS_FREE, ELEMENTWISE
from oracle_images import IMAGES
from oracle_norms import NORMS
from oracle_operations import TOKENS, Between
from relevance_cases import CASES, check
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformer_nets import ViT, drawn, randn

import salience

BODIES = IMAGES | TOKENS | NORMS


def between(name: str) -> tuple[Between, Tensor]:
    shape = (2, 4, 4) if name in IMAGES else (4, 5)
    net = drawn(Between(shape, BODIES[name][0]), seed=11)
    assert isinstance(net, Between)
    return net, randn(2, *shape, seed=12)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_functions(name):
    function, formula, _ = ELEMENTWISE[name]
    net = drawn(Between((4, 5), lambda _: function), seed=11)
    assert isinstance(net, Between)
    check(net, net.oracle(lambda _, v: lrp.elementwise(v, formula)), randn(2, 4, 5, seed=12))


@pytest.mark.parametrize(
    "name", [name for name, (_, _, slope) in ELEMENTWISE.items() if slope is not None]
)
def test_elementwise_limit_at_zero(name):
    """x1 = x2, so that f reads an exact 0 while the inputs' own relevance stays visible."""
    function, _, slope = ELEMENTWISE[name]
    x = torch.tensor([[2.0, 2.0]], dtype=torch.float64)
    net = Apply(lambda x: 3 * function(x[:, :1] - x[:, 1:])).eval()
    tape = salience.record(net, x)
    expected = 6 * slope * torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    for method in ("lrp_epsilon", "lrp_alpha_beta"):
        maps = tape.explain(method, target=0)
        # torch holds the slopes of celu and hardsigmoid in single precision
        torch.testing.assert_close(maps, expected, rtol=1e-7, atol=1e-15)


class Apply(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", BODIES)
def test_operations(name):
    net, x = between(name)
    check(net, net.oracle(BODIES[name][1]), x)


@pytest.mark.parametrize("name", BODIES)
def test_gradients_are_autograd(name):
    net, x = between(name)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    tape = salience.record(net, x.detach())
    torch.testing.assert_close(tape.explain("gradient", target=1), expected)
    relevance = tape.explain("input_x_gradient", target=1)
    torch.testing.assert_close(relevance, (x * expected).detach())


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_alpha_beta", "deep_taylor", "gradient"])
def test_a_batch_is_its_samples_in_any_order(name, method):
    net, _ = between(name)
    x = randn(4, *((2, 4, 4) if name in IMAGES else (4, 5)), seed=13)
    maps = salience.record(net, x).explain(method, target=1)
    singles = [salience.record(net, one[None]).explain(method, target=1) for one in x]
    scale = float(maps.abs().max())
    torch.testing.assert_close(maps, torch.cat(singles), rtol=0, atol=1e-10 * scale)
    order = torch.tensor([2, 0, 3, 1])
    permuted = salience.record(net, x[order]).explain(method, target=1)
    torch.testing.assert_close(permuted, maps[order], rtol=0, atol=1e-10 * scale)


GATES = {
    "where": lambda x: torch.where(x > 0.2, x, x.sin()),
    "mask": lambda x: x * (x > 0),
    "float_mask": lambda x: x * (x.detach() > 0).double(),
}


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("method", ["gradient", "input_x_gradient"])
def test_gates_by_masks(name, method):
    net = drawn(Between((4, 5), lambda _: GATES[name]), seed=11)
    x = randn(2, 4, 5).requires_grad_()
    (expected,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    expected = expected if method == "gradient" else (x * expected).detach()
    maps = salience.record(net, x.detach()).explain(method, target=1)
    torch.testing.assert_close(maps, expected)


# ---------------------------------------------------------------- guided backprop, deconvnet


class Gate(torch.autograd.Function):
    """A ReLU whose backward is the rule of guided backprop or of the deconvnet."""

    @staticmethod
    def forward(ctx, x: Tensor, guided: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.guided = guided
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, m: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return m.clamp(min=0) * ((x > 0) if ctx.guided else 1.0), None


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("style", ["module", "layer", "matmul"])
def test_guided_methods_gate_at_relus_only(method, style, monkeypatch):
    net, x = drawn(ViT(style, "relu"), seed=3), randn(2, 3, 8, 8)
    tape = salience.record(net, x)
    maps = tape.explain(method, target=1)
    assert tape.coverage(method).uncovered == []

    plain, leaf = drawn(ViT("matmul", "relu"), seed=3), x.clone().requires_grad_()
    gate = lambda h: Gate.apply(h, method == "guided_backprop")  # noqa: E731
    monkeypatch.setattr("transformer_nets.F.relu", gate)
    (expected,) = torch.autograd.grad(plain(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-12)
    monkeypatch.undo()
    assert not torch.allclose(maps, tape.explain("gradient", target=1))


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("name", ["F.gelu", "silu", "leaky_relu", "sigmoid", "tanh", "softplus"])
def test_guided_methods_name_activations_that_are_not_relu_like(method, name):
    net = drawn(Between((4, 5), lambda _: ELEMENTWISE[name][0]), seed=11)
    tape = salience.record(net, randn(2, 4, 5))
    assert tape.coverage(method).uncovered == [name.removeprefix("F.")]
    maps = tape.explain(method, target=1)
    torch.testing.assert_close(maps, tape.explain("gradient", target=1))


# ------------------------------------------------- one function, two ways of writing its weights

ALL = [*CASES, ("gradient", {}), ("guided_backprop", {}), ("deep_taylor", {"low": -4, "high": 4})]
PARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrized_weights_are_the_plain_weights(name):
    wrap, x = PARAMETRIZED[name], randn(2, 2, 5, 5)
    conv, one, two = nn.Conv2d(2, 4, 3), nn.Linear(36, 6), nn.Linear(6, 2)
    layers = [conv, nn.ReLU(), nn.Flatten(), one, nn.GELU(), two]
    plain = nn.Sequential(*copy.deepcopy(layers)).double().eval()
    net = drawn(nn.Sequential(*(wrap(m) if m in (conv, one, two) else m for m in layers)))
    assert isinstance(net, nn.Sequential)
    with torch.no_grad():
        for one, other in zip(plain, net, strict=True):
            if isinstance(one, nn.Conv2d | nn.Linear):
                one.weight.copy_(other.weight)
                assert one.bias is not None
                one.bias.copy_(other.bias)
    for method, given in ALL:
        tape, expected = salience.record(net, x), salience.record(plain, x)
        maps = tape.explain(method, target=1, **given)
        torch.testing.assert_close(maps, expected.explain(method, target=1, **given))
        assert tape.coverage(method).uncovered == expected.coverage(method).uncovered


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("affine_norm", [True, False])
def test_instance_norm_with_running_statistics_is_a_batch_norm(dims, affine_norm):
    """In eval mode both are the same diagonal linear map."""
    conv, other, batch = (
        [nn.Conv1d, nn.InstanceNorm1d, nn.BatchNorm1d],
        [nn.Conv2d, nn.InstanceNorm2d, nn.BatchNorm2d],
    )[dims - 1]
    maps = []
    for kind in (other, batch):
        norms = [kind(4, affine=affine_norm, track_running_stats=True) for _ in range(2)]
        body = [conv(2, 4, 3), norms[0], nn.ReLU(), norms[1], nn.Flatten(), nn.LazyLinear(2)]
        net, x = nn.Sequential(*body).double(), randn(2, 2, *[5] * dims)
        net(x)  # the lazy layer's shape
        tape = salience.record(drawn(net, seed=51), x)
        maps.append([tape.explain(method, target=1, **given) for method, given in ALL])
        assert all(tape.coverage(method).uncovered == [] for method, _ in ALL)
    for one, expected in zip(*maps, strict=True):
        torch.testing.assert_close(one, expected)


# ---------------------------------------------------------------- conservation


def _rms(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def _mixed(x: Tensor) -> Tensor:
    """Attention without the softmax: products only."""
    return (x @ x.mT) @ x / 4


KEEPING = {
    **{name: ELEMENTWISE[name][0] for name in BIAS_FREE},
    "rms_norm": _rms,
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "rsqrt": lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5),
    "division": lambda x: x / (1 + x.norm(dim=-1, keepdim=True)),
    "product": lambda x: x * x.flip(-1),
    "swiglu": lambda x: F.silu(x) * x.flip(-1),
    "mixed": _mixed,
    "residual": lambda x: x + torch.tanh(x.cumsum(1)),
    "einsum": lambda x: torch.einsum("bti,bsi,bsj->btj", x, x, x) / 4,
}


class Stack(nn.Module):
    """Bias-free linear maps with one function after each."""

    def __init__(self, names: list[str], width: int) -> None:
        super().__init__()
        self.names = names
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in names)
        self.head = nn.Linear(3 * width, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for name, linear in zip(self.names, self.maps, strict=True):
            x = KEEPING[name](linear(x))
        return self.head(x.flatten(1))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis_given(
    st.lists(st.sampled_from(sorted(KEEPING)), min_size=1, max_size=4),
    st.integers(3, 6),
    st.integers(0, 10**6),
)
def test_relevance_is_conserved_without_biases_and_softmax(names, width, seed):
    """f(0) = 0, no bias, no softmax: each rule hands on all of the relevance (LRP-0)."""
    net, x = drawn(Stack(names, width), seed=seed), randn(2, 3, width, seed=seed)
    tape = salience.record(net, x)
    maps = tape.explain("lrp_epsilon", target=1, eps=0.0)
    scale = maps.abs().flatten(1).sum(1) + tape.output[:, 1].abs()
    error = (maps.flatten(1).sum(1) - tape.output[:, 1]).abs()
    assert (error <= 1e-9 * scale).all()
    assert tape.coverage("lrp_epsilon").uncovered == []
