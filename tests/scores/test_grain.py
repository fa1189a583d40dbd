"""Grain against loops over all pairs."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch

from salience._scores.grain import grain


@pytest.mark.parametrize("shape", [(2, 9), (1, 4, 5), (3, 4, 3), (1, 3, 3, 4)])
def test_grain_is_near_differences_over_all_differences(shape: tuple[int, ...]):
    maps = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one, found in zip(maps.numpy(), grain(maps), strict=True):
        near = []
        for at in product(*map(range, shape)):
            for axis in range(1, len(shape)):
                other = tuple(i + (k == axis) for k, i in enumerate(at))
                if other[axis] < shape[axis]:
                    near.append(abs(one[at] - one[other]))
        pairs = [abs(a - b) for a, b in combinations(one.flatten(), 2)]
        assert float(found) == pytest.approx(np.mean(near) / np.mean(pairs))


def test_noise_has_1_and_a_smooth_map_little():
    noise = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grain(noise), torch.ones(2).double(), atol=0.05, rtol=0)
    assert bool((grain(torch.nn.functional.avg_pool2d(noise, 9, 1, 4)) < 0.5).all())


@pytest.mark.parametrize(
    "maps", [torch.ones(1, 1, 4, 4), torch.full((1, 1, 3, 3), torch.nan), torch.randn(1, 5)]
)
def test_there_is_none_without_differences_or_neighbors(maps: torch.Tensor):
    assert bool(grain(maps).isnan().all())
