"""Maps of inputs by name: computed method by method, timed, and written to files."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor, nn
from tqdm import tqdm

from salience._errors import NotApplicable, SalienceError, SalienceWarning, expected
from salience._inputs import trees
from salience._inputs.targets import resolve, select_output
from salience._memory import ran_out_of_memory
from salience._names import ERRORS
from salience._tape.explain import explain
from salience._tape.tape import Tape, record
from salience._tape.together import some
from salience.rules._table import Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORWARD = 16  # inputs per forward pass, where no batch size is given
_OVERVIEW_ROWS = 12


def outputs_of(network: nn.Module, x: Any, run: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The network's outputs and the target's values (N,), before anything long is begun."""
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
                f"one output per input, ({count}, ...)", f"an output {tuple(part.shape)}",
                "The batch dimension comes first, in DATA and in the network's output.",
            )  # fmt: skip
        parts.append(part)
    outputs = torch.cat(parts)
    return outputs, resolve(run["target"], outputs)(outputs)


def _not_taken(rows: Any, error: Exception) -> SalienceError:
    """That the network raised an error at its inputs."""
    shapes = {key: tuple(t.shape) for key, t in trees.parts_of(rows).items() if trees.per_sample(t)}
    got = shapes[trees.ALONE] if isinstance(rows, Tensor) else shapes
    cure = "Check the shape (B, ...) and the scale of DATA."
    if not all(part.is_floating_point() for part in trees.tensors_of(rows)):
        cure += " Integers are taken for ids that the network embeds: save others as float32."
    told = f"{got}, at which it raised {type(error).__name__}: {error}"
    return expected("inputs that the network takes", told, cure)


def device_of(network: nn.Module, x: Any) -> torch.device:
    return next((p.device for p in network.parameters()), trees.tensors_of(x)[0].device)


def uncovered_operations(tape: Tape, chosen: list[Method]) -> dict[str, list[str]]:
    """For each method the operations of the network that it has no rule for."""
    return {method.name: tape.coverage(method).uncovered for method in chosen}


def timed_maps(
    network: nn.Module, x: Any, chosen: list[Method], run: dict[str, Any], skip: bool
) -> tuple[Table, dict[str, Any]]:
    """The maps, and a table of what each of them took and how far it can be relied on.

    skip  methods that do not apply, with a warning
    """
    device = device_of(network, x)
    first = trees.each(lambda part: part[:1].to(device), x)
    uncovered = uncovered_operations(record(network, first, output=run["output"]), chosen)
    table = Table(Column("method", no_wrap=True), "seconds", "largest error", "not covered")
    maps: dict[str, Any] = {}
    with tqdm(chosen, leave=False, disable=None, unit="method") as bar:
        for method in bar:
            bar.set_postfix_str(method.name)
            own = {n: v for n, v in run["parameters"].items() if n == method.name}
            started = time.perf_counter()
            try:
                made = explain(network, x, method, **{**run, "parameters": own})[method.name]
            except NotApplicable as error:
                if not skip:
                    raise
                warnings.warn(f"{method.name} is left out: {error}", SalienceWarning, 2)
                continue
            seconds = f"{time.perf_counter() - started:.2f}"
            names = Text(", ".join(uncovered[method.name]))
            table.add_row(method.name, seconds, largest_error(made), names)
            maps[method.name] = made
    return table, maps


def largest_error(maps: Any) -> str:
    """The largest conservation or completeness error that maps carry, in words."""
    for name in ERRORS:
        for map in named("", maps).values():
            if hasattr(map, name):
                return f"{name.removesuffix('_error')} {float(getattr(map, name).max()):.2g}"
    return ""


def named(name: str, held: Any) -> dict[str, Tensor]:
    """The tensors of nested containers, by their path after a name.

    >>> list(named("gradient", {"ids": (torch.ones(1), torch.ones(1)), "mask": None}))
    ['gradient.ids.0', 'gradient.ids.1']
    """
    if isinstance(held, Tensor):
        return {name: held}
    parts = trees.parts_of(held) if isinstance(held, Mapping | list | tuple) else {}
    return {n: t for key, part in parts.items() for n, t in named(f"{name}.{key}", part).items()}


def save_maps(
    file: Path, x: Any, arrays: dict[str, Tensor], maps: Mapping[str, Any], told: str
) -> None:
    """One file with everything."""
    arrays = {**named("input", x), **arrays}
    for name, values in maps.items():
        found = named(name, values)
        arrays |= found
        for error in ERRORS:
            own = [getattr(t, error) for t in found.values() if hasattr(t, error)]
            arrays |= {f"{name}.{error}": own[0]} if own else {}
        for key, part in trees.parts_of(x).items():
            arrays |= _per_token(name if key is trees.ALONE else f"{name}.{key}", part, found)
    plain: dict[str, Any] = {
        name: (t.float() if t.dtype == torch.bfloat16 else t).detach().cpu().numpy()
        for name, t in arrays.items()
    }
    np.savez_compressed(file, provenance=np.array(told), **plain)


def _per_token(name: str, ids: Any, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Relevance of ids (B, T): their maps (B, T, D), summed over D, and over embeddings."""
    if not isinstance(ids, Tensor):
        return {}
    own = [map for n, map in found.items() if n == name or n.startswith(f"{name}.")]
    own = [map.sum(-1) for map in own if map.shape[:-1] == ids.shape]
    return {f"{name}.per_token": torch.stack(own).sum(0)} if own else {}


def save_overviews(
    folder: Path, x: Any, maps: Mapping[str, Any], titles: list[str]
) -> list[Path | str]:
    """A picture for each input that has maps: the files, and what could not be drawn."""
    lines: list[Path | str] = []
    for key, part in trees.parts_of(x).items():
        alone = key is trees.ALONE
        own = {name: m if alone else m.get(key) for name, m in maps.items()}
        file = folder / ("overview.png" if alone else f"overview_{_plain(key)}.png")
        if all(m is None for m in own.values()):
            continue
        figure = _overview(part, own, titles)
        if figure is None:
            lines.append(f"No picture of {'the input' if alone else key}: its maps have no space.")
            continue
        figure.savefig(file)
        lines.append(file)
    return lines


def _plain(name: str) -> str:
    """A name that is no path."""
    return re.sub(r"\W", "_", name)


def _overview(x: Tensor, maps: Mapping[str, Any], titles: list[str]) -> Figure | None:
    from salience import plot

    rows = slice(_OVERVIEW_ROWS)
    if x.is_floating_point():
        if not 2 <= x.ndim <= 5:
            return None
        return plot.maps(x[rows], {n: m[rows] for n, m in maps.items()}, titles=titles[rows])
    relevance = {n: r for name, m in maps.items()
                 for n, r in _per_token(name, x, named(name, m)).items()}  # fmt: skip
    shown = {n.removesuffix(".per_token"): trees.rows(r[rows]) for n, r in relevance.items()}
    return plot.tokens(trees.rows(x[rows]), shown, titles=titles[rows]) if shown else None


def titles_of(names: list[str], target: str, outputs: Tensor, values: Tensor) -> list[str]:
    if target == "argmax" and outputs.ndim == 2:
        return [f"{n} class {k}" for n, k in zip(names, outputs.argmax(1).tolist(), strict=True)]
    return [f"{n} target {v:.3g}" for n, v in zip(names, values.tolist(), strict=True)]
