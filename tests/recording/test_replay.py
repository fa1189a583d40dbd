"""A replayed pass equals a fresh one of a copied model, and runs only what changed."""

from __future__ import annotations

import copy

import pytest
import torch
from reference_randomization import Case, cases, draws, randomized_copies
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import salience
from salience._errors import SalienceError
from salience._randomization.cascade import ordered_stages, randomized_tapes
from salience._randomization.weights import stages_of
from salience._recording.linear_sites import Weights
from salience._recording.replay import can_replay, replay
from salience._recording.run import run_pass
from salience._tape.tape import Tape

CASES = cases()
ORDERS = ["top_down", "bottom_up", "independent"]
SINGLE = [name for name, method in salience.methods.items() if method.single_pass]


class Count(TorchDispatchMode):
    """Forward and backward convolutions that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.backward = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.forward += name == "convolution"
        self.backward += name == "convolution_backward"
        return func(*args, **(kwargs or {}))


def steps(model: nn.Module, x: Tensor, **options):
    """(number in the cascade, tape) of every stage of repeat 0."""
    tape = Tape(run_pass(model, x, keep=True))
    count = len(ordered_stages(tape, "top_down"))
    return tape, list(
        randomized_tapes(model, tape, salience.Cascade(**options), 0, set(range(count)))
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CASES)
def test_replayed_maps_equal_those_of_a_fresh_copy(name, order):
    case = CASES[name]
    methods = case.methods if case.methods[-1] == "input_x_gradient" else SINGLE
    tape, found = steps(case.model, case.x, order=order, seed=4)
    copies = randomized_copies(case.model, draws(case, 4, 0, "own"), order)
    before = tape.explain("gradient", 1)
    for (_, replayed), copied in zip(found, copies, strict=True):
        fresh = salience.record(copied, case.x)
        torch.testing.assert_close(replayed.output, fresh.output, rtol=1e-12, atol=1e-13)
        for method in methods:
            here, there = replayed.explain(method, 1), fresh.explain(method, 1)
            scale = float(there.abs().max()) or 1.0
            torch.testing.assert_close(here, there, rtol=0, atol=1e-11 * scale)
        assert not torch.allclose(replayed.output, tape.output)
    torch.testing.assert_close(tape.explain("gradient", 1), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_is_in_exactly_one_stage_in_execution_order(name):
    case = CASES[name]
    trace = run_pass(case.model, case.x[:1]).trace
    found = [sorted(stage.parameters.values()) for stage in stages_of(trace)]
    assert found == [sorted(stage) for stage in case.stages]
    everything = sorted(name for stage in found for name in stage)
    assert everything == sorted(dict(case.model.named_parameters()))


def test_a_norm_after_tied_weights_belongs_to_the_stage_of_these_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)

        def forward(self, x):
            h = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
            return self.norm(self.a(h))  # its input comes straight from c

    trace = run_pass(Net().eval(), torch.randn(2, 4)).trace
    found = [list(stage.parameters.values()) for stage in stages_of(trace)]
    both = ["weight", "bias"]
    assert found == [
        [f"{layer}.{kind}" for layer in layers for kind in both]
        for layers in (("a", "norm"), ("b",), ("c",))
    ]


@pytest.mark.parametrize("name", ["opaque", "branching"])
def test_what_was_not_seen_is_not_replayed(name):
    case = CASES[name]
    tape = Tape(run_pass(case.model, case.x, keep=True))
    assert not can_replay(tape.recording.trace)
    with pytest.raises(SalienceError, match="cannot be replayed"):
        replay(tape.recording, {}, Weights(), lambda: None)


class StraightThrough(torch.autograd.Function):
    """round(4 x), backward as if it were 4 x; written with torch functions, which are recorded."""

    @staticmethod
    def forward(ctx, x):
        return (4 * x).round()

    @staticmethod
    def backward(ctx, gradient):
        return 4 * gradient


def no_gradient(h: Tensor) -> Tensor:
    with torch.no_grad():
        scale = h.norm(dim=1, keepdim=True)
    return h / scale


@pytest.mark.parametrize("function", [StraightThrough.apply, no_gradient])
def test_a_gradient_of_the_models_own_making_is_kept(function):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.two(function(self.one(x)))

    model, x = Net().double().eval(), torch.randn(2, 6, dtype=torch.float64)
    _, found = steps(model, x)
    copies = randomized_copies(model, draws(Case(model, x, [], []), 0, 0, "own"), "top_down")
    for (_, replayed), copied in zip(found, copies, strict=True):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(copied(leaf)[:, 0].sum(), leaf)
        torch.testing.assert_close(replayed.explain("gradient", 0), gradient)


def test_branches_are_taken_by_the_randomized_weights():
    """The copies of the branching case take both branches, or the comparison above is empty."""
    case = CASES["branching"]
    copies = [case.model]
    for repeat in range(3):
        copies += randomized_copies(case.model, draws(case, 4, repeat, "own"), "bottom_up")
    assert {bool(model.one(case.x).mean() > 0.05) for model in copies} == {True, False}


def test_a_function_that_cannot_be_replayed_cannot_be_copied_either():
    weight = torch.randn(6, 3, requires_grad=True)

    def model(x):
        return (x @ weight) * (2 if x.sum() > 0 else 1)

    with pytest.raises(SalienceError, match=r"expected a torch\.nn\.Module"):
        steps(model, torch.randn(2, 6))


def test_a_plain_function_is_randomized_too():
    weight = torch.randn(6, 3, requires_grad=True, dtype=torch.float64)
    x = torch.randn(2, 6, dtype=torch.float64)
    tape, ((_, replayed),) = steps(lambda x: x @ weight, x)
    assert list(tape.recording.trace.parameters.values()) == ["parameter_0"]
    assert not torch.allclose(replayed.explain("gradient", 0), weight[:, 0].expand(2, 6))


def conv_chain(count: int) -> nn.Module:
    layers: list[nn.Module] = []
    for k in range(count):
        layers += [nn.Conv2d(3 if k else 2, 3, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize("order", ORDERS)
def test_only_operations_that_read_something_changed_are_run(order):
    """Convolution k of n is randomised: the n - k from there on run, and none before."""
    n = 5
    model, x = conv_chain(n), torch.randn(2, 2, 8, 8)
    tape = Tape(run_pass(model, x, keep=True))
    with Count() as count:
        runs = []
        for _ in randomized_tapes(model, tape, salience.Cascade(order=order), 0, set(range(n))):
            runs.append(count.forward - sum(runs))
    expected = {
        "top_down": [1, 2, 3, 4, 5],  # the last convolution, the last two, ...
        "bottom_up": [5, 5, 5, 5, 5],  # what is above the lowest random stage
        "independent": [5, 4, 3, 2, 1],
    }
    assert runs == expected[order]


def test_methods_share_the_replayed_pass():
    """Five methods on one stage: the pass runs once, each method walks back once.

    The gradient and input x gradient share a walk.
    """
    n = 4
    model, x = conv_chain(n), torch.rand(2, 2, 8, 8)
    tape = Tape(run_pass(model, x, keep=True))
    with Count() as count:
        _, replayed = next(randomized_tapes(model, tape, salience.Cascade(), 0, {0}))
        assert (count.forward, count.backward) == (1, 0)
        walks = {"gradient": 1, "input_x_gradient": 1, "guided_backprop": 2, "deconvnet": 3,
                 "lrp_epsilon": 4}  # fmt: skip
        for method, walked in walks.items():
            replayed.explain(method, 0)
            assert (count.forward, count.backward) == (1, walked * n)


def test_what_is_below_the_stage_serves_all_stages():
    """z+ of the untouched layers is computed once, not again for each of the n stages."""
    n = 4
    model, x = conv_chain(n), torch.rand(2, 2, 8, 8)
    tape = Tape(run_pass(model, x, keep=True))
    tape.explain("excitation_backprop", 0)
    forward = []
    with Count() as count:
        for _, replayed in randomized_tapes(model, tape, salience.Cascade(), 0, set(range(n))):
            count.forward = 0
            replayed.explain("excitation_backprop", 0)
            forward.append(count.forward)
    assert forward == [1, 2, 3, 4]  # z+ of the changed layers alone


def test_what_derives_from_weights_grows_with_the_layers_and_not_with_the_stages(monkeypatch):
    """W+ and folded weights are kept once each, or memory would grow with stages squared."""
    held = []

    class Kept(Weights):
        def __init__(self):
            super().__init__()
            held.append(self._derived)

    monkeypatch.setattr("salience._randomization.cascade.Weights", Kept)
    sizes = []
    for n in (4, 8):
        layers: list[nn.Module] = []
        for _ in range(n):
            layers += [nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)]
        model = nn.Sequential(*layers, *head).eval()
        _, found = steps(model, torch.randn(1, 2, 6, 6))
        for _, replayed in found:
            replayed.explain("lrp_alpha_beta", lambda out: out[:, 0] + 5)
        sizes.append(len(held[-1]))
    assert sizes[1] < 2.2 * sizes[0]


@pytest.mark.parametrize("reader", ["norm", "sum"])
def test_a_folded_norm_is_read_by_what_follows(reader):
    """Both readers of a value see the same replayed value."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x):
            z = self.conv(x)
            h = self.norm(z)
            return torch.relu(h + (h if reader == "norm" else z)).mean((2, 3))

    model = Net().double().eval()
    x = torch.randn(2, 1, 5, 5, dtype=torch.float64)
    case = Case(model, x, [], [])
    _, ((_, replayed),) = steps(model, x)
    (copied,) = randomized_copies(model, draws(case, 0, 0, "own"), "top_down")
    for method in SINGLE:
        fresh = salience.record(copied, x).explain(method, 1)
        torch.testing.assert_close(replayed.explain(method, 1), fresh, rtol=1e-11, atol=1e-13)


def test_a_norm_after_fixed_weights():
    """The convolution's weights are a buffer: the BatchNorm alone is randomised."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("filters", torch.randn(2, 1, 3, 3))
            self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(32, 2)

        def forward(self, x):
            return self.head(torch.relu(self.norm(torch.conv2d(x, self.filters))).flatten(1))

    model = Net().eval()
    with torch.no_grad():
        model.norm.weight.fill_(3.0)
    x = torch.randn(2, 1, 6, 6)
    _, found = steps(model, x)
    (_, copied) = randomized_copies(model, draws(Case(model, x, [], []), 0, 0, "own"), "top_down")
    fresh = salience.record(copied, x).explain("gradient", 0)
    torch.testing.assert_close(found[-1][1].explain("gradient", 0), fresh)


class NormNet(nn.Module):
    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=affine)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def norm_net(affine: bool) -> tuple[nn.Module, Tensor]:
    model = NormNet(affine).double().eval()
    generator = torch.Generator().manual_seed(0)
    model.norm.running_mean.copy_(torch.randn(3, generator=generator))
    model.norm.running_var.copy_(torch.rand(3, generator=generator) * 4 + 0.1)
    return model, torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("batch_norm", ["keep", "recalibrate", "reset"])
@pytest.mark.parametrize("order", ["top_down", "bottom_up"])
def test_running_statistics(affine, batch_norm, order):
    model, x = norm_net(affine)
    state = copy.deepcopy(model.state_dict())
    _, found = steps(model, x, batch_norm=batch_norm, order=order)
    copies = randomized_copies(model, draws(Case(model, x, [], []), 0, 0, "own"), order)
    for (number, replayed), copied in zip(found, copies, strict=True):
        reached = order == "bottom_up" or number == 1  # the head is the first stage from the top
        if reached and batch_norm == "reset":
            copied.norm.running_mean.zero_()
            copied.norm.running_var.fill_(1)
        elif reached and batch_norm == "recalibrate":
            z = copied.conv(x).detach()
            copied.norm.running_mean.copy_(z.mean((0, 2, 3)))
            copied.norm.running_var.copy_(z.var((0, 2, 3), correction=0))
        fresh = salience.record(copied, x)
        torch.testing.assert_close(replayed.output, fresh.output, rtol=1e-11, atol=1e-13)
        for method in SINGLE:
            torch.testing.assert_close(
                replayed.explain(method, 0), fresh.explain(method, 0), rtol=1e-9, atol=1e-12
            )
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("batch_norm", ["recalibrate", "reset"])
def test_methods_of_many_passes_need_the_statistics_of_training(batch_norm):
    model, x = norm_net(True)
    with pytest.raises(SalienceError, match="expected batch_norm='keep' where the model itself"):
        salience.randomization_test(
            model,
            x,
            ["smoothgrad"],
            cascade=salience.Cascade(batch_norm=batch_norm, repeats=1),
            progress=False,
        )
    with pytest.raises(SalienceError, match="expected batch_norm='keep' where the model itself"):
        salience.randomization_test(
            CASES["opaque"].model,
            CASES["opaque"].x,
            ["gradient"],
            cascade=salience.Cascade(batch_norm=batch_norm, repeats=1),
            progress=False,
        )


@pytest.mark.parametrize("method", ["smoothgrad", "integrated_gradients"])
def test_methods_of_many_passes_see_the_random_weights(method):
    case = CASES["residual"]
    _, stages = steps(case.model, case.x, seed=4)
    given = {"n": 3} if method == "smoothgrad" else {"max_steps": 8, "tol": 0.0}
    copies = randomized_copies(case.model, draws(case, 4, 0, "own"), "top_down")
    for (_, replayed), copied in zip(stages, copies, strict=True):
        fresh = salience.record(copied, case.x).explain(method, 1, **given)
        found, scale = replayed.explain(method, 1, **given), float(fresh.abs().max())
        torch.testing.assert_close(found, fresh, rtol=0, atol=1e-11 * scale)
