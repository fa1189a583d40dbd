"""Maps of inputs by name: computed method by method, timed, and written to files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor, nn
from tqdm import tqdm

from salience.errors import expected
from salience.explaining import ERRORS, explain
from salience.memory import ran_out_of_memory
from salience.methods import Method
from salience.tape import record
from salience.targets import resolve, select_output

_FORWARD = 16  # inputs per forward pass, where no batch size is given
_OVERVIEW_ROWS = 12


def outputs_of(network: nn.Module, x: Tensor, run: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The network's outputs and the target's values (N,), before anything long is begun."""
    parts = []
    for rows in x.split(max(1, run["batch_size"] or _FORWARD)):
        try:
            with torch.no_grad():
                raw = network(rows.to(device_of(network, x)))
        except Exception as error:
            if ran_out_of_memory(error):
                raise
            raise expected(
                "inputs that the network takes",
                f"{tuple(rows.shape)}, at which it raised {type(error).__name__}: {error}",
                "Check the shape (B, ...) and the scale of DATA.",
            ) from None
        part = select_output(raw, run["output"]).cpu()
        if part.ndim == 0 or len(part) != len(rows):
            raise expected(
                f"one output per input, ({len(rows)}, ...)", f"an output {tuple(part.shape)}",
                "The batch dimension comes first, in DATA and in the network's output.",
            )  # fmt: skip
        parts.append(part)
    outputs = torch.cat(parts)
    return outputs, resolve(run["target"], outputs)(outputs)


def device_of(network: nn.Module, x: Tensor) -> torch.device:
    return next((p.device for p in network.parameters()), x.device)


def uncovered_operations(
    network: nn.Module, x: Tensor, chosen: list[Method], output: str | int | None
) -> dict[str, list[str]]:
    """For each method the operations of the network that it has no rule for."""
    tape = record(network, x[:1].to(device_of(network, x)), output=output)
    return {method.name: tape.coverage(method).uncovered for method in chosen}


def timed_maps(
    network: nn.Module, x: Tensor, chosen: list[Method], run: dict[str, Any]
) -> tuple[Table, dict[str, Tensor]]:
    """The maps, and a table of what each of them took and how far it can be relied on."""
    uncovered = uncovered_operations(network, x, chosen, run["output"])
    table = Table(Column("method", no_wrap=True), "seconds", "largest error", "not covered")
    maps: dict[str, Tensor] = {}
    with tqdm(chosen, leave=False, disable=None, unit="method") as bar:
        for method in bar:
            bar.set_postfix_str(method.name)
            own = {n: v for n, v in run["parameters"].items() if n == method.name}
            started = time.perf_counter()
            made = explain(network, x, method, **{**run, "parameters": own})[method.name]
            seconds = f"{time.perf_counter() - started:.2f}"
            names = Text(", ".join(uncovered[method.name]))
            table.add_row(method.name, seconds, largest_error(made), names)
            maps[method.name] = made
    return table, maps


def largest_error(maps: Tensor) -> str:
    """The largest conservation or completeness error that maps carry, in words."""
    for name in ERRORS:
        if hasattr(maps, name):
            return f"{name.removesuffix('_error')} {float(getattr(maps, name).max()):.2g}"
    return ""


def save_maps(file: Path, arrays: dict[str, Tensor], maps: dict[str, Tensor], told: str) -> None:
    """One file with everything; it is whole or not there."""
    for name, values in maps.items():
        arrays[name] = values
        arrays |= {f"{name}.{e}": getattr(values, e) for e in ERRORS if hasattr(values, e)}
    plain: dict[str, Any] = {
        name: (t.float() if t.dtype == torch.bfloat16 else t).detach().cpu().numpy()
        for name, t in arrays.items()
    }
    partial = file.with_name(f".{file.name}.part")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, provenance=np.array(told), **plain)
    partial.replace(file)


def save_overview(file: Path, x: Tensor, maps: dict[str, Tensor], titles: list[str]) -> None:
    from salience import plot

    rows = slice(_OVERVIEW_ROWS)
    shown = {name: values[rows] for name, values in maps.items()}
    plot.maps(x[rows], shown, titles=titles[rows]).savefig(file)


def titles_of(names: list[str], target: str, outputs: Tensor, values: Tensor) -> list[str]:
    if target == "argmax" and outputs.ndim == 2:
        return [f"{n} class {k}" for n, k in zip(names, outputs.argmax(1).tolist(), strict=True)]
    return [f"{n} target {v:.3g}" for n, v in zip(names, values.tolist(), strict=True)]
