"""What is asked of a network, and what deleting parts of its input does to the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor, nn

PASS = 64  # inputs in one forward pass: activations that stay in the processor's cache
SUBSETS = 200
SHARES = (0.1, 0.25, 0.5)


@dataclass(frozen=True, eq=False)
class Question:
    """A network, inputs and which outputs of it are explained.

    x         (N, channels, ...) or (N, features)
    target    (N,) the place of the output
    mean      (...) of the data, position by position
    others    like x: other samples, of which parts are put in the place of what is deleted
    scale     of the target over the data: its standard deviation
    """

    network: nn.Module
    x: Tensor
    target: Tensor
    mean: Tensor
    others: Tensor
    scale: float
    seed: int = 0


def flat(x: Tensor) -> Tensor:
    """(N, channels, positions) of inputs of any shape; features are positions."""
    return x.flatten(2) if x.ndim > 2 else x.unsqueeze(1)


def signed(maps: Mapping[str, Tensor]) -> Tensor:
    """(maps, N, positions) of maps by name: the sum over channels."""
    return torch.stack([flat(held).sum(1) for held in maps.values()]).double()


def absolute(maps: Mapping[str, Tensor]) -> Tensor:
    """(maps, N, positions) of maps by name: the sum of magnitudes over channels."""
    return torch.stack([flat(held).abs().sum(1) for held in maps.values()]).double()


@torch.no_grad()
def value(network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """(N,) the outputs that are explained."""
    parts = zip(x.split(PASS), target.split(PASS), strict=True)
    return torch.cat([network(some).gather(1, at[:, None])[:, 0] for some, at in parts]).double()


# -- parts of the input ---------------------------------------------------------------------------


@cache
def regions(question: Question, kind: str) -> Tensor:
    """(parts, positions) of 0 and 1: `cells` of a grid, `windows` that slide over it, or
    `subsets-0.25`, random ones of a quarter of the cells."""
    shape = question.x.shape[2:] if question.x.ndim > 2 else question.x.shape[1:]
    step = cell_size(shape)
    if kind == "cells":
        return _squares(shape, step, step)
    if kind == "windows":
        return _squares(shape, step + step // 2, max(step // 2, 1))
    cells = _squares(shape, step, step)
    share = float(kind.removeprefix("subsets-"))
    generator = Generator().manual_seed(question.seed)
    order = torch.rand(SUBSETS, len(cells), generator=generator).argsort(1)
    chosen = (order < max(1, round(share * len(cells)))).double()
    return chosen @ cells


def cell_size(shape: torch.Size) -> int:
    """4 pixels or samples; each token and each feature by itself."""
    return 4 if shape[-1] >= 24 else 1


def _squares(shape: torch.Size, side: int, stride: int) -> Tensor:
    """(parts, positions) of all squares, or stretches, that lie within the shape."""
    parts = torch.ones(1, 1, dtype=torch.float64)
    for size in shape:
        starts = torch.arange(0, size - side + 1, stride)
        inside = torch.arange(size) - starts[:, None]
        along = ((inside >= 0) & (inside < side)).double()  # (starts, size)
        parts = torch.einsum("ap,bq->abpq", parts, along).flatten(2).flatten(0, 1)
    return parts


# -- what deleting them does ----------------------------------------------------------------------


def replacement(question: Question, kind: str) -> Tensor:
    """(N, channels, positions) what is put in the place of what is deleted."""
    x = flat(question.x)
    if kind == "mean":
        return flat(question.mean[None]).expand_as(x)
    return flat(question.others)


@cache
def drops(question: Question, parts: str, replaced: str = "mean") -> Tensor:
    """(N, parts) how much the target falls where a part is deleted."""
    x, instead = flat(question.x), replacement(question, replaced)
    before = value(question.network, question.x, question.target)
    found = [
        before - value(question.network, mixed.view_as(question.x), question.target)
        for part in regions(question, parts).bool()
        for mixed in [torch.where(part, instead, x)]
    ]
    return torch.stack(found, 1)


def occluded(question: Question) -> Tensor:
    """A map like x: the mean drop of the windows over each position."""
    windows = regions(question, "windows")
    heights = drops(question, "windows") @ windows / windows.sum(0).clamp(min=1)  # (N, positions)
    x = flat(question.x)
    return (heights[:, None] / x.shape[1]).expand_as(x).reshape(question.x.shape).float()
