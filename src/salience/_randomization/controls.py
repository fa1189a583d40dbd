"""Maps that a method's maps are held against: what no weight can change, and chance."""

from __future__ import annotations

import torch
from torch import Tensor

from salience._randomization.weights import normal, stream

_RANDOM_MAPS = 1 << 20  # a branch of the random streams that no stage uses


def edges(x: Tensor) -> Tensor:
    """The magnitude of the input's spatial gradient, (B, C, ...) like x."""
    slopes = torch.gradient(x, dim=list(range(2, x.ndim)))
    return torch.stack(slopes).square().sum(0).sqrt()


def unchanging(x: Tensor) -> dict[str, Tensor]:
    """Maps of x that no weight can change: the input, and its edges where it has space."""
    wide = x.ndim > 2 and all(size > 1 for size in x.shape[2:])
    return {"input": x, **({"edges": edges(x)} if wide else {})}


def random_maps(x: Tensor, seed: int, repeat: int, first: int) -> Tensor:
    """Noise shaped like x; sample i of the study has its own stream, whatever its batch."""
    draws = [
        normal(x.shape[1:], stream(seed, _RANDOM_MAPS, repeat, first + i)) for i in range(len(x))
    ]
    return torch.stack(draws).to(x) if draws else torch.empty_like(x)
