"""What a recorded call is: its kind, and which of its operands a rule gets."""

from __future__ import annotations

from math import isinf

import torch
from torch import Tensor

from salience._operations import kinds
from salience._operations.calls import Arguments, Keywords, Question
from salience._operations.operands import layer_kind, linear_slots
from salience._recording.linear_maps import Layer
from salience._recording.trace import Operation, every

# kinds whose site reads the first argument alone
_OF_ONE = frozenset("batch_norm relu bounded_relu activation normalization".split())


def classify(operation: Operation, depends: Question, is_reciprocal: Question) -> None:
    """Fill in the kind, slots, operands and shares of a call that depends on the input."""
    name, args, kwargs = operation.name, operation.args, operation.kwargs
    if not torch.is_grad_enabled():
        operation.kind = "detached"
    elif _has_gates(name, args, kwargs, depends):
        operation.kind = "other"
    elif (slots := linear_slots(name, depends, args)) is not None:
        operation.slots = slots
        operation.kind, operation.operands = "linear", (slots.activation,)
    else:
        operation.kind = kinds.kind_of(name, args, kwargs, depends)
        places = tuple(i for i, arg in enumerate(args) if depends(arg))
        if operation.kind in ("product", "division"):
            _share(operation, places, depends, is_reciprocal)
        elif operation.kind == "attention":  # half to the softmax, so a quarter to q and k
            operation.operands, operation.shares = places, (0.25, 0.25, 0.5)
        elif operation.kind in _OF_ONE and kinds.of(name).of_two:
            operation.operands = places  # either of them
        elif operation.kind in _OF_ONE and (places != (0,) or depends(kwargs)):
            operation.kind = "other"


def _has_gates(name: str, args: Arguments, kwargs: Keywords, depends: Question) -> bool:
    """Whether truth values or whole numbers made of the input decide, or complex numbers do.

    Indices into something that depends on the input, and divisors, decide nothing of their own.
    """
    known = kinds.of(name)
    if known.step == "div" and isinstance(args[0], Tensor) and args[0].is_floating_point():
        args = args[:1]
    given = [t for t in every((args, kwargs), Tensor) if depends(t)]
    floating = [t.is_floating_point() for t in given]
    if all(floating):
        return False
    complex_too = all(t.is_floating_point() or t.is_complex() for t in given)
    if complex_too and known.kind == "structural":  # autograd is the proportional rule there too
        return False
    whole = not any(t.dtype == torch.bool or t.is_complex() for t in given)
    return not (whole and known.indexing and any(floating))


def selects(name: str, args: Arguments, kwargs: Keywords, depends: Question) -> bool:
    """Whether the input only chooses rows of a table that does not depend on it, as a router does
    of experts' weights: what is chosen is a constant of the pass, or a gate (`gates`)."""
    if not kinds.of(name).selects:
        return False
    tensors = every((args, kwargs), Tensor)
    tables = [t for t in tensors if t.is_floating_point()]
    given = [t for t in tensors if depends(t)]
    whole = not any(t.is_floating_point() or t.is_complex() or t.dtype == torch.bool for t in given)
    return bool(tables) and whole


def asks_finiteness(name: str, args: Arguments) -> bool:
    """Whether a call asks which values are infinite or no numbers: that gates no finite value."""
    known = kinds.of(name)
    if known.equality:
        return any(isinstance(arg, float) and isinf(arg) for arg in args)
    return known.finiteness


def gates(operation: Operation) -> bool:
    """Whether what the input chose decides more than a map's weights or a summand."""
    scales = operation.kind == "structural" and kinds.of(operation.name).scales
    return scales or operation.kind not in ("structural", "linear", "detached")


def _share(
    operation: Operation, places: tuple[int, ...], depends: Question, is_reciprocal: Question
) -> None:
    """Which factors of a product hand relevance on: reciprocals and divisors do not."""
    args = operation.args
    if depends(operation.kwargs) or not all(isinstance(args[i], Tensor) for i in places):
        operation.kind = "other"
        return
    places = tuple(i for i in places if args[i].requires_grad)
    held = [is_reciprocal(args[i]) for i in places]
    if operation.kind == "division":
        held = [i > 0 for i in places]
    elif all(held):
        held = [False] * len(places)
    elif any(held):
        operation.kind = "division"
    part = 1 / max(1, len(held) - sum(held))
    operation.operands, operation.shares = places, tuple(0.0 if h else part for h in held)


def stays_reciprocal(operation: Operation, depends: Question, is_reciprocal: Question) -> bool:
    """Whether a call makes 1 / b, or hands one on."""
    if operation.kind == "reciprocal":
        return True
    product = operation.kind in ("product", "division")
    if not product and not kinds.of(operation.name).reciprocal:
        return False
    tensors = every((operation.args, operation.kwargs), Tensor)
    return all(is_reciprocal(t) for t in tensors if depends(t))


def weight_of(operation: Operation) -> Tensor:
    """The weight of a linear map or BatchNorm."""
    return operation.args[1 if operation.slots is None else operation.slots.weight]


def layer_of(operation: Operation, name: str, first: bool, number: int) -> Layer:
    """Where a linear map stands in the network; name: of its weight."""
    is_contraction = operation.slots is not None
    kind = layer_kind(operation.name) if is_contraction else operation.kind
    return Layer(name, kind, first and is_contraction, number)
