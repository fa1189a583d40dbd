"""What maps cost, for a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text
from torch import nn

from salience._cli.options import Options
from salience._errors import SalienceError
from salience._tape.cost import cost
from salience.rules._method import Method


def costs_of(
    console: Console,
    network: nn.Module,
    x: object,
    methods: list[Method],
    run: Options,
) -> dict[str, float]:
    """What a map by each method of a test costs; none, and why, where it cannot be measured."""
    given = {name: run[name] for name in ("target", "batch_size", "output")}
    try:
        return cost(network, x, methods, **given)
    except SalienceError as error:  # a long test is not lost for it
        console.print(Text(f"The cost was not measured: {error}"))
        return {}
