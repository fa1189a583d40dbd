"""Operations between two linear maps, each with its oracle: name -> (module of it, oracle)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle_lrp as lrp
import torch
import torch.nn.functional as F
from oracle_elements import ELEMENTWISE, gelu, sigmoid
from oracle_lrp import Value
from torch import Tensor, nn
from transformer_nets import randn

# what makes the operation from nothing (a module's constructor), and its oracle of (module, value)
Body = tuple[Callable[[Any], Callable[[Tensor], Tensor]], Callable[[Any, Value], Value]]


class Between(nn.Module):
    """A linear map or convolution, an operation, a linear head: (B, *shape) -> (B, 2)."""

    def __init__(self, shape: tuple[int, ...], make: Callable[[Any], Any]) -> None:
        super().__init__()
        image = len(shape) == 3
        self.stem = nn.Conv2d(2, 4, 3, padding=1) if image else nn.Linear(shape[-1], 6)
        self.body = make(None)
        with torch.no_grad():
            body = self.body.double() if isinstance(self.body, nn.Module) else self.body
            out = body(torch.ones(1, *((4, 4, 4) if image else (4, 6)), dtype=torch.float64))
        self.head = nn.Linear(out.numel(), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).flatten(1))

    def oracle(self, body: Callable[[Any, Value], Value]) -> Callable[[Value], Value]:
        def run(x: Value) -> Value:
            stem = self.stem
            image = isinstance(stem, nn.Conv2d)
            v = lrp.linear_map(x, stem) if image else lrp.linear(x, stem.weight, stem.bias)
            flat = lrp.reorder(body(self.body, v), lambda t: t.flatten(1))
            return lrp.linear(flat, self.head.weight, self.head.bias)

        return run


def plain(function: Callable[[Tensor], Tensor], oracle: Callable[[Value], Value]) -> Body:
    return lambda _: function, lambda _, v: oracle(v)


def structural(function: Callable[[Tensor], Tensor]) -> Body:
    return plain(function, lambda v: lrp.reorder(v, function))


def weights(make: Callable[[], nn.Module]) -> Body:
    """A module that is one linear map."""
    return lambda _: make(), lambda module, v: lrp.linear_map(v, module)


def part(k: int, n: int, dim: int = -1) -> Callable[[Tensor], Tensor]:
    return lambda t: t.chunk(n, dim)[k]


def halves(v: Value, dim: int = -1) -> tuple[Value, Value]:
    return lrp.reorder(v, part(0, 2, dim)), lrp.reorder(v, part(1, 2, dim))


def times(a: Tensor, b: Tensor) -> Tensor:
    return a * b


def gated(v: Value, formula: Callable[[Tensor], Tensor], gate: int = 1) -> Value:
    parts = list(halves(v))
    parts[gate] = lrp.elementwise(parts[gate], formula)
    return lrp.product(times, *parts)


def group_norm(module: Any, v: Value) -> Value:
    """The groups side by side; InstanceNorm is one channel to a group."""
    groups = getattr(module, "num_groups", len(v.data))
    shape = v.data.shape
    w, b = (
        torch.ones(4) * c if p is None else p for p, c in ((module.weight, 1), (module.bias, 0))
    )
    v = lrp.reorder(v, lambda t: t.reshape(len(t), groups, -1))
    v = lrp.reorder(lrp.norm(v, (-1,), module.eps), lambda t: t.reshape(-1, *shape))
    tail = (-1, *(1,) * (len(shape) - 1))
    return lrp.reorder(v, lambda t: t * w.view(tail) + b.view(tail))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Bilinear(6, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x, x.flip(-2))

    def oracle(self, v: Value) -> Value:
        other, weight = lrp.reorder(v, lambda t: t.flip(-2)), self.map.weight
        y = lrp.product(lambda a, b: torch.einsum("bti,kij,btj->btk", a, weight, b), v, other)
        return lrp.plus(y, self.map.bias.expand(y.data.shape))


class Prelu(nn.PReLU):
    def oracle(self, v: Value) -> Value:
        slope = self.weight.detach()[:, *(None,) * (v.data.ndim - 1)]
        return lrp.elementwise(v, lambda x: torch.where(x > 0, x, slope * x))


def own(make: Callable[[], Any]) -> Body:
    return lambda _: make(), lambda module, v: module.oracle(v)


W63, W43 = randn(6, 3, seed=21), randn(4, 3, seed=22)
W64 = randn(6, 4, seed=24)
CONSTANT = randn(4, 4, seed=23)


def cube(v: Value) -> Value:
    return lrp.product(times, lrp.product(times, v, v), v)


def swap(v: Value) -> Value:
    return lrp.reorder(v, lambda t: t.flip(-1))


def minus(a: Value, b: Value) -> Value:
    return lrp.plus(a, lrp.reorder(b, lambda t: -t))


def rest(v: Value) -> Value:
    return lrp.reorder(v, lambda t: 1 - t)


PLACES = torch.tensor([2, 0, 1, 2])[None, :, None]


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.mT


TOKENS: dict[str, Body] = {
    "prelu": own(lambda: Prelu(4)),
    "prelu_one": own(Prelu),
    "x * x": plain(lambda x: x * x, lambda v: lrp.product(times, v, v)),
    "x * x * x": plain(lambda x: x * x * x, cube),
    "x * flip": plain(lambda x: x * x.flip(-1), lambda v: lrp.product(times, v, swap(v))),
    "x.mul_": plain(lambda x: x.flip(-1).mul_(x), lambda v: lrp.product(times, v, swap(v))),
    "times_constant": structural(lambda x: x.flip(1) * W63.T[:1] / 3),
    "glu": plain(lambda x: F.glu(x, -1), lambda v: gated(v, sigmoid)),
    "nn.GLU": (lambda _: nn.GLU(), lambda _, v: gated(v, sigmoid)),
    "swiglu": plain(
        lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1],
        lambda v: gated(v, ELEMENTWISE["silu"][1], 0),
    ),
    "geglu": plain(lambda x: x[..., :3] * F.gelu(x[..., 3:]), lambda v: gated(v, gelu)),
    "addcmul": plain(
        lambda x: torch.addcmul(x, x, x.flip(-1), value=0.5),
        lambda v: lrp.plus(v, lrp.product(lambda a, b: a * b / 2, v, swap(v))),
    ),
    "addcdiv": plain(
        lambda x: torch.addcdiv(x, x, 2 + x.flip(-1).sin()),
        lambda v: lrp.plus(v, lrp.divide(v, 2 + v.data.flip(-1).sin())),
    ),
    "lerp": plain(
        lambda x: torch.lerp(x, x.flip(-1), torch.sigmoid(x)),
        lambda v: lrp.plus(v, lrp.product(times, lrp.elementwise(v, sigmoid), minus(swap(v), v))),
    ),
    "swish_by_hand": plain(
        lambda x: x * torch.sigmoid(x),
        lambda v: lrp.elementwise(v, lambda x: x * sigmoid(x), 0.5),  # one function, not a gate
    ),
    "highway": plain(
        lambda x: (1 - torch.sigmoid(x)) * x.flip(-1),
        lambda v: lrp.product(times, rest(lrp.elementwise(v, sigmoid)), swap(v)),
    ),
    "softmax": plain(lambda x: x.softmax(-1), lrp.softmax),
    "softmax_rows": plain(lambda x: F.softmax(x, dim=1), lambda v: lrp.softmax(v, 0)),
    "log_softmax": (lambda _: nn.LogSoftmax(-1), lambda _, v: lrp.log_softmax(v)),
    "bilinear": own(Bilinear),
    "matmul": plain(lambda x: x @ x.mT, lambda v: lrp.product(matmul, v, v)),
    "bmm": plain(lambda x: torch.bmm(x, x.flip(-1).mT), lambda v: lrp.product(matmul, v, swap(v))),
    "baddbmm": plain(
        lambda x: torch.baddbmm(x[..., :4], x, x.mT, beta=0.5, alpha=0.7),
        lambda v: lrp.plus(
            lrp.reorder(v, lambda t: t[..., :4] * 0.5),
            lrp.reorder(lrp.product(matmul, v, v), lambda t: t * 0.7),
        ),
    ),
    "baddbmm_keywords": plain(
        lambda x: torch.baddbmm(input=x[..., :4], batch1=x, batch2=x.mT, beta=0.5, alpha=0.7),
        lambda v: lrp.plus(
            lrp.reorder(v, lambda t: t[..., :4] * 0.5),
            lrp.reorder(lrp.product(matmul, v, v), lambda t: t * 0.7),
        ),
    ),
    "baddbmm_constant": plain(
        lambda x: torch.baddbmm(CONSTANT.expand(len(x), 4, 4), x, x.mT),
        lambda v: lrp.plus(lrp.product(matmul, v, v), CONSTANT),
    ),
    "einsum_three": plain(
        lambda x: torch.einsum("bti,bsi,bsj->btj", x, x, x.flip(-1)),
        lambda v: lrp.product(
            lambda a, b, c: torch.einsum("bti,bsi,bsj->btj", a, b, c), v, v, swap(v)
        ),
    ),
    "einsum_weight": plain(
        lambda x: torch.einsum("bti,ij->btj", x, W63),
        lambda v: lrp.linear_map(v, lambda t: t @ W63),
    ),
    "einsum_weight_first": plain(
        lambda x: torch.einsum("tk,bti->bki", W43, x),
        lambda v: lrp.linear_map(v, lambda t: (t.mT @ W43).mT),
    ),
    "tensordot": plain(
        lambda x: torch.tensordot(x, W63, dims=1), lambda v: lrp.linear_map(v, lambda t: t @ W63)
    ),
    "tensordot_rows": plain(
        lambda x: torch.tensordot(x, W43, ([1], [0])),
        lambda v: lrp.linear_map(v, lambda t: t.mT @ W43),
    ),
    # constants that take only their form from the input
    "weight_of_its_type": plain(
        lambda x: x @ W63.type_as(x), lambda v: lrp.linear_map(v, lambda t: t @ W63)
    ),
    "weight_to_it": plain(
        lambda x: F.linear(x, W63.T.to(x)), lambda v: lrp.linear_map(v, lambda t: t @ W63)
    ),
    "weight_expanded": plain(
        lambda x: torch.bmm(x, W63.expand(len(x), 6, 3).clone()),
        lambda v: lrp.linear_map(v, lambda t: t @ W63),
    ),
    "weight_expanded_as": plain(
        lambda x: torch.bmm(x, W64.T.expand_as(x).mT),
        lambda v: lrp.linear_map(v, lambda t: t @ W64),
    ),
    "scale_of_its_shape": structural(
        lambda x: x.flip(1) * torch.full_like(x, 0.3) - torch.ones_like(x)
    ),
    "divided_by_its_like": structural(lambda x: x / x.new_full(x.shape, 2.0)),
    "cumsum": structural(lambda x: x.cumsum(1)),
    "scatter_add": structural(
        lambda x: torch.zeros_like(x[:, :2]).scatter_add(1, (PLACES % 2).expand_as(x), x)
    ),
    "scatter_add_ into itself": structural(
        lambda x: x[:, :2].clone().scatter_add_(1, (PLACES % 2).expand_as(x), x)
    ),
    "scatter_reduce_sum": structural(
        lambda x: x.flip(1).scatter_reduce(1, (PLACES % 3).expand_as(x), x, reduce="sum")
    ),
    "scatter_reduce_mean": structural(
        lambda x: x.flip(1).scatter_reduce(1, (PLACES % 3).expand_as(x), x, reduce="mean")
    ),
    "fourier": structural(lambda x: torch.fft.fft2(x).real),
    "fourier_there_and_back": structural(
        lambda x: torch.fft.irfft(torch.fft.rfft(x, norm="ortho")[..., :2], n=6)
    ),
    "fourier_parts": structural(
        lambda x: torch.view_as_real(torch.fft.fftshift(torch.fft.rfft2(x), dim=-1)).flatten(2)
    ),
    "roll_stack": structural(lambda x: torch.stack([x, x.roll(1, 2)], 1)),
    "residual": plain(
        lambda x: torch.cat([x + F.gelu(x), x], 1),
        lambda v: lrp.cat([lrp.plus(v, lrp.elementwise(v, gelu)), v]),
    ),
}
