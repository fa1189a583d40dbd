"""The same network, written in every way a user may write it.

Each form is held against one plain spelling of the same function, for every single-pass method,
against autograd for the gradient, and bit for bit against the model's own output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import salience

SINGLE = [name for name, method in salience.methods.items() if method.single_pass]
RULED = [name for name in SINGLE if salience.methods[name].rules]  # not plain autograd everywhere


class Parts(nn.Module):
    """The parameters of one small network; a form is a function (parts, x) -> (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.late = nn.BatchNorm2d(4)  # declared before the convolutions, used after the second
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.plain_bn = nn.BatchNorm2d(4, affine=False)
        self.conv3 = nn.Conv2d(8, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(36, 3)
        self.relu, self.relu6 = nn.ReLU(), nn.ReLU6()
        self.inplace = nn.ReLU(inplace=True)
        self.empty, self.identity, self.flatten = nn.Sequential(), nn.Identity(), nn.Flatten()
        self.double().eval()
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.data.copy_(noise - 0.4)
        for norm in (self.late, self.bn, self.plain_bn):
            assert norm.running_var is not None
            norm.running_var.abs_().add_(0.5)


Form = Callable[[Parts, Tensor], Tensor]


class Model(nn.Module):
    def __init__(self, form: Form) -> None:
        super().__init__()
        self.parts, self.form = Parts(), form
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.parts, x)


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 6, 6, generator=generator, dtype=torch.float64)


def gradient_of(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    y = model(leaf * 1)  # times 1: a model may write into its input
    return torch.autograd.grad(y[:, 1].sum(), leaf)[0]


def close(maps: Tensor, reference: Tensor) -> None:
    assert reference.abs().max() > 0
    atol = 1e-10 * float(reference.abs().max())
    torch.testing.assert_close(maps, reference, rtol=0, atol=atol)


def record_exactly(
    model: nn.Module, x: Tensor, *, output: Tensor | None = None, like: nn.Module | None = None
) -> salience.Tape:
    """A tape whose output is the model's own, and whose gradient is autograd's (of `like`)."""
    before = x.clone()
    tape = salience.record(model, x)
    with torch.no_grad():
        assert torch.equal(tape.output, model(x.clone()) if output is None else output)
    assert torch.equal(x, before)
    close(tape.explain("gradient", target=1), gradient_of(like or model, x))
    return tape


def same(form: Form, plain: Form, *, covered: bool = True) -> None:
    """All maps of two spellings agree; `covered`: with no more operations left uncovered."""
    x = images()
    reference = salience.record(Model(plain), x)
    tape = record_exactly(Model(form), x, like=Model(plain))  # autograd refuses some forms
    torch.testing.assert_close(tape.output, reference.output, rtol=1e-12, atol=1e-12)
    for method in SINGLE:
        close(tape.explain(method, target=1), reference.explain(method, target=1))
        assert not reference.coverage(method).uncovered
        if covered:
            assert not tape.coverage(method).uncovered, method


def tail(p: Parts, h: Tensor) -> Tensor:
    """A ReLU after everything that was done to h, and the rest of the network."""
    return p.fc(F.relu(p.conv2(F.relu(h))).flatten(1)[:, :36])


def plain_form(p: Parts, x: Tensor) -> Tensor:
    h = F.relu(p.conv1(x))
    h = F.relu(h + p.bn(p.conv2(h)))
    h = torch.cat([h, F.relu(p.conv2(h))], 1)
    return p.fc(F.relu(p.conv3(h)).flatten(1))


def as_module(function: Callable[[Tensor], Any]) -> nn.Module:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    return Wrapped().eval()
