"""The model stays as it is: buffers and attributes that it assigns, copies, modes of the caller."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from chosen import chosen
from randomized import study_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import salience

SINGLE = [name for name, method in salience.methods.items() if method.single_pass]


def x_of(count: int = 4) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two layers with something between them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(torch.relu(self.a(x))))

    def between(self, h: Tensor) -> Tensor:
        return h


class Assigns(Net):
    """Buffers assigned and written in place, an attribute with a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("late", None)
        self.ready = False

    def between(self, h: Tensor) -> Tensor:
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * h.mean(0)
        self.late = h.detach().mean(0)
        if not self.ready:
            self.shares, self.ready = torch.softmax(self.a.weight.sum(1), 0), True
        return h * self.shares + 0.1 * self.mean


class Caches(Net):
    """Keeps tensors of its last call, with their graph."""

    last: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Tensor] = []

    def between(self, h: Tensor) -> Tensor:
        if not self.held:
            self.held.append(torch.softmax(self.a.weight.sum(1), 0))
        self.last = h
        return h * self.held[0].detach()


SINGLE = [name for name, method in salience.methods.items() if method.single_pass]
SEVERAL = [salience.rules.smoothgrad(n=4), salience.rules.integrated_gradients(tol=0.5)]


def test(model: Any, x: Any, **options: Any) -> Any:
    return study_of(
        model, x, **{"repeats": 1, "progress": False, "methods": ["gradient"], **options}
    )


test.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("run", [
    lambda model: salience.record(model, x_of()).explain("gradient"),
    lambda model: salience.explain(model, x_of(), [*SINGLE, *SEVERAL]),
    lambda model: test(model, x_of()),
    lambda model: test(model, x_of(), methods=salience.rules.smoothgrad(n=2)),
], ids=["record", "explain", "test", "test of several passes"])  # fmt: skip
def test_what_a_model_assigns_in_its_forward_is_put_back(run):
    model = Assigns()
    buffers = dict(model.named_buffers(remove_duplicate=False))
    versions = {name: b._version for name, b in buffers.items()}
    values = {name: b.clone() for name, b in buffers.items()}
    attributes = {name: id(value) for name, value in vars(model).items()}
    run(model)
    assert {name: id(value) for name, value in vars(model).items()} == attributes
    assert model._buffers.keys() == {"mean", "count", "late"}
    assert model.late is None
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name], name
        assert buffer._version == versions[name], name
        assert torch.equal(buffer, values[name]), name


def test_a_model_that_filled_its_caches_before_is_explained_and_tested():
    model, fresh = Caches(), Caches()
    model(x_of(2))
    assert model.last is not None
    assert model.last.grad_fn is not None
    last = model.last
    for method in SINGLE:
        found = salience.explain(model, x_of(), method, target=1)[method]
        assert torch.equal(found, salience.explain(fresh, x_of(), method, target=1)[method])
    given: dict[str, Any] = {"methods": ["gradient", salience.rules.smoothgrad(n=2)]}
    study = test(model, x_of(), **given)
    assert model.last is last
    fresh(x_of(2))
    assert torch.equal(torch.tensor(study.spearman.values),
                       torch.tensor(test(fresh, x_of(), **given).spearman.values))  # fmt: skip


# ---------------------------------------------------------------- modes of the caller


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(
            nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
        ).eval()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("made", [False, True])
def test_inference_mode_of_callers_and_of_weights(made, inside):
    model = made_in_inference_mode()
    assert model[0].weight.is_inference()
    plain = nn.Sequential(
        nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    ).eval()
    plain.load_state_dict({name: v.clone() for name, v in model.state_dict().items()})
    x = x_of()[:, None]
    given = {"smoothgrad": {"n": 2}, "integrated_gradients": {"max_steps": 4, "tol": 0.0}}
    names = ["gradient", "lrp_epsilon", "smoothgrad"]
    maps = salience.explain(plain, x, chosen(given), target=1)
    study = test(plain, x, methods=chosen(given, names))
    subject = model if made else plain
    with torch.inference_mode(inside):
        x = x.clone()
        found = salience.explain(subject, x, chosen(given), target=1)
        again = test(subject, x, methods=chosen(given, names))
    for name, map in maps.items():
        assert torch.equal(map, found[name]), name
    np.testing.assert_array_equal(study.spearman.values, again.spearman.values)


def test_a_buffer_of_inference_mode_that_is_assigned():
    with torch.inference_mode():
        model = Assigns()
    reference = salience.explain(Assigns(), x_of(), SINGLE, target=1)
    for name, map in salience.explain(model, x_of(), SINGLE, target=1).items():
        torch.testing.assert_close(map, reference[name])
    test(model, x_of())
    assert model.count == 0


def test_numpys_and_pythons_generators_are_put_back():
    class Draws(Net):
        def between(self, h: Tensor) -> Tensor:
            return h + random.random() + float(np.random.rand()) + torch.rand(())

    model = Draws()
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    salience.explain(model, x_of(), "gradient")
    test(model, x_of())
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.fixture
def other_defaults():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("weights", ["own", "normal", "permute"])
@pytest.mark.parametrize("default", [torch.float64, "meta"])
def test_nothing_depends_on_global_defaults(other_defaults, default, weights):
    model, x = Net(), x_of()
    model.scale = nn.Parameter(torch.linspace(0.5, 2, 5))
    model.between = lambda h: h * model.scale  # type: ignore[method-assign]
    names = ["gradient", "lrp_epsilon", "smoothgrad"]
    given = {"smoothgrad": {"n": 2}}

    def run() -> tuple[Any, Any]:
        methods = chosen(given, names)
        study = test(model, x, methods=methods, repeats=2, weights=weights)
        return salience.explain(model, x, methods), study

    maps, study = run()
    (torch.set_default_device if default == "meta" else torch.set_default_dtype)(default)
    again, same = run()
    for name in names:
        assert torch.equal(maps[name], again[name])
    for name in ("spearman", "pearson", "other_inputs", "between_random"):
        np.testing.assert_array_equal(study[name].values, same[name].values)


NET = Net()
TAPE = salience.record(NET, x_of())


def under_fake_tensors(f, x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        f(mode.from_tensor(x))


def exported(f, x):
    module = Net()
    module.forward = f
    torch.export.export(module, (x,), strict=False)


TRANSFORMS = {
    "grad": (lambda f, x: torch.func.grad(lambda x: f(x).sum())(x), "torch.func"),
    "vmap": (lambda f, x: torch.vmap(f)(x[:, None]), "torch.func"),
    "jvp": (lambda f, x: torch.func.jvp(f, (x,), (x,)), "torch.func"),
    "functionalize": (lambda f, x: torch.func.functionalize(f)(x), "torch.func"),
    "linearize": (torch.func.linearize, "a trace"),
    "make_fx": (lambda f, x: make_fx(f)(x), "a trace"),
    "make_fx, fake": (lambda f, x: make_fx(f, tracing_mode="fake")(x), "a trace"),
    "make_fx, symbolic": (lambda f, x: make_fx(f, tracing_mode="symbolic")(x), "a trace"),
    "export": (exported, "torch.export"),
    "symbolic trace": (lambda f, x: torch.fx.symbolic_trace(f), "a trace"),
    "jit trace": (lambda f, x: torch.jit.trace(f, x, check_trace=False), "a trace"),
    "fake tensors": (under_fake_tensors, "FakeTensorMode"),
    "compile": (lambda f, x: torch.compile(f, backend="eager")(x), "torch.compile"),
}


@pytest.mark.parametrize("call", [
    lambda x: salience.record(NET, x).explain("gradient"),
    lambda x: salience.explain(NET, x, "gradient")["gradient"],
    lambda x: test(NET, x),
    lambda x: TAPE.explain("gradient"),
], ids=["record", "explain", "test", "tape"])  # fmt: skip
# torch.func.jvp scripts a function of its own when it is first used
@pytest.mark.filterwarnings("ignore:.*torch.jit.(script|trace):DeprecationWarning")
@pytest.mark.parametrize(("transform", "told"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_what_transforms_traces_or_compiles_the_call_is_refused(transform, told, call):
    with pytest.raises(salience.SalienceError, match=rf"a call on plain .*; got one .* {told}"):
        transform(call, x_of())
    assert call(x_of()) is not None  # nothing of it is left behind


def test_tensors_of_a_fake_mode_have_no_values():
    with FakeTensorMode() as mode:
        net, x = Net(), mode.from_tensor(x_of())
    with pytest.raises(salience.SalienceError, match="an input with values; got a fake tensor"):
        salience.explain(NET, x, "gradient")
    with pytest.raises(salience.SalienceError, match="a parameter that is a fake tensor"):
        salience.explain(net, x_of(), "gradient")


# ---------------------------------------------------------------- compiled models


@pytest.mark.parametrize("run_before", [False, True])
@pytest.mark.parametrize("compiled", [
    lambda net: torch.compile(net, backend="eager"),
    lambda net: net.compile(backend="eager") or net,
], ids=["wrapped", "in place"])  # fmt: skip
def test_a_compiled_model_is_the_model_that_was_compiled(compiled, run_before):
    model, x = compiled(Net()), x_of()
    if run_before:
        model(x)
    again = salience.explain(model, x)
    assert all(torch.equal(map, again[name]) for name, map in salience.explain(Net(), x).items())
    plain, study = test(Net(), x), test(model, x)
    assert study.identical(plain)


def test_a_compiled_function_has_the_maps_of_the_function():
    net, x = Net(), x_of()
    maps = salience.explain(torch.compile(lambda x: net(x), backend="eager"), x, "gradient")
    assert torch.equal(maps["gradient"], salience.explain(net, x, "gradient")["gradient"])


def test_hooks_on_the_compiled_model_are_run():
    model, x = torch.compile(Net(), backend="eager"), x_of()
    model.register_forward_hook(lambda module, given, output: 2 * output)
    doubled = salience.explain(model, x, "gradient")["gradient"]
    assert torch.equal(doubled, 2 * salience.explain(Net(), x, "gradient")["gradient"])


# ---------------------------------------------------------------- scripted modules


class Buffered(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.ones(5))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.b(torch.relu(self.a(x)) + self.shift)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_module_with_buffers(alone):
    scripted = torch.jit.script(Buffered())
    model = scripted if alone else nn.Sequential(scripted).eval()
    map = salience.explain(model, x_of(), "gradient", target=1)["gradient"]
    torch.testing.assert_close(
        map, salience.explain(Buffered(), x_of(), "gradient", target=1)["gradient"]
    )
    with pytest.raises(salience.SalienceError, match="nothing to randomise"):  # none is seen
        test(model, x_of())
    assert scripted.calls == 0
