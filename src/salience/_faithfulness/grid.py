"""Cells: what is removed of an input, a block of positions at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from salience._errors import expected
from salience._inputs.validation import whole_number

MOST = 256  # cells of a grid whose size nobody gave
WIDE = 3  # cells along a window that nobody gave


@dataclass(frozen=True)
class Grid:
    """A partition of positions into cells, and a window around each cell.

    space   positions along each axis: pixels of an image, entries of a signal, features, tokens
    cell    positions of a cell along each axis
    window  positions that are removed at once where one cell is asked about, centred on it
    """

    space: tuple[int, ...]
    cell: tuple[int, ...]
    window: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(-(-size // cell) for size, cell in zip(self.space, self.cell, strict=True))

    @property
    def count(self) -> int:
        """Cells."""
        return prod(self.shape)

    @cached_property
    def _cells(self) -> list[Tensor]:
        return [_intervals(*axis) for axis in zip(self.space, self.cell, self.cell, strict=True)]

    @cached_property
    def _windows(self) -> list[Tensor]:
        return [_intervals(*axis) for axis in zip(self.space, self.cell, self.window, strict=True)]

    def in_cells(self, values: Tensor) -> Tensor:
        """Sums over each cell, (N, *space) -> (N, cells) float64."""
        return _sums(values, self._cells)

    def in_windows(self, values: Tensor) -> Tensor:
        """Sums over each cell's window, (N, *space) -> (N, cells) float64."""
        return _sums(values, self._windows)

    def over_positions(self, values: Tensor) -> Tensor:
        """The mean of the windows over each position, (N, cells) -> (N, *space) float64."""
        total, count = (
            _spread(held.view(-1, *self.shape), self._windows)
            for held in (values, torch.ones_like(values[:1]))
        )
        return total / count

    def windows(self, part: slice, device: torch.device) -> Tensor:
        """The positions of some cells' windows, (K, *space) of bools."""
        places = torch.unravel_index(torch.arange(self.count)[part], self.shape)
        mask = torch.ones(len(places[0]), *(1,) * len(self.space), dtype=torch.bool)
        for axis, (place, rows) in enumerate(zip(places, self._windows, strict=True)):
            shape = [len(place)] + [1] * len(self.space)
            shape[1 + axis] = rows.shape[1]
            mask = mask & rows[place].view(shape)
        return mask.to(device)

    def positions(self, cells: Tensor) -> Tensor:
        """The positions of sets of cells, (..., cells) of bools -> (..., *space)."""
        found = cells.unflatten(-1, self.shape)
        first = found.ndim - len(self.space)
        for axis, (size, cell) in enumerate(zip(self.space, self.cell, strict=True), first):
            found = found.repeat_interleave(cell, axis).narrow(axis, 0, size)
        return found


def _intervals(size: int, cell: int, width: int) -> Tensor:
    """Which positions of an axis each cell's window has, (cells, size) of bools."""
    starts = torch.arange(0, size, cell) + (cell - width) // 2
    at = torch.arange(size)
    return (at >= starts[:, None]) & (at < starts[:, None] + width)


def _sums(values: Tensor, axes: Sequence[Tensor]) -> Tensor:
    values = values.double()
    for rows in axes:  # the next axis is always the first one after the samples
        values = torch.movedim(values, 1, -1) @ rows.to(values).T
    return values.flatten(1)


def _spread(values: Tensor, axes: Sequence[Tensor]) -> Tensor:
    values = values.double()
    for rows in axes:
        values = torch.movedim(values, 1, -1) @ rows.to(values)
    return values


def grid_of(
    space: Sequence[int],
    cell: int | Sequence[int] | None,
    window: int | Sequence[int] | None,
    neighbors: bool,
) -> Grid:
    """The grid that is asked for.

    cell    one number for all axes, or one for each; None: the smallest that makes at most 256
            cells
    window  likewise; None: three cells where positions have neighbors, else the cell itself

    Errors: SalienceError for sizes that are no whole numbers from 1, larger than the input, or a
    window smaller than its cell.
    """
    space = tuple(space)
    if cell is None:
        side = next(s for s in range(1, max(space) + 1) if _cells(space, s) <= MOST)
        cell = tuple(min(side, size) for size in space)
    cells = _sizes("cell", cell, space)
    if window is None:
        wide = WIDE if neighbors else 1
        window = tuple(min(wide * side, size) for side, size in zip(cells, space, strict=True))
    windows = _sizes("window", window, space)
    if any(w < c for w, c in zip(windows, cells, strict=True)):
        cure = "Its window contains a cell: give a smaller cell."
        raise expected("a window at least as large as its cell", f"{windows}, {cells}", cure)
    return Grid(space, cells, windows)


def _cells(space: Sequence[int], side: int) -> int:
    return prod(-(-size // min(side, size)) for size in space)


def _sizes(name: str, given: int | Sequence[int], space: tuple[int, ...]) -> tuple[int, ...]:
    sizes: tuple[Any, ...] = tuple(given) if isinstance(given, Sequence) else (given,) * len(space)
    if len(sizes) != len(space):
        cure = "Give one number for all axes, or one for each."
        raise expected(f"{len(space)} sizes for {name}", repr(given), cure)
    for size, most in zip(sizes, space, strict=True):
        whole_number(name, size, 1, "It counts pixels, entries, features or tokens.")
        if size > most:
            raise expected(f"a {name} of at most {most}", repr(given), f"The input has {space}.")
    return sizes
