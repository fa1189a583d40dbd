"""What maps cost, for a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text
from torch import nn

from salience._errors import SalienceError
from salience._inputs.targets import Target
from salience._tape.cost import cost

if TYPE_CHECKING:
    import xarray


def costs_of(
    console: Console,
    network: nn.Module,
    x: Any,
    dataset: xarray.Dataset,
    target: Target,
    run: dict[str, Any],
) -> dict[str, float]:
    """What a map by each method of a test costs; none, and why, where it cannot be measured."""
    names = [str(name) for name in dataset["method"].values[dataset["role"].values == "method"]]
    given = {name: run[name] for name in ("batch_size", "output", "parameters")}
    try:
        return cost(network, x, names, target, **given)
    except SalienceError as error:  # a long test is not lost for it
        console.print(Text(f"The cost was not measured: {error}"))
        return {}
