"""Relevance handed back by an input-layer rule, from the input layer to the input itself.

A network may normalise, pad or reshape its input before the first contraction. Relevance passes
such operations one to one, and the bounds of the z^B rule have to be seen through them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from salience.errors import SalienceError
from salience.trace import Operation, Ref, Trace, tree_map

_ELEMENTWISE = frozenset("add sub rsub mul div neg multiply divide subtract batch_norm".split())


def _chain(trace: Trace, index: int) -> list[tuple[Operation, int]]:
    """The operations between the input (value 0) and a value, last first, with their operands."""
    chain = []
    while index != 0:
        operation = trace.producers[index]
        operands = {i for i in operation.inputs() if i in trace.dependent}
        known = operation.kind in ("structural", "batch_norm")
        if len(operands) != 1 or not known or len(operation.outputs) != 1:
            raise SalienceError(
                f"expected reshapes, shifts and scalings between the input and the input layer; "
                f"got {operation.name!r}. Use a method without an input-layer rule, such as "
                f"'excitation_backprop' or 'lrp_epsilon'."
            )
        (operand,) = operands
        chain.append((operation, operand))
        index = operand
    return chain


def _run(trace: Trace, operation: Operation, operand: int, value: Tensor) -> Tensor:
    def resolve(ref: Ref) -> Tensor:
        return value if ref.index == operand else trace.constants[ref.index]

    args, kwargs = tree_map(resolve, (operation.args, operation.kwargs), Ref)
    return operation.function(*args, **kwargs)


def to_input(trace: Trace, index: int, relevance: Tensor, x: Tensor) -> Tensor:
    """Relevance at a value (an input layer's activation) as relevance of the input x."""
    for operation, operand in _chain(trace, index):
        if operation.name in _ELEMENTWISE:
            relevance = relevance.reshape(trace.shapes[operand])
            continue
        with torch.enable_grad():
            leaf = x.new_zeros(trace.shapes[operand]).requires_grad_()
            moved = _run(trace, operation, operand, leaf)
        (relevance,) = torch.autograd.grad(moved, leaf, relevance)
    return relevance


def bounds_at(trace: Trace, index: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds of the input as bounds of a value: monotone operations, by their two ends."""
    for operation, operand in reversed(_chain(trace, index)):
        ends = [_run(trace, operation, operand, end) for end in (low, high)]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
    return low, high
