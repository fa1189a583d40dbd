"""Dense outputs, and which part of nested outputs is explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from closeness import within
from torch import Tensor, nn

import salience
from salience import SalienceError

close = within(1e-9)


def gradient(model: Callable[[Tensor], Tensor], x: Tensor, scalar: Any) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(scalar(model(leaf)).sum(), leaf)[0]


# ---------------------------------------------------------------- dense outputs


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, padding=1)
        self.deep = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.head = nn.Conv2d(8, 3, 1)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        h = self.up(self.deep(F.max_pool2d(skip, 2)))
        h = F.interpolate(h, scale_factor=0.5, mode="bilinear", align_corners=False)
        h = F.interpolate(h, size=skip.shape[2:], mode="nearest")
        return self.head(torch.cat([skip, h], 1))  # (B, 3, H, W)


MASK = (torch.arange(64).view(8, 8) % 3 == 0).double()
DENSE: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "one place": ((1, 2, 5), lambda out: out[:, 1, 2, 5]),
    "from the end": ((-1, -1, 0), lambda out: out[:, 2, 7, 0]),
    "a place for each": ([(0, 1, 1), (2, 7, 6)], lambda out: out[[0, 1], [0, 2], [1, 7], [1, 6]]),
    "a mask": (MASK.expand(3, 8, 8), lambda out: (out * MASK).sum((1, 2, 3))),
    "a mask for each": (torch.stack([MASK, -MASK])[:, None].expand(2, 3, 8, 8),
                        lambda out: (out * torch.stack([MASK, -MASK])[:, None]).sum((1, 2, 3))),
    "a function": (lambda out: out[:, 1].relu().mean((1, 2)),
                   lambda out: out[:, 1].relu().mean((1, 2))),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_dense_outputs_have_every_kind_of_target(name: str):
    target, scalar = DENSE[name]
    net, x = UNet(), torch.randn(2, 1, 8, 8).double()
    tape = salience.record(net, x)
    fact = gradient(net, x, scalar)
    close(tape.explain("gradient", target), fact)
    if name != "a function":  # whose gradient is no longer the network's alone
        close(tape.explain("lrp_epsilon", target, eps=0.0), x * fact)
    split = salience.explain(net, x, ["lrp_alpha_beta"], target, batch_size=1)["lrp_alpha_beta"]
    close(split, tape.explain("lrp_alpha_beta", target))
    with pytest.raises(SalienceError, match=r"\(B, K\) for the target 'argmax'.*\(class, row"):
        tape.explain("gradient")


# ---------------------------------------------------------------- nested outputs


class Heads(NamedTuple):
    scores: Tensor
    boxes: Any


@dataclass
class Answer:
    logits: Tensor
    state: Tensor


HEAD, X = nn.Linear(5, 3).double().eval(), torch.randn(2, 5).double()
OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "a key": (lambda y: {"scores": y, "boxes": -y}, "scores"),
    "a path": (lambda y: ({"boxes": -y, "scores": y}, -y), (0, "scores")),
    "a path as text": (lambda y: ({"boxes": -y, "scores": y}, -y), "0.scores"),
    "a key with a dot": (lambda y: {"a.b": y, "a": {"b": -y}}, "a.b"),
    "a number as a key": (lambda y: {"0": y, "1": -y}, "0"),
    "three deep": (lambda y: {"stages": [{"x": -y}, {"x": [-y, y]}]}, "stages.1.x.1"),
    "the only one": (lambda y: ([{"scores": y}], None), None),
    "the only one of a part": (lambda y: (-y, [{"scores": y}]), 1),
    "the only field": (lambda y: Heads(y, None), None),
    "a field": (lambda y: Heads(y, {"a": -y}), "scores"),
    "a field by number": (lambda y: Heads(y, -y), 0),
    "a data class": (lambda y: Answer(y, -y), "logits"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_parts_of_outputs(name: str):
    wrap, part = OUTPUTS[name]
    tape = salience.record(lambda x: wrap(HEAD(x)), X, output=part)
    close(tape.explain("gradient", 2), HEAD.weight[2].detach().expand(2, -1))


def test_outputs_that_were_written_into_are_found_in_any_container():
    tape = salience.record(lambda x: Answer(HEAD(x).relu_().mul_(2), x), X, output="logits")
    fact = gradient(lambda x: HEAD(x).relu() * 2, X, lambda out: out[:, 0])
    close(tape.explain("gradient", 0), fact)


def detector(x: Tensor) -> Any:
    return [{"boxes": row[None, :4], "scores": row[:1]} for row in HEAD(x) @ x.new_ones(3, 5)]


def test_lists_of_detections_are_refused_and_paths_that_lead_nowhere():
    with pytest.raises(SalienceError, match=r"list of dicts, as detectors.*wrap the model"):
        salience.record(detector, X)
    with pytest.raises(SalienceError, match=r"one output per sample, \(2, ...\)"):
        salience.record(detector, X, output=(0, "scores"))
    with pytest.raises(SalienceError, match=r"'score'\. Did you mean 'scores'"):
        salience.record(lambda x: [{"scores": HEAD(x)}], X, output="0.score")
    nested = {"a": [X, X], "b": X}
    with pytest.raises(SalienceError, match=r"with \[\('a', 0\), \('a', 1\), 'b'\]"):
        salience.record(lambda x: nested, X)
