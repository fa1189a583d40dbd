"""Figures of numbers with intervals: similarity per stage, attribution per class of kappa, gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from labels import NETWORKS, STAGES, SYMBOLS, label
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measure import MANY
from subject import KEYS

from salience._scores.interval import interval

# colours of Okabe & Ito 2008; methods that coincide differ in marker and line
STYLES = {
    "gradient": ("#000000", "o", "-"), "input_x_gradient": ("#0072B2", "s", "-"),
    "smoothgrad": ("#777777", "*", ":"), "integrated_gradients": ("#56B4E9", "P", ":"),
    "guided_backprop": ("#D55E00", "v", "-"), "deconvnet": ("#CC79A7", "^", "-"),
    "deep_taylor": ("#009E73", "D", "-"), "lrp_epsilon": ("#56B4E9", "x", "--"),
    "lrp_alpha_beta": ("#E69F00", "<", "-"), "excitation_backprop": ("#8C6D1F", ">", "-"),
}  # fmt: skip
CONTROLS = {"input": "0.25", "random_map": "0.6"}
Results = Mapping[Any, Any]


def similarity_figure(results: Results) -> Figure:
    """|rank correlation| with the trained network's map at each stage, with 95% intervals."""
    figure, panels = grid("Randomising the network from the output down")
    for key, axes in panels.items():
        for name in (*STYLES, *CONTROLS):
            data = results[key]["few" if name in MANY else "test"]
            values = data["spearman_abs"].sel({"method": name}).values  # (stage, repeat, sample)
            x = len(STAGES) - 1 - data["place"].values
            bounds = np.array([interval(v[None], bounds=(0, 1), resamples=500) for v in values])
            mean = np.nanmean(values, (1, 2))
            color, marker, line = STYLES.get(name, (CONTROLS.get(name), None, "--"))
            axes.plot(x, mean, color=color, marker=marker, linestyle=line, markersize=4,
                      linewidth=1.1, label=control_label(name))  # fmt: skip
            axes.fill_between(x, *bounds.T, color=color, alpha=0.13, linewidth=0)
        axes.set_ylim(-0.03, 1.04)
        axes.set_xticks(range(len(STAGES)), STAGES, rotation=40, ha="right")
    figure.supxlabel("randomised down to", fontsize=10)
    figure.supylabel("|rank correlation| with the trained network's map", fontsize=10)
    handles, names = next(iter(panels.values())).get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, frameon=False)
    return figure


def control_label(name: str) -> str:
    controls = {"input": "control: the input", "random_map": "control: random maps"}
    return controls.get(name, label(name))


def attribution_figure(results: Results) -> Figure:
    """F per class of kappa by each method, with 95% intervals and the chance level."""
    figure, panels = grid("Where the attribution lies")
    for key, axes in panels.items():
        data = results[key]["shares"]
        chance = data["fine_chance"].isel(method=0).values
        axes.stairs(chance, np.arange(len(chance) + 1) - 0.5, color="0.85", fill=True,
                    label="chance:\nfraction of the pixels")  # fmt: skip
        for k, (name, (color, marker, _)) in enumerate(STYLES.items()):
            row = data.sel({"method": name})
            mean = row["fine_mean"].values
            error = np.abs([row["fine_low"].values - mean, row["fine_high"].values - mean])
            x = np.arange(len(mean)) + 0.084 * (k - (len(STYLES) - 1) / 2)
            axes.errorbar(x, mean, error, color=color, marker=marker, markersize=3.5,
                          linestyle="none", linewidth=0.9, label=label(name))  # fmt: skip
        for edge in range(1, len(chance)):
            axes.axvline(edge - 0.5, color="0.8", linewidth=0.5)
        axes.set_xlim(-0.5, len(chance) - 0.5)
        axes.set_xticks(range(len(chance)), [str(v) for v in data["fine_class"].values])
    figure.supxlabel("class of \u03ba, in standard deviations of each map", fontsize=10)
    figure.supylabel("fraction F of the attribution", fontsize=10)
    handles, names = next(iter(panels.values())).get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, frameon=False)
    return figure


def plane_figure(results: Results) -> Figure:
    """Faithfulness over its gain on untrained networks, with 95% intervals and the controls."""
    figure, panels = grid("What maps tell of the network, and how much of it was learned")
    for key, axes in panels.items():
        table = results[key]["study"].faithfulness()
        for name, (color, marker, _) in STYLES.items():
            row = table[name]
            axes.errorbar(
                row.gain, row.score,
                beside(row.score, row.low, row.high),
                beside(row.gain, row.gain_low, row.gain_high),
                color=color, marker=marker, markersize=5, linewidth=0.8, linestyle="none",
                label=label(name),
            )  # fmt: skip
        for name, color in CONTROLS.items():
            axes.axhline(table[name].score, color=color, linestyle="--", linewidth=1,
                         label=control_label(name))  # fmt: skip
        axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    figure.supxlabel("gain: AUC less that of the same method on untrained networks", fontsize=10)
    figure.supylabel("AUC of |map| for where removing squares matters", fontsize=10)
    handles, names = next(iter(panels.values())).get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, frameon=False)
    return figure


def beside(mean: float, low: float, high: float) -> list[list[float]]:
    """Lengths (2, 1) of the two halves of an error bar."""
    return [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]


def grid(title: str) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Panels of networks (rows) and outputs (columns), with room for a legend on the right."""
    figure = Figure(figsize=(10.4, 6.8), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    axes = dict(zip(KEYS, panels.flat, strict=True))
    for (network, output), place in axes.items():
        place.set_title(f"{SYMBOLS[output]}, {NETWORKS[network]}", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure, axes
