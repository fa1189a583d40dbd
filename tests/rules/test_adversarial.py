"""Networks built to break the recorder, the rules or the replay, each as small as it can be.

Right, or refused with a SalienceError that says why; never silently wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from traps import RULED, close, gradient_of

import salience
from salience._randomization.cascade import randomized_tapes
from salience._randomization.weights import random_weights, stages_of
from salience._recording.run import run_pass
from salience._tape.tape import Tape

Net = Callable[[Any, Tensor], Tensor]


def numbers(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Dense(nn.Module):
    """Two dense layers that a form (net, x) -> (B, 3) makes a network of."""

    def __init__(self, form: Net) -> None:
        super().__init__()
        self.one, self.mid, self.two = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("state", torch.zeros(8))
        self.form = form
        self.double().eval()
        for number, parameter in enumerate(self.parameters()):
            parameter.data.copy_(numbers(*parameter.shape, seed=number) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self, x)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return a.detach() ** 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradients[0]


def swish(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


def right_or_refused(model: nn.Module, x: Tensor) -> None:
    """Output and gradient are the model's own, unless a SalienceError says why not."""
    try:
        tape = salience.record(model, x)
        gradient = tape.explain("gradient", target=1)
    except salience.SalienceError:
        return
    torch.testing.assert_close(tape.output, model(x.clone()).detach(), rtol=1e-12, atol=1e-12)
    close(gradient, gradient_of(model, x))


# ---------------------------------------------------------------- functions that are not seen


@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")
@pytest.mark.parametrize("unseen", ["function", "script", "vmap"])
def test_an_unseen_function_after_a_write_in_place(unseen: str):
    makers = {
        "function": lambda: Square.apply,
        "script": lambda: torch.jit.script(swish),
        "vmap": lambda: torch.vmap(torch.tanh),
    }
    seen = makers[unseen]()

    def form(net: Dense, x: Tensor) -> Tensor:
        h = net.one(x)
        z = net.mid(h)
        z += h
        return net.two(seen(z))

    right_or_refused(Dense(form), numbers(2, 6))


@pytest.mark.parametrize("written", [False, True])
def test_checkpoints_with_parameters_inside(written: bool):
    def form(net: Dense, x: Tensor) -> Tensor:
        h = net.one(x)
        if written:
            h += 1
        return checkpoint(lambda h: net.two(torch.tanh(net.mid(h))), h, use_reentrant=False)

    model = Dense(form)
    tape = salience.record(model, numbers(2, 6))
    close(tape.explain("gradient", target=1), gradient_of(model, numbers(2, 6)))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_module():
    inner: Any = torch.compile(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), backend="eager")
    model = nn.Sequential(inner, nn.Linear(8, 3)).double().eval()
    plain = nn.Sequential(inner._orig_mod, model[1])
    tape = salience.record(model, numbers(2, 6))
    close(tape.explain("gradient", target=1), gradient_of(plain, numbers(2, 6)))


def test_a_gradient_inside_forward_is_right_or_refused():
    def form(net: Dense, x: Tensor) -> Tensor:
        h = net.one(x)
        energy = torch.tanh(net.mid(h)).square().sum()
        return net.two(torch.autograd.grad(energy, h, create_graph=True)[0])

    right_or_refused(Dense(form), numbers(2, 6))


# ---------------------------------------------------------------- rules


def same_maps(form: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], x: Tensor):
    tape, reference = salience.record(form, x), salience.record(plain, x)
    for method in RULED:
        close(tape.explain(method, target=1), reference.explain(method, target=1))


@pytest.mark.parametrize("signed", [False, True])
def test_convolutions_of_single_images_are_those_of_a_batch(signed: bool):
    first, second = nn.Conv2d(3, 8, 3, padding=1).double(), nn.Conv2d(8, 8, 3, padding=1).double()
    x = numbers(2, 3, 8, 8) if signed else numbers(2, 3, 8, 8).abs()

    def net(x: Tensor) -> Tensor:
        return second(first(x).relu()).relu()

    same_maps(
        lambda x: torch.stack([net(image) for image in x]).mean((2, 3)),
        lambda x: net(x).mean((2, 3)), x,
    )  # fmt: skip


def test_addmm_with_factors():
    weight, bias, head = numbers(6, 8), numbers(8, seed=2), numbers(8, 3, seed=3)
    same_maps(
        lambda x: torch.addmm(bias, x, weight, beta=0.3, alpha=2.0).relu() @ head,
        lambda x: torch.addmm(0.3 * bias, x, 2 * weight).relu() @ head, numbers(2, 6),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
def test_a_sparse_adjacency_is_a_dense_one(layout: str):
    dense, weight = numbers(4, 4) + 0.5, numbers(6, 3, seed=2)
    sparse = getattr(dense, layout)()
    same_maps(
        lambda x: sparse @ (x @ weight + 2).relu(), lambda x: dense @ (x @ weight + 2).relu(),
        numbers(4, 6),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["lrp_epsilon", "deep_taylor"])
def test_clamping_each_channel_at_its_own_bounds(method: str):
    low, high = -numbers(8).abs(), numbers(8, seed=2).abs()
    head = Dense(lambda net, x: net.two(torch.clamp(net.one(x), low, high)))
    x = numbers(2, 6)

    def apart(net: Dense, x: Tensor) -> Tensor:
        pairs = zip(net.one(x).unbind(1), low.tolist(), high.tolist(), strict=True)
        return net.two(torch.stack([h.clamp(a, b) for h, a, b in pairs], 1))

    reference = salience.record(Dense(apart), x).explain(method, target=1)
    close(salience.record(head, x).explain(method, target=1), reference)


def test_a_small_output_in_half_precision_has_a_finite_map():
    head = torch.full((1, 6), 1e-6, dtype=torch.float16)
    tape = salience.record(lambda x: F.linear(x, head), torch.ones(1, 6, dtype=torch.float16))
    map = tape.explain("excitation_backprop", target=0)
    torch.testing.assert_close(map.sum(), torch.tensor(1.0).half(), rtol=1e-2, atol=0)


# ---------------------------------------------------------------- whole numbers of the input


@pytest.mark.parametrize("function", [
    lambda n: n.clamp(min=1), lambda n: n.abs(), lambda n: 1 / n.clamp_min(1),
    lambda n: n.view(-1, 1) @ torch.ones(1, 1, dtype=n.dtype),
])  # fmt: skip
def test_whole_numbers_that_come_of_the_input(function):
    model = Dense(lambda net, x: net.two(net.one(x)) / (1 + function((x > 0).sum(1)).view(-1, 1)))
    tape = salience.record(model, numbers(2, 6))
    close(tape.explain("gradient", target=1), gradient_of(model, numbers(2, 6)))


@pytest.mark.parametrize("mask", [
    lambda h: (h > 0).int(), lambda h: 1 * (h > 0), lambda h: (h > 0).long().double(),
    lambda h: torch.where(h > 0, 1, 0),
])  # fmt: skip
@pytest.mark.parametrize("method", ["guided_backprop", "lrp_epsilon"])
def test_a_relu_hidden_in_whole_numbers_is_a_relu(mask, method: str):
    def form(net: Dense, x: Tensor) -> Tensor:
        h = net.one(x)
        return net.two(h * mask(h))

    tape = salience.record(Dense(form), numbers(2, 6))
    plain = salience.record(Dense(lambda net, x: net.two(net.one(x).relu())), numbers(2, 6))
    close(tape.explain(method, target=1), plain.explain(method, target=1))
    assert not tape.coverage(method).uncovered


@pytest.mark.parametrize("method", ["guided_backprop", "lrp_epsilon"])
def test_a_relu_hidden_in_a_table_is_not_covered(method: str):
    def form(net: Dense, x: Tensor) -> Tensor:
        h = net.one(x)
        return net.two(h * torch.tensor([0.0, 1.0], dtype=h.dtype)[(h > 0).long()])

    assert salience.record(Dense(form), numbers(2, 6)).coverage(method).uncovered


# ---------------------------------------------------------------- the user's model and tape


@pytest.mark.parametrize("method", RULED)
def test_weights_that_change_after_the_pass_are_noticed(method: str):
    conv = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    tape = salience.record(model.double().eval(), numbers(2, 3, 6, 6))
    with torch.no_grad():
        conv.weight.mul_(-1.5)
    with pytest.raises(salience.SalienceError, match="changed"):
        tape.explain(method, target=1)


def test_a_buffer_bound_anew_in_forward_stays_as_it_was():
    def form(net: Dense, x: Tensor) -> Tensor:
        h = net.one(x)
        net.state = h.detach().mean(0)
        return net.two(h.relu())

    model = Dense(form)
    before = copy.deepcopy(model.state_dict())
    salience.record(model, numbers(2, 6))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# ---------------------------------------------------------------- the replay


def _experts(net: Dense, x: Tensor) -> Tensor:
    """Each sample goes to one of eight experts; those without a sample are not run."""
    h = net.one(x)
    chosen, out = net.mid(h).argmax(1), torch.zeros_like(h)
    for expert in range(8):
        rows = (chosen == expert).nonzero()[:, 0]
        if rows.numel() > 0:
            out[rows] = h[rows].relu() * (expert + 1)
    return net.two(out)


def _hooked(net: Dense, x: Tensor) -> Tensor:
    h = net.mid(net.one(x))
    h.register_hook(lambda gradient: 3 * gradient)
    return net.two(h.relu())


def _agreeing(net: Dense, x: Tensor) -> Tensor:
    h = net.mid(net.one(x))
    return net.two(h.relu() if torch.allclose(h, h.abs(), atol=5.0) else torch.tanh(h))


READ_UNSEEN: dict[str, Net] = {
    "experts without samples": _experts,
    "number of values": lambda net, x: (
        net.two(net.one(x)) * net.mid(net.one(x)).argmax(1).unique().shape[0]
    ),
    "length of a count": lambda net, x: (
        net.two(net.one(x)) * len(torch.bincount(net.mid(net.one(x)).argmax(1)))
    ),
    "selected": lambda net, x: (lambda h: net.two(h.relu()) * h[h > 0].numel())(
        net.mid(net.one(x))
    ),
    "numpy": lambda net, x: (lambda h: net.two(h.relu()) * float(h.detach().numpy().max()))(
        net.mid(net.one(x))
    ),
    "allclose": _agreeing,
    "tensor hook": _hooked,
}


@pytest.mark.parametrize("name", READ_UNSEEN)
def test_what_a_model_reads_of_its_values_is_read_again(name: str):
    model, x = Dense(READ_UNSEEN[name]), numbers(5, 6)
    tape = Tape(run_pass(model, x, keep=True))
    stages = list(enumerate(stages_of(tape.recording.trace)))[::-1]
    for repeat in range(4):
        copied = copy.deepcopy(model)
        named = dict(copied.named_parameters())
        randomized = randomized_tapes(
            model, tape, salience.Cascade(), repeat, set(range(len(stages)))
        )
        for (place, stage), (_, replayed) in zip(stages, randomized, strict=True):
            drawn = random_weights(model, tape.recording.trace, stage, (0, repeat, place))
            with torch.no_grad():
                for value, parameter in drawn.items():
                    named[tape.recording.trace.parameters[value]].copy_(parameter)
            fresh = salience.record(copied, x)
            close(replayed.output, fresh.output)
            close(replayed.explain("gradient", 1), fresh.explain("gradient", 1))


def test_methods_of_many_passes_need_parameters_that_are_registered():
    scale = [torch.rand(8, dtype=torch.float64, requires_grad=True)]
    model = Dense(lambda net, x: net.two((net.one(x) * scale[0]).relu()))
    methods, once = ["gradient", "smoothgrad"], salience.Cascade(repeats=1)
    with pytest.raises(salience.SalienceError, match="registered with the model"):
        salience.randomization_test(model, numbers(3, 6), methods, cascade=once)
