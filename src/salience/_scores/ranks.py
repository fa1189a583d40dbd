"""Average ranks of maps, on the tensors' own device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from salience._errors import expected

# Integers that hold the bits of a float.
_INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def ranks(maps: Tensor) -> Tensor:
    """Average ranks of each map's entries, from 1 to N: entry x has
    #(smaller than x) + (#(equal to x) + 1) / 2, with -0.0 equal to 0.0.

    maps: (B, ...), any real dtype. Returns (B, N) float64; a map with a NaN or an infinity has
    NaN ranks. Raises SalienceError without a batch dimension or without entries.
    Source: Kendall, "The treatment of ties in ranking problems" (1945).

    >>> ranks(torch.tensor([[0.5, -2.0, 0.5, 9.0]]))
    tensor([[2.5000, 1.0000, 2.5000, 4.0000]], dtype=torch.float64)
    """
    rows = rows_of_maps(maps)
    batch, size = rows.shape
    values, order = _sort_rows(_sortable(rows))
    same = torch.zeros(batch * size + 1, dtype=torch.bool, device=rows.device)
    torch.eq(values[1:], values[:-1], out=same[1:-1])  # as the entry before
    same[::size] = False
    here, after = same[:-1], same[1:]
    first, last = ((t > u).nonzero().flatten() for t, u in ((after, here), (here, after)))
    more = last - first  # a run of equal values has 1 + more entries
    tied = more.double().div_(2).add_(first % size + 1)
    result = torch.arange(1, size + 1, dtype=torch.float64, device=rows.device).repeat(batch)
    result.masked_scatter_(here | after, tied.repeat_interleave(more + 1))
    result = torch.empty_like(result).view(batch, size).scatter_(1, order, result.view(batch, size))

    extremes = rows.gather(1, order[:, [0, -1]])  # what is not finite lies at the ends
    return result.masked_fill_(~extremes.isfinite().all(1, keepdim=True), math.nan)


def _sort_rows(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted keys, flat (B * N,), and the entries (B, N) they come from."""
    # On a CPU torch radix-sorts integers of one dimension, three times as fast as rows; below
    # some thousand entries it does not, and the calls would cost more than the sorting.
    if keys.device.type == "cpu" and len(keys) and keys.shape[1] >= 4096:
        values, order = torch.empty_like(keys), torch.empty(keys.shape, dtype=torch.int64)
        for row, to, places in zip(keys, values, order, strict=True):
            torch.sort(row, out=(to, places))
        return values.flatten(), order
    values, order = keys.sort(dim=1)
    return values.flatten(), order


def _sortable(values: Tensor) -> Tensor:
    """Integers in the order of the values, -0.0 equal to 0.0."""
    bits = (values + 0.0).view(_INTEGERS[values.dtype])  # -0.0 + 0.0 is 0.0
    info = torch.iinfo(bits.dtype)
    # A float is sign and magnitude: the magnitude bits of the negative ones are turned over.
    return bits ^ ((bits >> (info.bits - 1)) & info.max)


def rows_of_maps(maps: Tensor) -> Tensor:
    """Maps (B, ...) as (B, N), without gradients, in a dtype of floating point."""
    if maps.ndim < 2 or 0 in maps.shape[1:] or maps.is_complex():
        raise expected(
            "real maps (B, ...) with at least one entry each",
            f"shape {tuple(maps.shape)} of {maps.dtype}",
            "Give a single map a batch dimension with map[None].",
        )
    rows = maps.detach().flatten(1)
    return rows if rows.dtype in _INTEGERS else rows.double()
