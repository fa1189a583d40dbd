"""Datasets of randomisation tests whose verdicts are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray

import salience


def dataset(**methods) -> xarray.Dataset:
    """Scores (stage, repeat, sample) of each method, as a randomisation test would return them."""
    dims = ("method", "stage", "repeat", "sample")
    scores = np.stack([np.asarray(value, dtype=float) for value in methods.values()])
    return xarray.Dataset(
        {"spearman_abs": (dims, scores), "pearson": (dims, -scores)},
        {
            "method": list(methods),
            "stage": [f"{name}.weight" for name in "zyxwvutsr"[: scores.shape[1]]],
            "role": ("method", ["method"] * len(methods)),
            "constant_over_inputs": ("method", [int(name == "constant") for name in methods]),
            "number": ("stage", np.arange(scores.shape[1])),
        },
        {"stage_count": scores.shape[1], "kind": "standard"},
    )


def with_floors(data: xarray.Dataset, **floors: Any) -> xarray.Dataset:
    """The same with floors of the first score: numbers, or (method, repeat, sample)."""
    sizes = [data.sizes[name] for name in ("method", "repeat", "sample")]
    held = {}
    for name, given in floors.items():
        values = np.full((sizes[0], 2, *sizes[1:]), np.nan)
        values[:, 0] = np.broadcast_to(np.asarray(given, dtype=float), sizes)
        dims = ("method", "score", "repeat", "sample")
        held[name] = (dims, values) if name == "between_random" else (
            ("method", "score", "sample"), values[:, :, 0])  # fmt: skip
    return data.assign(held).assign_coords(score=["spearman_abs", "pearson"])


def flat(level: float, stages: int = 4, noise: float = 0.01) -> np.ndarray:
    generator = np.random.default_rng(int(1000 * level))
    return level + noise * generator.standard_normal((stages, 5, 6))


def controlled(gradient: float, chance: float = 0.0, **methods: np.ndarray) -> xarray.Dataset:
    data = dataset(
        gradient=flat(0) + gradient,
        **methods,
        input=flat(1.0, noise=0),
        random_map=flat(0) + chance,
    )
    roles = ["method"] * (1 + len(methods)) + ["negative control", "floor control"]
    return data.assign_coords(role=("method", roles))


def retention(data, **options) -> salience.Verdicts:
    return salience.verdicts(data, criterion="retention", **options)
