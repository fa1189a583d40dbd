"""`salience sweep`: a method at several values of its parameters."""

from __future__ import annotations

import sys
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from salience._cli import options as opt
from salience._cli import parse, results
from salience._cli.explain import inputs_told
from salience._cli.terminal import circumstances, console, show_files
from salience._errors import expected, printable
from salience._faithfulness.sweep import HEAD, Sweep, sweep
from salience._files.writing import result_folder
from salience._inputs.validation import whole_number
from salience._study.store import write


def sweep_over(given: opt.Options) -> None:
    """Everything that `salience sweep` does, from its options as they were given."""
    from salience._cli.inputs import load_study

    whole_number("--seed", given["seed"], 0, "Such as --seed 1.")
    results.check_format(given["form"], given["out"])
    methods = parse.parse_methods(given["method"], given.get("param", []))
    if len(methods) != 1:
        raise expected("one method for --method", repr(given["method"]), "Such as lrp_epsilon.")
    run: dict[str, Any] = {
        "target": parse.parse_target(given["target"]),
        "output": parse.parse_output(given.get("output")),
        "batch_size": given.get("batch_size"),
    }
    grid, removal = parse.parse_grid(given["over"], methods[0]), parse.parse_removal(given)
    out, overwrite = given["out"], given.pop("overwrite")  # which says nothing of the result
    with result_folder(out, overwrite) as folder:
        network, x, _ = load_study(given)
        with inputs_told(network, x, run):
            found = sweep(
                network, x, methods[0], grid, removal=removal, progress=sys.stderr.isatty(), **run
            )
        console().print(_table(found))
        data = found.study.data.assign_attrs(circumstances("sweep", given))
        write(data, folder / f"study.{given['form']}", f".{given['form']}")
        found.plot().savefig(folder / "sweep.png")
    show_files(out, [folder / f"study.{given['form']}", folder / "sweep.png"])


def _table(found: Sweep) -> Table:
    numbers = [Column(name, justify="right", no_wrap=True) for name in HEAD[1:]]
    table = Table(
        Column(HEAD[0]),
        *numbers,
        caption=Text(printable(found.caption()), "dim"),
        caption_justify="left",
        title=f"sweep of {found.method}",
    )
    for row in found.rows():
        table.add_row(*map(Text, row))
    return table
