"""A method's numbers over the values of its parameters, reached as `Sweep.plot`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from salience._scores.interval import interval
from salience._study.faithful import bounds_of, mean
from salience.plot._similarity import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = {
    "similarity": ("Spearman to the default's map", COLORS[1]),
    "error": ("error of the maps' sum", COLORS[2]),
    "score": ("faithfulness", COLORS[3]),
    "grain": ("grain (1: noise, 0: smooth)", COLORS[4]),
}
_WIDE = 30  # ratio of the largest to the smallest value from which an axis is logarithmic


def sweep_figure(method: str, points: Sequence[Any], score: str) -> Figure:
    """A panel for each number of `salience.Sweep.points`; bands are 95% intervals over samples."""
    from salience.plot._figure import Figure

    figure = Figure(figsize=(9.6, 5.6), dpi=120, layout="constrained")
    names = list(points[0].values)
    numbers = [point.values[names[0]] for point in points]
    along = len(names) == 1 and all(isinstance(v, int | float) for v in numbers)
    for axes, (field, (label, color)) in zip(
        figure.subplots(2, 2, sharex=True).flat, _PANELS.items(), strict=True
    ):
        bounds = {"similarity": (-1.0, 1.0), "score": bounds_of(score)}.get(field, (0.0, np.inf))
        _panel(axes, points, field, color, numbers if along else None, bounds)
        axes.set_ylabel(f"{label}\n({score})" if field == "score" else label, fontsize=8)
    figure.suptitle(f"{method} over {', '.join(names)}", parse_math=False)
    figure.supxlabel(", ".join(names), fontsize=9, parse_math=False)
    return figure


def _panel(
    axes: Axes,
    points: Sequence[Any],
    field: str,
    color: str,
    numbers: list[float] | None,
    bounds: tuple[float, float],
) -> None:
    values = [getattr(point, field) for point in points]
    places = np.arange(len(values), dtype=float) if numbers is None else np.array(numbers, float)
    order = np.argsort(places)
    ends = np.array([interval(held[None], bounds=bounds) for held in values])
    axes.fill_between(places[order], *ends[order].T, color=color, alpha=0.15, linewidth=0)
    axes.plot(places[order], np.array([mean(held) for held in values])[order], "o-", color=color)
    if all(np.isnan(held).all() for held in values):
        axes.text(0.5, 0.5, "none for this method", transform=axes.transAxes, ha="center")
    positive = places[places > 0]
    if numbers is None:
        axes.set_xticks(places, [p.name for p in points], rotation=40, ha="right", fontsize=7)
    elif len(positive) > 1 and positive.max() / positive.min() >= _WIDE:
        small = float(positive.min())
        axes.set_xscale("log") if (places > 0).all() else axes.set_xscale("symlog", linthresh=small)
    axes.grid(color="0.92", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
