"""Relevance of tokens as heat strips, reached as `salience.plot.tokens`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from salience._errors import expected
from salience.plot._pictures import SIGNED, Array, scale_of, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _RIGHT, _TOP, _BOTTOM = 1.7, 0.2, 0.15, 0.95  # inches
_TITLE, _NUMBERS, _METHOD = 0.3, 0.35, 0.2
_TOKEN, _WIDEST, _MOST_NUMBERS = 0.26, 12.0, 64


def tokens(
    ids: Tensor | Array,
    relevance: Mapping[str, Tensor | Array],
    *,
    titles: Sequence[str] | None = None,
    clip: float = 99.5,
) -> Figure:
    """Relevance per token: a strip of colours per method, a block of strips per sample.

    ids        (B, T), written below each token where there is room
    relevance  name -> (B, T), a map (B, T, D) summed over its embedding
    titles     one for each sample
    clip       percentile of |relevance| of a method at which its scale ends

    Every method has one scale, shared by all samples: red above 0, blue below. Returns a figure of
    its own, to be saved with `figure.savefig(file)`.

    Errors: SalienceError for shapes that differ, or a wrong number of titles.

    >>> import torch, salience.plot
    >>> ids = torch.tensor([[5, 1, 3], [2, 2, 0]])
    >>> figure = salience.plot.tokens(ids, {"lrp_epsilon": torch.randn(2, 3)})
    >>> len(figure.axes)  # 2 samples and a colour bar
    3
    """
    from salience.plot._figure import Figure

    numbers = to_array(ids).astype(int)
    strips = {name: to_array(values) for name, values in relevance.items()}
    _check(numbers, strips, titles, clip)
    samples, length = numbers.shape
    wide = min(max(length * _TOKEN, 3.0), _WIDEST)
    tall = len(strips) * _METHOD
    block = _TITLE + tall + _NUMBERS
    size = (_LEFT + wide + _RIGHT, _TOP + samples * block + _BOTTOM)
    figure = Figure(figsize=size, dpi=120)
    scaled = np.stack([s / scale_of(s, clip).high for s in strips.values()], 1)  # (B, methods, T)
    for i, picture in enumerate(scaled):
        below = size[1] - _TOP - i * block - _TITLE - tall
        axes = figure.add_axes((_LEFT / size[0], below / size[1], wide / size[0], tall / size[1]))
        _strips(axes, picture, numbers[i], list(strips))
        title = f"sample {i}" if titles is None else titles[i]
        axes.set_title(title, fontsize=8, loc="left", pad=3, parse_math=False)
    place = (_LEFT / size[0], 0.7 / size[1], min(wide, 2.5) / size[0], 0.09 / size[1])
    _color_bar(figure, figure.add_axes(place))
    told = (
        "Relevance per token: maps summed over the embedding. One scale per method, shared by all "
        f"samples, ends at percentile {clip:g} of |relevance|; below: the ids."
    )
    caption = textwrap.fill(told, int(17 * (size[0] - 0.3)))
    figure.text(0.1 / size[0], 0.06 / size[1], caption, fontsize=6.5, color="0.35", va="bottom")
    return figure


def _check(
    ids: Array, strips: Mapping[str, Array], titles: Sequence[str] | None, clip: float
) -> None:
    if ids.ndim != 2 or 0 in ids.shape or not strips:
        got = f"{ids.shape} and {len(strips)}"
        cure = "Give ids that were explained."
        raise expected("ids (B, T) and the relevance of at least one method", got, cure)
    for name, values in strips.items():
        if values.shape != ids.shape:
            raise expected(
                f"relevance (B, T) = {ids.shape}",
                f"{name} of {values.shape}",
                "Sum maps (B, T, D) over D: maps.sum(-1).",
            )
    if titles is not None and len(titles) != len(ids):
        raise expected(f"{len(ids)} titles, one for each sample", f"{len(titles)}", "")
    if not 0 < clip <= 100:
        raise expected("a percentile above 0, up to 100", f"clip={clip}", "The default is 99.5.")


def _strips(axes: Axes, picture: Array, ids: Array, names: list[str]) -> None:
    """The strips of one sample (methods, T), with its ids below."""
    axes.imshow(picture, aspect="auto", interpolation="nearest", cmap=SIGNED, vmin=-1, vmax=1)
    axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    for line in range(1, len(names)):
        axes.axhline(line - 0.5, color="white", linewidth=1)
    if len(ids) > _MOST_NUMBERS:
        axes.tick_params(labelsize=6.5, length=2)
    else:
        upright = max(len(str(number)) for number in ids) > 3
        axes.set_xticks(range(len(ids)), list(map(str, ids)), fontsize=6, rotation=90 * upright)
    axes.tick_params(axis="both", length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)


def _color_bar(figure: Figure, axes: Axes) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mappable = ScalarMappable(Normalize(-1, 1), SIGNED)
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", ticks=[-1, 0, 1])
    bar.set_ticklabels(["-scale", "0", "scale of its method"])
    axes.tick_params(labelsize=6.5, length=2, pad=1)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
