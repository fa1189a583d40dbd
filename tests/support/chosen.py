"""Methods of the registry with parameters of their own, by name."""

from collections.abc import Iterable, Mapping
from typing import Any

import salience
from salience._inputs import trees
from salience.rules import Method


def chosen(
    parameters: Mapping[str, Mapping[str, Any]], methods: str | Iterable[str] | None = None
) -> list[Method]:
    """The methods of these names, or all, with the given parameters in place of the defaults."""
    names = [methods] if isinstance(methods, str) else methods or salience.methods
    return [salience.methods[name].having(**parameters.get(name, {})) for name in names]


def with_error(
    tape: salience.Tape, method: str, target: Any = "argmax", **options: Any
) -> tuple[Any, Any]:
    """The maps of one method as `tape.explain` gives them, and the error of their sum (B,).

    options  start and seed; others are the method's own parameters
    """
    own = {name: options.pop(name) for name in ("start", "seed") if name in options}
    made = tape.explain_leaves(salience.methods[method].having(**options), target, **own)
    return trees.at_inputs(tape.x, tape.leaves, made.maps), made.error
