"""Calls that do several things at once, as the smaller calls that rules treat.

A recorded pass runs these in the place of torch's own functions where the input reaches them, so
that attention and fused sums of products need no rule of their own. The forward values are torch's
to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T scale + mask) v; a query that may look nowhere gets 0."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        shape = scores.shape[-2:]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.ops.aten._safe_softmax(scores, -1)
    return torch.dropout(weights, dropout_p, dropout_p > 0) @ value


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, None]:
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale
    )
    return out, None


Product = Callable[[Tensor, Tensor], Tensor]


def _add_product(
    product: Product, input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    total = product(a, b) if alpha == 1 else product(a, b) * alpha
    return total + (input if beta == 1 else input * beta)


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b).sum(0)


def _add_scaled(
    combine: Product, input: Tensor, a: Tensor, b: Tensor, *, value: float = 1
) -> Tensor:
    return input + combine(a, b) * value


addmm = partial(_add_product, torch.mm)
addmv = partial(_add_product, torch.mv)
addbmm = partial(_add_product, _sum_of_products)
baddbmm = partial(_add_product, torch.bmm)
addcmul = partial(_add_scaled, torch.mul)
addcdiv = partial(_add_scaled, torch.div)


def scaled_addmm(
    input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """A linear map of which rules see the factors."""
    return torch.addmm(input * beta, a * alpha, b)


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    return input + weight * (end - input)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * torch.sigmoid(gate)


def cosine_similarity(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    norms = [t.norm(dim=dim, keepdim=True).clamp_min(eps) for t in (a, b)]
    return (a / norms[0] * (b / norms[1])).sum(dim)


def _with_mean(
    spread: Callable[..., Tensor], input: Tensor, *args: Any, **options: Any
) -> tuple[Tensor, Tensor]:
    """var_mean and std_mean."""
    dim = args[0] if args and not isinstance(args[0], bool) else options.get("dim")
    keepdim = options.get("keepdim", args[2] if len(args) > 2 else False)
    mean = input.mean() if dim is None else input.mean(dim, keepdim=keepdim)
    return spread(input, *args, **options), mean


var_mean = partial(_with_mean, torch.var)
std_mean = partial(_with_mean, torch.std)


def grouped_product(a: Tensor, b: Tensor, offs: Tensor, *_: object, **__: object) -> Tensor:
    """Rows [offs[g - 1], offs[g]) of a (N, I) times b[g] (I, J); 0 after the last group."""
    begins = [0, *offs.tolist()]
    spans = enumerate(pairwise(begins))
    parts = [a[begin:end] @ b[g] for g, (begin, end) in spans if end > begin]
    rest = a.new_zeros(len(a) - begins[-1], b.shape[-1])
    return torch.cat([*parts, rest]) if len(rest) else torch.cat(parts)


Norm = tuple[Tensor, None, None]  # and the statistics, which nothing reads


def native_layer_norm(
    input: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Norm:
    return torch.layer_norm(input, shape, weight, bias, eps), None, None


def native_group_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    eps: float,
) -> Norm:
    return torch.group_norm(input, group, weight, bias, eps), None, None


def native_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> Norm:
    out = torch.batch_norm(input, weight, bias, mean, variance, False, momentum, eps, False)
    return out, None, None


def has_no_groups(
    a: Tensor, b: Tensor, offs: Tensor | None = None, *_: object, bias: object = None, **__: object
) -> bool:
    """Whether a grouped product has another form than rows of a by a matrix for each group."""
    return offs is None or bias is not None or (a.ndim, b.ndim) != (2, 3)
