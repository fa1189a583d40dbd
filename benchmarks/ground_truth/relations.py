"""Answers that no single place gives: the same twice, or two that decide together."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ground_truth.data import Data, apart, box, choices, fields, joined, known, mask_of
from ground_truth.images import DECOYS, GLYPHS, SIDE
from ground_truth.rows import FEATURES, PLACES, TOKENS, VOCABULARY, correlated, embedded


def twice(count: int, generator: Generator, size: int = 32) -> Data:
    """The glyph that decides stands at two places: without either of them, the other is left."""
    corners = apart(count, size, SIDE, 3, generator)
    first, second, decoy = (box(corners[:, place], SIDE) for place in range(3))

    def draw(answers: Tensor) -> Tensor:
        picture = fields(count, (size, size), generator)
        for place in (first, second):
            picture[place] += 3 * GLYPHS[answers]
        picture[decoy] += 3 * DECOYS[choices(count, 2, generator)]
        return picture[:, None]

    answers = choices(count, 2, generator)
    truth = mask_of(first, count, (size, size)) | mask_of(second, count, (size, size))
    return known(draw, answers, 1 - answers, truth)


def product(count: int, generator: Generator) -> Data:
    """The sign of the product of two features decides; neither says anything alone."""
    drawn = torch.randn(count, 2, generator=generator)
    causes = drawn.sign() * (0.3 + drawn.abs())
    y = (causes.prod(1) > 0).long()
    turned = causes * torch.tensor([-1.0, 1.0])
    x, anew, changed = (correlated(of, generator) for of in (causes, causes, turned))
    return joined(x, y, (PLACES < 2).expand(count, FEATURES), anew, changed)


def equal(count: int, generator: Generator) -> Data:
    """Two words stand somewhere; whether they are the same decides."""
    places = torch.rand(count, TOKENS, generator=generator).argsort(1)
    samples = torch.arange(count)
    first = choices(count, 2, generator)

    def draw(answers: Tensor) -> Tensor:
        ids = torch.randint(4, VOCABULARY, (count, TOKENS), generator=generator)
        ids[samples, places[:, 0]] = first
        ids[samples, places[:, 1]] = torch.where(answers == 1, first, 1 - first)
        ids[samples, places[:, 2]] = 2 + choices(count, 2, generator)
        return embedded(ids)

    answers = choices(count, 2, generator)
    truth = torch.zeros(count, TOKENS, dtype=torch.bool)
    truth[samples, places[:, 0]] = truth[samples, places[:, 1]] = True
    return known(draw, answers, 1 - answers, truth)
