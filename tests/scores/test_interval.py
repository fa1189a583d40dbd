"""The bootstrap interval of a mean: what it covers, and what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from salience._scores.interval import interval


def scattered(level: float, stages: int = 4, noise: float = 0.01) -> np.ndarray:
    """Scores (stage, repeat, sample) about a level."""
    generator = np.random.default_rng(int(1000 * level))
    return level + noise * generator.standard_normal((stages, 5, 6))


# repeats, samples; standard deviations of repeats, samples and the rest; the coverage measured
# with 2000 tables (percentiles of the plain bootstrap: .84 .90 .90 .82 .92 .96 1.0).
# 1000 tables at a coverage of .95 have a standard error of .007.
DESIGNS = [
    (5, 32, 1.0, 0.0, 0.3, 0.94),  # all but the repeats' own scatter averages out: Student's t
    (5, 32, 1.0, 1.0, 1.0, 0.94),
    (5, 8, 1.0, 0.3, 1.0, 0.955),
    (3, 16, 1.0, 0.3, 1.0, 0.95),
    (10, 32, 1.0, 1.0, 1.0, 0.94),
    (5, 100, 0.3, 1.0, 2.0, 0.94),
    (5, 16, 0.0, 0.0, 1.0, 0.98),  # scatter of single scores is counted once
    (3, 2, 1.0, 1.0, 1.0, 0.98),
]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_the_interval_covers_the_truth(design):
    repeats, samples, by_repeat, by_sample, rest, expected = design
    random = np.random.default_rng(4)
    covered, count = 0, 1000
    for _ in range(count):
        table = 0.3 + by_repeat * random.standard_normal((repeats, 1))
        table = table + by_sample * random.standard_normal((1, samples))
        table = table + rest * random.standard_normal((repeats, samples))
        low, high = interval(table, resamples=500, seed=int(random.integers(1 << 30)))
        covered += low <= 0.3 <= high
    assert abs(covered / count - expected) < 0.025


def test_the_interval_of_one_factor_is_students():
    """With samples that agree, only the repeats' scatter is left: mean +- t_4 s / sqrt 5."""
    repeats = np.array([0.1, 0.25, 0.2, 0.4, 0.3])
    low, high = interval(np.repeat(repeats[:, None], 50, 1), resamples=200_000)
    half = 2.776 * repeats.std(ddof=1) / np.sqrt(5)
    # resampled repeats have the normal's variance, not quite its tails
    assert low == pytest.approx(repeats.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(repeats.mean() + half, abs=0.1 * half)


def variance(table: np.ndarray) -> tuple[float, float]:
    """Of the mean of a two-way table, from its mean squares, and Satterthwaite's freedom."""
    (rows, columns), mean = table.shape, table.mean()
    repeats = sum(columns * (table[r].mean() - mean) ** 2 for r in range(rows)) / (rows - 1)
    samples = sum(rows * (table[:, i].mean() - mean) ** 2 for i in range(columns)) / (columns - 1)
    rest = 0.0
    for r in range(rows):
        for i in range(columns):
            rest += (table[r, i] - table[r].mean() - table[:, i].mean() + mean) ** 2
    rest /= (rows - 1) * (columns - 1)
    total = repeats + samples - rest
    parts = repeats**2 / (rows - 1) + samples**2 / (columns - 1)
    parts += rest**2 / ((rows - 1) * (columns - 1))
    return total / table.size, total**2 / parts


def test_the_interval_of_two_factors_is_that_of_the_mean_squares():
    """Factors of so many levels that their resampled means are normal."""
    random = np.random.default_rng(2)
    table = random.standard_normal((40, 1)) + random.standard_normal((1, 30))
    table = table + random.standard_normal((40, 30))
    spread, freedom = variance(table)
    low, high = interval(table, resamples=200_000)
    half = stats.t.ppf(0.975, np.floor(freedom)) * np.sqrt(spread)
    assert high - table.mean() == pytest.approx(half, rel=0.03)
    assert table.mean() - low == pytest.approx(half, rel=0.03)


def test_the_interval_leaves_undefined_scores_out():
    table = scattered(0.3, 3, 0.1)
    holes = np.concatenate([table, np.full((1, 5, 6), np.nan)])
    assert interval(holes) == interval(table)
    dead = table.copy()
    dead[:, :, 2] = np.nan
    alive = np.delete(table, 2, axis=2)
    assert interval(dead) == pytest.approx(interval(alive), abs=0.01)
    assert np.isnan(interval(np.full((2, 3, 4), np.nan))).all()


def test_the_interval_is_the_same_again_and_without_scatter_a_point():
    table = scattered(0.3)
    assert interval(table, seed=3) == interval(table, seed=3)
    assert interval(table, seed=3) != interval(table, seed=4)
    assert interval(np.full((4, 5, 6), 0.25)) == pytest.approx((0.25, 0.25), abs=1e-12)
    low, high = interval(table, level=0.5)
    wide = interval(table)
    assert wide[0] < low < table.mean() < high < wide[1]


def test_one_repeat_or_one_sample_has_the_scatter_of_the_other():
    generator = np.random.default_rng(0)
    table = generator.standard_normal((1, 1, 40))
    low, high = interval(table)
    assert high - low == pytest.approx(2 * 2.02 * table.std(ddof=1) / np.sqrt(40), rel=0.15)
    assert interval(table.transpose(0, 2, 1)) == pytest.approx((low, high), abs=0.1)
