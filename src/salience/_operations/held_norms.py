"""What flows back through a normalisation whose 1 / sigma is held constant.

m -> (g - mean of g) / sigma, g = m weight, over each group that is normalised on its own. RMSNorm
subtracts no mean, here as in its forward pass. Each function takes what torch's own takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

Backward = Callable[[Tensor], Tensor]


def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: object = None,
    eps: float = 1e-5,
    *_: object,
) -> Backward:
    dims = tuple(range(-len(shape), 0))
    return partial(_centered, dims=dims, scale=_inverse(x, dims, eps), weight=weight)


def rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Backward:
    dims = tuple(range(-len(shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    scale = (x.square().mean(dims, keepdim=True) + eps).rsqrt()
    return lambda m: (m if weight is None else m * weight) * scale


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: object = None,
    eps: float = 1e-5,
    *_: object,
) -> Backward:
    def grouped(t: Tensor) -> Tensor:
        return t.reshape(len(t), groups, -1)

    scale = _inverse(grouped(x), (-1,), eps)
    weight = _per_channel(weight, x)

    def back(m: Tensor) -> Tensor:
        weighted = m if weight is None else m * weight
        return _centered(grouped(weighted), (-1,), scale, None).view_as(m)

    return back


def _batch_norm(
    dims_of: Callable[[Tensor], tuple[int, ...]],
    x: Tensor,
    weight: Tensor | None,
    bias: object,
    mean: object,
    variance: object,
    training: bool,
    momentum: float,
    eps: float,
    *_: object,
) -> Backward:
    dims = dims_of(x)
    scale = _inverse(x, dims, eps)
    return partial(_centered, dims=dims, scale=scale, weight=_per_channel(weight, x))


def _of_sample(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _of_batch(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _inverse(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    return (x.var(dims, correction=0, keepdim=True) + eps).rsqrt()


def _per_channel(weight: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weight is None else weight.view(-1, *(1,) * (x.ndim - 2))


def _centered(m: Tensor, dims: tuple[int, ...], scale: Tensor, weight: Tensor | None) -> Tensor:
    weighted = m if weight is None else m * weight
    return (weighted - weighted.mean(dims, keepdim=True)) * scale


instance_norm = partial(_batch_norm, _of_sample)
batch_norm = partial(_batch_norm, _of_batch)
