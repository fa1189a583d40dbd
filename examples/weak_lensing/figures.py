"""The figures of the weak-lensing study, as files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from figure_curves import attribution_figure, similarity_figure
from figure_maps import cascade_figure, maps_figure
from labels import NETWORKS
from subject import OUTPUTS
from tqdm import tqdm


def save_figures(results: Mapping[Any, Any], folder: Path) -> None:
    """Draw every figure into `folder`, as PNG and PDF."""
    drawn = {
        "similarity": partial(similarity_figure, results),
        "attribution": partial(attribution_figure, results),
    }
    for network in NETWORKS:
        here = results[network, OUTPUTS[0]]
        drawn[f"maps-{network}"] = partial(maps_figure, here["maps"], network)
        drawn[f"cascade-{network}"] = partial(cascade_figure, here["cascade"], network)
    for name, draw in tqdm(drawn.items(), "figures"):
        figure = draw()
        figure.savefig(folder / f"{name}.png")
        figure.savefig(folder / f"{name}.pdf")
