"""The figure of attribution by input value, reached as `salience.plot.attribution_by_value`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import expected
from salience.plot._similarity import COLORS

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "os^DvP*X"
_WIDE, _HIGH, _NAMES = 4.2, 0.34, 2.0  # inches: a panel, a method, the room for methods' names


def attribution_by_value(dataset: xarray.Dataset) -> Figure:
    """Fraction of the attribution on each class of input value, a row per method.

    dataset  from `salience.attribution_by_value`; a panel for each output that it has

    A dot is the mean over inputs with its bootstrap interval; the dotted line of its colour is the
    fraction of the inputs' entries in that class, which a map that ignores the values gets. Returns
    a figure of its own, to be saved with `figure.savefig(file)`.

    Errors: SalienceError for a dataset without these fractions.

    >>> import torch, salience, salience.plot
    >>> x = torch.randn(4, 1, 8, 8)
    >>> shares = salience.attribution_by_value({"input": x, "square": x * x}, x, edges=[0, 1])
    >>> len(salience.plot.attribution_by_value(shares).axes)
    1
    """
    from salience.plot._figure import Figure

    missing = [name for name in ("mean", "low", "high", "chance") if name not in dataset]
    if missing or "class" not in dataset.dims:
        got = f"one without {', '.join(missing) or 'classes'}"
        raise expected("a dataset of salience.attribution_by_value", got, "Give what it returned.")
    outputs = list(map(str, dataset["output"].values)) if "output" in dataset.dims else [""]
    methods = list(map(str, dataset["method"].values)) if "method" in dataset.dims else ["map"]
    tall = 1.5 + _HIGH * len(methods)
    figure = Figure(figsize=(_NAMES + _WIDE * len(outputs), tall), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(outputs), sharey=True, squeeze=False)[0]
    for number, (axes, output) in enumerate(zip(panels, outputs, strict=True)):
        _panel(axes, dataset, number, methods)
        axes.set_title("\n".join(textwrap.wrap(output, 40)), fontsize=9, parse_math=False)
    names = ["\n".join(textwrap.wrap(name, 24, max_lines=2)) for name in methods]
    panels[0].set_yticks(range(len(methods)), names, fontsize=8, parse_math=False)
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    units = " (sigma)" if dataset.attrs.get("units") == "sigma" else ""
    legend = figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(4, len(labels)),
        fontsize=8,
        frameon=False,
        title=f"class of input value{units}; dotted: fraction of the entries",
        title_fontsize=7,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _panel(axes: Axes, dataset: xarray.Dataset, output: int, methods: list[str]) -> None:
    """The rows of one output."""
    classes = list(map(str, dataset["class"].values))
    shape = (-1, len(methods), len(classes))
    mean, low, high = (dataset[n].values.reshape(shape)[output] for n in ("mean", "low", "high"))
    step = min(0.16, 0.8 / len(classes))
    for k, name in enumerate(classes):
        color, marker = COLORS[1 + k % (len(COLORS) - 1)], _MARKERS[k % len(_MARKERS)]
        places = np.arange(len(methods)) + step * (k - (len(classes) - 1) / 2)
        ends = np.abs([mean[:, k] - low[:, k], high[:, k] - mean[:, k]])
        axes.errorbar(
            mean[:, k],
            places,
            xerr=ends,
            color=color,
            marker=marker,
            markersize=4,
            linestyle="none",
            linewidth=1,
            label=name,
        )
        chance = float(dataset["chance"].values[k])
        axes.axvline(chance, color=color, linestyle=":", linewidth=1, zorder=0)
    axes.set_xlim(-0.03, 1.03)
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("fraction of the attribution", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
