"""The figure of maps beside their inputs, reached as `salience.plot.maps`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor

from salience._errors import expected
from salience.plot._pictures import (
    Array,
    Scale,
    cell,
    draw,
    has_channels,
    input_pictures,
    input_scale,
    map_pictures,
    scale_of,
    slice_of,
    to_array,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 0.55, 0.15, 0.4, 0.75, 0.14  # inches


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
    from salience.plot._figure import Figure

    x = to_array(inputs)
    columns = {name: to_array(values) for name, values in maps.items()}
    _check(x, columns, titles, clip, channels)
    pictures = {"input": input_pictures(x)}
    for name, values in columns.items():
        pictures[name] = map_pictures(values, channels)
    layout = _Layout(len(x), len(pictures), *cell(pictures["input"]))
    figure = Figure(figsize=(layout.wide, layout.high), dpi=120)
    for j, (name, column) in enumerate(pictures.items()):
        scale = scale_of(column, clip) if j else input_scale(column)
        for i, picture in enumerate(column):
            axes = figure.add_axes(layout.picture(i, j))
            signal = pictures["input"][i] if j and layout.flat and x.ndim == 3 else None
            draw(axes, picture, scale, bars=x.ndim == 2, signal=signal)
            axes.tick_params(labelbottom=i == len(x) - 1)
            axes.yaxis.get_offset_text().set_visible(i == 0)
            if i == 0:
                title = wrapped(name if j else f"input{slice_of(x.shape)}", layout.width)
                axes.set_title(title, fontsize=9, pad=5, parse_math=False)
            if j == 0 and titles is not None:
                title = wrapped(titles[i], layout.height)
                axes.set_ylabel(title, fontsize=8, labelpad=4, parse_math=False)
        if scale is not None and not layout.flat:
            _color_bar(figure, figure.add_axes(layout.bar(j)), scale, clip if j else None)
    caption = textwrap.fill(_caption(x, clip, channels), int(19 * (layout.wide - layout.left)))
    place = (layout.left / layout.wide, 0.05 / layout.high)
    figure.text(*place, caption, fontsize=6.5, color="0.35", va="bottom")
    return figure


def _check(
    x: Array, columns: Mapping[str, Array], titles: Sequence[str] | None, clip: float, channels: str
) -> None:
    if not 2 <= x.ndim <= 5 or 0 in x.shape:
        raise expected(
            "inputs (B, F), (B, C, L), (B, C, H, W) or (B, C, D, H, W)",
            f"{x.shape}",
            "Add or remove dimensions.",
        )
    for name, values in columns.items():
        if values.shape != x.shape:
            raise expected(
                f"maps shaped like the inputs {x.shape}",
                f"{name} of {values.shape}",
                "Give the inputs that were explained.",
            )
    if titles is not None and len(titles) != len(x):
        raise expected(f"{len(x)} titles, one for each input", f"{len(titles)}", "")
    if not 0 < clip <= 100:
        raise expected("a percentile above 0, up to 100", f"clip={clip}", "The default is 99.5.")
    if channels not in ("sum", "abs"):
        raise expected("channels='sum' or 'abs'", repr(channels), "")


def _color_bar(figure: Figure, axes: Axes, scale: Scale, clip: float | None) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mappable = ScalarMappable(Normalize(scale.low, scale.high), scale.colors)
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
    if has_channels(x.ndim, x.shape[1]) and x.shape[1] > 1:
        summed = "summed" if channels == "sum" else "summed as absolute values"
        parts.append(f"maps {summed} over {x.shape[1]} channels")
        if x.shape[1] != 3 or x.ndim == 3:
            parts.append("inputs averaged over them")
    if x.ndim == 3 and has_channels(3, x.shape[1]):
        parts.append("behind maps in grey the input, on a scale of its own")
    return "; ".join(parts) + "."
