"""What is typed on the command line: the options that commands share, and how values are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

SETS = ("all", "single-pass")  # of methods, of which those that do not apply are left out
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
Ledger = Annotated[
    bool,
    typer.Option(
        "--ledger", help="Say where relevance went that did not reach the input, for each method."
    ),
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

Only = Annotated[
    str, typer.Option(help="One of the tests: randomization or faithfulness; all: both.")
]
Cell = Annotated[
    str | None,
    typer.Option(
        help="Faithfulness: the size of the cells that are removed, in pixels (or entries, "
        "features, tokens); one number, or one for each axis. At most 256 cells by default."
    ),
]
Window = Annotated[
    str | None,
    typer.Option(
        help="Faithfulness: what is removed at once around a cell; by default three cells, of "
        "features and tokens one."
    ),
]
Replacement = Annotated[
    str | None,
    typer.Option(
        help="Faithfulness: what stands in the place of what is removed: mean, blur, local_mean, "
        "imputation or a number; by default the mean, of fewer than 16 images their blur."
    ),
]
Subsets = Annotated[int, typer.Option(help="Faithfulness: random sets of cells.")]

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

SWEEP_EXAMPLES = """\
[bold]Examples[/bold]

salience sweep net.py:make maps.npy --method lrp_epsilon --over eps_relative=0,0.01,0.1,1 -o out

salience sweep net.py:make maps.npy --method lrp_alpha_beta --over alpha=1,2 --over beta=0,1 -o out

[bold]Afterwards[/bold]

study = salience.open("out"); study.faithfulness()
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
