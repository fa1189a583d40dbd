"""What is no picture: time series, tables and tokens."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ground_truth.data import Data, choices, fields, joined, known, uniform

LENGTH, TOKENS, VOCABULARY, WIDTH = 128, 16, 24, 16


def _starts(count: int, wide: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Where two stretches begin, each in a half of the series of its own."""
    half = LENGTH // 2
    swap = choices(count, 2, generator)
    inner = torch.randint(half - wide + 1, (count, 2), generator=generator)
    return inner[:, 0] + half * swap, inner[:, 1] + half * (1 - swap)


def _stretch(starts: Tensor, wide: int) -> tuple[Tensor, Tensor]:
    return torch.arange(len(starts))[:, None], starts[:, None] + torch.arange(wide)


def pulse(count: int, generator: Generator) -> Data:
    """A pulse that goes up and down, or down and up, decides; a bump of either sign is a decoy."""
    wide = 16
    first, second = (_stretch(s, wide) for s in _starts(count, wide, generator))
    time = (torch.arange(wide) - (wide - 1) / 2) / 3
    bump = torch.exp(-(time**2) / 2)
    shape = -time * bump / (time * bump).abs().max()

    def draw(answers: Tensor) -> Tensor:
        series = fields(count, (LENGTH,), generator)
        series[first] += 4 * (1 - 2 * answers)[:, None] * shape
        series[second] += 4 * (1 - 2 * choices(count, 2, generator))[:, None] * bump
        return series[:, None]

    answers = choices(count, 2, generator)
    truth = torch.zeros(count, LENGTH, dtype=torch.bool)
    truth[first] = True
    return known(draw, answers, 1 - answers, truth)


def chirp(count: int, generator: Generator) -> Data:
    """How high a short oscillation is, is to be told; a slower one of any height is a decoy."""
    wide = 20
    first, second = (_stretch(s, wide) for s in _starts(count, wide, generator))
    time = torch.arange(wide) - (wide - 1) / 2
    window = torch.exp(-((time / 5) ** 2) / 2)
    fast, slow = window * torch.cos(time * 1.6), window * torch.cos(time * 0.5)

    def draw(heights: Tensor) -> Tensor:
        series = fields(count, (LENGTH,), generator)
        series[first] += heights[:, None] * fast
        series[second] += uniform(count, 0, 3, generator)[:, None] * slow
        return series[:, None]

    heights, others = (uniform(count, 0.5, 3.5, generator) for _ in range(2))
    truth = torch.zeros(count, LENGTH, dtype=torch.bool)
    truth[first] = True
    return known(draw, heights, others, truth)


FEATURES = 16
PLACES = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(2))


def correlated(causes: Tensor, generator: Generator) -> Tensor:
    """The causes and, to each, features correlated with it by .7; columns in an order of no
    meaning, but always the same."""
    several = causes.shape[1]
    copies = causes.repeat(1, FEATURES // several + 1)[:, : FEATURES - several]
    noise = torch.randn(copies.shape, generator=generator)
    return torch.cat([causes, 0.7 * copies + 0.714 * noise], 1)[:, PLACES]


def table(count: int, generator: Generator) -> Data:
    """Four of 16 features make the value, each in its own way; the others are correlated."""
    causes, others = (torch.randn(count, 4, generator=generator) for _ in range(2))
    a, b, c, d = causes.unbind(1)
    y = a * b + torch.sin(2 * c) + 1.5 * d.abs()
    truth = (PLACES < 4).expand(count, FEATURES)
    x, anew, changed = (correlated(of, generator) for of in (causes, causes, others))
    return joined(x, y, truth, anew, changed)


def switch(count: int, generator: Generator) -> Data:
    """One feature says which two others decide: by the sign of their sum."""
    causes = torch.randn(count, 5, generator=generator)
    first = causes[:, :1] > 0
    sums = torch.stack([causes[:, 3] + causes[:, 4], causes[:, 1] + causes[:, 2]], 1)
    y = (sums.gather(1, first.long())[:, 0] > 0).long()
    branch = torch.where(first, torch.tensor([1, 1, 1, 0, 0]), torch.tensor([1, 0, 0, 1, 1]))
    truth = torch.cat([branch, torch.zeros(count, FEATURES - 5, dtype=torch.long)], 1)[:, PLACES]
    truth = truth.bool()
    other = causes.clone()
    other[:, 1:] *= -1  # the same branch, the other answer
    x, changed = correlated(causes, generator), correlated(other, generator)
    anew = correlated(torch.randn(count, 5, generator=generator), generator)
    return joined(x, y, truth, anew, changed)


EMBEDDING = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(3))


def embedded(ids: Tensor) -> Tensor:
    """(N, tokens) -> (N, width, tokens): the frozen embedding, which is what is explained."""
    return EMBEDDING[ids].transpose(1, 2)


def word(count: int, generator: Generator) -> Data:
    """One of two words stands somewhere and decides; one of two others is a decoy."""
    places = torch.rand(count, TOKENS, generator=generator).argsort(1)
    samples = torch.arange(count)

    def draw(answers: Tensor) -> Tensor:
        ids = torch.randint(4, VOCABULARY, (count, TOKENS), generator=generator)
        ids[samples, places[:, 0]] = answers
        ids[samples, places[:, 1]] = 2 + choices(count, 2, generator)
        return embedded(ids)

    answers = choices(count, 2, generator)
    truth = torch.zeros(count, TOKENS, dtype=torch.bool)
    truth[samples, places[:, 0]] = True
    return known(draw, answers, 1 - answers, truth)


def marked(count: int, generator: Generator) -> Data:
    """The word behind a mark decides; the same words elsewhere do not."""
    order = torch.rand(count, TOKENS // 2, generator=generator).argsort(1) * 2
    samples = torch.arange(count)

    def draw(answers: Tensor) -> Tensor:
        ids = torch.randint(3, VOCABULARY, (count, TOKENS), generator=generator)
        for decoy in (1, 2, 3):
            ids[samples, order[:, decoy] + 1] = choices(count, 2, generator)
        ids[samples, order[:, 0]], ids[samples, order[:, 0] + 1] = 2, answers
        return embedded(ids)

    answers = choices(count, 2, generator)
    truth = torch.zeros(count, TOKENS, dtype=torch.bool)
    truth[samples, order[:, 0]] = truth[samples, order[:, 0] + 1] = True
    return known(draw, answers, 1 - answers, truth)
