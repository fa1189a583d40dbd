"""How complex a map is, and how much more complex randomisation makes it (Hedström 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from salience._scores.similarity import Similarity

BINS = 100


def complexity(maps: Tensor) -> Tensor:
    """Entropy in nats of the histogram of a map's values, 100 bins over its own range.

    maps (B, ...); returns (B,) float64, from 0 to log 100; NaN where a map is constant or not
    finite. Source: Hedström et al. 2024, "Sanity checks revisited".

    >>> import torch
    >>> complexity(torch.tensor([[0.0, 0.0, 0.0, 1.0]])).round(decimals=3)
    tensor([0.5620], dtype=torch.float64)
    """
    flat = maps.detach().flatten(1).double()
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scaled = (flat - low) / (high - low)
    bins = (scaled.nan_to_num(0.0) * BINS).long().clamp(0, BINS - 1)
    counts = flat.new_zeros(len(flat), BINS).scatter_add_(1, bins, torch.ones_like(flat))
    entropy = torch.special.entr(counts / flat.shape[1]).sum(1)
    return torch.where(torch.isfinite(scaled).all(1), entropy, torch.nan)


def _rise(trained: Tensor, randomized: Tensor) -> Tensor:
    """(complexity after - before) / before."""
    return (randomized - trained) / trained


complexity_rise = Similarity(prepare=complexity, compare=_rise)
