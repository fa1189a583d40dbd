"""The numbers that a page shows, as plain data taken from the dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from salience._scores.interval import interval
from salience._scores.similarity import bounds_of
from salience._study.verdicts import SCORE, Verdict, scores_of

if TYPE_CHECKING:
    import xarray

SCORES = {
    "spearman_abs": "|Spearman|", "spearman": "Spearman", "spearman_of_abs": "Spearman of |maps|",
    "ssim": "SSIM", "hog": "HOG", "pearson": "Pearson", "complexity_rise": "rise of complexity",
}  # fmt: skip


def ordered_scores(dataset: xarray.Dataset, score: str | None) -> list[str]:
    """The scores that the dataset holds, the one that verdicts are about first."""
    return sorted(scores_of(dataset), key=lambda name: name != (score or SCORE))


def similarity(dataset: xarray.Dataset, scores: Sequence[str]) -> dict[str, dict[str, Any]]:
    """score -> mean, low, high, each (method, stage); NaN is None."""
    found: dict[str, dict[str, Any]] = {}
    for score in scores:
        values = dataset[score].transpose("method", "stage", "repeat", "sample").values
        means = [[_mean(stage) for stage in method] for method in values]
        ends = [
            [interval(stage, bounds=bounds_of(score), resamples=1000) for stage in method]
            for method in values
        ]
        found[score] = plain({
            "mean": means,
            "low": [[low for low, _ in method] for method in ends],
            "high": [[high for _, high in method] for method in ends],
        })  # fmt: skip
    return found


def first_repeat(dataset: xarray.Dataset, score: str) -> list[Any]:
    """The score of each map that is shown, (method, stage, sample): the first repeat's."""
    shown = dataset[score].transpose("method", "stage", "repeat", "sample")
    return plain(shown.values[:, :, 0, : dataset.sizes.get("map_sample", 0)].tolist())


def verdict_rows(
    dataset: xarray.Dataset,
    judged: Mapping[str, Verdict],
    errors: Mapping[str, float] | None,
) -> list[dict[str, Any]]:
    """One row per method, then one per control."""
    rows = []
    for v in sorted(judged.values(), key=lambda v: v.role != "method"):  # stable
        row = dataset["other_inputs"].sel({"method": v.method}).values
        rows.append(plain({
            "method": v.method, "role": v.role, "verdict": v.verdict, "sentence": v.sentence,
            "retention": v.retention, "low": v.low, "high": v.high, "last": v.last,
            "undefined": v.undefined, "other_inputs": _mean(row),
            "error": (errors or {}).get(v.method),
        }))  # fmt: skip
    return rows


def attribution_rows(dataset: xarray.Dataset) -> dict[str, Any]:
    """Fractions of attribution by class of input value, a block per output."""
    outputs = list(map(str, dataset["output"].values)) if "output" in dataset.dims else [""]
    methods = list(map(str, dataset["method"].values)) if "method" in dataset.dims else ["map"]
    parts = {}
    for name in ("mean", "low", "high"):
        values = dataset[name].values
        parts[name] = plain(values.reshape(len(outputs), len(methods), -1).tolist())
    return {
        "outputs": outputs, "methods": methods, "classes": list(map(str, dataset["class"].values)),
        "chance": plain(np.asarray(dataset["chance"].values).tolist()), **parts,
        "units": str(dataset.attrs.get("units", "")), "inputs": dataset.sizes.get("sample", 0),
    }  # fmt: skip


def provenance_rows(attributes: Mapping[Any, Any]) -> list[tuple[str, str]]:
    """Everything that the dataset says about its origin, what identifies it first."""
    first: Sequence[str] = (
        "command_line", "command", "options", "model", "model_fingerprint",
        "weights_file_sha256", "data_fingerprint", "data_shape", "dtype", "device", "machine",
        "time", "seed", "repeats", "order", "target", "stages", "weights", "batch_norm",
        "method_parameters", "salience", "torch", "numpy", "python",
    )  # fmt: skip
    names = [name for name in first if name in attributes]
    names += [str(name) for name in attributes if name not in first]
    return [(name, str(attributes[name])) for name in names]


def _mean(values: Any) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinities are None."""
    if isinstance(value, Mapping):
        return {str(key): plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [plain(held) for held in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
