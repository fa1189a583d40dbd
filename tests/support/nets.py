"""Tiny explicit graph networks, in float64, that the oracles can take apart node by node."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Node(NamedTuple):
    """One module and the values it reads: value 0 is the input, node k makes value k + 1."""

    module: nn.Module
    inputs: tuple[int, ...]


class GraphNet(nn.Module):
    """Run the nodes in order; the value of the last one is the output."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        super().__init__()
        nodes = tuple(nodes)
        self.layers = nn.ModuleList(node.module for node in nodes)
        self.wires = tuple(node.inputs for node in nodes)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(*pair) for pair in zip(self.layers, self.wires, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for module, inputs in self.nodes:
            values.append(module(*(values[i] for i in inputs)))
        return values[-1]


class Add(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Concat(nn.Module):
    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat(values, dim=1)


def chain(*modules: nn.Module) -> GraphNet:
    """Each module reads the value of the one before it."""
    return GraphNet(Node(module, (k,)) for k, module in enumerate(modules))


def graph(*nodes: nn.Module | tuple[Any, ...]) -> GraphNet:
    """A bare module reads the value before it; `(module, 1, 4)` reads the values 1 and 4."""
    wired = [node if isinstance(node, tuple) else (node, k) for k, node in enumerate(nodes)]
    return GraphNet(Node(node[0], tuple(node[1:])) for node in wired)


def new(kind: type[M], *args: Any, **kwargs: Any) -> M:
    """A float64 module with unset parameters, made without a draw from the global generator."""
    return cast(M, nn.utils.skip_init(kind, *args, dtype=torch.float64, **kwargs))


@torch.no_grad()
def fill(net: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter and running statistic; the signs of BatchNorm weights alternate."""

    def normal(like: Tensor, std: float) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype) * std

    def uniform(like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator, dtype=like.dtype) + 0.5

    for module in net.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            mean, var, seen = module.running_mean, module.running_var, module.num_batches_tracked
            assert mean is not None
            assert var is not None
            assert seen is not None
            mean.copy_(normal(mean, 0.3))
            var.copy_(uniform(var))
            seen.zero_()
            if weight is not None:
                weight.copy_(uniform(weight))
                weight[1::2].neg_()
        elif weight is not None:
            fan_in = (
                weight[:, 0].numel()
                if isinstance(module, nn.ConvTranspose2d)
                else (weight[0].numel())
            )
            weight.copy_(normal(weight, math.sqrt(2 / fan_in)))
        if bias is not None:
            bias.copy_(normal(bias, 0.3))


def _chains() -> dict[str, tuple[GraphNet, Sequence[int]]]:
    linear, relu, flat = nn.Linear, nn.ReLU, nn.Flatten
    c1, c2, c3, ct = nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d
    bn1, bn2, gap = nn.BatchNorm1d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d
    return {
        "mlp": (
            chain(new(linear, 6, 8), relu(), new(linear, 8, 7), relu(), new(linear, 7, 4)),
            (3, 6),
        ),
        "mlp_no_bias": (
            chain(
                flat(),
                new(linear, 16, 9, bias=False),
                relu(),
                new(linear, 9, 8, bias=False),
                relu(),
                new(linear, 8, 3, bias=False),
            ),
            (3, 1, 4, 4),
        ),
        "conv1d": (
            chain(
                new(c1, 2, 4, 3, padding=1),
                relu(),
                nn.MaxPool1d(2),
                new(c1, 4, 5, 3, stride=2),
                relu(),
                flat(),
                new(linear, 10, 3),
            ),
            (3, 2, 12),
        ),
        "conv2d": (
            chain(
                new(c2, 3, 4, 3, padding=1),
                relu(),
                new(c2, 4, 4, 3, bias=False),
                relu(),
                flat(),
                new(linear, 144, 4),
            ),
            (2, 3, 8, 8),
        ),
        "conv3d": (
            chain(
                new(c3, 2, 3, 3, padding=1),
                relu(),
                new(c3, 3, 3, 2),
                relu(),
                flat(),
                new(linear, 81, 3),
            ),
            (2, 2, 4, 4, 4),
        ),
        "grouped": (
            chain(
                new(c2, 3, 6, 3, padding=1, groups=3),
                relu(),
                new(c2, 6, 6, 3, groups=2, bias=False),
                relu(),
                gap(1),
                flat(),
                new(linear, 6, 3),
            ),
            (2, 3, 6, 6),
        ),
        "strided": (
            chain(
                new(c2, 3, 4, 3, stride=2, padding=1),
                relu(),
                new(c2, 4, 5, (3, 2), stride=(1, 2), padding=(1, 0)),
                relu(),
                flat(),
                new(linear, 40, 3),
            ),
            (2, 3, 8, 8),
        ),
        "dilated": (
            chain(
                new(c2, 3, 4, 3, dilation=2, padding=2),
                relu(),
                new(c2, 4, 4, 3, dilation=(1, 2), bias=False),
                relu(),
                flat(),
                new(linear, 96, 3),
            ),
            (2, 3, 8, 8),
        ),
        "transposed": (
            chain(
                new(ct, 3, 4, 3, stride=2, padding=1, output_padding=1),
                relu(),
                new(c2, 4, 4, 3),
                relu(),
                flat(),
                new(linear, 64, 3),
            ),
            (3, 3, 3, 3),
        ),
        "transposed_bn": (
            chain(
                new(c2, 3, 4, 3, stride=2),
                relu(),
                new(ct, 4, 6, 3, stride=2, groups=2, dilation=2),
                new(bn2, 6),
                relu(),
                flat(),
                new(linear, 486, 3),
            ),
            (2, 3, 8, 8),
        ),
        "conv_bn_relu": (
            chain(
                new(c2, 3, 4, 3, padding=1, bias=False),
                new(bn2, 4),
                relu(),
                new(c2, 4, 4, 3, stride=2),
                new(bn2, 4),
                relu(),
                flat(),
                new(linear, 36, 6),
                new(bn1, 6, affine=False),
                relu(),
                new(linear, 6, 4),
            ),
            (3, 3, 8, 8),
        ),
        "bn_alone": (
            chain(
                new(bn2, 3),
                new(c2, 3, 4, 3, padding=1),
                relu(),
                new(bn2, 4),
                new(c2, 4, 4, 3),
                relu(),
                flat(),
                new(linear, 64, 3),
            ),
            (3, 3, 6, 6),
        ),
        "max_pool": (
            chain(
                new(c2, 3, 4, 3, padding=1),
                relu(),
                nn.MaxPool2d(3, 2, 1),
                new(c2, 4, 4, 3, padding=1),
                relu(),
                nn.MaxPool2d(2),
                flat(),
                new(linear, 16, 3),
            ),
            (3, 3, 8, 8),
        ),
        "avg_pool": (
            chain(
                new(c2, 3, 4, 3, padding=1),
                relu(),
                nn.AvgPool2d(3, 2, 1),
                new(c2, 4, 4, 3, padding=1),
                relu(),
                gap((2, 3)),
                flat(),
                new(linear, 24, 3),
            ),
            (3, 3, 8, 8),
        ),
        "relu6": (
            chain(
                new(c2, 3, 4, 3, padding=1),
                nn.ReLU6(),
                new(c2, 4, 4, 3),
                nn.ReLU6(),
                flat(),
                new(linear, 64, 3),
            ),
            (3, 3, 6, 6),
        ),
    }


def _graphs() -> dict[str, tuple[GraphNet, Sequence[int]]]:
    linear, relu, flat, gap = nn.Linear, nn.ReLU, nn.Flatten, nn.AdaptiveAvgPool2d
    c2, bn2 = nn.Conv2d, nn.BatchNorm2d
    conv, act = new(c2, 3, 3, 3, padding=1), relu()
    return {
        # a stem, an identity block (1 .. 10), a block with a strided shortcut, a pooled head
        "residual": (
            graph(
                new(c2, 3, 4, 3, padding=1, bias=False),
                new(bn2, 4),
                relu(),
                new(c2, 4, 4, 3, padding=1, bias=False),
                new(bn2, 4),
                relu(),
                new(c2, 4, 4, 3, padding=1, bias=False),
                new(bn2, 4),
                (Add(), 8, 3),
                relu(),
                new(c2, 4, 5, 3, stride=2, padding=1, bias=False),
                new(bn2, 5),
                relu(),
                new(c2, 5, 5, 3, padding=1, bias=False),
                new(bn2, 5),
                (new(c2, 4, 5, 1, stride=2, bias=False), 10),
                new(bn2, 5),
                (Add(), 15, 17),
                relu(),
                gap(1),
                flat(),
                new(linear, 5, 4),
            ),
            (2, 3, 6, 6),
        ),
        # value 3 is read by a BatchNorm and by the sum: it may not be folded
        "residual_unfolded": (
            graph(
                new(c2, 3, 4, 3, padding=1),
                relu(),
                new(c2, 4, 4, 3, padding=1),
                new(bn2, 4),
                (Add(), 4, 3),
                relu(),
                flat(),
                new(linear, 144, 3),
            ),
            (2, 3, 6, 6),
        ),
        "concat": (
            graph(
                new(c2, 3, 3, 3, padding=1),
                relu(),
                new(c2, 3, 4, 3, padding=1),
                relu(),
                (Concat(), 2, 4),
                new(c2, 7, 4, 3, stride=2),
                relu(),
                flat(),
                new(linear, 16, 3),
            ),
            (2, 3, 6, 6),
        ),
        # two input layers on the same input, one of them behind a BatchNorm
        "parallel": (
            graph(
                new(c2, 3, 3, 3, padding=1),
                relu(),
                (new(bn2, 3), 0),
                new(c2, 3, 4, 1),
                relu(),
                (Concat(), 2, 5),
                gap(2),
                flat(),
                new(linear, 28, 3),
            ),
            (2, 3, 6, 6),
        ),
        # one convolution and one ReLU, three times over
        "reused": (
            graph(conv, act, conv, act, conv, (Add(), 5, 2), act, flat(), new(linear, 75, 3)),
            (2, 3, 5, 5),
        ),
    }


def small_nets() -> dict[str, tuple[GraphNet, Tensor]]:
    """Name -> (network in eval mode, inputs of both signs); outputs (B, 3) or (B, 4)."""
    nets: dict[str, tuple[GraphNet, Tensor]] = {}
    for seed, (name, (net, shape)) in enumerate((_chains() | _graphs()).items()):
        generator = torch.Generator().manual_seed(seed)
        fill(net, generator)
        # relu6: inputs so large that some activations exceed 6
        scale = 5.0 if name == "relu6" else 1.0
        x = torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * scale
        nets[name] = (net.eval(), x)
    return nets
