"""The grid of maps down a cascade, reached as `salience.plot.cascade`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from salience._errors import expected
from salience._scores.similarity import similarities
from salience._study.stages import evenly_spread
from salience._study.study import Study, study_of
from salience.plot._pictures import (
    SIGNED,
    Array,
    Scale,
    cell,
    draw,
    has_channels,
    input_pictures,
    input_scale,
    map_pictures,
    scale_of,
    shortened,
    slice_of,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_COLUMNS = 10  # the trained network included


class _Grid(NamedTuple):
    """Where the panels of a cascade are, in inches from the upper left corner."""

    blocks: int  # samples
    rows: int  # methods, of each sample
    columns: int
    width: float  # of a panel
    height: float
    lines: int  # of the caption

    head, between, gap, below, side, names = 0.5, 0.25, 0.08, 0.16, 0.12, 1.25

    @property
    def left(self) -> float:
        return self.side + self.width + self.names

    @property
    def wide(self) -> float:
        return self.left + self.columns * (self.width + self.gap) - self.gap + self.side

    @property
    def block(self) -> float:
        return self.rows * (self.height + self.below) + self.between

    @property
    def high(self) -> float:
        return self.head + self.blocks * self.block + 0.15 * self.lines

    def box(self, x: float, y: float) -> tuple[float, float, float, float]:
        """A panel whose upper left corner is there, in fractions of the figure."""
        bottom = self.high - y - self.height
        return x / self.wide, bottom / self.high, self.width / self.wide, self.height / self.high

    def panel(self, block: int, row: int, column: int) -> tuple[float, float, float, float]:
        y = self.head + block * self.block + row * (self.height + self.below)
        return self.box(self.left + column * (self.width + self.gap), y)


def cascade(
    study: Study | xarray.Dataset, sample: int | Sequence[int] = 0, *, clip: float = 99.5
) -> Figure:
    """Maps down the cascade: a row per method, a column per stage, from the trained network.

    study   from `randomization_test(..., keep_maps=n)`, or its dataset; the first repeat is shown
    sample  which input, or several, one below the other
    clip    percentile of |map| at which each panel's own scale ends

    Random networks change the size of a map by orders of magnitude, so every panel has a scale of
    its own, symmetric about 0; the number below it is |Spearman correlation| with the trained
    network's map. At most nine stages are shown, evenly spread, the last one included.

    Errors: SalienceError for a study without maps, a sample that it does not hold, or a clip that
    is no percentile.

    >>> import torch, salience.plot
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten()).eval()
    >>> study = salience.randomization_test(
    ...     net, torch.randn(1, 1, 8, 8), "gradient", keep_maps=1, progress=False)
    >>> len(salience.plot.cascade(study).axes)  # the input, trained, one stage
    3
    """
    from salience.plot._figure import Figure

    study = study_of(study)
    samples = _samples(study, sample)
    if not 0 < clip <= 100:
        raise expected("a percentile above 0, up to 100", f"clip={clip}", "The default is 99.5.")
    columns, names = shown_stages(study), study.map_methods
    maps, given = study.maps.values, study.inputs.values
    inputs = input_pictures(given[samples].astype(float))
    wide, tall, _ = cell(inputs)
    grid = _Grid(len(samples), len(names), len(columns), 0.65 * wide, 0.65 * tall, 0)
    caption = _cascade_caption(study, len(columns), clip)
    lines = textwrap.wrap(caption, int(17 * (grid.wide - 2 * grid.side)))
    grid = grid._replace(lines=len(lines))
    figure = Figure(figsize=(grid.wide, grid.high), dpi=120)
    titles = [shortened(study.map_stages[k], 26) for k in columns]
    for block, number in enumerate(samples):
        axes = figure.add_axes(grid.box(grid.side, grid.head + block * grid.block))
        if given.dtype.kind == "i":
            _ids(axes, given[number], grid)
        else:
            _picture(axes, inputs[block], input_scale(inputs))
        axes.set_title(f"input {number}{slice_of(given.shape)}", fontsize=8, pad=3)
        signal = inputs[block] if given.ndim == 3 else None
        for row, name in enumerate(names):
            for axes in _row(figure, grid, (block, row), maps[row, columns, number], clip, signal):
                if block == row == 0:
                    title = _broken(titles.pop(0), int(17 * grid.width))
                    axes.set_title(title, fontsize=7, pad=3, parse_math=False)
            _name(figure, grid, (block, row), name)
    at = (grid.side / grid.wide, 0.05 / grid.high)
    figure.text(*at, "\n".join(lines), fontsize=7, color="0.35", va="bottom")
    return figure


def _name(figure: Figure, grid: _Grid, at: tuple[int, int], name: str) -> None:
    """The name of a method, to the left of its panels."""
    _, y, _, height = grid.panel(*at, 0)
    place = ((grid.left - 0.08) / grid.wide, y + height / 2)
    figure.text(*place, name, fontsize=8, ha="right", va="center", parse_math=False)


def _samples(study: Study, sample: int | Sequence[int]) -> list[int]:
    held = study.maps.sizes["map_sample"]
    samples = [sample] if isinstance(sample, int) else list(sample)
    for number in samples:
        if not 0 <= number < held:
            cure = "Keep the maps of more: keep_maps=n."
            raise expected(f"samples from 0 to {held - 1}", f"{number}", cure)
    if not samples:
        raise expected("at least one sample", "none", "")
    return samples


def shown_stages(study: Study) -> list[int]:
    """Which of the maps' stages a cascade shows: the trained network, and evenly spread ones."""
    stages = len(study.map_stages) - 1
    return [0, *(1 + k for k in evenly_spread(min(_MOST_COLUMNS - 1, stages), stages))]


def _row(
    figure: Figure,
    grid: _Grid,
    at: tuple[int, int],
    held: Array,
    clip: float,
    signal: Array | None,
) -> list[Axes]:
    """The panels of one method, from the trained network's map."""
    maps = torch.from_numpy(np.ascontiguousarray(held))
    kept = similarities["spearman_abs"](maps[:1].expand_as(maps), maps).tolist()
    panels = []
    for column, picture in enumerate(map_pictures(held.astype(float), "sum")):
        axes = figure.add_axes(grid.panel(*at, column))
        limit = scale_of(picture, clip).high
        _picture(axes, picture, Scale(-limit, limit, SIGNED), signal)
        if column:
            told = "undefined" if isnan(kept[column]) else f"{kept[column]:.2f}"
            axes.set_xlabel(told, fontsize=6.5, labelpad=1.5)
        panels.append(axes)
    return panels


def _ids(axes: Axes, ids: Array, grid: _Grid) -> None:
    """The ids of a sample in words, as many as there is room for."""
    lines = textwrap.wrap(" ".join(map(str, ids.flat)), int(17 * grid.width))
    most = max(1, int(8 * grid.height))
    lines[most:] = ["..."] if len(lines) > most else []
    axes.text(0, 1, "\n".join(lines), fontsize=6.5, va="top", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_axis_off()


def _picture(axes: Axes, picture: Array, scale: Scale | None, signal: Array | None = None) -> None:
    draw(axes, picture, scale, bars=True, signal=signal if picture.ndim == 1 else None)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)


def _broken(name: str, width: int) -> str:
    """A name in at most three lines, broken after its dots and underscores."""
    lines = [""]
    for piece in re.findall(r"[^._\s]*[._\s]*", name):
        if len(lines[-1] + piece) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line[:width] for line in lines[:3])


def _cascade_caption(study: Study, columns: int, clip: float) -> str:
    order, stages = study.order.replace("_", "-"), len(study.stages)
    parts = [f"Columns: the trained network, then randomised {order}, first repeat"]
    if columns - 1 < stages:
        parts.append(f"{columns - 1} of {stages} scored stages")
    end = f" up to percentile {clip:g} of |map|" if clip < 100 else ""
    parts.append(f"red above 0, blue below, each panel on its own scale{end}")
    shape = study.inputs.shape
    if has_channels(len(shape), shape[1]) and shape[1] > 1:
        parts.append(f"summed over {shape[1]} channels")
    if len(shape) == 3 and has_channels(3, shape[1]):
        parts.append("behind maps in grey the input, on a scale of its own")
    if study.inputs.dtype.kind == "i":
        parts.append("a bar for each token, summed over its embedding")
    parts.append("below each panel |Spearman correlation| with the trained network's map")
    return "; ".join(parts) + "."
