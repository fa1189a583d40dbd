"""The trace of a pass: its operations as pure functions of numbered values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from salience.sites import BatchNormSite, ElementSite, LinearSite

Site = LinearSite | BatchNormSite | ElementSite


@dataclass(frozen=True)
class Ref:
    """A value of the trace, where an argument was."""

    index: int


@dataclass
class Operation:
    """One recorded call: a pure function, also where the user's code wrote in place."""

    name: str
    kind: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    depends: bool  # on the input, not on parameters alone
    site: Site | None = None

    def inputs(self) -> list[int]:
        """The values that the operation reads."""
        return [ref.index for ref in leaves((self.args, self.kwargs), Ref)]


@dataclass
class Trace:
    """Operations in the order of their execution."""

    operations: list[Operation] = field(default_factory=list)
    parameters: dict[int, str] = field(default_factory=dict)  # value -> name
    constants: dict[int, Tensor] = field(default_factory=dict)  # parameters as they were
    producers: dict[int, Operation] = field(default_factory=dict)  # value -> operation
    dependent: set[int] = field(default_factory=set)  # values that depend on the input
    shapes: dict[int, torch.Size] = field(default_factory=dict)
    values: int = 0

    def new_value(self) -> int:
        self.values += 1
        return self.values - 1


def leaves(tree: Any, kind: type) -> Iterator[Any]:
    """All objects of a kind in nested containers."""
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from leaves(item, kind)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from leaves(item, kind)


def tree_map(function: Callable[[Any], Any], tree: Any, kind: type) -> Any:
    """The containers with function(leaf) in the place of each object of a kind."""
    if isinstance(tree, kind):
        return function(tree)
    if type(tree) in (list, tuple):
        return type(tree)(tree_map(function, item, kind) for item in tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(tree_map(function, item, kind) for item in tree))
    if type(tree) is dict:
        return {key: tree_map(function, item, kind) for key, item in tree.items()}
    return tree

