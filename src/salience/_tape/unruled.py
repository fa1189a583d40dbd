"""What operations that have no site of their own do not hand on, by plain autograd.

Reshapes, sums and pools hand on all of their relevance; a constant that is added keeps its share,
and what is not homogeneous (a softmax, a logarithm) gives or takes some.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor

from salience._names import BIASES
from salience._operations import kinds
from salience._recording.linear_sites import AffineSite, LinearSite
from salience._recording.nonlinear_sites import ElementSite
from salience._recording.recording import Recording
from salience._recording.trace import Operation, Ref, every, tree_map

Values = dict[int, Tensor]


def losses(recording: Recording, ms: Mapping[int, Tensor | None]) -> Iterator[tuple[str, Tensor]]:
    """The parts of sum R - sum R_in by name, entry by entry, of operations without a site.

    ms  what flows back to the values that they made
    """
    trace, graded = recording.trace, _graded(recording)
    reached = [
        operation
        for operation in trace.operations
        if any(ms.get(value) is not None for value in operation.outputs)
        and _may_keep(operation, graded)
    ]
    values = _values(recording, {i for op in reached for i in _read(op, graded)})
    for operation in reached:
        found = {value: m for value in operation.outputs if (m := ms.get(value)) is not None}
        if _adds(operation):
            like = next(iter(found.values()))
            zeros = {i: like.new_zeros(trace.shapes[i]) for i in graded & set(operation.inputs())}
            made = _run(operation, (values | zeros).__getitem__)
            yield from ((BIASES, dot(made[value], m)) for value, m in found.items())
        else:
            yield from _difference(operation, found, values, graded)


def dot(a: Tensor, m: Tensor) -> Tensor:
    """a m, entry by entry, 0 where nothing flows; of complex numbers its real part."""
    product = (a * m.conj()).real if a.is_complex() or m.is_complex() else a * m
    return torch.where(m == 0, 0, product)


def name_of(operation: Operation) -> str:
    """The kind of an operation; of one without a kind its name."""
    named = operation.kind in ("other", "smooth")
    return operation.name.strip("_") if named else operation.kind


def _graded(recording: Recording) -> set[int]:
    """The values that relevance flows to."""
    assert recording.edges is not None
    made = {v for op in recording.trace.operations if op.site is not None for v in op.outputs}
    return made | set(recording.edges) | {leaf.value for leaf in recording.leaves}


def _may_keep(operation: Operation, graded: Collection[int]) -> bool:
    """Whether an operation may not be homogeneous in what relevance flows to."""
    known = kinds.of(operation.name)
    if operation.kind != "structural" or known.fills:
        return True
    constant = _has_constants(operation, graded)
    if known.shifts:
        return constant or sum(i in graded for i in operation.inputs()) < 2
    return constant and not known.scales


def _has_constants(operation: Operation, graded: Collection[int]) -> bool:
    """Whether it reads floating-point numbers to which no relevance flows."""
    held = every((operation.args, operation.kwargs), Tensor)
    return any(t.is_floating_point() for t in held) or any(
        i not in graded for i in operation.inputs()
    )


def _adds(operation: Operation) -> bool:
    """Whether all that it may keep is what it gives where its operands are 0."""
    return operation.kind == "structural" and operation.name != "as_strided_scatter"


def _read(operation: Operation, graded: Collection[int]) -> set[int]:
    """The values that have to be known."""
    return {i for i in operation.inputs() if not (_adds(operation) and i in graded)}


def _run(operation: Operation, resolve: Callable[[int], Tensor]) -> Values:
    """The values that an operation makes."""
    args, kwargs = tree_map(lambda ref: resolve(ref.index), (operation.args, operation.kwargs), Ref)
    results = every(operation.function(*args, **kwargs), Tensor)
    pairs = zip(operation.outputs, operation.picks, strict=True)
    return {value: results[pick] for value, pick in pairs}


def _values(recording: Recording, wanted: Collection[int]) -> Values:
    """Values of the pass, made again from the nearest ones that its sites kept."""
    trace = recording.trace
    given = {leaf.value: leaf.tensor.detach() for leaf in recording.leaves} | trace.constants
    queue, needed = list(wanted), set()
    while queue:
        value = queue.pop()
        if value in given or value in needed:
            continue
        operation = trace.producers[value]
        kept = _kept(operation)
        if kept is not None:
            given[value] = kept
            continue
        needed.add(value)
        queue.extend(operation.inputs())
    for operation in trace.operations:
        if not needed.isdisjoint(operation.outputs):
            given.update(_run(operation, given.__getitem__))
    return given


def _kept(operation: Operation) -> Tensor | None:
    """The result of an operation, where its site has it."""
    site = operation.site
    if isinstance(site, ElementSite):
        return site.y
    return site.kept if isinstance(site, LinearSite | AffineSite) else None


def _difference(
    operation: Operation, ms: Mapping[int, Tensor], values: Values, graded: Collection[int]
) -> Iterator[tuple[str, Tensor]]:
    """R and -R_in of an operation, by its gradient at the values of the pass."""
    name = BIASES if operation.kind == "structural" else name_of(operation)
    read = [i for i in dict.fromkeys(operation.inputs()) if i in graded]
    begins = {i: values[i].detach().requires_grad_() for i in read}
    with torch.enable_grad():
        made = _run(operation, lambda i: begins.get(i, values[i]))
    ends = {value: m for value, m in ms.items() if made[value].requires_grad}
    parts = torch.autograd.grad(
        [made[value] for value in ends],
        list(begins.values()),
        list(ends.values()),
        allow_unused=True,
    )
    for value, m in ms.items():
        yield name, dot(made[value].detach(), m)
    for begin, part in zip(begins.values(), parts, strict=True):
        if part is not None:
            yield name, -dot(begin.detach(), part)
