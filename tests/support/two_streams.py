"""A network of two inputs, with its naive gradients."""

from __future__ import annotations

from typing import Any

import torch
from closeness import within
from torch import Tensor, nn


class TwoStreams(nn.Module):
    """An image and a row of numbers, to three scores."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        self.read = nn.Sequential(nn.Linear(5, 6, bias=bias), nn.ReLU())
        self.head = nn.Linear(4 * 4 + 6, 3, bias=bias)
        self.double().eval()

    def forward(self, image: Tensor, row: Tensor, keep: Any = None, scale: Any = 1.0) -> Tensor:
        both = torch.cat([self.look(image), self.read(row)], 1)
        both = both if keep is None else both * keep[:, None]
        return self.head(both) * scale


def streams(bias: bool = True) -> TwoStreams:
    return TwoStreams(bias)


def data(count: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 2, 6, 6).double(), torch.randn(count, 5).double()


def gradients(model: Any, inputs: tuple[Tensor, ...], target: int) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(model(*leaves)[:, target].sum(), leaves)


close = within(1e-10)
