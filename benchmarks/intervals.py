"""How often the intervals of means over networks and inputs cover the truth.

    python benchmarks/intervals.py > benchmarks/results/intervals.md   # ten minutes on one core

On normal draws, whose truth is 0, and on a real cascade: the similarity to the trained network's
maps, and the share of it above the floor, of 400 fully random versions of a small trained network
and 200 inputs. Their mean is the truth for 3, 5 or 10 of these networks and 2, 8 or 32 inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

import salience
from salience._scores.interval import interval
from salience._scores.similarity import bounds_of
from salience._study.evidence import share_of
from salience._study.verdicts import FEWEST

REPEATS, SAMPLES, DRAWS, NETWORKS, INPUTS = (3, 5, 10), (2, 8, 32), 1000, 400, 200
SCATTER = {  # standard deviations: networks, inputs, the rest
    "networks alone": (1.0, 0.0, 0.3), "inputs alone": (0.0, 1.0, 0.3), "all": (1.0, 1.0, 1.0),
    "mostly networks": (1.0, 0.3, 1.0), "mostly the rest": (0.3, 1.0, 2.0),
    "the rest alone": (0.0, 0.0, 1.0),
}  # fmt: skip
METHODS = ["gradient", "guided_backprop", "lrp_alpha_beta", "deep_taylor", "excitation_backprop"]
SCORES = ("spearman_abs", "pearson")
Ends = tuple[float, float]
Numbers = np.ndarray


def shapes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bars of four directions in noise (count, 1, 16, 16), and which it is."""
    generator = torch.Generator().manual_seed(seed)
    bars = torch.zeros(4, 5, 5)
    bars[0, 2], bars[1, :, 2], bars[2], bars[3] = 1, 1, torch.eye(5), torch.eye(5).flip(0)
    x = 0.3 * torch.randn(count, 1, 16, 16, generator=generator)
    kinds = torch.randint(0, 4, (count,), generator=generator)
    places = torch.randint(0, 11, (count, 2), generator=generator)
    for image, kind, (row, column) in zip(x, kinds, places.tolist(), strict=True):
        image[0, row : row + 5, column : column + 5] += 1.5 * bars[kind]
    return x, kinds


def trained() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 4),
    )  # fmt: skip
    (x, kinds), optimizer = shapes(3000, 1), torch.optim.Adam(net.parameters(), 2e-3)
    for _, start in itertools.product(range(8), range(0, 3000, 50)):
        part = slice(start, start + 50)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[part]), kinds[part]).backward()
        optimizer.step()
    return net.eval()


def covered(
    draw: Callable[[np.random.Generator, int, int, int], Ends], truth: float, fewest: int = 1
) -> list[str]:
    """The share of DRAWS intervals that hold the truth, for each number of networks and inputs.

    fewest  inputs for which there is an interval
    """
    cells = []
    for repeats, samples in itertools.product(REPEATS, SAMPLES):
        if samples < fewest:
            cells.append("-")
            continue
        random = np.random.default_rng([repeats, samples])
        ends = [draw(random, repeats, samples, k) for k in range(DRAWS)]
        share = np.mean([low <= truth <= high for low, high in ends])
        cells.append(f"{share:.3f}".removeprefix("0"))
    return cells


def normal(scatter: tuple[float, float, float]) -> list[str]:
    by_repeat, by_sample, rest = scatter

    def draw(random: np.random.Generator, repeats: int, samples: int, seed: int) -> Ends:
        table = by_repeat * random.standard_normal((repeats, 1))
        table = table + by_sample * random.standard_normal((1, samples))
        table = table + rest * random.standard_normal((repeats, samples))
        return interval(table, resamples=1000, seed=seed)

    return covered(draw, 0.0)


def chosen(random: np.random.Generator, shape: tuple[int, ...], counts: tuple[int, int]) -> list:
    return [
        random.choice(size, count, replace=False) for size, count in zip(shape, counts, strict=True)
    ]


def similarity(values: Numbers, score: str) -> list[str]:
    """Of scores (network, input)."""

    def draw(random: np.random.Generator, repeats: int, samples: int, seed: int) -> Ends:
        rows, columns = chosen(random, values.shape, (repeats, samples))
        part, bounds = values[np.ix_(rows, columns)], bounds_of(score)
        return interval(part, bounds=bounds, resamples=1000, seed=seed)

    return covered(draw, float(np.nanmean(values)))


def share(values: Numbers, pairs: Numbers) -> list[str]:
    """Of scores (network, input), above those of the trained maps of two inputs (input, input)."""
    others = ~np.eye(len(pairs), dtype=bool)
    floor = float(np.nanmean(pairs[others]))

    def draw(random: np.random.Generator, repeats: int, samples: int, seed: int) -> Ends:
        rows, columns = chosen(random, values.shape, (repeats, samples))
        own = pairs[columns, np.roll(columns, 1)]
        own[0] = np.nan  # the first input has none before it
        found = share_of(values[np.ix_(rows, columns)], own[None], resamples=1000, seed=seed)
        return found.low, found.high

    return covered(draw, (float(np.nanmean(values)) - floor) / (1 - floor), FEWEST)


def real() -> Iterator[tuple[str, list[str]]]:
    net, (x, _) = trained(), shapes(INPUTS, 2)
    cascade = salience.Cascade(stages=1, repeats=NETWORKS)
    study = salience.randomization_test(
        net, x, METHODS, cascade=cascade, scores=SCORES, batch_size=INPUTS, progress=False
    )
    maps: Mapping[str, Tensor] = salience.explain(net, x, METHODS)
    for score, (row, method) in itertools.product(SCORES, enumerate(METHODS)):
        values = study.values(score)[row, -1]
        kind = salience.similarities[score]
        kept = kind.prepare(maps[method])
        pairs = np.stack([kind.compare(kept, kept.roll(k, 0)).numpy() for k in range(INPUTS)])
        shifts = (np.arange(INPUTS)[:, None] - np.arange(INPUTS)) % INPUTS
        pairs = pairs[shifts, np.arange(INPUTS)[:, None]]  # (input, other input)
        told = f"{method}, {score} ({np.nanmean(values):.2f})"
        yield told, similarity(values, score)
        yield f"{method}, share above two inputs' {score}", share(values, pairs)


def main() -> None:
    torch.set_num_threads(1)
    print("# Coverage of 95% intervals\n")
    print(f"{DRAWS} draws each (standard error .007), written by `benchmarks/intervals.py`.\n")
    head = [f"{r} x {n}" for r, n in itertools.product(REPEATS, SAMPLES)]
    print(f"| networks x inputs | {' | '.join(head)} |\n|---{'|---' * len(head)}|")
    for name, scatter in SCATTER.items():
        print(f"| normal: {name} {scatter} | {' | '.join(normal(scatter))} |", flush=True)
    for name, cells in real():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
