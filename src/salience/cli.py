"""The command line: parse, call, print."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor, nn

from salience.errors import SalienceError, SalienceWarning, expected
from salience.export import outputs_of, save_maps, save_overview, timed_maps, titles_of
from salience.memory import ran_out_of_memory
from salience.methods import methods as registry
from salience.options import parse_methods, parse_numbers, parse_parameters, parse_target
from salience.provenance import provenance

app = typer.Typer(
    help="Saliency maps of trained PyTorch networks by every established method.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_EXAMPLES = """\
[bold]Examples[/bold]

salience explain torchnet.py:make digits.npy --weights net.safetensors -o out

salience explain mypackage.nets:unet scans.npz:volumes --target "(1, 32, 40)" -o out

salience explain net.py:resnet photos/ --size 224 --mean 0.485,0.456,0.406 \
--std 0.229,0.224,0.225 --methods gradient,lrp_epsilon --param lrp_epsilon.eps=0.01 -o out

[bold]Afterwards[/bold]

maps = numpy.load("out/maps.npz"); maps["lrp_epsilon"]; maps["lrp_epsilon.conservation_error"]
"""


@app.command("methods")
def list_methods() -> None:
    """The methods, with their parameters and defaults, and where they come from."""
    table = Table(Column("method", no_wrap=True), "parameters", "what it is", "source")
    for method in registry.values():
        defaults = ", ".join(f"{name}={value!r}" for name, value in method.parameters.items())
        table.add_row(*map(Text, (method.name, defaults, method.summary, method.source)))
    _console().print(table)


@app.command("explain", epilog=_EXAMPLES)
def explain_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="'file.py:factory' or 'package.module:factory'; factory() returns the torch "
            "module, which is put into eval mode.",
        ),
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="FILE.npy, FILE.npz, FILE.npz:key or FILE.pt: a batch of floating-point inputs, "
            "used as it is. Or images (.png, .jpg) and folders of images.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for maps.npz and overview.png.")],
    methods: Annotated[
        str, typer.Option(help="'all', or names separated by commas (see: salience methods).")
    ] = "all",
    target: Annotated[
        str,
        typer.Option(
            help="Which scalar of the output is explained: argmax; 3 (one class or regression "
            "output, all samples); 3-5 (the difference of two); 1,7,2 (one for each sample); "
            '"(0,5,7)" (an index of a dense output, such as class, row, column).'
        ),
    ] = "argmax",
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights to load: .safetensors, or .pt/.pth (tensors alone)."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Inputs per pass; halved by itself when memory runs out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of SmoothGrad's noise and of random weights.")] = 0,
    device: Annotated[str, typer.Option(help="Such as cpu, cuda or cuda:1.")] = "cpu",
    output: Annotated[
        str | None,
        typer.Option(help="Which part to explain of a model that returns a tuple or a dict."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Images: resize the shorter side to N pixels, keep the central square."),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Images: pixels become (pixel / 255 - mean) / std. One number, or one for each "
            "channel, in units of pixel values scaled to [0, 1]."
        ),
    ] = None,
    std: Annotated[str | None, typer.Option(help="Images: see --mean.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD.NAME=VALUE", help="A method's parameter; may be repeated."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a method has no rule for an operation.")
    ] = False,
) -> None:
    """Explain a trained network on data: one map per input and method.

    OUT gets maps.npz (a map per method, with its errors, the inputs, outputs and the provenance
    of the run) and overview.png (a row per input, a column per method).
    """
    with _user_errors():
        given = {key: value for key, value in locals().items() if value is not None}
        _run(given)


def _run(given: dict[str, Any]) -> None:
    """Everything that `salience explain` does, from its options as they were given."""
    chosen = parse_methods(given["methods"])
    part = given.get("output", "")
    run = {
        "target": parse_target(given["target"]),
        "parameters": parse_parameters(given.get("param", []), chosen),
        "output": int(part) if part.isdecimal() else part or None,
        "batch_size": given.get("batch_size"),
        "seed": given["seed"],
        "strict": given["strict"],
    }
    out = _folder(given["out"])
    network, x, names = _load(given)
    outputs, values = outputs_of(network, x, run)
    console = _console()
    table, maps = timed_maps(network, x, chosen, run)
    console.print(table)
    told = json.dumps({
        **provenance(network, x),
        "numpy": np.__version__,
        "options": {key: str(v) if isinstance(v, Path) else v for key, v in given.items()},
        "methods": {m.name: m.bound(run["parameters"].get(m.name, {})) for m in chosen},
    })  # fmt: skip
    arrays = {"input": x, "output": outputs, "target_value": values}
    save_maps(out / "maps.npz", arrays, maps, told)
    files = [out / "maps.npz"]
    if 2 <= x.ndim <= 5:
        files.append(out / "overview.png")
        save_overview(files[-1], x, maps, titles_of(names, given["target"], outputs, values))
    for file in files:
        console.print(Text(str(file)), soft_wrap=True)


def _load(given: dict[str, Any]) -> tuple[nn.Module, Tensor, list[str]]:
    """The network, the inputs in its dtype, and the inputs' names."""
    from salience.data import load_inputs
    from salience.models import check_batch, first_convolution, load_model

    network = load_model(
        given["model"], given.get("weights"), device=given["device"], seed=given["seed"]
    )
    first = first_convolution(network)
    x, names = load_inputs(
        given["data"],
        channels=1 if first is not None and first.in_channels == 1 else 3,
        size=given.get("size"),
        mean=parse_numbers("mean", given.get("mean")),
        std=parse_numbers("std", given.get("std")),
    )
    check_batch(network, x)
    dtypes = [p.dtype for p in network.parameters() if p.is_floating_point()]
    return network, x.to(dtypes[0]) if dtypes else x, names


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise expected("a folder for -o", f"{path}, which is a file", "Choose another name.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


@contextmanager
def _user_errors() -> Iterator[None]:
    """A user's mistake is a message on stderr and exit code 2; warnings are messages too."""

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        typer.echo(f"Warning: {message}", err=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", SalienceWarning)
            warnings.showwarning = show
            yield
    except (SalienceError, NotImplementedError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"expected to read and write files; got {error}. Check the path and the disk.")
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        _fail(f"expected enough memory for one input; got {error}. Use smaller inputs.")


def _fail(message: str) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """The entry point of the command `salience`."""
    app(prog_name="salience")
