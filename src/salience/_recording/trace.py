"""The trace of a pass: its operations as pure functions of numbered values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from salience._operations import kinds
from salience._operations.calls import Arguments, Function, Keywords
from salience._operations.contractions import Slots, channel_dims, fold_scale, form_of
from salience._recording.hinge import Ruled, Walk
from salience._recording.linear_maps import Weights
from salience._recording.linear_sites import AffineSite, LinearSite
from salience._recording.nonlinear_sites import ElementSite, JointSite, NormSite

T = TypeVar("T")
Site = LinearSite | AffineSite | ElementSite | JointSite | NormSite


@dataclass(frozen=True)
class Ref:
    """A value of the trace, where an argument was."""

    index: int


@dataclass
class Operation:
    """One recorded call: a pure function, also where the user's code wrote in place."""

    name: str
    kind: str
    function: Function
    args: Arguments
    kwargs: Keywords
    outputs: tuple[int, ...]
    picks: tuple[int, ...]  # which tensors of the result the outputs are
    depends: bool  # on the input, not on parameters alone
    slots: Slots | None = None  # the operands of a linear map
    operands: tuple[int, ...] = (0,)  # the arguments that a site hands to its rule
    shares: tuple[float, ...] = ()  # of the factors of a product in its relevance; 0: held constant
    site: Site | None = None
    root: int | None = None  # the value that a spelled-out function of this call starts from

    def inputs(self) -> list[int]:
        """The values that the operation reads."""
        return [ref.index for ref in every((self.args, self.kwargs), Ref)]


@dataclass
class Trace:
    """Operations in the order of their execution."""

    operations: list[Operation] = field(default_factory=list)
    parameters: dict[int, str] = field(default_factory=dict)  # value -> name
    constants: dict[int, Tensor] = field(default_factory=dict)  # parameters as they were
    producers: dict[int, Operation] = field(default_factory=dict)  # value -> operation
    dependent: set[int] = field(default_factory=set)  # values that depend on the input
    dominators: dict[int, int] = field(default_factory=dict)  # see `elementwise`
    shapes: dict[int, torch.Size] = field(default_factory=dict)
    values: int = 0
    output: int | None = None  # the value that is explained
    opaque: bool = False  # some function was not seen
    branches: bool = False  # numbers were read from values: other values may take other paths

    def new_value(self) -> int:
        self.values += 1
        return self.values - 1


def every(tree: object, kind: type[T]) -> list[T]:
    """All objects of a kind in nested containers."""
    found: list[T] = []
    _collect((tree,), kind, found)
    return found


def _collect(items: Iterable[object], kind: type[T], found: list[T]) -> None:
    for item in items:  # most are numbers: no call for each of them
        if isinstance(item, kind):
            found.append(item)
        elif isinstance(item, list | tuple):
            _collect(item, kind, found)
        elif isinstance(item, dict):  # and the dict-like outputs of model libraries
            _collect(item.values(), kind, found)


def tree_map(function: Callable[[T], object], tree: Any, kind: type[T]) -> Any:
    """The containers with function(leaf) in the place of each object of a kind."""
    if isinstance(tree, kind):
        return function(tree)
    if type(tree) in (list, tuple):
        return type(tree)(
            [item if type(item) in _ATOMS else tree_map(function, item, kind) for item in tree]
        )
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(tree_map(function, item, kind) for item in tree))
    if type(tree) is dict:
        return {key: tree_map(function, item, kind) for key, item in tree.items()}
    return tree


_ATOMS = frozenset((int, float, bool, str, type(None)))


def make_site(
    walk: Walk,
    weights: Weights,
    operation: Operation,
    args: Arguments,
    kwargs: Keywords,
    first: bool,
) -> Site | None:
    """The site of an operation whose kind rules treat, for these operands."""
    slots, known = operation.slots, kinds.of(operation.name)
    if slots is not None and known.contraction is not None:
        has_bias = slots.bias is not None and len(args) > slots.bias
        bias = args[slots.bias] if slots.bias is not None and has_bias else None
        weight = args[slots.weight]
        call = linear_call(operation.function, slots, args, kwargs)
        site = LinearSite(walk, weights, call, weight, bias, first)
        site.dense = known.contraction.form == "linear"
        site.channels = channel_dims(known.contraction, slots, args, kwargs)
        form = form_of(known.contraction, args, kwargs)
        site.fold_scale = partial(fold_scale, form, slots, weight)
        return site
    if operation.kind in ("relu", "bounded_relu", "activation"):
        keeps_input = operation.name != "relu"
        shifted = operation.kind == "activation" and not known.zero
        return ElementSite(
            walk, operation.kind, of_operands(operation, args, kwargs), keeps_input, shifted
        )
    if operation.kind in ("product", "division", "attention") and operation.operands:
        return JointSite(
            walk, operation.kind, of_operands(operation, args, kwargs), operation.shares
        )
    if operation.kind == "normalization" and known.held is not None:
        function, rest = known.held, args[1:]
        held = lambda x: function(x, *rest)  # noqa: E731
        return NormSite(walk, of_operands(operation, args, kwargs), held)
    return None


def of_operands(operation: Operation, args: Arguments, kwargs: Keywords) -> Callable[..., Tensor]:
    """The call as a function of its operands, whose graph would lead back to the site."""
    function, operands = operation.function, operation.operands
    rest = [None if i in operands else arg for i, arg in enumerate(args)]

    def call(*values: Tensor) -> Tensor:
        full = list(rest)
        for i, value in zip(operands, values, strict=True):
            full[i] = value
        return function(*full, **kwargs)

    return call


def run_operation(
    operation: Operation,
    site: Site | None,
    args: Arguments,
    kwargs: Keywords,
    root: Tensor | None = None,
) -> object:
    """The operation at these operands, through its site if it has one.

    root  what a function that is spelled out starts from
    """
    if site is None:
        return operation.function(*args, **kwargs)
    if root is not None:
        return Ruled.apply(site, root, operation.function(*args, **kwargs))
    return Ruled.apply(site, *(args[i] for i in operation.operands))


def linear_call(
    func: Callable[..., Tensor], slots: Slots, args: Arguments, kwargs: Keywords
) -> Callable[..., Tensor]:
    """(a, weight, bias) -> the call with these operands; it keeps no tensor of the call."""
    operands = (slots.activation, slots.weight, slots.bias)
    rest = [None if i in operands else arg for i, arg in enumerate(args)]

    def call(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        full = list(rest)
        full[slots.activation], full[slots.weight] = a, weight
        if slots.bias is not None and slots.bias < len(full):
            required = slots.bias == 0  # addmm cannot go without its bias
            full[slots.bias] = a.new_zeros(()) if bias is None and required else bias
        return func(*full, **kwargs)

    return call
