"""The four figures of the weak-lensing study, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measure import KEYS, MANY, OUTPUTS
from simulate import SIDE_DEG

from salience.verdicts import interval

SYMBOLS = {"omega_m": r"$\Omega_\mathrm{m}$", "sigma_8": r"$\sigma_8$"}
NETWORKS = {"noiseless": "noiseless", "ngal30": r"$n_\mathrm{gal}$ = 30 arcmin$^{-2}$"}
STAGES = ("dense 2", "dense 1", "conv 5", "conv 4", "conv 3", "conv 2", "conv 1")
# colours of Okabe & Ito 2008; methods that coincide differ in marker and line
STYLES = {
    "gradient": ("#000000", "o", "-"), "input_x_gradient": ("#0072B2", "s", "-"),
    "smoothgrad": ("#777777", "*", ":"), "integrated_gradients": ("#56B4E9", "P", ":"),
    "guided_backprop": ("#D55E00", "v", "-"), "deconvnet": ("#CC79A7", "^", "-"),
    "deep_taylor": ("#009E73", "D", "-"), "lrp_epsilon": ("#56B4E9", "x", "--"),
    "lrp_alpha_beta": ("#E69F00", "<", "-"), "excitation_backprop": ("#8C6D1F", ">", "-"),
}  # fmt: skip
CONTROLS = {"input": "0.25", "random_map": "0.6"}
EXTENT = (0, SIDE_DEG, 0, SIDE_DEG)
MAP_CAPTION = (
    "Saliency: blue negative,\nred positive, each map up to\nits own 99.5% point of |s|.\n\n"
    "Deep Taylor, excitation\nbackprop: one sign for all\npixels; deep Taylor has the\n"
    "sign of the standardised\noutput."
)
Results = Mapping[Any, Any]


def label(method: str) -> str:
    named = {"lrp_epsilon": "LRP-\u03b5", "lrp_alpha_beta": "LRP-\u03b12\u03b21",
             "input_x_gradient": "input \u00d7 gradient", "smoothgrad": "SmoothGrad",
             "deep_taylor": "deep Taylor"}  # fmt: skip
    return named.get(method, method.replace("_", " "))


def draw_map(axes: Axes, values: np.ndarray) -> None:
    """One map in diverging colours around 0, up to the 99.5% point of its absolute values."""
    limit = float(np.percentile(np.abs(values), 99.5)) or 1.0
    axes.imshow(
        values, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=EXTENT, origin="lower",
        interpolation="nearest",
    )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])


def maps_figure(data: xarray.Dataset, network: str) -> Figure:
    """One map of convergence beside its saliency by all methods, for both outputs."""
    kappa, methods = data["kappa"].values[0], [str(m) for m in data["method"].values]
    half = len(methods) // 2
    figure = Figure(figsize=(10.2, 8.2), dpi=150)
    side = figure.add_axes((0.055, 0.68, 0.2, 0.2 * 10.2 / 8.2))
    shown = side.imshow(
        kappa, cmap="cividis", extent=EXTENT, origin="lower", vmax=np.percentile(kappa, 99.8)
    )
    side.set(xlabel="x (deg)", ylabel="y (deg)", title=f"convergence, {NETWORKS[network]}")
    side.title.set_fontsize(9)
    bar = figure.colorbar(shown, cax=figure.add_axes((0.055, 0.59, 0.2, 0.015)),
                          orientation="horizontal", extend="max")  # fmt: skip
    bar.set_label("\u03ba (dimensionless)", fontsize=9)
    for block, output in enumerate(OUTPUTS):
        top = 0.96 - 0.49 * block
        figure.text(0.64, top, f"saliency for {SYMBOLS[output]}", fontsize=11, ha="center")
        for k, method in enumerate(methods):
            row, column = divmod(k, half)
            place = figure.add_axes(
                (0.285 + 0.143 * column, top - 0.21 - 0.215 * row, 0.138, 0.172)
            )
            draw_map(place, data["maps"].sel({"output": output, "method": method}).values[0])
            place.set_title(label(method), fontsize=8, pad=3)
    figure.text(0.05, 0.36, MAP_CAPTION, fontsize=8, linespacing=1.4)
    return figure


def grid(title: str) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Panels of networks (rows) and outputs (columns), with room for a legend on the right."""
    figure = Figure(figsize=(10.4, 6.8), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    axes = dict(zip(KEYS, panels.flat, strict=True))
    for (network, output), place in axes.items():
        place.set_title(f"{SYMBOLS[output]}, {NETWORKS[network]}", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure, axes


def similarity_figure(results: Results) -> Figure:
    """|rank correlation| with the trained network's map at each stage, with 95% intervals."""
    figure, panels = grid("Randomising the network from the output down")
    for key, axes in panels.items():
        for name in (*STYLES, *CONTROLS):
            data = results[key]["few" if name in MANY else "test"]
            values = data["spearman_abs"].sel({"method": name}).values  # (stage, repeat, sample)
            x = len(STAGES) - 1 - data["place"].values
            bounds = np.array([interval(v[None], resamples=500) for v in values])
            mean = np.nanmean(values, (1, 2))
            colour, marker, line = STYLES.get(name, (CONTROLS.get(name), None, "--"))
            axes.plot(x, mean, color=colour, marker=marker, linestyle=line, markersize=4,
                      linewidth=1.1, label=control_label(name))  # fmt: skip
            axes.fill_between(x, *bounds.T, color=colour, alpha=0.13, linewidth=0)
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
        for k, (name, (colour, marker, _)) in enumerate(STYLES.items()):
            row = data.sel({"method": name})
            mean = row["fine_mean"].values
            error = np.abs([row["fine_low"].values - mean, row["fine_high"].values - mean])
            x = np.arange(len(mean)) + 0.084 * (k - (len(STYLES) - 1) / 2)
            axes.errorbar(x, mean, error, color=colour, marker=marker, markersize=3.5,
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


def cascade_figure(data: xarray.Dataset, network: str) -> Figure:
    """Maps of one input, from the trained network to one that is random in every stage."""
    methods, stages = data["method"].values, ("trained", *STAGES)
    figure = Figure(figsize=(1.05 * len(stages) + 1, 1.05 * len(methods) + 0.75), dpi=150)
    rows = figure.subplots(len(methods), len(stages))
    figure.subplots_adjust(0.1, 0.035, 0.995, 0.935, 0.04, 0.04)
    for axes, stage in zip(rows[0], stages, strict=True):
        axes.set_title(stage, fontsize=9, pad=4)
    for row, method in zip(rows, methods, strict=True):
        for k, axes in enumerate(row):
            draw_map(axes, data["maps"].sel({"method": method}).values[k])
        row[0].set_ylabel(label(str(method)).replace(" ", "\n", 1), fontsize=8)
    title = f"{SYMBOLS['sigma_8']}, {NETWORKS[network]}: randomised from the output down to"
    figure.suptitle(title, fontsize=10, y=0.99)
    note = "deg; blue negative, red positive, each map up to its own 99.5% point of |s|"
    figure.text(0.1, 0.012, f"{SIDE_DEG} x {SIDE_DEG} {note}", fontsize=7)
    return figure


def all_figures(results: Results) -> dict[str, Callable[[], Figure]]:
    """Name of the file -> what draws it."""
    drawn: dict[str, Callable[[], Figure]] = {
        "similarity": partial(similarity_figure, results),
        "attribution": partial(attribution_figure, results),
    }
    for network in NETWORKS:
        here = results[network, OUTPUTS[0]]
        drawn[f"maps-{network}"] = partial(maps_figure, here["maps"], network)
        drawn[f"cascade-{network}"] = partial(cascade_figure, here["cascade"], network)
    return drawn
