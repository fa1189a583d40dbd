"""What a method does with every operation of a tape."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from salience._errors import printable
from salience._recording.trace import Operation, Ref, Trace, every
from salience._tables import html_table, text_table
from salience.rules._table import Method

NOT_COVERED = "not covered"
HELD = "held constant"  # nothing of the map passes here: divisors under relevance methods


class CoverageRow(NamedTuple):
    """How a method treats one kind of call on a tape."""

    operation: str
    kind: str
    calls: int
    treatment: str  # the rule's name, "autograd", "held constant" or "not covered"


class Coverage(list[CoverageRow]):
    """What a method does with every operation of a tape, in the order of first execution.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GELU()).eval()
    >>> salience.record(net, torch.ones(1, 3)).coverage("guided_backprop")
    operation  kind        calls  treatment
    linear     linear      1      autograd
    gelu       activation  1      not covered
    """

    @property
    def uncovered(self) -> list[str]:
        """The names of operations that the method has no answer for."""
        return [row.operation for row in self if row.treatment == NOT_COVERED]

    def __repr__(self) -> str:
        return text_table(CoverageRow._fields, self._rows())

    def _repr_html_(self) -> str:
        return html_table(CoverageRow._fields, self._rows())

    def _rows(self) -> list[list[str]]:
        return [[printable(str(cell)) for cell in row] for row in self]


def coverage_of(trace: Trace, method: Method) -> Coverage:
    """How the method treats every operation between the input and the explained output."""
    if trace.opaque or trace.output is None:  # an unseen function may have read anything
        reached = passed = {id(op) for op in trace.operations if op.depends}
    else:
        reached, passed = _upstream(trace, None), _upstream(trace, method)
    counts: Counter[tuple[str, str, str]] = Counter()
    for operation in trace.operations:
        if operation.depends and id(operation) in reached:
            known = method.treatment(operation.kind) or NOT_COVERED
            treatment = known if id(operation) in passed else HELD
            counts[operation.name, operation.kind, treatment] += 1
    return Coverage(
        CoverageRow(name, kind, calls, treatment)
        for (name, kind, treatment), calls in counts.items()
    )


def _upstream(trace: Trace, method: Method | None) -> set[int]:
    """Operations that the output depends on; those that a method's maps pass through."""
    seen: set[int] = set()
    assert trace.output is not None
    values = [trace.output]
    while values:
        operation = trace.producers.get(values.pop())
        if operation is None or id(operation) in seen or not operation.depends:
            continue
        seen.add(id(operation))
        values.extend(_followed(operation, method))
    return seen


def _followed(operation: Operation, method: Method | None) -> list[int]:
    if operation.root is not None:  # whose parts are no operations of their own
        return [operation.root]
    if method is None or operation.kind not in method.rules or not operation.shares:
        return operation.inputs()
    held = [i for i, has in zip(operation.operands, operation.shares, strict=True) if not has]
    passing = [arg for i, arg in enumerate(operation.args) if i not in held]
    return [ref.index for ref in every((passing, operation.kwargs), Ref)]
