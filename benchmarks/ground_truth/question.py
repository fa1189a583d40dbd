"""What is asked of a network, and what deleting parts of its input does to the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

PASS = 64  # inputs in one forward pass: activations that stay in the processor's cache
SUBSETS = 200


@dataclass(frozen=True, eq=False)
class Question:
    """A network, inputs and which outputs of it are explained.

    x         (N, channels, ...) or (N, features)
    target    (N,) the place of the output
    mean      (...) of the data, position by position
    others    (draws, N, ...) other samples, whose parts can take the place of what is deleted
    scale     of the outputs over the data: their standard deviation
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
    return torch.stack([flat(held.double()).sum(1) for held in maps.values()])


def absolute(maps: Mapping[str, Tensor]) -> Tensor:
    """(maps, N, positions) of maps by name: the sum of magnitudes over channels."""
    return torch.stack([flat(held.double()).abs().sum(1) for held in maps.values()])


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
        return squares(shape, step, step)
    if kind == "windows":
        return squares(shape, step + step // 2, max(step // 2, 1))
    cells = squares(shape, step, step)
    share = float(kind.removeprefix("subsets-"))
    generator = Generator().manual_seed(question.seed)
    order = torch.rand(SUBSETS, len(cells), generator=generator).argsort(1)
    chosen = (order < max(1, round(share * len(cells)))).double()
    return chosen @ cells


def cell_size(shape: torch.Size) -> int:
    """4 pixels or samples; each token and each feature by itself."""
    return 4 if shape[-1] >= 24 else 1


def squares(shape: torch.Size, side: int, stride: int) -> Tensor:
    """(parts, positions) of all squares, or stretches, that lie within the shape."""
    parts = torch.ones(1, 1, dtype=torch.float64)
    for size in shape:
        starts = torch.arange(0, size - side + 1, stride)
        inside = torch.arange(size) - starts[:, None]
        along = ((inside >= 0) & (inside < side)).double()  # (starts, size)
        parts = torch.einsum("ap,bq->abpq", parts, along).flatten(2).flatten(0, 1)
    return parts


# -- what deleting them does ----------------------------------------------------------------------


class Effect(NamedTuple):
    """What deleting parts does to the target, (N, parts): the mean over draws of what is put in
    their place of how much it falls, and of how much it changes either way."""

    drop: Tensor
    magnitude: Tensor


def replacements(question: Question, kind: str) -> list[Tensor]:
    """(N, channels, positions) what is put in the place of what is deleted: one draw or several."""
    x = flat(question.x)
    if kind == "mean":
        return [flat(question.mean[None]).expand_as(x)]
    return [flat(other) for other in question.others]


@cache
def effects(question: Question, parts: str, replaced: str = "mean") -> Effect:
    """Of each part, deleted alone."""
    x, before = flat(question.x), value(question.network, question.x, question.target)
    falls = torch.stack([
        before - value(question.network, mixed.view_as(question.x), question.target)
        for instead in replacements(question, replaced)
        for part in regions(question, parts).bool()
        for mixed in [torch.where(part, instead, x)]
    ]).view(-1, len(regions(question, parts)), len(x))  # (draws, parts, N)  # fmt: skip
    return Effect(falls.mean(0).T, falls.abs().mean(0).T)


def heights(change: Tensor, members: Tensor) -> Tensor:
    """(N, positions) the mean change (N, parts) of the parts (parts, positions) over each."""
    return change @ members / members.sum(0).clamp(min=1)


def occluded(question: Question, change: Tensor) -> Tensor:
    """A map like x of what deleting windows changes (N, parts)."""
    height, x = heights(change, regions(question, "windows")), flat(question.x)
    return (height[:, None] / x.shape[1]).expand_as(x).reshape(question.x.shape).float()
