"""A randomisation test in words and files: the verdicts in the terminal, data and figures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from salience._errors import expected, unknown
from salience._study.verdicts import (
    CONSTANT,
    INSENSITIVE,
    PARTIAL,
    SENSITIVE,
    UNDEFINED,
    UNINFORMATIVE,
    Verdict,
    verdicts,
)
from salience.plot._cascade import cascade
from salience.plot._similarity import THRESHOLDS, similarity

if TYPE_CHECKING:
    import xarray

FORMATS = {"nc": "study.nc", "zarr": "study.zarr"}
LIMITS = (
    "Known limits: a top-down cascade keeps the scale of activations, and an uninformative map "
    "scores well (Binder 2023): hold these verdicts beside a test of faithfulness, never alone."
)
_DRAWN = 2  # inputs in cascade.png: it has a row per input and method
# blue against orange, told apart by every eye; the words alone say it too
_COLOURS = {
    SENSITIVE: "bold dodger_blue2", PARTIAL: "bold", INSENSITIVE: "bold dark_orange3",
    CONSTANT: "bold dark_orange3", UNINFORMATIVE: "dim", UNDEFINED: "dim",
}  # fmt: skip


def verdict_table(
    judged: Mapping[str, Verdict],
    score: str = "spearman_abs",
    costs: Mapping[str, float] | None = None,
) -> Table:
    """The verdicts as a table of rich, methods first, controls below a line.

    costs  a column of what a map by each method costs, from `salience.cost`
    """
    right = ("retention", "95% interval", "last", *(["cost in gradients"] if costs else []))
    numbers = [Column(name, justify="right", no_wrap=True) for name in right]
    table = Table(
        Column("method", no_wrap=True), *numbers, "verdict", caption_justify="left",
        caption_style="dim",
        caption=f"retention: mean {score} over the second half of the cascade; last: at its "
        f"last stage; sensitive below {THRESHOLDS[0]:g}, insensitive above {THRESHOLDS[1]:g}",
    )  # fmt: skip
    methods = sum(v.role == "method" for v in judged.values())
    for i, v in enumerate(sorted(judged.values(), key=lambda v: v.role != "method")):  # stable
        says = Text(v.verdict, _COLOURS[v.verdict]) if v.role == "method" else Text(v.role, "dim")
        limits = f"[{_number(v.low)}, {_number(v.high)}]"
        last = _number(v.last.get(score, math.nan))
        spent = [f"{costs[v.method]:.1f}" if v.method in costs else "-"] if costs else []
        row = (Text(v.method), _number(v.retention), Text(limits), last, *spent, says)
        table.add_row(*row, end_section=i + 1 == methods)
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def show_study(
    console: Console,
    dataset: xarray.Dataset,
    judged: Mapping[str, Verdict],
    uncovered: Mapping[str, Sequence[str]],
    score: str,
    costs: Mapping[str, float] | None = None,
) -> None:
    """Print the verdicts, why, and what to hold against them."""
    console.print(verdict_table(judged, score, costs))
    for v in judged.values():
        if v.role == "method":
            console.print(Text(v.sentence))
        if v.undefined:
            told = f"{v.undefined} similarities of {v.method} were undefined (a constant map, NaN)"
            console.print(Text(f"{told} and are left out."))
    for name, operations in uncovered.items():
        if operations:
            told = f"{name} has no rule for {', '.join(operations)}: plain gradient there."
            console.print(Text(told))
    if untouched := list(dataset.attrs.get("parameters_not_randomised", [])):
        console.print(Text(f"Not randomised, since the output does not use them: {untouched}"))
    console.print(Text(LIMITS))


def save_study(
    folder: Path,
    dataset: xarray.Dataset,
    judged: Mapping[str, Verdict],
    told: Mapping[str, Any],
    score: str,
    form: str = "nc",
) -> list[Path]:
    """Write the dataset, the verdicts and the figures; the files' paths.

    folder  it exists
    told    goes into verdicts.json, beside the verdicts
    form    "nc" (netCDF) or "zarr"
    """
    files = [folder / FORMATS[form], folder / "verdicts.json", folder / "similarity.png"]
    write_dataset(dataset, files[0])
    summary = {**told, "score": score, "thresholds": THRESHOLDS, "limits": LIMITS,
               "verdicts": {name: asdict(v) for name, v in judged.items()}}  # fmt: skip
    files[1].write_text(json.dumps(_plain(summary), indent=2, allow_nan=False) + "\n")
    similarity(dataset, score=score).savefig(files[2])
    if "maps" in dataset and dataset["inputs"].ndim <= 5:
        files.append(folder / "cascade.png")
        cascade(dataset, range(min(_DRAWN, dataset.sizes["map_sample"]))).savefig(files[-1])
    return files


def check_format(form: str, folder: Path) -> None:
    """Raise for a format that is unknown, or cannot be written to a folder of this name."""
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    path = os.path.abspath(folder)
    if form == "nc" and path != path.encode(errors="replace").decode():
        raise expected(
            "a name that is text for the folder of a netCDF file", path,
            "Choose another one, or --format zarr.",
        )  # fmt: skip


def write_dataset(dataset: xarray.Dataset, file: Path) -> None:
    """A file of netCDF or a folder of Zarr, by its ending."""
    text = {name: c.astype(object) for name, c in dataset.coords.items() if c.dtype.kind == "U"}
    dataset = dataset.assign_coords(text)  # zarr 3 has no strings of fixed length
    if file.suffix == ".nc":
        dataset.to_netcdf(file, engine="netcdf4")
    else:
        dataset.to_zarr(file, mode="w", consolidated=False)


def _plain(value: Any) -> Any:
    """What JSON can hold: NaN is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str | None) else str(value)


def judge_study(dataset: xarray.Dataset, score: str) -> Mapping[str, Verdict]:
    """The verdicts at the thresholds that tables and figures print."""
    low, high = THRESHOLDS
    return verdicts(dataset, score=score, sensitive=low, insensitive=high)
