"""What is typed on the command line: the options that commands share, and how values are read."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from salience._errors import SalienceError, expected, unknown
from salience._randomization.options import Cascade
from salience._randomization.run import check_score
from salience._scores.similarity import similarities
from salience._tape.together import is_single
from salience.rules._table import Method, find
from salience.rules._table import methods as registry

Options = dict[str, Any]  # of a command, as typer parsed them, or as keywords of what it calls

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="'file.py:factory' or 'package.module:factory', factory() returning the torch "
        "module, which is put into eval mode. Or torchvision:NAME or timm:NAME, with --weights. Or "
        "a file: .pt2 (torch.export), .onnx, .keras. Or a folder with an image classifier of "
        "Hugging Face.",
    ),
]
Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="FILE.npy, FILE.npz, FILE.npz:key or FILE.pt: a batch of floating-point inputs, "
        "used as it is, or of integer ids for a network that embeds them. Several arrays in one "
        "file, without a key, are inputs by name: model(**arrays). Or images (.png, .jpg) "
        "and folders of images.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        help="Folder for the files that are written; it holds one result, which "
        "--overwrite replaces.",
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        help="'all', 'single-pass', or names separated by commas (see: salience methods)."
    ),
]
Target = Annotated[
    str,
    typer.Option(
        help="Which scalar of the output is explained: argmax; 3 (one class or regression "
        "output, all samples); 3-5 (the difference of two); 1,7,2 (one for each sample); "
        '"(0,5,7)" (an index of a dense output, such as class, row, column).'
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(help="Weights to load: .safetensors, or .pt/.pth (tensors alone)."),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Inputs per pass; halved by itself when memory runs out.")
]
Seed = Annotated[int, typer.Option(help="Of everything drawn at random.")]
Device = Annotated[str, typer.Option(help="Such as cpu, cuda or cuda:1.")]
Output = Annotated[
    str | None,
    typer.Option(
        help="Which part to explain of a model that returns a tuple or a dict: logits (a key), 0 "
        "(a position), or a path of them such as 0.scores."
    ),
]
Size = Annotated[
    int | None,
    typer.Option(help="Images: resize the shorter side to N pixels, keep the central square."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Images: pixels become (pixel / 255 - mean) / std. One number, or one for each "
        "channel, in units of pixel values scaled to [0, 1]."
    ),
]
MaxBytes = Annotated[
    str,
    typer.Option(
        help="The most memory that a file, or one tensor of a network in a file, may take: 16GB, "
        "500MB or 2e9."
    ),
]
Std = Annotated[str | None, typer.Option(help="Images: see --mean.")]
Param = Annotated[
    list[str] | None,
    typer.Option(metavar="METHOD.NAME=VALUE", help="A method's parameter; may be repeated."),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace the result that OUT holds, once the new one is complete."
    ),
]
Cost = Annotated[
    bool, typer.Option("--cost", help="Measure what a map costs, too, in plain gradients.")
]
Form = Annotated[str, typer.Option("--format", help="Of the data: nc (netCDF) or zarr.")]
Study = Annotated[
    Path,
    typer.Argument(metavar="STUDY", help="A folder or file that check or explain wrote."),
]
Edges = Annotated[
    str | None,
    typer.Option(
        help="Show where the attribution lies: edges of classes of input values, in standard "
        "deviations, such as 0,3."
    ),
]

EXPLAIN_EXAMPLES = """\
[bold]Examples[/bold]

salience explain torchnet.py:make digits.npy --weights net.safetensors -o out

salience explain mypackage.nets:unet scans.npz:volumes --target "(1, 32, 40)" -o out

salience explain net.py:resnet photos/ --size 224 --mean 0.485,0.456,0.406 \
--std 0.229,0.224,0.225 --methods gradient,lrp_epsilon --param lrp_epsilon.eps=0.01 -o out

salience explain net.onnx digits.npy -o out

salience explain net.py:text ids.npy --output 0.scores -o out

salience explain torchvision:resnet50 photos/ --weights resnet50.pth --size 224 -o out

[bold]Afterwards[/bold]

maps = salience.open("out"); maps["lrp_epsilon"]; maps.error["lrp_epsilon"]

Of ids (B, T), a map is (B, T, D), at their embedding: map.sum(-1) is the relevance per token. Of
several inputs, each has its own: maps["lrp_epsilon"]["NAME"].
"""

CHECK_EXAMPLES = """\
[bold]Examples[/bold]

salience check net.py:make maps.npy --weights net.safetensors -o out

salience check net.py:resnet photos/ --size 224 --mean 0.485,0.456,0.406 \
--std 0.229,0.224,0.225 --stages 12 --repeats 3 --methods gradient,guided_backprop -o out

[bold]Reading it[/bold]

The similarity is 1 for maps that randomisation cannot change. Its floor is what
it is for maps that share less: random ones, those of two inputs, x times the
multipliers of another input. Maps change completely where it is not above its
floor, and hardly where it is more than half way from there to 1. The controls
show that the test works: input and edges must keep 1.

[bold]Afterwards[/bold]

study = salience.open("out"); study.verdicts(score="ssim"); study.data.spearman

A strong correlation down the cascade: study.verdicts(criterion="retention")

The verdicts, as a table of pandas: study.verdicts().to_dataframe()
"""


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def parse_target(text: str) -> Any:
    """A target from its spelling on the command line.

    >>> parse_target("3-5"), parse_target("1,7,2"), parse_target("(0,5,7)"), parse_target("3")
    ((3, 5), [1, 7, 2], (0, 5, 7), 3)
    """
    text = text.strip()
    if text == "argmax":
        return text
    if match := re.fullmatch(r"(\d+)\s*-\s*(\d+)", text):
        return int(match[1]), int(match[2])
    value = _literal(text)
    if isinstance(value, tuple) and (text[0] != "(" or any(isinstance(v, tuple) for v in value)):
        value = list(value)  # one for each sample
    items = value if isinstance(value, list | tuple) else [value]
    flat = [i for item in items for i in (item if isinstance(item, tuple) else [item])]
    if not flat or any(type(i) is not int for i in flat):
        raise expected(
            'a target: argmax, 3, 3-5, 1,7,2 or "(0,5,7)"',
            repr(text),
            "See salience explain --help.",
        )
    return value


def parse_methods(text: str, parameters: Sequence[str] = ()) -> list[Method]:
    """Methods from 'all', 'single-pass' or names separated by commas.

    parameters  of them, as texts 'method.parameter=value'
    """
    if text.strip() == "all":
        chosen = list(registry.values())
    elif text.strip() == "single-pass":
        chosen = [method for method in registry.values() if method.single_pass]
    else:
        chosen = [find(name) for name in dict.fromkeys(name.strip() for name in text.split(","))]
    given = _parameters(parameters, {method.name: method for method in chosen})
    return [method.having(**given.get(method.name, {})) for method in chosen]


def _parameters(given: Sequence[str], known: Mapping[str, Method]) -> dict[str, dict[str, object]]:
    """{method: {parameter: value}} from texts 'method.parameter=value'."""
    options: dict[str, dict[str, object]] = {}
    for text in given:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", text)
        if match is None:
            cure = "For example lrp_epsilon.eps=0.01."
            raise expected("METHOD.NAME=VALUE for --param", repr(text), cure)
        method, name, value = match.groups()
        if method not in known:
            raise unknown("method of --methods", method, known)
        if name not in known[method].parameters:
            raise unknown(f"parameter of {method}", name, known[method].parameters)
        default = known[method].parameters[name]
        read = value if isinstance(default, str) else _literal(value)
        if not isinstance(default, str) and type(read) not in (int, float):
            raise expected(f"a number for {method}.{name}", repr(value), f"Such as {default!r}.")
        options.setdefault(method, {})[name] = read
    return options


def parse_output(text: str | None) -> str | int | None:
    """The part of a model's output: a number in a tuple, a name in a dict."""
    return int(text) if text and text.isdecimal() else text or None


def parse_cascade(given: Options) -> Cascade:
    """How the network is randomised, from the options of `salience check`."""
    text = given["stages"]
    if text != "all" and not text.isdecimal():
        raise expected("all or a number for --stages", repr(text), "Such as --stages 12.")
    named = {name: given[name] for name in ("order", "repeats", "batch_norm", "seed")}
    stages = text if text == "all" else int(text)
    return Cascade(stages=stages, weights=given["init"], **named)


def parse_scores(text: str, score: str, x: Any) -> list[str]:
    """The similarities to measure, `score` among them; x shows what shape the maps have.

    Errors: SalienceError for unknown ones, and for those that maps of this shape do not allow.
    """
    names = list(similarities) if text == "all" else [name.strip() for name in text.split(",")]
    names = list(dict.fromkeys([*names, score]))
    kept = []
    for name in names:
        if name not in similarities:
            raise unknown("score", name, similarities)
        try:
            check_score(name, x)
            if is_single(x):
                similarities[name](x[:1], x[:1])
            kept.append(name)
        except SalienceError:
            if text != "all" or name == score:
                raise
    return kept


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(item) for item in text.split(",")]
    except ValueError:
        raise expected(
            f"numbers for --{option}", repr(text), "Such as 0.5 or 0.4,0.5,0.6."
        ) from None


def command_line(command: str, given: Options) -> str:
    """The line for a shell that runs a command with these options again.

    >>> command_line("check", {"model": "n.py:f", "data": ["a b.npy"], "seed": 3, "retarget": True})
    "salience check n.py:f 'a b.npy' --seed=3 --retarget"
    """
    words = ["salience", command, str(given["model"]), *map(str, given["data"])]
    for name, value in given.items():
        option = "--" + {"form": "format"}.get(name, name).replace("_", "-")
        if name in ("model", "data") or value is False:
            continue
        if value is True:
            words.append(option)
        else:
            words += [f"{option}={v}" for v in (value if isinstance(value, list) else [value])]
    return shlex.join(words)
