"""The maps of several inputs, or of what ids are embedded as, as one map for each sample.

Scores compare one map with another: a single floating-point input has its map as it is, anything
else the entries of all its maps in one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from salience._errors import expected
from salience._inputs import trees
from salience._inputs.trees import Leaf, X

SAME = 1e-6  # relative difference below which maps are constant over inputs


def is_single(x: object) -> TypeGuard[Tensor]:
    """Whether x is one floating-point input, whose map is shaped like it."""
    return isinstance(x, Tensor) and x.is_floating_point()


def some(x: X, part: slice) -> X:
    """Some of the samples."""
    return trees.each(lambda tensor: tensor[part], x)


def as_one(x: object, maps: Sequence[Tensor]) -> Tensor:
    """The maps of all leaves of x as one, (B, ...) or (B, n)."""
    return maps[0] if is_single(x) else torch.cat([trees.rows(map) for map in maps], 1)


def values_of(x: object, leaves: Sequence[Leaf]) -> Tensor:
    """What is explained, in the form of its maps: of ids, what the model embeds them as."""
    return as_one(x, [leaf.tensor.detach() for leaf in leaves])


def can_be_shown(x: object, leaves: Sequence[Leaf]) -> bool:
    """Whether the maps have the shape of x: of one input, or of ids once summed per token."""
    ids = isinstance(x, Tensor) and all(leaf.tensor.shape[1:-1] == x.shape[1:] for leaf in leaves)
    return is_single(x) or ids


def spread(maps: Tensor, first: Tensor) -> float:
    """The largest difference of maps from one map, relative to it; below SAME they are the same."""
    scale = first.abs().max().clamp(min=torch.finfo(maps.dtype).tiny)
    return float((maps - first).abs().max() / scale)


def check_shown(x: object, leaves: Sequence[Leaf]) -> None:
    if not can_be_shown(x, leaves):
        shapes = ", ".join(str(tuple(leaf.tensor.shape[1:])) for leaf in leaves)
        raise expected(
            "a single input, or ids (B, T) embedded as (B, T, D), for keep_maps",
            f"maps of shapes {shapes}",
            "Use keep_maps=0, and salience.explain for the maps.",
        )


def numbers(values: Tensor) -> np.ndarray:
    """As float32; ids as they are."""
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()


def shown(x: object, leaves: Sequence[Leaf], maps: Tensor) -> Tensor:
    """Joined maps in the shape of x: for ids, summed over each token's embedding."""
    if is_single(x):
        return maps
    shapes = [leaf.tensor.shape[1:] for leaf in leaves]
    parts = maps.split([prod(shape) for shape in shapes], 1)
    pairs = zip(parts, shapes, strict=True)
    return torch.stack([part.unflatten(1, shape).sum(-1) for part, shape in pairs]).sum(0)
