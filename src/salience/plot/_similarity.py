"""The similarity figure of a randomisation test, reached as `salience.plot.similarity`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import expected
from salience._names import FLOOR
from salience._scores.interval import interval
from salience._scores.similarity import bounds_of
from salience._study.evidence import floors_of
from salience._study.study import Array, Study, study_of
from salience.plot._pictures import shortened
from salience.rules._table import methods as registry

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# after Okabe & Ito 2008, whose yellow is too faint for a line
COLORS = "#000000 #0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #8C6D1F".split()
MARKERS = "osv^D<>XPp*h"
_LINES = ("-", (0, (6, 1.5)), (0, (3, 1, 1, 1)))  # change where the colours begin anew
_CONTROL_MARKERS = {"input": "_", "edges": "+", "random_map": "x"}
_MOST_LABELS = 30


def similarity(
    study: Study | xarray.Dataset, *, score: str | None = None, level: float = 0.95
) -> Figure:
    """Similarity to the trained network's maps at every stage, a line per method.

    study  from `randomization_test`, or its dataset
    score  a score of the study, by default the one that its verdicts are about; 1 means an
           unchanged map
    level  of the bootstrap intervals over repeats and samples, drawn as bands

    Controls are dashed and grey. A dash behind the last stage is a method's floor: what the score
    is for maps that share less (noise, the trained network's maps of two inputs, x times the
    multipliers of another input). The bracket marks the stages that the retention averages.
    Returns a figure of its own, to be saved with `figure.savefig(file)`.

    Errors: SalienceError for a score that the study lacks, for the efficient test, which has no
    similarities, and for a level outside of (0, 1).

    >>> import torch, salience.plot
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> study = salience.randomization_test(net.eval(), torch.randn(3, 6), progress=False)
    >>> len(salience.plot.similarity(study).axes[0].get_lines())  # ten methods, two controls
    12
    """
    from salience.plot._figure import Figure

    study = study_of(study)
    if study.rises:
        cure = 'See study.verdicts(), or run one of kind="standard".'
        raise expected("a test of similarity", "the efficient one", cure)
    values = study.values(score := score or study.score)
    if not 0 < level < 1:
        raise expected("a level between 0 and 1", f"{level}", "The default is 0.95.")
    count = len(study.stages)
    width = min(max(0.42 * count, 5.0), 13.0)
    figure = Figure(figsize=(width + 3.2, 5.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    floor = -1.0 if bool((values < -0.05).any()) else 0.0
    lines = {}
    for row, (name, role) in zip(values, study.roles.items(), strict=True):
        if role == "method":
            ends = [interval(stage, bounds=bounds_of(score), level=level) for stage in row]
            lines[name] = _curve(axes, row, name, number_of(name, study), ends)
        else:
            lines[name] = _control(axes, row, name, role)
    _set_limits(axes, count, floor)
    drawn = _draw_floors(axes, count, lines, study, score)
    _label_stages(axes, ["trained", *(shortened(name, 28) for name in study.stages)])
    axes.set_ylabel(f"{_named(score)} to the trained network's map")
    order = study.order.replace("_", "-")
    alone = "randomised: this stage alone"
    axes.set_xlabel(
        alone if order == "independent" else f"randomised, {order}: from the left to this stage"
    )
    legend = figure.legend(
        handles=_ordered(lines, values, study),
        loc="outside right upper",
        fontsize=8,
        frameon=False,
        title=f"bands: {100 * level:g}% intervals" + drawn * "\ndashes on the right: floors",
        title_fontsize=7,
        alignment="left",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _means(values: Array) -> list[float]:
    """Of each stage of scores (stage, repeat, sample)."""
    return [float(np.nanmean(v)) if not np.isnan(v).all() else np.nan for v in values]


def _control(axes: Axes, values: Array, name: str, role: str) -> Line2D:
    """A dashed grey line of scores (stage, repeat, sample)."""
    start = np.nan if role == FLOOR else 1.0
    (line,) = axes.plot(
        np.arange(1.0 + len(values)),
        [start, *_means(values)],
        color="0.55",
        linestyle="--",
        linewidth=1,
        markersize=5,
        marker=_CONTROL_MARKERS.get(name, "|"),
        label=f"{name} (control)",
        zorder=1.5,
    )
    return line


def _curve(
    axes: Axes, values: Array, name: str, number: int, ends: Sequence[tuple[float, float]]
) -> Line2D:
    """One line with its band, from the trained network, whose maps are their own."""
    color = COLORS[number % len(COLORS)]
    # lines that coincide lie side by side
    places = np.arange(1.0 + len(values)) + 0.02 * (number % len(COLORS) - 3.5)
    low, high = np.transpose([(1, 1), *ends])
    axes.fill_between(places, low, high, color=color, alpha=0.1, linewidth=0)
    (line,) = axes.plot(
        places,
        [1.0, *_means(values)],
        color=color,
        marker=MARKERS[number % len(MARKERS)],
        label=name,
        linestyle=_LINES[number // len(COLORS) % len(_LINES)],
        linewidth=1.4,
        markersize=5,
    )
    return line


def number_of(name: str, study: Study) -> int:
    """A method's place among all, the same in every figure for a known one."""
    known = sorted(registry, key=lambda method: not registry[method].single_pass)
    return list(dict.fromkeys([*known, *study.roles])).index(name)


def _ordered(lines: dict[str, Line2D], values: Array, study: Study) -> list[Line2D]:
    """Handles from the highest line to the lowest one, controls last."""
    half = values[:, values.shape[1] // 2 :]
    height = dict(zip(lines, np.nan_to_num(half, nan=-2.0).mean((1, 2, 3)), strict=True))
    controls = study.controls
    return [lines[name] for name in sorted(lines, key=lambda n: (n in controls, -height[n]))]


def _draw_floors(
    axes: Axes, count: int, lines: dict[str, Line2D], study: Study, score: str
) -> bool:
    """A dash for each method behind the last stage, in its colour; whether there are any."""
    floors = floors_of(study, score)
    for name, (_, mean) in floors.items():
        axes.scatter(count + 0.45, mean, s=120, marker="_", color=lines[name].get_color(), zorder=3)
    if floors:
        axes.set_xlim(-0.3, count + 0.7)
    return bool(floors)


def _set_limits(axes: Axes, count: int, floor: float) -> None:
    """The range of the axes, and the stages that retention averages."""
    axes.set_xlim(-0.3, count + 0.3)
    axes.set_ylim(floor - 0.02, 1.02)
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    first = count // 2 + 1  # the place of the first stage of the second half; 0 is the trained net
    over = axes.get_xaxis_transform()
    axes.annotate(
        "",
        (first - 0.25, 1.025),
        (count + 0.25, 1.025),
        xycoords=over,
        arrowprops={
            "arrowstyle": "|-|, widthA=0.25, widthB=0.25",
            "color": "0.4",
            "shrinkA": 0,
            "shrinkB": 0,
            "linewidth": 0.8,
        },
    )
    axes.annotate(
        "retention: mean over these stages",
        (count + 0.25, 1.025),
        xycoords=over,
        xytext=(0, 5),
        textcoords="offset points",
        fontsize=7,
        color="0.4",
        ha="right",
    )


def _label_stages(axes: Axes, names: list[str]) -> None:
    step = -(-len(names) // _MOST_LABELS)
    shown = [i for i in range(1, len(names)) if (len(names) - 1 - i) % step == 0]
    places = [0, *(i for i in shown if i >= step)]  # both ends have their names
    axes.set_xticks(
        places,
        [names[i] for i in places],
        rotation=50,
        ha="right",
        fontsize=7,
        rotation_mode="anchor",
        parse_math=False,
    )
    axes.set_xticks(range(len(names)), minor=True)


def _named(score: str) -> str:
    words = {
        "spearman_abs": "|Spearman correlation|",
        "spearman": "Spearman correlation",
        "spearman_of_abs": "Spearman correlation of |maps|",
        "ssim": "SSIM",
        "pearson": "Pearson correlation",
        "hog": "Correlation of HOG",
    }
    return words.get(score, score)
