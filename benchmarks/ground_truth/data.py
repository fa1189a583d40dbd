"""What every generator hands out, and what their pictures are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional


class Data(NamedTuple):
    """Generated samples, of which it is known what decides.

    x        (N, channels, ...) or (N, features)
    y        (N,) classes, or values to regress on
    truth    (N, ...) bool, without channels: the positions that decide
    redrawn  x with everything outside of the truth drawn anew: the answer stays
    changed  x with another answer inside of the truth: all else stays
    """

    x: Tensor
    y: Tensor
    truth: Tensor
    redrawn: Tensor
    changed: Tensor


Generate = Callable[[int, Generator], Data]  # how many samples, from which random stream


def known(draw: Callable[[Tensor], Tensor], answers: Tensor, others: Tensor, truth: Tensor) -> Data:
    """Data of draw(answers) -> x, which draws all that does not decide anew at each call."""
    x, anew, changed = draw(answers), draw(answers), draw(others)
    return joined(x, answers, truth, anew, changed)


def joined(x: Tensor, y: Tensor, truth: Tensor, anew: Tensor, changed: Tensor) -> Data:
    """x with the outside of one and the inside of the other."""
    inside = with_channels(truth, x)
    return Data(x, y, truth, torch.where(inside, x, anew), torch.where(inside, changed, x))


def with_channels(positions: Tensor, x: Tensor) -> Tensor:
    """(N, ...) of positions as they broadcast against x (N, channels, ...) or (N, features)."""
    return positions.unsqueeze(1) if x.ndim > positions.ndim else positions


def fields(count: int, size: tuple[int, ...], generator: Generator, slope: float = 1.0) -> Tensor:
    """(count, *size) random fields whose amplitude falls as 1 / frequency^slope, of variance 1."""
    white = torch.randn(count, *size, generator=generator)
    axes = [torch.fft.fftfreq(n) for n in size[:-1]] + [torch.fft.rfftfreq(size[-1])]
    squares = torch.meshgrid(*(axis.square() for axis in axes), indexing="ij")
    radius = torch.stack(squares).sum(0).sqrt()
    radius.view(-1)[0] = torch.inf  # no mean
    dims = tuple(range(1, white.ndim))
    smooth = torch.fft.irfftn(torch.fft.rfftn(white, dim=dims) / radius**slope, s=size, dim=dims)
    return smooth / smooth.std(dims, keepdim=True)


def smoothed(white: Tensor, sigma: float) -> Tensor:
    """White noise (N, H, W) under a Gaussian window, of variance 1."""
    reach = torch.arange(-int(3 * sigma), int(3 * sigma) + 1)
    window = torch.exp(-(reach**2) / (2 * sigma**2))
    for axis in (0, 1):
        kernel = window.view(1, 1, -1, 1) if axis else window.view(1, 1, 1, -1)
        white = functional.conv2d(white[:, None], kernel / kernel.norm(), padding="same")[:, 0]
    return white


def choices(count: int, among: int, generator: Generator) -> Tensor:
    """(count,) whole numbers below `among`."""
    return torch.randint(among, (count,), generator=generator)


def other_class(classes: Tensor, among: int, generator: Generator) -> Tensor:
    """A class for each sample that is not its own."""
    return (classes + 1 + choices(len(classes), among - 1, generator)) % among


def uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def apart(count: int, size: int, side: int, places: int, generator: Generator) -> Tensor:
    """(count, places, 2) corners of boxes, each in a quadrant of the picture of its own."""
    half = size // 2
    quadrants = torch.rand(count, 4, generator=generator).argsort(1)[:, :places]
    start = torch.stack([quadrants // 2, quadrants % 2], -1) * half
    offset = torch.randint(half - side + 1, (count, places, 2), generator=generator)
    return start + offset


def box(corners: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The index (N, side, side) of a box in each of N pictures (N, H, W)."""
    reach = torch.arange(side)
    rows = (corners[:, :1] + reach)[:, :, None]
    columns = (corners[:, 1:] + reach)[:, None, :]
    return torch.arange(len(corners))[:, None, None], rows, columns


def mask_of(index: tuple[Tensor, ...], count: int, size: tuple[int, ...]) -> Tensor:
    """(count, *size) True at an index."""
    mask = torch.zeros(count, *size, dtype=torch.bool)
    mask[index] = True
    return mask


def shapes(*drawn: str) -> Tensor:
    """(shapes, side, side) of rows of `#` and `.`, separated by blanks."""
    rows = [[[float(c == "#") for c in row] for row in shape.split()] for shape in drawn]
    return torch.tensor(rows)
