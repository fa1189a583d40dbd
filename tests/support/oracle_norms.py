"""Normalisations and divisions of tokens between two linear maps, as in `oracle_operations`."""

from __future__ import annotations

import oracle_lrp as lrp
import torch
import torch.nn.functional as F
from oracle_lrp import Value
from oracle_operations import Body, group_norm, plain
from torch import Tensor, nn


def mean_norm(x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)


def inverse(x: Tensor) -> Tensor:
    return 0.7 * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)


def unit(v: Value, dims: tuple[int, ...] = ()) -> Value:
    turned = lrp.reorder(v, lambda t: t.flip([dim + 1 for dim in dims]))
    return lrp.divide(turned, turned.data.norm(dim=-1, keepdim=True))


def spread(v: Value) -> Tensor:
    return v.data.square().mean(-1, keepdim=True)


NORMS: dict[str, Body] = {
    "layer_norm": (
        lambda _: nn.LayerNorm(6),
        lambda n, v: lrp.norm(v, (-1,), n.eps, n.weight, n.bias),
    ),
    "layer_norm_2d": plain(
        lambda x: F.layer_norm(x, (4, 6)), lambda v: lrp.norm(v, (-2, -1), 1e-5)
    ),
    "layer_norm_by_hand": plain(mean_norm, lambda v: lrp.norm(v, (-1,), 1e-5)),
    "rms_norm": (lambda _: nn.RMSNorm(6, 1e-5), lambda n, v: lrp.rms_norm(v, 1e-5, n.weight)),
    "rms_norm_by_hand": plain(
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda v: lrp.rms_norm(v, 1e-5),
    ),
    "rsqrt_first": plain(
        lambda x: (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * x,
        lambda v: lrp.rms_norm(v, 1e-5),
    ),
    "rms_norm_divided": plain(
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(),
        lambda v: lrp.rms_norm(v, 1e-5),
    ),
    "reciprocal": plain(
        lambda x: x * torch.reciprocal(x.abs() + 1), lambda v: lrp.divide(v, v.data.abs() + 1)
    ),
    "negative_power": plain(
        lambda x: x * (x.square().mean(-1, keepdim=True) + 1) ** -0.5,
        lambda v: lrp.divide(v, torch.sqrt(spread(v) + 1)),
    ),
    "one_over": plain(
        lambda x: x * (1 / (x.square().sum(-1, keepdim=True) + 1)),
        lambda v: lrp.divide(v, v.data.square().sum(-1, keepdim=True) + 1),
    ),
    "division": plain(
        lambda x: x / (2 + x.flip(-1).sin()), lambda v: lrp.divide(v, 2 + v.data.flip(-1).sin())
    ),
    "torch.div": plain(
        lambda x: torch.div(x.exp(), other=x.exp().sum(-1, keepdim=True)),
        lambda v: lrp.divide(lrp.elementwise(v, torch.exp), v.data.exp().sum(-1, keepdim=True)),
    ),
    "normalize": plain(
        lambda x: F.normalize(x, dim=-1),
        lambda v: lrp.divide(v, v.data.norm(dim=-1, keepdim=True)),
    ),
    "scale_first": plain(
        lambda x: x * inverse(x) + (0.3 - x.mean(-1, keepdim=True) * inverse(x)),
        lambda v: lrp.norm(v, (-1,), 1e-5, 0.7, 0.3),
    ),
    "std": plain(
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 0.1),
        lambda v: lrp.reorder(
            v, lambda t: (t - t.mean(-1, keepdim=True)) / (v.data.std(-1, keepdim=True) + 0.1)
        ),
    ),
    "cosine_similarity": plain(
        lambda x: F.cosine_similarity(x, x.flip(1), dim=-1),
        lambda v: lrp.product(lambda a, b: (a * b).sum(-1), unit(v), unit(v, (0,))),
    ),
    "instance_norm_1d": (lambda _: nn.InstanceNorm1d(4), group_norm),
}
