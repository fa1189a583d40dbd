"""The numbers that a page shows, as plain data taken from the dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from salience._scores.interval import interval
from salience._scores.similarity import bounds_of
from salience._study.agreement import agreement
from salience._study.evidence import floors_of
from salience._study.sentences import FLOORS
from salience._study.study import Array, Study
from salience._study.verdicts import Verdicts
from salience.report._extras import Extras

if TYPE_CHECKING:
    import xarray

_FIRST = """
command_line command options model model_fingerprint weights_file_sha256 data_fingerprint
data_shape dtype device machine time seed repeats order target score stages weights batch_norm
method_parameters salience torch numpy python
""".split()  # of what a dataset says about its origin


def ordered_scores(study: Study, score: str) -> list[str]:
    """The scores of a study, the one that verdicts are about first."""
    return sorted(study.scores, key=lambda name: name != score)


def similarity(study: Study, scores: Sequence[str]) -> dict[str, dict[str, object]]:
    """score -> mean, low, high, each (method, stage); NaN is None."""
    found: dict[str, dict[str, object]] = {}
    for score in scores:
        values = study.values(score)
        means = [[_mean(stage) for stage in method] for method in values]
        ends = [
            [interval(stage, bounds=bounds_of(score), resamples=1000) for stage in method]
            for method in values
        ]
        low = [[low for low, _ in method] for method in ends]
        high = [[high for _, high in method] for method in ends]
        found[score] = plain({"mean": means, "low": low, "high": high})
    return found


def first_repeat(study: Study, score: str) -> list[object]:
    """The score of each map that is shown, (method, stage, sample): the first repeat's."""
    return plain(study.values(score)[:, :, 0, : len(study.map_names)].tolist())


def verdict_rows(study: Study, judged: Verdicts, extras: Extras) -> list[dict[str, object]]:
    """One row per method, then one per control."""
    errors = extras.errors or {}
    agrees = {name: f"{one.agrees} of {one.of}" for name, one in agreement(study).items()}
    ordered = sorted(judged.values(), key=lambda v: v.role != "method")  # stable
    return [
        plain({**asdict(v), "error": errors.get(v.method), "agrees": agrees.get(v.method)})
        for v in ordered
    ]


def floors(study: Study, scores: Sequence[str]) -> dict[str, list[object]]:
    """score -> for each method and control its floor and what it is of, or None."""
    found: dict[str, list[object]] = {}
    for score in scores:
        own = floors_of(study, score)
        named = {name: (mean, FLOORS[kind]) for name, (kind, mean) in own.items()}
        found[score] = plain([named.get(name) for name in study.roles])
    return found


def attribution_rows(dataset: xarray.Dataset) -> dict[str, Any]:
    """Fractions of attribution by class of input value, a block per output."""
    outputs = list(map(str, dataset["output"].values)) if "output" in dataset.dims else [""]
    methods = list(map(str, dataset["method"].values)) if "method" in dataset.dims else ["map"]
    parts = {}
    for name in ("mean", "low", "high"):
        values = dataset[name].values
        parts[name] = plain(values.reshape(len(outputs), len(methods), -1).tolist())
    return {
        "outputs": outputs,
        "methods": methods,
        "classes": list(map(str, dataset["class"].values)),
        "chance": plain(np.asarray(dataset["chance"].values).tolist()),
        **parts,
        "units": str(dataset.attrs.get("units", "")),
        "inputs": dataset.sizes.get("sample", 0),
    }


def provenance_rows(attributes: Mapping[object, object]) -> list[tuple[str, str]]:
    """Everything that the dataset says about its origin, what identifies it first."""
    names = [name for name in _FIRST if name in attributes]
    names += [str(name) for name in attributes if name not in _FIRST]
    return [(name, str(attributes[name])) for name in names]


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def plain(value: object) -> Any:
    """What JSON can hold: NaN and infinities are None."""
    if isinstance(value, Mapping):
        return {str(key): plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [plain(held) for held in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
