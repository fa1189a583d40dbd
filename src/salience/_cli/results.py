"""A randomisation test in words and files: the verdicts in the terminal, data and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from salience._errors import expected, printable, unknown
from salience._study.agreement import agreement
from salience._study.recommend import HEAD, USE, Recommendation
from salience._study.sentences import COMPLETELY, CONSTANT, HARDLY, INSENSITIVE, SENSITIVE
from salience._study.store import ENDINGS, write
from salience._study.study import Study
from salience._study.verdicts import Verdicts

LIMITS = (
    "Known limits: that a map changes with the weights does not make it right, and random maps "
    "change completely, too (Binder 2023): hold this beside a test of faithfulness, never alone."
)
_DRAWN = 2  # inputs in cascade.png: it has a row per input and method
# blue against orange, told apart by every eye; the words alone say it too
_COLORS = {
    **dict.fromkeys((COMPLETELY, SENSITIVE), "bold dodger_blue2"),
    **dict.fromkeys((HARDLY, INSENSITIVE, CONSTANT), "bold dark_orange3"),
}


def verdict_table(judged: Verdicts, costs: Mapping[str, float] | None = None) -> Table:
    """The verdicts as a table of rich, methods first, controls below a line.

    costs  a column of what a map by each method costs, from `salience.cost`
    """
    first, *right, last = judged.head
    right += ["cost in gradients"] if costs else []
    table = Table(
        Column(first, no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in right),
        last,
        caption_justify="left",
        caption_style="dim",
        caption=Text("\n".join(judged.caption())),
    )
    methods = sum(v.role == "method" for v in judged.values())
    rows = zip(judged.values(), judged.rows(), strict=True)
    ordered = sorted(rows, key=lambda row: row[0].role != "method")  # stable
    for i, (v, (name, *numbers, verdict)) in enumerate(ordered):
        says = Text(verdict, _COLORS.get(verdict, "bold") if v.role == "method" else "dim")
        spent = [f"{costs[v.method]:.1f}" if v.method in costs else "-"] if costs else []
        table.add_row(
            Text(name), *map(Text, [*numbers, *spent]), says, end_section=i + 1 == methods
        )
    return table


def show_study(console: Console, study: Study, costs: Mapping[str, float] | None = None) -> None:
    """Print what the tests say, and last which methods to use."""
    if study.tested:
        show_verdicts(console, study, study.verdicts(), costs)
    if study.has_faithfulness:
        show_recommendation(console, study.recommend())


def show_recommendation(console: Console, found: Recommendation) -> None:
    """Print every map's scores with the gate that stopped it, and which to use."""
    first, *numbers, last = HEAD
    table = Table(
        Column(first, no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in numbers),
        last,
        caption_justify="left",
        caption_style="dim",
        caption=Text("\n".join(found.caption())),
    )
    for place, (*cells, told) in enumerate(found.rows(), 1):
        says = Text(told, "bold dodger_blue2" if told == USE else "dim")
        table.add_row(*map(Text, cells), says, end_section=place == len(found.passed))
    console.print(table)
    console.print(Text(printable(found.sentence), "bold"))


def show_verdicts(
    console: Console, study: Study, judged: Verdicts, costs: Mapping[str, float] | None = None
) -> None:
    """Print the verdicts, why, and what to hold against them."""
    console.print(verdict_table(judged, costs))
    for v in judged.values():
        if v.role == "method":
            console.print(Text(v.sentence))
        if v.undefined:
            told = f"{v.undefined} similarities of {v.method} were undefined (a constant map, NaN)"
            console.print(Text(f"{told} and are left out."))
    agreed = ", ".join(f"{name} {v.agrees} of {v.of}" for name, v in agreement(study).items())
    console.print(Text(f"How many of the scores say the same: {agreed}."))
    for name, operations in (study.uncovered or {}).items():
        if operations:
            told = f"{name} has no rule for {', '.join(operations)}: plain gradient there."
            console.print(Text(told))
    if untouched := study.not_randomized:
        console.print(Text(f"Not randomised, since the output does not use them: {untouched}"))
    console.print(Text(LIMITS))


def save_study(folder: Path, study: Study, form: str = "nc") -> list[Path]:
    """Write the study and its figures into a folder that exists; the files' paths.

    form  "nc" (netCDF) or "zarr"
    """
    files = [folder / f"study.{form}"]
    write(study.data, files[0], f".{form}")
    if study.tested:
        files.append(folder / "similarity.png")
        study.plot.similarity().savefig(files[-1])
    if study.has_faithfulness:
        files.append(folder / "plane.png")
        study.plot.plane().savefig(files[-1])
    if study.has_maps and study.inputs.ndim <= 5:
        files.append(folder / "cascade.png")
        study.plot.cascade(range(min(_DRAWN, len(study.map_names)))).savefig(files[-1])
    return files


def check_format(form: str, folder: Path) -> None:
    """Raise for a format that is unknown, or cannot be written to a folder of this name."""
    if f".{form}" not in ENDINGS:
        raise unknown("format", form, [ending.removeprefix(".") for ending in ENDINGS])
    path = os.path.abspath(folder)
    if form == "nc" and path != path.encode(errors="replace").decode():
        raise expected(
            "a name that is text for the folder of a netCDF file",
            path,
            "Choose another one, or --format zarr.",
        )
