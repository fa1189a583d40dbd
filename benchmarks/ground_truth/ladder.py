"""Maps that are worse by construction: a good one, mixed with what knows nothing."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ground_truth.question import flat

STEPS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # the share of noise


def ladder(good: Tensor, generator: Generator) -> dict[str, Tensor]:
    """`rough: 0.1`, `smooth: 0.1`, ...: (1 - step) of the map (N, ...) and `step` of noise.

    rough   the map's own values at other positions
    smooth  the map of another sample, turned upside down: of the same grain at the wrong place
    """
    wide = flat(good)
    order = torch.rand(len(wide), 1, wide.shape[2], generator=generator).argsort(2)
    noises = {
        "rough": wide.gather(2, order.expand_as(wide)),
        "smooth": wide.roll(1, 0).flip(2),
    }
    return {
        f"{kind}: {step:g}": ((1 - step) * _unit(wide) + step * _unit(noise)).view_as(good)
        for kind, noise in noises.items()
        for step in STEPS
    }


def _unit(wide: Tensor) -> Tensor:
    return wide / wide.std((1, 2), keepdim=True)
