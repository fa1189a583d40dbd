"""Traps of peers.md: one ReLU in many spellings, structure, BatchNorm and shared weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from traps import (
    RULED,
    SINGLE,
    Form,
    Model,
    Parts,
    as_module,
    close,
    images,
    plain_form,
    record_exactly,
    same,
    tail,
)

import salience

# ---------------------------------------------------------------- one ReLU, many spellings


def network(act: Callable[[Parts, Tensor], Tensor]) -> Form:
    def form(p: Parts, x: Tensor) -> Tensor:
        h = act(p, p.bn(p.conv1(x)))
        h = act(p, h + p.late(p.conv2(h)))
        h = torch.cat([h, act(p, p.conv2(h))], 1)
        return p.fc(act(p, p.conv3(h)).flatten(1))

    return form


def _statement(name: str, *args: Any, **kwargs: Any) -> Callable[[Parts, Tensor], Tensor]:
    def act(p: Parts, h: Tensor) -> Tensor:
        getattr(h, name)(*args, **kwargs)
        return h

    return act


def _called(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    return lambda p, h: function(h, *args, **kwargs)


RELUS: dict[str, Any] = {
    "method": _called(Tensor.relu),
    "torch": _called(torch.relu),
    "keyword": lambda p, h: F.relu(input=h),
    "inplace function": _called(F.relu, inplace=True),
    "torch.relu_": _called(torch.relu_),
    "statement": _statement("relu_"),
    "reused module": lambda p, h: p.relu(h),
    "inplace module": lambda p, h: p.inplace(h),
    "called forward": lambda p, h: p.relu.forward(h),
    "clamp method": _called(Tensor.clamp, min=0),
    "clamp": _called(torch.clamp, min=0.0),
    "clip": _called(torch.clip, 0),
    "clamp_min": _called(torch.clamp_min, 0),
    "clamp_ statement": _statement("clamp_", min=0),
    "clamp_min_ statement": _statement("clamp_min_", 0.0),
    "threshold": _called(F.threshold, 0.0, 0.0),
    "Threshold": lambda p, h: nn.Threshold(0.0, 0.0)(h),
    "inplace threshold": _called(F.threshold, 0.0, 0.0, inplace=True),
    "twice": lambda p, h: h.relu().relu(),
    "on a view": lambda p, h: h.flatten(1).relu_().view_as(h),
    "before dropout": lambda p, h: F.dropout(F.relu(h), training=False),
    "before inplace dropout": lambda p, h: F.dropout(F.relu(h), training=False, inplace=True),
    "after contiguous": lambda p, h: h.contiguous().relu_(),
    "after channels_last": lambda p, h: h.to(memory_format=torch.channels_last).relu_(),
    "clamp by zeros": lambda p, h: torch.clamp(h, min=torch.zeros_like(h)),
    "clamp_min by zeros": lambda p, h: torch.clamp_min(h, torch.zeros(1, 4, 1, 1).to(h)),
    "maximum": lambda p, h: torch.maximum(h, torch.zeros_like(h)),
    "maximum, turned": lambda p, h: torch.maximum(torch.zeros(()).to(h), h),
    "maximum by keyword": lambda p, h: torch.maximum(input=h, other=torch.zeros(()).to(h)),
    "max of two": lambda p, h: torch.max(h, torch.zeros(()).to(h)),
    "max of two, method": lambda p, h: h.max(other=torch.zeros(()).to(h)),
    "fmax": lambda p, h: torch.fmax(h, torch.zeros(4, 1, 1).to(h)),
    "clamp by a tensor": lambda p, h: torch.clamp(h, min=torch.zeros((), dtype=h.dtype)),
}


@pytest.mark.parametrize("act", RELUS.values(), ids=RELUS)
def test_every_spelling_of_relu(act):
    same(network(act), network(lambda p, h: F.relu(h)))


HIDDEN_RELUS = {
    "where": lambda p, h: torch.where(h > 0, h, 0.0),
    "mask product": lambda p, h: h * (h > 0),
    "masked_fill": lambda p, h: h.masked_fill(h < 0, 0.0),
    "leaky with slope 0": lambda p, h: F.leaky_relu(h, 0.0),
    "half of h + |h|": lambda p, h: (h + h.abs()) / 2,
    "maximum with 0": lambda p, h: torch.maximum(h, torch.zeros((), dtype=h.dtype)),
}


@pytest.mark.parametrize("act", HIDDEN_RELUS.values(), ids=HIDDEN_RELUS)
def test_a_hidden_relu_is_right_or_not_covered(act):
    x = images()
    tape = record_exactly(Model(network(act)), x)
    plain = salience.record(Model(network(lambda p, h: F.relu(h))), x)
    for method in RULED:
        maps, reference = (t.explain(method, target=1) for t in (tape, plain))
        if not tape.coverage(method).uncovered:
            close(maps, reference)


def test_a_clamp_by_a_tensor_of_several_values_is_recorded():
    def form(p: Parts, x: Tensor) -> Tensor:
        return tail(p, torch.clamp_min(p.conv1(x), torch.zeros(1, 4, 1, 1, dtype=x.dtype)))

    record_exactly(Model(form), images())


def test_the_gradient_of_clamp_at_exactly_zero_is_autograds():
    x = torch.tensor([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    record_exactly(as_module(lambda x: x.clamp(min=0) * torch.arange(1.0, 4.0)), x)


@pytest.mark.parametrize("name", ["maximum", "minimum", "fmax", "fmin", "max", "min"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_bound_by_constants_is_an_element_wise_function(name: str, turned: bool):
    """What clamp is too; one that makes the tensor larger is not covered."""
    high = name in ("minimum", "fmin", "min")
    bounds = torch.linspace(-0.5, 0.5, 4, dtype=torch.float64)[:, None, None]

    def act(p: Parts, h: Tensor) -> Tensor:
        return getattr(torch, name)(*((bounds, h) if turned else (h, bounds)))

    clamp = {"max" if high else "min": bounds}
    x = images()
    tape = record_exactly(Model(network(act)), x)
    plain = salience.record(Model(network(lambda p, h: torch.clamp(h, **clamp))), x)
    for method in RULED:
        close(tape.explain(method, target=1), plain.explain(method, target=1))
    assert not tape.coverage("lrp_epsilon").uncovered
    spread = lambda p, x: tail(p, getattr(torch, name)(p.conv1(x).mean(1, True), bounds))  # noqa: E731
    assert record_exactly(Model(spread), x).coverage("lrp_epsilon").uncovered == [name]


def test_max_over_a_dimension_is_no_relu():
    form = lambda p, x: p.fc(torch.max(p.conv1(x).unsqueeze(2), 2)[0].flatten(1)[:, :36])  # noqa: E731
    same(form, lambda p, x: p.fc(p.conv1(x).flatten(1)[:, :36]))


BOUNDED: dict[str, Any] = {
    "function": _called(F.relu6),
    "inplace function": _called(F.relu6, inplace=True),
    "hardtanh": _called(F.hardtanh, 0.0, 6.0),
    "Hardtanh": lambda p, h: nn.Hardtanh(0.0, 6.0)(h),
    "hardtanh keywords": _called(F.hardtanh, max_val=6.0, min_val=0.0),
    "inplace hardtanh": _called(F.hardtanh, 0.0, 6.0, inplace=True),
    "clamp": _called(torch.clamp, 0, 6),
    "clamp keywords": _called(torch.clamp, max=6, min=0),
    "clamp_ statement": _statement("clamp_", 0, 6),
    "clip": _called(torch.clip, 0, 6),
    "clamp by tensors": lambda p, h: torch.clamp(h, torch.zeros_like(h), torch.full_like(h, 6)),
}


@pytest.mark.parametrize("act", BOUNDED.values(), ids=BOUNDED)
def test_every_spelling_of_relu6(act):
    def wide(act: Any) -> Form:  # so wide that some activations exceed 6, but not all
        return lambda p, x: p.fc(
            act(p, p.conv2(act(p, 20 * p.bn(p.conv1(x))))).flatten(1)[:, 54:90]
        )

    x, p = images(), Parts()
    first = 20 * p.bn(p.conv1(x))
    assert (first > 6).any()
    assert ((first > 0) & (first < 6)).any()
    same(wide(act), wide(lambda p, h: p.relu6(h)))


# ---------------------------------------------------------------- structure


def _structure(add: Any = torch.add, cat: Any = lambda a, b: torch.cat([a, b], 1),
               first: Any = lambda p, x: p.conv1(x), end: Any = lambda p, h: p.fc(h.flatten(1)),
               between: Any = lambda p, h: h) -> Form:  # fmt: skip
    def form(p: Parts, x: Tensor) -> Tensor:
        h = between(p, F.relu(first(p, x)))
        h = F.relu(add(h, p.bn(p.conv2(h))))
        h = cat(between(p, h), F.relu(p.conv2(h)))
        return end(p, between(p, F.relu(p.conv3(h))))

    return form


def _iadd(a: Tensor, b: Tensor) -> Tensor:
    b += a
    return b


def _written_cat(a: Tensor, b: Tensor) -> Tensor:
    whole = torch.zeros(len(a), 8, *a.shape[2:], dtype=a.dtype)
    whole[:, :4] = a
    whole[:, 4:].copy_(b)
    return whole


def _unfused_add(a: Tensor, b: Tensor) -> Tensor:
    return sum([a, b])  # type: ignore[return-value]


STRUCTURES: dict[str, Form] = {
    "operator": _structure(add=lambda a, b: a + b),
    "reversed": _structure(add=lambda a, b: b + a),
    "iadd": _structure(add=_iadd),
    "add_": _structure(add=lambda a, b: b.add_(a)),
    "add_ onto the skip": _structure(add=lambda a, b: a.add_(b)),
    "add with alpha": _structure(add=lambda a, b: torch.sub(a, b, alpha=-1)),
    "built-in sum": _structure(add=_unfused_add),
    "stack and sum": _structure(add=lambda a, b: torch.stack([a, b]).sum(0)),
    "concat alias": _structure(cat=lambda a, b: torch.concat((a, b), dim=1)),
    "hstack": _structure(cat=lambda a, b: torch.hstack([a, b])),
    "written into zeros": _structure(cat=_written_cat),
    "keyword module call": _structure(first=lambda p, x: p.conv1(input=x)),
    "keyword function": _structure(
        first=lambda p, x: F.conv2d(weight=p.conv1.weight, bias=p.conv1.bias, input=x, padding=1)
    ),
    "mixed keywords": _structure(
        first=lambda p, x: F.conv2d(x, bias=p.conv1.bias, padding="same", weight=p.conv1.weight)
    ),
    "torch.conv2d": _structure(
        first=lambda p, x: torch.conv2d(x, p.conv1.weight, p.conv1.bias, 1, 1)
    ),
    "input used twice": _structure(first=lambda p, x: p.conv1((x + x) / 2)),
    "padded before": _structure(between=lambda p, h: F.pad(h, (1, 1, 1, 1))[:, :, 1:-1, 1:-1]),
    "keyword linear": _structure(end=lambda p, h: p.fc(input=h.flatten(1))),
    "functional linear": _structure(
        end=lambda p, h: F.linear(bias=p.fc.bias, weight=p.fc.weight, input=h.flatten(1))
    ),
    "addmm": _structure(end=lambda p, h: torch.addmm(p.fc.bias, h.flatten(1), p.fc.weight.t())),
    "empty modules": _structure(between=lambda p, h: p.empty(p.identity(h))),
    "Flatten": _structure(end=lambda p, h: p.fc(p.flatten(h))),
    "view": _structure(end=lambda p, h: p.fc(h.view(len(h), -1))),
    "reshape": _structure(end=lambda p, h: p.fc(torch.reshape(input=h, shape=(h.size(0), -1)))),
    "squeezes": _structure(between=lambda p, h: h.unsqueeze(0).squeeze(0)[None][0]),
    "unsqueeze_ and squeeze_": _structure(between=lambda p, h: h.clone().unsqueeze_(1).squeeze_(1)),
    "permutes": _structure(between=lambda p, h: h.permute(0, 2, 3, 1).movedim(3, 1)),
    "chunks": _structure(between=lambda p, h: torch.cat(h.chunk(2, 1), 1)),
    "unbind": _structure(between=lambda p, h: torch.stack(h.unbind(1), 1)),
    "iterated": _structure(between=lambda p, h: torch.stack(list(h))),
    "channels_last": _structure(
        between=lambda p, h: h.contiguous(memory_format=torch.channels_last)
    ),
    "eval dropout": _structure(between=lambda p, h: F.dropout2d(h, 0.5, training=False)),
    "inplace eval dropout": _structure(
        between=lambda p, h: nn.Dropout(0.5, inplace=True).eval()(h)
    ),
    "shape arithmetic": _structure(
        between=lambda p, h: h.reshape(h.shape[0], -1).view(
            h.size(0), h.numel() // h.size(0) // (h.shape[2] * h.shape[3]), *h.shape[2:]
        )
    ),
    "a check of the values": _structure(between=lambda p, h: _finite(h)),
}


def _finite(h: Tensor) -> Tensor:
    assert bool(torch.isfinite(h).all())
    return h


@pytest.mark.parametrize("form", STRUCTURES.values(), ids=STRUCTURES)
def test_every_spelling_of_the_structure(form):
    same(form, plain_form)


def test_channels_last_input_and_non_contiguous_input():
    x, model = images(), Model(plain_form)
    reference = salience.record(model, x)
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().mT):
        assert not other.is_contiguous()
        tape = salience.record(model, other)
        for method in SINGLE:
            close(tape.explain(method, target=1), reference.explain(method, target=1))


# ---------------------------------------------------------------- BatchNorm and shared weights


def test_batch_norm_declared_out_of_order_is_not_folded_into_the_wrong_conv():
    same(
        lambda p, x: tail(p, p.late(p.conv1(x))),
        lambda p, x: tail(p, F.batch_norm(p.conv1(x), p.late.running_mean, p.late.running_var,
                                          p.late.weight, p.late.bias)),
    )  # fmt: skip


def test_batch_norm_without_affine_equals_one_with_ones():
    def ones(p: Parts, x: Tensor) -> Tensor:
        norm = p.plain_bn
        weight = torch.ones(4, dtype=x.dtype)
        return tail(p, F.batch_norm(p.conv1(x), norm.running_mean, norm.running_var, weight))

    same(lambda p, x: tail(p, p.plain_bn(p.conv1(x))), ones)


def test_a_folded_batch_norm_equals_one_conv_with_folded_weights():
    def folded(p: Parts, x: Tensor) -> Tensor:
        norm = p.bn
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = (p.conv1.bias - norm.running_mean) * scale + norm.bias
        return tail(p, F.conv2d(x, p.conv1.weight * scale.view(-1, 1, 1, 1), bias, padding=1))

    same(lambda p, x: tail(p, p.bn(p.conv1(x))), folded)


READ_TWICE: dict[str, Any] = {
    "norm first": lambda p, z: p.bn(z) + z,
    "norm last": lambda p, z: z + p.bn(z),
    "by a view after the norm": lambda p, z: p.bn(z) + z.view_as(z),
    "by a view before the norm": lambda p, z: (lambda v: p.bn(z) + v)(z[:, :]),
    "by two norms": lambda p, z: p.bn(z) + p.late(z),
    "relu and norm": lambda p, z: F.relu(z) + p.bn(z),
    "norm and relu_": lambda p, z: (lambda n: n + z.relu_())(p.bn(z)),
}


@pytest.mark.parametrize("read", READ_TWICE.values(), ids=READ_TWICE)
def test_a_conv_read_twice_is_not_folded(read):
    def apart(p: Parts, x: Tensor) -> Tensor:  # the multiplication stands between conv and norm
        plain = READ_TWICE["relu and norm"] if read is READ_TWICE["norm and relu_"] else read
        return tail(p, plain(p, p.conv1(x) * 1))

    same(lambda p, x: tail(p, read(p, p.conv1(x))), apart)


def test_tied_weights_give_each_layer_its_own_relevance():
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    class Tied(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.a, self.b = (nn.Linear(4, 4, dtype=torch.float64) for _ in range(2))
            for layer in (self.a, self.b):
                layer.weight = nn.Parameter(weight.clone())
                nn.init.constant_(layer.bias, 0.1)
            if tied:
                self.b.weight = self.a.weight
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu())

    x = images().flatten(1)[:, :4].contiguous()
    tied, apart = (salience.record(Tied(flag), x) for flag in (True, False))
    for method in SINGLE:
        close(tied.explain(method, target=1), apart.explain(method, target=1))


def _turned(p: Parts, h: Tensor, groups: int, *, raw: bool) -> Tensor:
    weight = p.conv2.weight[: 4 // groups] if groups == 1 else p.conv2.weight[:, : 4 // groups]
    bias = p.conv2.bias
    if raw:
        return torch.convolution(h, weight, bias, [2, 2], [1, 1], [1, 1], True, [1, 1], groups)
    return F.conv_transpose2d(h, weight, bias, 2, 1, 1, groups)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_raw_transposed_convolution_and_its_batch_norm(groups: int):
    """As decomposed programs have it."""

    def form(raw: bool) -> Form:
        def run(p: Parts, x: Tensor) -> Tensor:
            h = _turned(p, F.relu(p.conv1(x)), groups, raw=raw)
            # of either sign: z+ widens the weight
            return tail(p, p.late(_turned(p, p.bn(h), groups, raw=raw)))

        return run

    same(form(True), form(False))


@pytest.mark.parametrize("reshape", [torch.reshape, Tensor.view, Tensor.expand])
def test_a_shape_of_one_element_is_an_argument(reshape: Any):
    x = torch.ones(1, 1, dtype=torch.float64)
    net = as_module(lambda x: (reshape(x[:, 0], x.shape[:1]) * 2.0)[:, None])
    tape = salience.record(net, x)
    close(tape.explain("lrp_epsilon", target=0, eps=0.0), 2 * x)
