"""Figures of saliency maps: all methods beside each other, and the cascade to a random network."""

from __future__ import annotations

import numpy as np
import xarray
from labels import NETWORKS, STAGES, SYMBOLS, label
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from simulate import SIDE_DEG
from subject import OUTPUTS

EXTENT = (0, SIDE_DEG, 0, SIDE_DEG)
MAP_CAPTION = (
    "Saliency: blue negative,\nred positive, each map up to\nits own 99.5% point of |s|.\n\n"
    "Deep Taylor, excitation\nbackprop: one sign for all\npixels; deep Taylor has the\n"
    "sign of the standardised\noutput."
)


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
