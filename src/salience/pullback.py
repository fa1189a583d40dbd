"""Relevance handed back by an input-layer rule, from the input layer to the input itself.

A network may normalise, pad or reshape its input before the first contraction. Relevance passes
such operations one to one, and the bounds of the z^B rule have to be seen through them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from salience.errors import NotApplicable
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
            raise NotApplicable(
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
    chain = _chain(trace, index)
    values = {0: x.detach()}
    for operation, operand in reversed(chain):
        values[operation.outputs[0]] = _run(trace, operation, operand, values[operand])
    for operation, operand in chain:
        if operation.name in _ELEMENTWISE:
            relevance = relevance.sum_to_size(trace.shapes[operand])
        else:
            run = partial(_run, trace, operation, operand)
            relevance = _share(run, values[operand], relevance)
    return relevance


def _share(function: Callable[[Tensor], Tensor], a: Tensor, relevance: Tensor) -> Tensor:
    """R_i = sum_j J_ji / (sum_i' J_ji') R_j, J the derivative of a piecewise linear function."""
    with torch.enable_grad():
        leaf = a.detach().requires_grad_()
        moved = function(leaf)
        probe = torch.zeros_like(moved).requires_grad_()
        (pulled,) = torch.autograd.grad(moved, leaf, probe, create_graph=True)
    (total,) = torch.autograd.grad(pulled, probe, torch.ones_like(pulled))
    share = torch.where(total == 0, 0, relevance / torch.where(total == 0, 1, total))
    return torch.autograd.grad(moved, leaf, share)[0]


def bounds_at(trace: Trace, index: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds of the input as bounds of a value: monotone operations, by their two ends."""
    for operation, operand in reversed(_chain(trace, index)):
        ends = [_run(trace, operation, operand, end) for end in (low, high)]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
    return low, high
