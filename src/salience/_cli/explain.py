"""Maps of inputs, in a table and in pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor, nn

from salience._cli.options import Options
from salience._errors import SalienceError, expected
from salience._inputs import trees
from salience._inputs.targets import resolve, select_output
from salience._inputs.trees import Inputs
from salience._memory import ran_out_of_memory
from salience._study.maps import Maps
from salience._tape.together import some

_FORWARD = 16  # inputs per forward pass, where no batch size is given
_OVERVIEW_ROWS = 12


def outputs_of(network: nn.Module, x: Inputs, run: Options) -> tuple[Tensor, Tensor]:
    """The network's outputs and the target's values (N,), by plain passes."""
    parts, size, device = [], max(1, run["batch_size"] or _FORWARD), device_of(network, x)
    for first in range(0, trees.samples_of(x), size):
        rows = some(x, slice(first, first + size))
        try:
            with torch.no_grad():
                raw = trees.call(network, trees.each(lambda part: part.to(device), rows))
        except Exception as error:
            if ran_out_of_memory(error) or isinstance(error, SalienceError):
                raise
            raise _not_taken(rows, error) from None
        part, count = select_output(raw, run["output"]).cpu(), trees.samples_of(rows)
        if part.ndim == 0 or len(part) != count:
            raise expected(
                f"one output per input, ({count}, ...)",
                f"an output {tuple(part.shape)}",
                "The batch dimension comes first, in DATA and in the network's output.",
            )
        parts.append(part)
    outputs = torch.cat(parts)
    return outputs, resolve(run["target"], outputs)(outputs)


def _not_taken(rows: object, error: Exception) -> SalienceError:
    """That the network raised an error at its inputs."""
    shapes = {key: tuple(t.shape) for key, t in trees.parts_of(rows).items() if trees.per_sample(t)}
    got = shapes[trees.ALONE] if isinstance(rows, Tensor) else shapes
    cure = "Check the shape (B, ...) and the scale of DATA."
    if not all(part.is_floating_point() for part in trees.tensors_of(rows)):
        cure += " Integers are taken for ids that the network embeds: save others as float32."
    told = f"{got}, at which it raised {type(error).__name__}: {error}"
    return expected("inputs that the network takes", told, cure)


def device_of(network: nn.Module, x: Inputs) -> torch.device:
    return next((p.device for p in network.parameters()), trees.tensors_of(x)[0].device)


@contextmanager
def inputs_told(network: nn.Module, x: Inputs, run: Options) -> Iterator[None]:
    """Tell an error that the network raises at its inputs as what is wrong with them."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, SalienceError) and not ran_out_of_memory(error):
            outputs_of(network, x, run)
        raise


def table_of(maps: Maps[object], costs: Mapping[str, float]) -> Table:
    """How far the maps of each method can be relied on, and what they cost where that is known."""
    spent = [Column("cost in gradients", justify="right")] if costs else []
    table = Table(Column("method", no_wrap=True), "largest error", *spent, "no rule for")
    for name in maps:
        told = Text(", ".join(maps.uncovered.get(name, ())))
        cost = [f"{costs[name]:.1f}" if name in costs else "-"] if costs else []
        table.add_row(Text(name), maps.largest_error(name), *cost, told)
    return table


def save_overviews(folder: Path, maps: Maps[object], titles: list[str]) -> list[Path | str]:
    """A picture for each input that has maps: the files, and what could not be drawn."""
    lines: list[Path | str] = []
    few, titles = maps[:_OVERVIEW_ROWS], titles[:_OVERVIEW_ROWS]
    for key in trees.parts_of(maps.inputs):
        alone = key is trees.ALONE
        if not alone and any(trees.parts_of(own).get(key) is None for own in maps.values()):
            continue
        file = folder / ("overview.png" if alone else f"overview_{_plain(str(key))}.png")
        try:
            figure = few.plot(of=key, titles=titles)
        except SalienceError:
            lines.append(f"No picture of {'the input' if alone else key}: its maps have no space.")
            continue
        figure.savefig(file)
        lines.append(file)
    return lines


def _plain(name: str) -> str:
    """A name that is no path."""
    return re.sub(r"\W", "_", name)


def titles_of(names: list[str], target: str, outputs: Tensor, values: Tensor) -> list[str]:
    if target == "argmax" and outputs.ndim == 2:
        return [f"{n} class {k}" for n, k in zip(names, outputs.argmax(1).tolist(), strict=True)]
    return [f"{n} target {v:.3g}" for n, v in zip(names, values.tolist(), strict=True)]
