"""Relevance handed back by an input-layer rule, from the input layer to the input itself.

A network may normalise, pad or reshape its input before the first contraction. Relevance passes
such operations one to one, and the bounds of the z^B rule have to be seen through them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from salience._errors import NotApplicable
from salience._operations import kinds
from salience._recording.trace import Operation, Ref, Trace, every, tree_map


def to_inputs(
    trace: Trace, index: int, relevance: Tensor, inputs: Mapping[int, Tensor]
) -> dict[int, Tensor]:
    """Relevance at a value (an input layer's activation) as relevance of inputs, by their value."""
    between = _between(trace, index, inputs)
    values = _forward(trace, between, {value: x.detach() for value, x in inputs.items()})
    found = {index: relevance}
    for made in reversed(between):
        part, operation = found.pop(made), trace.producers[made]
        operands = _operands(trace, operation)
        if kinds.of(operation.name).step is not None:
            shares: Sequence[Tensor] = [part.sum_to_size(trace.shapes[operands[0]])]
        else:
            shares = _shares(trace, made, {i: values[i] for i in operands}, part)
        for operand, share in zip(operands, shares, strict=True):
            found[operand] = found[operand] + share if operand in found else share
    return found


def bounds_at(
    trace: Trace, index: int, low: Mapping[int, Tensor], high: Mapping[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """The bounds of the inputs as bounds of a value: monotone operations, by their two ends."""
    lows, highs = dict(low), dict(high)
    for made in _between(trace, index, low):
        ends = [_run(trace, made, values) for values in (lows, highs)]
        lows[made], highs[made] = torch.minimum(*ends), torch.maximum(*ends)
    return lows[index], highs[index]


def _operands(trace: Trace, operation: Operation) -> list[int]:
    return list(dict.fromkeys(i for i in operation.inputs() if i in trace.dependent))


def _between(trace: Trace, index: int, inputs: Mapping[int, object]) -> list[int]:
    """The values between inputs and a value, itself included, in the order they were made in."""
    queue, found = [index], set()
    while queue:
        value = queue.pop()
        if value in inputs or value in found:
            continue
        operation = trace.producers[value]
        operands = _operands(trace, operation)
        joined = len(operands) > 1 and kinds.of(operation.name).step is not None
        if operation.kind not in ("structural", "batch_norm", "affine") or not operands or joined:
            raise _refused(operation)
        found.add(value)
        queue.extend(operands)
    return sorted(found)


def _refused(operation: Operation) -> NotApplicable:
    return NotApplicable(
        f"expected reshapes, shifts and scalings between the input and the input layer; "
        f"got {operation.name!r}. Use a method without an input-layer rule, such as "
        f"'excitation_backprop' or 'lrp_epsilon'."
    )


def _forward(trace: Trace, made: Sequence[int], values: dict[int, Tensor]) -> dict[int, Tensor]:
    for value in made:
        values[value] = _run(trace, value, values)
    return values


def _run(trace: Trace, made: int, values: Mapping[int, Tensor]) -> Tensor:
    """One of the values that an operation makes, for other operands."""
    operation = trace.producers[made]

    def resolve(ref: Ref) -> Tensor:
        if ref.index in values:
            return values[ref.index]
        known = trace.constants.get(ref.index)
        if known is None and ref.index not in trace.producers:  # chosen by an input
            raise _refused(operation)
        return _run(trace, ref.index, {}) if known is None else known  # made of parameters alone

    args, kwargs = tree_map(resolve, (operation.args, operation.kwargs), Ref)
    results = every(operation.function(*args, **kwargs), Tensor)
    result = results[operation.picks[operation.outputs.index(made)]]
    if not result.is_floating_point():
        raise _refused(operation)
    return result


def _shares(
    trace: Trace, made: int, operands: Mapping[int, Tensor], relevance: Tensor
) -> Sequence[Tensor]:
    """R_i = sum_j J_ji / (sum_i' J_ji') R_j, J the derivative of a piecewise linear function."""
    with torch.enable_grad():
        begins = {i: a.detach().requires_grad_() for i, a in operands.items()}
        moved = _run(trace, made, begins)
        probe = torch.zeros_like(moved).requires_grad_()
        pulled = torch.autograd.grad(moved, list(begins.values()), probe, create_graph=True)
    ones = [torch.ones_like(part) for part in pulled]
    (total,) = torch.autograd.grad(pulled, probe, ones)
    share = torch.where(total == 0, 0, relevance / torch.where(total == 0, 1, total))
    return torch.autograd.grad(moved, list(begins.values()), share)
