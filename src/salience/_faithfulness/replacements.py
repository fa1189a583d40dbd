"""What stands in the place of what is removed."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional

from salience._errors import expected, not_applicable, unknown
from salience._faithfulness.grid import Grid
from salience._randomization.weights import normal, stream

FEW = 16  # samples whose mean per position still shows each of them
NOISE = 0.01  # of imputed values, in standard deviations of the input
_NOISES = 1 << 22  # a branch of the random streams that no stage uses
_STEPS, _ENOUGH = 200, 1e-4  # of the solver of imputation

# (values (B, C, *space), masks (K, *space) or (K, B, *space)) -> (K, B, C, *space)
Replace = Callable[[Tensor, Tensor], Tensor]


def mean_of_all(values: Tensor, grid: Grid, mean: Tensor | None, seed: int) -> Replace:
    """Per position, over all samples; of tokens, over all of them."""
    assert mean is not None
    return _put(mean)


def blur(values: Tensor, grid: Grid, mean: Tensor | None, seed: int) -> Replace:
    """The sample itself in a Gaussian window as wide as the window that is removed."""
    found = values
    for axis, width in enumerate(grid.window, 2):
        found = _smoothed(found, axis, _gaussian(width, found.shape[axis]))
    return _put(found)


def local_mean(values: Tensor, grid: Grid, mean: Tensor | None, seed: int) -> Replace:
    """The sample's own mean over a box three windows wide."""
    found = values
    for axis, width in enumerate(grid.window, 2):
        reach = min(width + width // 2, found.shape[axis] - 1)
        found = _smoothed(found, axis, torch.ones(2 * reach + 1))
    return _put(found)


def imputation(values: Tensor, grid: Grid, mean: Tensor | None, seed: int) -> Replace:
    """Each removed position the weighted mean of its neighbours, plus noise (ROAD, Rong 2022).

    Neighbours weigh 1 / (axes along which they differ), as 1/6 and 1/12 in an image; the removed
    ones are unknowns of the same linear system, solved by conjugate gradients.
    """
    noise = normal(values.shape[1:], stream(seed, _NOISES))
    spread = values.flatten(1).std(1, correction=0).view(-1, *(1,) * (values.ndim - 1))
    noise = NOISE * spread * noise.to(values)  # (B, C, *space)

    def put(values: Tensor, masks: Tensor) -> Tensor:
        where = _per_sample(masks, values)
        solved = _imputed(values.expand(len(masks), *values.shape), where)
        return torch.where(where, solved + noise, values)

    return put


REPLACEMENTS = {
    "mean": mean_of_all, "blur": blur, "local_mean": local_mean, "imputation": imputation,
}  # fmt: skip
_OF_NEIGHBORS = ("blur", "local_mean", "imputation")


def replacement_of(
    given: str | float | Tensor, values: Tensor, grid: Grid, mean: Tensor | None, seed: int
) -> Replace:
    """What puts a replacement in the place of masked positions of values (B, C, *space).

    given  a name, a number, or a tensor that broadcasts to (C, *space)
    mean   (1, C, *space) of all samples, where it is asked for
    """
    if isinstance(given, str):
        return REPLACEMENTS[given](values, grid, mean, seed)
    number = torch.as_tensor(given, device=values.device, dtype=values.dtype)
    return _put(number.expand(1, *values.shape[1:]))


def check_replacement(
    given: object, samples: int, neighbors: bool, tokens: bool = False
) -> str | float | Tensor:
    """The replacement that is meant; None is the mean of many samples, and the blur of few.

    neighbors  whether positions have any, as features of a table and tokens do not
    tokens     whether the mean is over all positions, too, so that one sample has one

    Errors: SalienceError for an unknown one, and for one that this input does not have.
    """
    if given is None:
        given = "mean" if samples >= FEW or not neighbors else "blur"
    if isinstance(given, Tensor) or (isinstance(given, Real) and not isinstance(given, bool)):
        return given if isinstance(given, Tensor) else float(given)
    if given not in REPLACEMENTS:
        raise unknown("replacement", given, REPLACEMENTS)
    name = str(given)
    if name in _OF_NEIGHBORS and not neighbors:
        cure = 'Features and tokens have no neighbours: use "mean" or a number.'
        raise expected("a replacement for features or tokens", repr(name), cure)
    if name == "mean" and samples < 2 and not tokens:
        cure = 'The mean of one sample is the sample: use "blur" or a number, or give more.'
        raise not_applicable("two samples or more for their mean", "one", cure)
    return name


def _put(found: Tensor) -> Replace:
    def put(values: Tensor, masks: Tensor) -> Tensor:
        return torch.where(_per_sample(masks, values), found, values)

    return put


def _per_sample(masks: Tensor, values: Tensor) -> Tensor:
    """(K, *space) or (K, B, *space) as (K, 1 or B, 1, *space)."""
    shared = masks.ndim == values.ndim - 1
    return masks[:, None, None] if shared else masks[:, :, None]


def _gaussian(width: int, size: int) -> Tensor:
    sigma = max(width / 2, 0.5)
    reach = min(math.ceil(3 * sigma), size - 1)
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    return torch.exp(-0.5 * (at / sigma) ** 2)


def _smoothed(values: Tensor, axis: int, weights: Tensor) -> Tensor:
    """The weighted mean along an axis of what lies within."""
    rows = values.movedim(axis, -1)
    flat = rows.reshape(-1, 1, rows.shape[-1])
    kernel = weights.to(flat)[None, None]
    reach = kernel.shape[-1] // 2
    total = functional.conv1d(flat, kernel, padding=reach)
    there = functional.conv1d(torch.ones_like(flat[:1]), kernel, padding=reach)
    return (total / there).view(rows.shape).movedim(-1, axis)


def _imputed(values: Tensor, where: Tensor) -> Tensor:
    """The solution u of sum_j w_ij (u_i - u_j) = 0 at removed positions i, u = values elsewhere.

    values: (K, B, C, *space); where broadcasts to it
    """
    axes = tuple(range(3, values.ndim))
    unknown_ = where.expand(values.shape)
    known = torch.where(unknown_, 0, values)
    here = torch.ones_like(values[:1, :1, :1])
    degree = _neighbors(here, axes)

    def system(u: Tensor) -> Tensor:
        return torch.where(unknown_, degree * u - _neighbors(u, axes), 0)

    dims = (*axes,)
    u = torch.zeros_like(values)
    r = torch.where(unknown_, _neighbors(known, axes), 0)
    p, rs = r, r.square().sum(dims, keepdim=True)
    enough = _ENOUGH**2 * rs
    for _ in range(_STEPS):
        if bool((rs <= enough).all()):
            break
        ap = system(p)
        scale = rs / (p * ap).sum(dims, keepdim=True)
        step = torch.where(rs > enough, scale, 0)
        u, r = u + step * p, r - step * ap
        new = r.square().sum(dims, keepdim=True)
        p = r + torch.where(rs > enough, new / rs, 0) * p
        rs = new
    return u


def _neighbors(u: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The weighted sum over the neighbours that there are."""
    total = torch.zeros_like(u)
    for offsets in product((-1, 0, 1), repeat=len(axes)):
        if differ := sum(map(abs, offsets)):
            here, there = [slice(None)] * u.ndim, [slice(None)] * u.ndim
            for axis, offset in zip(axes, offsets, strict=True):
                size = u.shape[axis]
                here[axis] = slice(max(0, -offset), size - max(0, offset))
                there[axis] = slice(max(0, offset), size + min(0, offset))
            total[tuple(here)] += u[tuple(there)] / differ
    return total
