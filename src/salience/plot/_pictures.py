"""What figures share: pictures of inputs and maps, and short names."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray

SIGNED, POSITIVE, GRAY = "RdBu_r", "magma", "gray"
CELL = 1.6  # inches
_BELOW, _ABOVE = "#2166ac", "#b2182b"  # the ends of the diverging colours
_MOST_BARS = 64
_MOST_CHANNELS = 8  # (B, C, L) with more channels is drawn as a picture


@dataclass(frozen=True)
class Scale:
    """The one scale of a column."""

    low: float
    high: float
    colors: str


def to_array(values: Tensor | Array) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def has_channels(ndim: int, channels: int) -> bool:
    return ndim > 3 or (ndim == 3 and channels <= _MOST_CHANNELS)


def _central(values: Array) -> Array:
    """(B, C, D, H, W) -> (B, C, H, W), the slice in the middle."""
    return values[:, :, values.shape[2] // 2] if values.ndim == 5 else values


def input_pictures(x: Array) -> Array:
    """(B, H, W), (B, H, W, 3) in [0, 1], or (B, L)."""
    if not has_channels(x.ndim, x.shape[1]):
        return x
    x = _central(x)
    if x.ndim == 4 and x.shape[1] == 3:
        low = x.min((1, 2, 3), keepdims=True)
        spread = x.max((1, 2, 3), keepdims=True) - low
        return np.moveaxis((x - low) / np.where(spread > 0, spread, 1), 1, -1)
    return x.mean(1)


def map_pictures(values: Array, channels: str) -> Array:
    if channels == "abs":
        values = np.abs(values)
    return _central(values).sum(1) if has_channels(values.ndim, values.shape[1]) else values


def scale_of(column: Array, clip: float) -> Scale:
    finite = column[np.isfinite(column)]
    largest = float(np.abs(finite).max(initial=0.0))
    high = float(np.percentile(np.abs(finite), clip)) if largest > 0 else 1.0
    high = high or largest  # more zeros than the percentile
    signed = bool((finite < -1e-6 * largest).any())
    return Scale(-high if signed else 0.0, high, SIGNED if signed else POSITIVE)


def input_scale(column: Array) -> Scale | None:
    if column.ndim == 4:
        return None
    finite = column[np.isfinite(column)]
    if not finite.size:
        return Scale(0.0, 1.0, GRAY)
    low, high = float(finite.min()), float(finite.max())
    return Scale(low, high if high > low else low + 1, GRAY)


def cell(pictures: Array) -> tuple[float, float, bool]:
    """Width and height of a picture in inches, and whether it is a graph with axes."""
    if pictures.ndim == 2:
        return CELL * 1.3, CELL * 0.75, True
    ratio = pictures.shape[1] / pictures.shape[2]
    return CELL, CELL * min(max(ratio, 0.5), 2.0), False  # long ones are squeezed


def draw(
    axes: Axes, picture: Array, scale: Scale | None, *, bars: bool, signal: Array | None = None
) -> None:
    """A picture, or a graph; behind a graph a signal (L,), scaled to the graph's range."""
    if picture.ndim > 1:
        limits = (
            {} if scale is None else {"vmin": scale.low, "vmax": scale.high, "cmap": scale.colors}
        )
        axes.imshow(picture, aspect="auto", interpolation="nearest", **limits)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    assert scale is not None
    place = np.arange(len(picture))
    margin = 0.05 * (scale.high - scale.low)
    if signal is not None and np.ptp(signal) > 0:
        unit = (signal - signal.min()) / np.ptp(signal)
        axes.plot(
            place, scale.low + unit * (scale.high - scale.low), color="0.7", linewidth=0.8, zorder=0
        )
    above, below = (_ABOVE, _BELOW) if scale.colors != GRAY else ("0.4", "0.4")
    if bars and len(picture) <= _MOST_BARS:
        axes.bar(place, picture, 0.8, color=np.where(picture < 0, below, above))
    elif scale.colors == GRAY:
        axes.plot(place, picture, color="0.2", linewidth=0.8)
    else:
        for sign, color in ((np.maximum(picture, 0), above), (np.minimum(picture, 0), below)):
            axes.fill_between(place, sign, step="mid", color=color, linewidth=0)
    axes.set_ylim(scale.low - margin, scale.high + margin)
    axes.set_xlim(-0.5, len(picture) - 0.5)
    axes.axhline(0, color="0.6", linewidth=0.5)
    axes.tick_params(labelsize=6, length=2)
    axes.locator_params(axis="y", nbins=3)
    axes.locator_params(axis="x", nbins=3, integer=True)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.yaxis.get_offset_text().set_fontsize(6)


def slice_of(shape: tuple[int, ...]) -> str:
    """Which part of a volume (B, C, D, H, W) is shown, in words; nothing of other inputs."""
    return f", slice {shape[2] // 2 + 1} of {shape[2]}" if len(shape) == 5 else ""


def wrapped(text: str, inches: float) -> str:
    """At most three lines that fit a length."""
    width = max(5, int(13.2 * inches))
    return "\n".join(textwrap.wrap(text, width, max_lines=3, placeholder="..."))


def shortened(name: str, most: int) -> str:
    """A parameter's name without what all of them end in; long words are cut, numbers kept.

    >>> shortened("head.weight", 24), shortened("encoder.layers.11.self_attn.in_proj_weight", 24)
    ('head', 'enc….lay….11.sel….in_…')
    """
    name = name.removesuffix(".weight")
    for longest in range(most, 1, -1):
        parts = [p if len(p) <= longest else f"{p[: longest - 1]}…" for p in name.split(".")]
        if len(".".join(parts)) <= most:
            return ".".join(parts)
    return f"…{name[1 - most :]}"
