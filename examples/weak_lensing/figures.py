"""The figures of the weak-lensing study, as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from figure_curves import attribution_figure, plane_figure, similarity_figure
from figure_maps import cascade_figure, maps_figure
from labels import NETWORKS
from matplotlib.figure import Figure
from subject import OUTPUTS

Results = Mapping[Any, Any]


def _maps(results: Results, network: str) -> Figure:
    return maps_figure(results[network, OUTPUTS[0]]["maps"], network)


def _cascade(results: Results, network: str) -> Figure:
    return cascade_figure(results[network, OUTPUTS[0]]["cascade"], network)


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "similarity": similarity_figure,
    "attribution": attribution_figure,
    "faithfulness": plane_figure,
    **{f"maps-{network}": partial(_maps, network=network) for network in NETWORKS},
    **{f"cascade-{network}": partial(_cascade, network=network) for network in NETWORKS},
}


def save_figure(name: str, results: Results, folder: Path) -> None:
    """Draw one figure into `folder`, as PNG and PDF."""
    figure = FIGURES[name](results)
    figure.savefig(folder / f"{name}.png")
    figure.savefig(folder / f"{name}.pdf")
