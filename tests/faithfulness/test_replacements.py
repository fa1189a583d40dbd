"""What stands in the place of what is removed, against loops over positions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from salience._errors import SalienceError
from salience._faithfulness.grid import Grid, grid_of
from salience._faithfulness.replacements import REPLACEMENTS, check_replacement, replacement_of

SPACES = {"series": (40,), "image": (6, 7), "volume": (4, 5, 4)}


def values(space: tuple[int, ...], count: int = 2, channels: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, *space, generator=generator, dtype=torch.float64)


def masks(space: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(3, *space, generator=generator) < 0.4


def replaced(name: object, grid: Grid, x: Tensor, where: Tensor, seed: int = 0) -> Tensor:
    mean = x.mean(0, keepdim=True)
    return replacement_of(name, x, grid, mean, seed)(x, where)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", [*REPLACEMENTS, 0.5])
def test_what_is_not_removed_stays(name: object, space: tuple[int, ...]):
    x, where = values(space), masks(space)
    found = replaced(name, grid_of(space, 2, 2, neighbors=True), x, where)
    assert found.shape == (3, *x.shape)
    kept = ~where[:, None, None].expand(found.shape)
    assert torch.equal(found[kept], x.expand(found.shape)[kept])
    assert not torch.equal(found, x.expand(found.shape))


def weights(offset: int, width: int) -> float:
    return float(np.exp(-0.5 * (offset / (width / 2)) ** 2))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_blur_is_a_gaussian_mean_of_what_lies_within(space: tuple[int, ...]):
    x, width = values(space, 1, 1), 2
    every = torch.ones(1, *space, dtype=torch.bool)
    found = replaced("blur", grid_of(space, width, width, neighbors=True), x, every)[0, 0, 0]
    for at in product(*map(range, space)):
        total = there = 0.0
        for other in product(*map(range, space)):
            steps = [abs(i - j) for i, j in zip(at, other, strict=True)]
            if max(steps) <= 3 * width / 2:  # cut at three sigma
                weight = float(np.prod([weights(step, width) for step in steps]))
                total, there = total + weight * float(x[(0, 0, *other)]), there + weight
        assert float(found[at]) == pytest.approx(total / there, abs=1e-9)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_local_mean_is_the_mean_of_a_box(space: tuple[int, ...]):
    x = values(space, 1, 1)
    every = torch.ones(1, *space, dtype=torch.bool)
    found = replaced("local_mean", grid_of(space, 2, 2, neighbors=True), x, every)[0, 0, 0]
    for at in product(*map(range, space)):
        box = [
            float(x[(0, 0, *other)])
            for other in product(*map(range, space))
            if max(abs(i - j) for i, j in zip(at, other, strict=True)) <= 3
        ]
        assert float(found[at]) == pytest.approx(np.mean(box), abs=1e-9)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_imputation_solves_for_the_mean_of_neighbors(space: tuple[int, ...]):
    """Against a dense system, one row per removed position."""
    x, where = values(space), masks(space)
    found = replaced("imputation", grid_of(space, 2, 2, neighbors=True), x, where)
    for k, b, c in product(range(3), range(2), range(2)):
        unknown = [at for at in product(*map(range, space)) if where[(k, *at)]]
        rows, right = np.zeros((len(unknown),) * 2), np.zeros(len(unknown))
        for row, at in enumerate(unknown):
            for other in product(*map(range, space)):
                steps = [abs(i - j) for i, j in zip(at, other, strict=True)]
                if max(steps) == 1:
                    weight = 1 / sum(steps)
                    rows[row, row] += weight
                    if where[(k, *other)]:
                        rows[row, unknown.index(other)] -= weight
                    else:
                        right[row] += weight * float(x[(b, c, *other)])
        solved = np.linalg.solve(rows, right)
        got = np.array([float(found[(k, b, c, *at)]) for at in unknown])
        spread = float(x[b].std(correction=0))
        noise = got - solved  # a hundredth of the sample's spread, of a standard normal
        assert np.abs(noise).max() < 0.01 * spread * 4 + 1e-3
        assert 0.003 * spread < noise.std() < 0.02 * spread


def test_imputation_draws_of_its_seed_alone():
    space = SPACES["image"]
    x, where, grid = values(space), masks(space), grid_of(space, 2, 2, neighbors=True)
    first = replaced("imputation", grid, x, where)
    assert torch.equal(first, replaced("imputation", grid, x, where))
    assert not torch.equal(first, replaced("imputation", grid, x, where, seed=1))
    alone = replacement_of("imputation", x[:1], grid, None, 0)(x[:1], where)
    torch.testing.assert_close(alone, first[:, :1])  # whatever else is in the batch


@pytest.mark.parametrize(
    ("given", "samples", "neighbors", "expected"),
    [(None, 16, True, "mean"), (None, 15, True, "blur"), (None, 3, False, "mean"),
     ("imputation", 3, True, "imputation"), (2, 3, False, 2.0)],
)  # fmt: skip
def test_the_default_is_the_mean_of_many_and_the_blur_of_few(
    given: object, samples: int, neighbors: bool, expected: object
):
    assert check_replacement(given, samples, neighbors) == expected


@pytest.mark.parametrize(
    ("given", "samples", "neighbors", "told"),
    [
        ("mean", 1, True, "two samples"),
        (None, 1, False, "two samples"),
        ("blur", 9, False, "no neighbours"),
        ("x", 9, True, "mean"),
    ],
)
def test_what_this_input_does_not_have(given: str | None, samples: int, neighbors: bool, told: str):
    with pytest.raises(SalienceError, match=told):
        check_replacement(given, samples, neighbors)
