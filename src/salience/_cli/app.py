"""The command line: parse, call, print."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Column, Table
from rich.text import Text

from salience._cli import options as opt
from salience._cli import parse, results
from salience._cli.check import check
from salience._cli.costs import costs_of
from salience._cli.explain import (
    inputs_told,
    save_overviews,
    table_of,
    titles_of,
)
from salience._cli.manners import user_errors
from salience._cli.sweep import sweep_over
from salience._cli.terminal import console, show_files, told
from salience._errors import printable
from salience._files.writing import result_folder
from salience._inputs.validation import whole_number
from salience._study.provenance import provenance
from salience._study.store import write
from salience._tape.explain import explained
from salience.rules._table import methods as registry

app = typer.Typer(
    help="Saliency maps of trained PyTorch networks by every established method.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command("methods")
def list_methods() -> None:
    """The methods, with their parameters and defaults, and where they come from."""
    table = Table(Column("method", no_wrap=True), "parameters", "what it is", "source")
    for method in registry.values():
        defaults = ", ".join(f"{name}={value!r}" for name, value in method.parameters.items())
        table.add_row(*map(Text, (method.name, defaults, method.summary, method.source)))
    with user_errors("nothing was being written"):
        console().print(table)


@app.command("explain", epilog=opt.EXPLAIN_EXAMPLES)
def explain_command(
    model: opt.Model,
    data: opt.Data,
    out: opt.Out,
    methods: opt.Methods = "all",
    target: opt.Target = "argmax",
    weights: opt.WeightsFile = None,
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = 0,
    device: opt.Device = "cpu",
    output: opt.Output = None,
    size: opt.Size = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    param: opt.Param = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a method has no rule for an operation.")
    ] = False,
    form: opt.Form = "nc",
    cost: opt.Cost = False,
    ledger: opt.Ledger = False,
    overwrite: opt.Overwrite = False,
    max_bytes: opt.MaxBytes = "8GB",
) -> None:
    """Explain a trained network on data: one map per input and method.

    OUT gets maps.nc (a map per method, with its errors, the inputs, outputs
    and the provenance of the run) and overview.png (a row per input, a column
    per method).
    """
    with user_errors(f"{out} is as it was"):
        _explain({key: value for key, value in locals().items() if value is not None})


@app.command("check", epilog=opt.CHECK_EXAMPLES)
def check_command(
    model: opt.Model,
    data: opt.Data,
    out: opt.Out,
    methods: opt.Methods = "single-pass",
    target: opt.Target = "argmax",
    order: Annotated[
        str, typer.Option(help="top_down (cascading from the output), bottom_up or independent.")
    ] = "top_down",
    repeats: Annotated[int, typer.Option(help="Independent random networks.")] = 5,
    stages: Annotated[
        str, typer.Option(help="How many evenly spread stages to score, or all.")
    ] = "all",
    scores: Annotated[
        str, typer.Option(help="Similarities, separated by commas, or all that the maps allow.")
    ] = "all",
    score: Annotated[
        str, typer.Option(help="The similarity that verdicts and figures are about.")
    ] = "spearman_abs",
    only: opt.Only = "all",
    cell: opt.Cell = None,
    window: opt.Window = None,
    replacement: opt.Replacement = None,
    subsets: opt.Subsets = 128,
    init: Annotated[
        str, typer.Option(help="Random weights: own (each layer's initialiser), normal, permute.")
    ] = "own",
    batch_norm: Annotated[
        str, typer.Option(help="BatchNorm's running statistics: keep, recalibrate or reset.")
    ] = "keep",
    retarget: Annotated[
        bool, typer.Option("--retarget", help="Decide the target anew on each random network.")
    ] = False,
    show: Annotated[
        int,
        typer.Option(
            min=0,
            help="Inputs whose maps are kept for the report, at every scored stage, from "
            "the first; cascade.png has the first two.",
        ),
    ] = 4,
    form: opt.Form = "nc",
    cost: opt.Cost = False,
    weights: opt.WeightsFile = None,
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = 0,
    device: opt.Device = "cpu",
    output: opt.Output = None,
    size: opt.Size = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    param: opt.Param = None,
    overwrite: opt.Overwrite = False,
    max_bytes: opt.MaxBytes = "8GB",
) -> None:
    """Test which methods' maps to use on this network.

    Randomisation: the weights are randomised stage by stage, and each method's
    maps compared with those of the trained network (Adebayo 2018): they change
    completely, in part or hardly. Faithfulness: parts of the inputs are removed,
    and the effects on the target compared with what the maps say of those parts,
    beside controls and the same methods on untrained networks. The
    recommendation follows from the second.

    OUT gets the scores and the maps of the inputs shown (study.nc, which
    salience.open reads), similarity.png (how alike the maps are at each stage)
    and cascade.png (the maps down the cascade).
    """
    with user_errors(f"{out} is as it was"):
        check({key: value for key, value in locals().items() if value is not None})


@app.command("sweep", epilog=opt.SWEEP_EXAMPLES)
def sweep_command(
    model: opt.Model,
    data: opt.Data,
    out: opt.Out,
    method: Annotated[str, typer.Option(help="One method (see: salience methods).")],
    over: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUES",
            help="A parameter and its values, such as eps=1e-6,1e-3,0.1; repeated for a grid.",
        ),
    ],
    target: opt.Target = "argmax",
    weights: opt.WeightsFile = None,
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = 0,
    device: opt.Device = "cpu",
    output: opt.Output = None,
    size: opt.Size = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    param: opt.Param = None,
    cell: opt.Cell = None,
    window: opt.Window = None,
    replacement: opt.Replacement = None,
    subsets: opt.Subsets = 128,
    form: opt.Form = "nc",
    overwrite: opt.Overwrite = False,
    max_bytes: opt.MaxBytes = "8GB",
) -> None:
    """Try a method at several values of its parameters.

    Per value: similarity to the default's map, the error of the map's sum,
    faithfulness and grain. OUT gets sweep.png and the faithfulness of every
    map (study.nc).
    """
    with user_errors(f"{out} is as it was"):
        sweep_over({key: value for key, value in locals().items() if value is not None})


@app.command("report")
def report_page(
    study: opt.Study,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page.")] = Path("report.html"),
    edges: opt.Edges = None,
) -> None:
    """Turn a stored result into one HTML file that is readable offline.

    Open it in any browser, or attach it to a mail: nothing in it is loaded
    from elsewhere.
    """
    with user_errors("no page was written"):
        from salience._cli.report import report_command

        report_command(
            study,
            out,
            edges=parse.parse_numbers("edges", edges),
            say=lambda text: console().print(Text(printable(text)), soft_wrap=True),
        )


@app.command("view")
def view_page(
    study: opt.Study,
    port: Annotated[int, typer.Option(help="Of this machine; 0: any free one.")] = 0,
    edges: opt.Edges = None,
) -> None:
    """Serve the same page to this machine alone, for results too large for one file."""
    with user_errors("nothing was being written"):
        from salience._cli.report import view_command

        view_command(study, port=port, edges=parse.parse_numbers("edges", edges))


def _explain(given: opt.Options) -> None:
    """Everything that `salience explain` does, from its options as they were given."""
    from salience._cli.inputs import load_study

    whole_number("--seed", given["seed"], 0, "Such as --seed 1.")
    chosen = parse.parse_methods(given["methods"], given.get("param", []))
    run = {
        "target": parse.parse_target(given["target"]),
        "output": parse.parse_output(given.get("output")),
        "batch_size": given.get("batch_size"),
        "seed": given["seed"],
        "strict": given["strict"],
    }
    results.check_format(given["form"], given["out"])
    out, overwrite = given["out"], given.pop("overwrite")  # which says nothing of the result
    with result_folder(out, overwrite) as folder:
        network, x, names = load_study(given)
        skip = given["methods"] in opt.SETS
        with inputs_told(network, x, run):
            how = {"progress": sys.stderr.isatty(), "skip": skip, "ledger": given["ledger"]}
            maps = explained(network, x, chosen, **run, **how)
        measured = [method for method in chosen if method.name in maps]
        costs = costs_of(console(), network, x, measured, run) if given["cost"] else {}
        console().print(table_of(maps, costs))
        for line in maps.sentences():
            console().print(Text(line))
        more = {"numpy": np.__version__, "options": json.dumps(told(given))}
        maps = replace(maps, attrs=provenance(network, x) | more)
        titles = titles_of(names, given["target"], maps.output, maps.value)
        file = folder / f"maps.{given['form']}"
        write(maps.to_xarray(), file, f".{given['form']}")
        lines = [file, *save_overviews(folder, maps, titles)]
    show_files(out, lines)


def main() -> None:
    """The entry point of the command `salience`."""
    app(prog_name="salience")
