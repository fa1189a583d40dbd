"""Faithfulness by its formulas: naive loops in numpy, float64, one perturbed input at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product

import numpy as np

Array = np.ndarray
Target = Callable[[Array], float]  # one input (C, *space) -> the target


def cells(space: Sequence[int], cell: int, window: int | None = None) -> Iterator[Array]:
    """The positions (space) of each cell's window, in row-major order."""
    window = window or cell
    for corner in product(*(range(0, size, cell) for size in space)):
        mask = np.zeros(space, dtype=bool)
        for at in product(*(range(size) for size in space)):
            begins = [c + (cell - window) // 2 for c in corner]
            mask[at] = all(b <= i < b + window for i, b in zip(at, begins, strict=True))
        yield mask


def without(x: Array, mask: Array, replacement: Array) -> Array:
    """x (C, *space) with the replacement where the mask is set."""
    found = x.copy()
    for channel in range(len(x)):
        for at in zip(*np.nonzero(mask), strict=True):
            found[(channel, *at)] = replacement[(channel, *at)]
    return found


def drops(target: Target, x: Array, masks: Sequence[Array], replacement: Array) -> Array:
    return np.array([target(x) - target(without(x, mask, replacement)) for mask in masks])


def sums(one: Array, masks: Sequence[Array], absolute: bool) -> Array:
    """The sums of a map (C, *space) over masks."""
    read = np.abs(one) if absolute else one
    return np.array([sum(float(read[c][mask].sum()) for c in range(len(one))) for mask in masks])


def pearson(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def ranks(a: Array) -> Array:
    return np.array([(a < v).sum() + ((a == v).sum() + 1) / 2 for v in a])


def correlation(how: str, a: Array, b: Array) -> float:
    return pearson(a, b) if how == "pearson" else pearson(ranks(a), ranks(b))


def area(target: Target, x: Array, order: Sequence[Array], replacement: Array, steps: int) -> float:
    """Trapezoids under the target over the share of cells removed, in an order of masks."""
    points = [target(x)]
    for j in range(1, steps + 1):
        gone = np.zeros(x.shape[1:], dtype=bool)
        for mask in order[: round(len(order) * j / steps)]:
            gone |= mask
        points.append(target(without(x, gone, replacement)))
    return sum((a + b) / 2 / steps for a, b in pairwise(points))


def at_places(how: str, one: Array, effects: Array, masks: Sequence[Array]) -> float:
    """AUC over pairs, or mass, of |map| (C, *space) where the mean effect is over half its
    highest."""
    sizes, heights = {}, {}
    for at in np.ndindex(*masks[0].shape):
        over = [effect for effect, mask in zip(effects, masks, strict=True) if mask[at]]
        heights[at] = sum(over) / len(over)
        sizes[at] = sum(abs(float(one[(c, *at)])) for c in range(len(one)))
    there = [at for at, height in heights.items() if height > max(heights.values()) / 2]
    if how == "mass":
        return sum(sizes[at] for at in there) / sum(sizes.values())
    pairs = [(sizes[a], sizes[b]) for a in there for b in heights if b not in there]
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
