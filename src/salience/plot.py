"""Figures of maps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from salience.errors import expected

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

_SIGNED, _POSITIVE, _GREY = "RdBu_r", "magma", "gray"
_BELOW, _ABOVE = "#2166ac", "#b2182b"  # the ends of the diverging colours
_CELL, _LEFT, _RIGHT, _TOP, _BOTTOM = 1.6, 0.55, 0.15, 0.4, 0.75  # inches
_GAP = 0.14
_MOST_BARS = 64
_MOST_CHANNELS = 8  # (B, C, L) with more channels is drawn as a picture


@dataclass(frozen=True)
class _Scale:
    """The one scale of a column."""

    low: float
    high: float
    colours: str


class _Layout(NamedTuple):
    """Where everything is, in inches from the lower left corner, and in fractions of the figure."""

    rows: int
    columns: int
    width: float  # of a picture
    height: float
    flat: bool  # graphs, whose axes need room for numbers

    @property
    def left(self) -> float:
        return _LEFT + 0.25 * self.flat

    @property
    def gaps(self) -> tuple[float, float]:
        return (_GAP + 0.4, 0.25) if self.flat else (_GAP, _GAP)

    @property
    def wide(self) -> float:
        return self.left + self.columns * (self.width + self.gaps[0]) - self.gaps[0] + _RIGHT

    @property
    def high(self) -> float:
        return _TOP + self.rows * (self.height + self.gaps[1]) - self.gaps[1] + _BOTTOM

    def picture(self, i: int, j: int) -> tuple[float, float, float, float]:
        x = self.left + j * (self.width + self.gaps[0])
        y = self.high - _TOP - i * (self.height + self.gaps[1]) - self.height
        return x / self.wide, y / self.high, self.width / self.wide, self.height / self.high

    def bar(self, j: int) -> tuple[float, float, float, float]:
        x, _, width, _ = self.picture(0, j)
        return x, (_BOTTOM - 0.2) / self.high, width, 0.09 / self.high


def maps(
    inputs: Tensor | Array,
    maps: Mapping[str, Tensor | Array],
    *,
    titles: Sequence[str] | None = None,
    clip: float = 99.5,
    channels: Literal["sum", "abs"] = "sum",
) -> Figure:
    """Inputs beside their maps: a row per input, a column per method, one scale per column.

    inputs    (B, C, H, W), (B, C, L), (B, F) or volumes (B, C, D, H, W), shown by a central slice
    maps      name -> array shaped like inputs
    titles    one for each row
    clip      percentile of |map| over a column at which its scale ends
    channels  "sum": relevance adds up over channels; "abs": absolute values are added

    Signed maps are drawn in diverging colours around 0, maps without a negative value in
    sequential ones. RGB inputs are scaled by their own range. Returns a figure of its own, to be
    saved with `figure.savefig(file)`.

    Errors: SalienceError for shapes that differ, a wrong number of titles, an unknown option.

    >>> import torch, salience.plot
    >>> x = torch.rand(2, 3, 8, 8)
    >>> figure = salience.plot.maps(x, {"gradient": torch.randn(2, 3, 8, 8)}, titles=["a", "b"])
    >>> len(figure.axes)  # 2 x 2 pictures and 1 colour bar
    5
    """
    from matplotlib.figure import Figure

    x = _array(inputs)
    columns = {name: _array(values) for name, values in maps.items()}
    _check(x, columns, titles, clip, channels)
    pictures = {"input": _input_pictures(x)}
    for name, values in columns.items():
        pictures[name] = _map_pictures(values, channels)
    layout = _Layout(len(x), len(pictures), *_cell(pictures["input"]))
    figure = Figure(figsize=(layout.wide, layout.high), dpi=120)
    for j, (name, column) in enumerate(pictures.items()):
        scale = _scale(column, clip) if j else _input_scale(column)
        for i, picture in enumerate(column):
            axes = figure.add_axes(layout.picture(i, j))
            _draw(axes, picture, scale, bars=x.ndim == 2)
            axes.tick_params(labelbottom=i == len(x) - 1)
            axes.yaxis.get_offset_text().set_visible(i == 0)
            if i == 0:
                title = _wrapped(name, layout.width)
                axes.set_title(title, fontsize=9, pad=5, parse_math=False)
            if j == 0 and titles is not None:
                title = _wrapped(titles[i], layout.height)
                axes.set_ylabel(title, fontsize=8, labelpad=4, parse_math=False)
        if scale is not None and not layout.flat:
            _colour_bar(figure, figure.add_axes(layout.bar(j)), scale, clip if j else None)
    caption = textwrap.fill(_caption(x, clip, channels), int(19 * (layout.wide - layout.left)))
    place = (layout.left / layout.wide, 0.05 / layout.high)
    figure.text(*place, caption, fontsize=6.5, color="0.35", va="bottom")
    return figure


def _array(values: Tensor | Array) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def _check(
    x: Array, columns: Mapping[str, Array], titles: Sequence[str] | None, clip: float, channels: str
) -> None:
    if not 2 <= x.ndim <= 5 or 0 in x.shape:
        raise expected("inputs (B, F), (B, C, L), (B, C, H, W) or (B, C, D, H, W)",
                       f"{x.shape}", "Add or remove dimensions.")  # fmt: skip
    for name, values in columns.items():
        if values.shape != x.shape:
            raise expected(f"maps shaped like the inputs {x.shape}", f"{name} of {values.shape}",
                           "Give the inputs that were explained.")  # fmt: skip
    if titles is not None and len(titles) != len(x):
        raise expected(f"{len(x)} titles, one for each input", f"{len(titles)}", "")
    if not 0 < clip <= 100:
        raise expected("a percentile above 0, up to 100", f"clip={clip}", "The default is 99.5.")
    if channels not in ("sum", "abs"):
        raise expected("channels='sum' or 'abs'", repr(channels), "")


def _has_channels(ndim: int, channels: int) -> bool:
    return ndim > 3 or (ndim == 3 and channels <= _MOST_CHANNELS)


def _central(values: Array) -> Array:
    """(B, C, D, H, W) -> (B, C, H, W), the slice in the middle."""
    return values[:, :, values.shape[2] // 2] if values.ndim == 5 else values


def _input_pictures(x: Array) -> Array:
    """(B, H, W), (B, H, W, 3) in [0, 1], or (B, L)."""
    if not _has_channels(x.ndim, x.shape[1]):
        return x
    x = _central(x)
    if x.ndim == 4 and x.shape[1] == 3:
        low = x.min((1, 2, 3), keepdims=True)
        spread = x.max((1, 2, 3), keepdims=True) - low
        return np.moveaxis((x - low) / np.where(spread > 0, spread, 1), 1, -1)
    return x.mean(1)


def _map_pictures(values: Array, channels: str) -> Array:
    if channels == "abs":
        values = np.abs(values)
    return _central(values).sum(1) if _has_channels(values.ndim, values.shape[1]) else values


def _scale(column: Array, clip: float) -> _Scale:
    finite = column[np.isfinite(column)]
    largest = float(np.abs(finite).max(initial=0.0))
    high = float(np.percentile(np.abs(finite), clip)) if largest > 0 else 1.0
    high = high or largest  # more zeros than the percentile
    signed = bool((finite < -1e-6 * largest).any())
    return _Scale(-high if signed else 0.0, high, _SIGNED if signed else _POSITIVE)


def _input_scale(column: Array) -> _Scale | None:
    if column.ndim == 4:
        return None
    finite = column[np.isfinite(column)]
    if not finite.size:
        return _Scale(0.0, 1.0, _GREY)
    low, high = float(finite.min()), float(finite.max())
    return _Scale(low, high if high > low else low + 1, _GREY)


def _cell(pictures: Array) -> tuple[float, float, bool]:
    """Width and height of a picture in inches, and whether it is a graph with axes."""
    if pictures.ndim == 2:
        return _CELL * 1.3, _CELL * 0.75, True
    ratio = pictures.shape[1] / pictures.shape[2]
    return _CELL, _CELL * min(max(ratio, 0.5), 2.0), False  # long ones are squeezed


def _draw(axes: Axes, picture: Array, scale: _Scale | None, *, bars: bool) -> None:
    if picture.ndim > 1:
        limits = {} if scale is None else {
            "vmin": scale.low, "vmax": scale.high, "cmap": scale.colours}  # fmt: skip
        axes.imshow(picture, aspect="auto", interpolation="nearest", **limits)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    assert scale is not None
    place = np.arange(len(picture))
    above, below = (_ABOVE, _BELOW) if scale.colours != _GREY else ("0.4", "0.4")
    if bars and len(picture) <= _MOST_BARS:
        axes.bar(place, picture, 0.8, color=np.where(picture < 0, below, above))
    elif scale.colours == _GREY:
        axes.plot(place, picture, color="0.2", linewidth=0.8)
    else:
        for sign, colour in ((np.maximum(picture, 0), above), (np.minimum(picture, 0), below)):
            axes.fill_between(place, sign, step="mid", color=colour, linewidth=0)
    margin = 0.05 * (scale.high - scale.low)
    axes.set_ylim(scale.low - margin, scale.high + margin)
    axes.set_xlim(-0.5, len(picture) - 0.5)
    axes.axhline(0, color="0.6", linewidth=0.5)
    axes.tick_params(labelsize=6, length=2)
    axes.locator_params(axis="y", nbins=3)
    axes.locator_params(axis="x", nbins=3, integer=True)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.yaxis.get_offset_text().set_fontsize(6)


def _colour_bar(figure: Figure, axes: Axes, scale: _Scale, clip: float | None) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mappable = ScalarMappable(Normalize(scale.low, scale.high), scale.colours)
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal")
    bar.set_ticks([scale.low, scale.high] if scale.low >= 0 else [scale.low, 0, scale.high])
    bar.set_ticklabels([f"{float(f'{tick:.2g}'):g}" for tick in bar.get_ticks()])
    for label, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=False):
        label.set_horizontalalignment(side)
    axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.tick_params(labelsize=6.5, length=2, pad=1)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    if clip is not None and clip < 100:
        axes.set_xlabel(f"clipped at {clip:g} %", fontsize=6.5, labelpad=1)


def _caption(x: Array, clip: float, channels: str) -> str:
    parts = ["One scale per column, shared by all rows"]
    if clip < 100:
        parts.append(f"ends at percentile {clip:g} of |map|")
    if _has_channels(x.ndim, x.shape[1]) and x.shape[1] > 1:
        summed = "summed" if channels == "sum" else "summed as absolute values"
        parts.append(f"maps {summed} over {x.shape[1]} channels")
        if x.shape[1] != 3 or x.ndim == 3:
            parts.append("inputs averaged over them")
    if x.ndim == 5:
        parts.append(f"slice {x.shape[2] // 2 + 1} of {x.shape[2]}")
    return "; ".join(parts) + "."


def _wrapped(text: str, inches: float) -> str:
    """At most three lines that fit a length."""
    width = max(5, int(13.2 * inches))
    return "\n".join(textwrap.wrap(text, width, max_lines=3, placeholder="..."))
