"""Pictures: where the answer lies is drawn, and so known."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ground_truth.data import (
    Data,
    apart,
    box,
    choices,
    fields,
    joined,
    known,
    mask_of,
    other_class,
    shapes,
    smoothed,
    uniform,
)

GLYPHS = shapes(
    "...#... ...#... ...#... ####### ...#... ...#... ...#...",
    "#.....# .#...#. ..#.#.. ...#... ..#.#.. .#...#. #.....#",
    "####### #...... #...... #...... #...... #...... #######",
    "...#... ..#.#.. ..#.#.. .#...#. .#...#. #.....# #######",
)
DECOYS = shapes(
    "####### #.....# #.....# #.....# #.....# #.....# #######",
    "..###.. .#...#. #.....# #.....# #.....# .#...#. ..###..",
)
TETROMINOES = shapes("... ### .#.", ".#. .#. .##")
SIDE = 7


def _two(count: int, size: int, side: int, generator: Generator) -> tuple:
    """Boxes for what decides and for the decoy, and the mask of the first."""
    corners = apart(count, size, side, 2, generator)
    first, second = box(corners[:, 0], side), box(corners[:, 1], side)
    return first, second, mask_of(first, count, (size, size))


def glyph(
    count: int, generator: Generator, size: int = 32, kinds: int = 2, contrast: float = 3.0
) -> Data:
    """A glyph decides; a decoy of other kinds does not; both over 1/f noise."""
    first, second, truth = _two(count, size, SIDE, generator)

    def draw(answers: Tensor) -> Tensor:
        picture = fields(count, (size, size), generator)
        picture[first] += contrast * GLYPHS[answers]
        picture[second] += contrast * DECOYS[choices(count, 2, generator)]
        return picture[:, None]

    answers = choices(count, kinds, generator)
    return known(draw, answers, other_class(answers, kinds, generator), truth)


def ink(count: int, generator: Generator, size: int = 32) -> Data:
    """One of four glyphs on an empty, black picture, beside two decoys; nothing is negative."""
    corners = apart(count, size, SIDE, 3, generator)
    first, *others = (box(corners[:, place], SIDE) for place in range(3))

    def strength() -> Tensor:
        return uniform(count, 0.5, 1.0, generator)[:, None, None]

    def draw(answers: Tensor) -> Tensor:
        picture = torch.zeros(count, size, size)
        picture[first] = strength() * GLYPHS[answers]
        for place in others:
            picture[place] = strength() * DECOYS[choices(count, 2, generator)]
        return picture[:, None]

    answers = choices(count, 4, generator)
    truth = mask_of(first, count, (size, size))
    return known(draw, answers, other_class(answers, 4, generator), truth)


def shortcut(count: int, generator: Generator, planted: bool = True, size: int = 32) -> Data:
    """A glyph, and a bright or dark patch in one of the corners.

    planted  the patch is the class and the glyph agrees in three of four; else the glyph is the
             class and the patch is chance
    """
    side = 4
    corner = torch.randint(2, (count, 2), generator=generator)
    patch = box(corner * (size - side), side)
    inner = 6 + torch.randint(size - SIDE - 12 + 1, (count, 2), generator=generator)
    place = box(inner, SIDE)
    truth = mask_of(patch if planted else place, count, (size, size))

    def draw(answers: Tensor) -> Tensor:
        picture = fields(count, (size, size), generator)
        agrees = torch.rand(count, generator=generator) < 0.75
        weak = torch.where(agrees, answers, 1 - answers) if planted else answers
        spot = answers if planted else choices(count, 2, generator)
        picture[place] += 3 * GLYPHS[weak]
        picture[patch] += (8.0 * spot - 4.0)[:, None, None]
        return picture[:, None]

    answers = choices(count, 2, generator)
    return known(draw, answers, 1 - answers, truth)


def _distance(count: int, size: int, corners: Tensor, reach: float) -> Tensor:
    """(count, size, size) to a centre `reach` from a corner."""
    axis = torch.arange(size).float()
    down = axis[None] - corners[:, :1] - reach
    right = axis[None] - corners[:, 1:] - reach
    return (down.square()[:, :, None] + right.square()[:, None, :]).sqrt()


def blob(count: int, generator: Generator, size: int = 32) -> Data:
    """The height of a blob is to be told; a ring of any height is a decoy; over weak 1/f noise."""
    corners = apart(count, size, 11, 2, generator)
    blobs = torch.exp(-_distance(count, size, corners[:, 0], 5).square() / (2 * 2.0**2))
    rings = torch.exp(-(_distance(count, size, corners[:, 1], 5) - 4).square() / 2)
    truth = _distance(count, size, corners[:, 0], 5) <= 5

    def draw(heights: Tensor) -> Tensor:
        ring = uniform(count, 0, 2, generator)[:, None, None] * rings
        picture = 0.3 * fields(count, (size, size), generator)
        return (picture + heights[:, None, None] * blobs + ring)[:, None]

    heights, others = (uniform(count, 1, 5, generator) for _ in range(2))
    return known(draw, heights, others, truth)


def region(count: int, generator: Generator, size: int = 24) -> Data:
    """A weighted sum over one fixed region of rough noise: linear, of mean 0."""
    weights = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    truth = torch.zeros(count, size, size, dtype=torch.bool)
    truth[:, 6:14, 10:18] = True
    x, anew, changed = (
        0.7 * fields(count, (size, size), generator)
        + 0.7 * torch.randn(count, size, size, generator=generator)
        for _ in range(3)
    )
    y = (x[:, 6:14, 10:18] * weights).sum((1, 2)) / 8
    return joined(x[:, None], y, truth, anew[:, None], changed[:, None])


def stripes(count: int, generator: Generator, size: int = 48) -> Data:
    """Level or upright stripes in a patch decide; slanted ones elsewhere are a decoy."""
    side = 12
    first, second, truth = _two(count, size, side, generator)
    axis = torch.arange(side).float()
    level, upright = axis[:, None].expand(side, side), axis[None, :].expand(side, side)

    def waves(way: Tensor) -> Tensor:
        phase = uniform(count, 0, 2 * math.pi, generator)[:, None, None]
        return torch.sin(2 * math.pi * way / 4 + phase)

    def draw(answers: Tensor) -> Tensor:
        picture = fields(count, (size, size), generator)
        picture[first] += 2 * waves(torch.stack([level, upright])[answers])
        slant = torch.stack([level + upright, level - upright]) / math.sqrt(2)
        picture[second] += 2 * waves(slant[choices(count, 2, generator)])
        return picture[:, None]

    answers = choices(count, 2, generator)
    return known(draw, answers, 1 - answers, truth)


def color(count: int, generator: Generator, size: int = 32) -> Data:
    """A red or green disc decides; a blue or yellow one is a decoy; dim colours around, from 0."""
    corners = apart(count, size, 9, 2, generator)
    discs = [_distance(count, size, corners[:, place], 4) <= 4 for place in range(2)]
    tints = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.7, 0.7, 0.1]])

    def draw(answers: Tensor) -> Tensor:
        noise = fields(3 * count, (size, size), generator).view(count, 3, size, size)
        picture = (0.35 + 0.12 * noise).clamp(0, 1)
        for disc, tint in zip(discs, (answers, 2 + choices(count, 2, generator)), strict=True):
            picture = torch.where(disc[:, None], picture + tints[tint][:, :, None, None], picture)
        return picture / 2

    answers = choices(count, 2, generator)
    return known(draw, answers, 1 - answers, discs[0])


def suppressor(count: int, generator: Generator, fixed: bool = True, size: int = 32) -> Data:
    """A T or an L of four blocks in correlated noise that is best told from what lies around it.

    fixed  the T always at one place, the L at another one, and both places decide (as in XAI-TRIS,
           its linear scenario); else anywhere and turned (its rigid scenario)
    """
    block = 3 if fixed else 4
    side = 3 * block
    stamps = TETROMINOES.repeat_interleave(block, 1).repeat_interleave(block, 2)
    turns = choices(count, 1 if fixed else 4, generator)
    turned = torch.stack([torch.rot90(stamps, k, (1, 2)) for k in range(4)])  # (4, 2, side, side)
    if fixed:
        corners = torch.tensor([[3, 4], [size - side - 3, size - side - 4]]).expand(count, 2, 2)
    else:
        anywhere = torch.randint(size - side + 1, (count, 1, 2), generator=generator)
        corners = anywhere.expand(count, 2, 2)
    samples = torch.arange(count)

    def stamped(answers: Tensor) -> Tensor:
        picture = torch.zeros(count, size, size)
        picture[box(corners[samples, answers], side)] = turned[turns, answers]
        return picture

    def draw(answers: Tensor) -> Tensor:
        noise = smoothed(torch.randn(count, size, size, generator=generator), 3.0 if fixed else 2.0)
        return (noise + (0.7 if fixed else 2.5) * stamped(answers))[:, None]

    answers = choices(count, 2, generator)
    truth = (stamped(answers) + stamped(1 - answers)) > 0
    return known(draw, answers, 1 - answers, truth)
