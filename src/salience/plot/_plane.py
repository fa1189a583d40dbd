"""Faithfulness over gain, a point per method, reached as `salience.plot.plane`."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from salience._names import FLOOR, NEGATIVE
from salience._study.faithful import Faithful
from salience._study.study import Study, study_of
from salience.plot._similarity import COLORS, MARKERS, number_of

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_LETTERS = 92  # of a line of the title, which the axes are as wide as
_CONTROL_LINES = {NEGATIVE: (0, (4, 2)), FLOOR: (0, (1, 1.5))}


def plane(study: Study | xarray.Dataset, *, score: str | None = None) -> Figure:
    """How faithful each method is over its gain: what it tells, and what of it was learned.

    study  from `salience.faithfulness`, or of both tests
    score  a score of faithfulness of the study, by default the one that recommends

    To the right of the line at 0 a method's maps tell more than its maps on untrained networks do;
    above the grey lines they tell more than the controls. Bars are 95% intervals. Filled are the
    methods that are recommended; a method without a gain (maps that were given) stands at the left
    edge. Returns a figure of its own, to be saved with `figure.savefig(file)`.

    Errors: SalienceError for a study without a test of faithfulness, or without that score.

    >>> import torch, salience.plot
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> study = salience.faithfulness(net.eval(), torch.randn(9, 6), "gradient", 0, progress=False)
    >>> [text.get_text() for text in salience.plot.plane(study).legends[0].get_texts()][:2]
    ['gradient', 'input (negative control)']
    """
    from salience.plot._figure import Figure

    study = study_of(study)
    table, advice = study.faithfulness(score), study.recommend(score)
    figure = Figure(figsize=(8.4, 5.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    known = [f.gain_low for f in table.values() if not np.isnan(f.gain_low)]
    left = min([*known, *(f.gain for f in table.values() if not np.isnan(f.gain)), 0.0])
    lines = [
        _point(axes, f, number_of(f.name, study), f.name in advice.methods, left)
        if f.role == "method"
        else _line(axes, f)
        for f in table.values()
    ]
    axes.axvline(0, color="0.3", linewidth=0.8, zorder=0.5)
    axes.set_xlabel("gain over the same methods on untrained networks")
    axes.set_ylabel(f"{_named(table.score)}")
    told = fill(table.caption()[0], _LETTERS)
    axes.set_title(told, fontsize=7, color="0.3", loc="left", parse_math=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    legend = figure.legend(handles=lines, loc="outside right upper", fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _point(axes: Axes, f: Faithful, number: int, used: bool, left: float) -> Line2D:
    """A method at its gain, with bars for both intervals."""
    color = COLORS[number % len(COLORS)]
    gain = left - 0.05 if np.isnan(f.gain) else f.gain
    for ends, along in (((f.low, f.high), 1), ((f.gain_low, f.gain_high), 0)):
        if not np.isnan(ends[0]):
            across = [gain, gain] if along else [f.score, f.score]
            pair = (across, ends) if along else (ends, across)
            axes.plot(*pair, color=color, linewidth=0.9, alpha=0.6, zorder=1.5)
    (line,) = axes.plot(
        [gain],
        [f.score],
        color=color,
        marker=MARKERS[number % len(MARKERS)],
        markersize=8,
        markerfacecolor=color if used else "white",
        linestyle="none",
        label=f"{f.name} (use)" if used else f.name,
        zorder=2,
    )
    return line


def _line(axes: Axes, f: Faithful) -> Line2D:
    """A control, which has no gain: a level with its band."""
    style = _CONTROL_LINES.get(f.role, "-")
    if not np.isnan(f.low):
        axes.axhspan(f.low, f.high, color="0.5", alpha=0.08, linewidth=0, zorder=0)
    return axes.axhline(
        f.score, color="0.5", linestyle=style, linewidth=1, label=f"{f.name} ({f.role})", zorder=1
    )


def _named(score: str) -> str:
    """A score as an axis names it.

    >>> _named("subsets_signed_pearson")
    'faithfulness (subsets, signed, pearson)'
    """
    return f"faithfulness ({score.replace('_', ', ')})"
