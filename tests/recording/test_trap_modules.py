"""Traps of peers.md: modules with state, the caller's surroundings, before the input layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from traps import SINGLE, Model, Parts, close, gradient_of, images, plain_form, record_exactly, tail

import salience

# ---------------------------------------------------------------- modules with state or hooks


def test_weight_norm_and_spectral_norm():
    parametrizations = torch.nn.utils.parametrizations
    x = images()
    for wrap in (parametrizations.weight_norm, parametrizations.spectral_norm):
        model, plain = Model(plain_form), Model(plain_form)
        with torch.random.fork_rng():
            wrap(model.parts.conv2)
        model.eval()
        plain.parts.conv2.weight = nn.Parameter(model.parts.conv2.weight.detach().clone())
        tape, reference = record_exactly(model, x), salience.record(plain, x)
        for method in SINGLE:
            close(tape.explain(method, target=1), reference.explain(method, target=1))
            assert not tape.coverage(method).uncovered


def test_forward_hooks_that_change_outputs():
    model = Model(plain_form)
    handles = [
        model.parts.conv1.register_forward_hook(lambda m, i, o: F.relu(o)),
        model.parts.conv3.register_forward_pre_hook(lambda m, i: (i[0] * 2,)),
    ]
    x = images()

    def plain(p: Parts, x: Tensor) -> Tensor:
        h = F.relu(F.relu(p.conv1(x)))
        h = F.relu(h + p.bn(p.conv2(h)))
        h = torch.cat([h, F.relu(p.conv2(h))], 1)
        return p.fc(F.relu(p.conv3(h * 2)).flatten(1))

    tape, reference = record_exactly(model, x), salience.record(Model(plain), x)
    for method in SINGLE:
        close(tape.explain(method, target=1), reference.explain(method, target=1))
    assert len(model.parts.conv1._forward_hooks) == len(model.parts.conv3._forward_pre_hooks) == 1
    for handle in handles:
        handle.remove()


class Counting(nn.Module):
    """Writes into its own buffer and reads it in the same forward pass."""

    def __init__(self, write: str) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3, dtype=torch.float64))
        self.write, self.parts = write, Parts()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if self.write == "add_":
            self.count.add_(1)
        elif self.write == "slice":
            self.count[:2] += 1
        elif self.write == "copy_":
            self.count.copy_(self.count + 1)
        else:
            self.count[...] = x.detach().mean((0, 2, 3))
        return tail(self.parts, self.parts.conv1(x)) * (1 + self.count)


@pytest.mark.parametrize("write", ["add_", "slice", "copy_", "mean"])
def test_a_buffer_written_in_forward_stays_as_it_was(write):
    model, x = Counting(write), images()
    tapes = [salience.record(model, x) for _ in range(2)]
    assert torch.equal(model.count, torch.zeros(3))
    assert torch.equal(tapes[0].output, tapes[1].output)
    assert torch.equal(tapes[0].output, model(x))
    assert not torch.equal(model.count, torch.zeros(3))


def test_batch_statistics_asked_for_in_forward_leave_the_running_ones():
    def form(p: Parts, x: Tensor) -> Tensor:
        z = F.batch_norm(p.conv1(x), p.bn.running_mean, p.bn.running_var, training=True)
        return tail(p, z)

    model, x = Model(form), images()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    tape = salience.record(model, x)
    rows = {row.operation: row.treatment for row in tape.coverage("lrp_epsilon")}
    assert rows["batch_norm"] == "spread_held"
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_feature_kept_on_the_model_between_calls():
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = Parts()
            self.features: Tensor | None = None
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            h = self.parts.conv1(x)
            previous, self.features = self.features, h
            return tail(self.parts, h if previous is None else h + previous)

    x, model, plain = images(), Caching(), Caching()
    for _ in range(3):
        kept = model.features
        tape = salience.record(model, x)
        assert model.features is kept  # a pass takes back what it leaves on a model
        assert torch.equal(tape.output, plain(x))
        close(tape.explain("gradient", target=1), tape.explain("gradient", target=1))
        model(x)


# ---------------------------------------------------------------- the caller's surroundings


@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("method", SINGLE)
def test_under_the_callers_grad_mode(surroundings, method):
    model, x = Model(plain_form), images()
    reference = salience.record(model, x).explain(method, target=1)
    tape = salience.record(model, x)
    with surroundings():
        inside = salience.record(model, x.clone())
        close(inside.explain(method, target=1), reference)
        close(tape.explain(method, target=1), reference)
    close(inside.explain(method, target=1), reference)


def test_under_a_default_device_context():
    model, x = Model(plain_form), images()
    with torch.device("meta"):  # a stand-in for a user's default "cuda"
        tape = salience.record(model, x)
        for method in SINGLE:
            assert tape.explain(method, target=1).device.type == "cpu"
        bounded = tape.explain("deep_taylor", target=1, low=-5.0, high=5.0)
        assert bounded.device.type == "cpu"
        assert tape.explain("smoothgrad", target=1, n=1).device.type == "cpu"


def test_autocast_inside_forward():
    def form(p: Parts, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return tail(p, p.conv1(x))

    model, x = Model(form).float(), images().float()
    tape = salience.record(model, x)
    assert tape.output.dtype == torch.bfloat16
    assert torch.equal(tape.output, model(x))
    exact = gradient_of(Model(lambda p, x: tail(p, p.conv1(x))), images()).float()
    error = (tape.explain("gradient", target=1) - exact).abs().max()
    assert error < 0.05 * exact.abs().max()  # bfloat16 has 8 bits
    for method in SINGLE:
        assert tape.explain(method, target=1).isfinite().all()


def test_batch_norm_kept_in_float32_in_a_bfloat16_model():
    model = Model(plain_form).bfloat16()
    for norm in (model.parts.bn, model.parts.late):
        norm.float()
    tape = salience.record(model, images().bfloat16())
    for method in SINGLE:
        maps = tape.explain(method, target=1)
        assert maps.dtype == torch.bfloat16
        assert maps.isfinite().all()


# ---------------------------------------------------------------- before the input layer


BEFORE: dict[str, Any] = {
    "normalised": lambda x: (x - 0.4) / 0.3,
    "padded": lambda x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1],
    "permuted": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "grey to colour": lambda x: x[:, :1] - torch.arange(3.0).double().view(1, 3, 1, 1),
    "grey to colour by expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "max-pooled": lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2),
    "average-pooled": lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2),
    "summed": lambda x: x.sum(1, keepdim=True).expand(-1, 3, -1, -1),
    "centred by itself": lambda x: x - x.mean((1, 2, 3), keepdim=True),
}


@pytest.mark.parametrize("bounds", [{}, {"low": -5.0, "high": 5.0}], ids=["w2", "zB"])
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_deep_taylor_hands_on_all_relevance_before_the_input_layer(before, bounds):
    """What reaches the input adds up to what reaches the input layer, or is refused."""
    x = images()
    model, inner = (Model(form) for form in (
        lambda p, x: tail(p, p.conv1(before(x))), lambda p, h: tail(p, p.conv1(h))))  # fmt: skip
    try:
        maps = salience.record(model, x).explain("deep_taylor", target=1, **bounds)
    except salience.SalienceError:
        return
    if bounds:  # of the values that the input layer sees; monotone in every case here
        ends = [before(torch.full_like(x, end)) for end in bounds.values()]
        bounds = {"low": torch.minimum(*ends), "high": torch.maximum(*ends)}
    reached = salience.record(inner, before(x)).explain("deep_taylor", target=1, **bounds)
    expected = reached.flatten(1).sum(1)
    torch.testing.assert_close(maps.flatten(1).sum(1), expected, rtol=1e-9, atol=1e-12)


def test_deep_taylor_gives_a_max_pools_relevance_to_its_winners():
    model = Model(lambda p, x: tail(p, p.conv1(F.interpolate(F.max_pool2d(x, 2), scale_factor=2))))
    x = images()
    _, winners = F.max_pool2d(x, 2, return_indices=True)
    won = torch.zeros_like(x).flatten(2).scatter(2, winners.flatten(2), 1.0).view_as(x)
    try:
        maps = salience.record(model, x).explain("deep_taylor", target=1)
    except salience.SalienceError:
        return  # refused, with a message
    assert maps.abs().max() > 0
    assert torch.equal(maps * won, maps)


def test_a_users_input_rule_sees_a_folded_batch_norm_once():
    flat = salience.Method(
        "mine", "", "", readout="x * m", input_rule=lambda map, m: map.transpose(m) * map.a
    )
    tape = salience.record(Model(lambda p, x: tail(p, p.bn(p.conv1(x)))), images())
    close(tape.explain(flat, target=1), tape.explain("input_x_gradient", target=1))


# ---------------------------------------------------------------- exported programs


def exported(net: nn.Module) -> nn.Module:
    return torch.export.export(net, (images(),)).module()


def small() -> nn.Module:
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(64, 3)).double().eval()


@pytest.mark.parametrize("method", SINGLE)
def test_an_exported_program_has_no_mode(method: str):
    net = small()
    tape, reference = (salience.record(m, images()) for m in (exported(net), net))
    close(tape.explain(method, target=1), reference.explain(method, target=1))


def test_a_program_exported_in_training_mode_is_refused():
    with pytest.raises(salience.SalienceError, match=r"before torch\.export\.export"):
        salience.record(exported(small().train()), images())


def test_a_traced_graph_has_the_modes_of_its_modules():
    traced = torch.fx.symbolic_trace(small())
    salience.record(traced, images())
    traced.get_submodule("3").train()
    with pytest.raises(salience.SalienceError, match="training mode in 3"):
        salience.record(traced, images())
