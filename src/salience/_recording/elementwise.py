"""Which values are element-wise functions of one other value, however these are spelled.

x * sigmoid(x) is SiLU, whatever its parts are called: what depends on a single value element by
element is one element-wise function of it. `Elements` knows, for every value made element by
element, the nearest value that all of it is made of (its dominator), and so the value that a whole
spelled-out function starts from (its root).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from salience._operations import kinds
from salience._recording.trace import Operation, Ref, Trace, every, tree_map

_HOLDS = "_salience_made_of"  # on tensors: what they are made of, alive as long as they are


class Elements:
    """The element-wise functions of one pass."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._depth: dict[int, int] = {}
        self._tensors: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self._halves: set[int] = set()  # what the first half of a ReLU with an upper bound makes
        self._at_zero: dict[
            tuple[int, torch.device], dict[int, Tensor]
        ] = {}  # root -> what each value is at root = 0

    def follow(self, operation: Operation, operands: Mapping[int, Tensor], result: object) -> None:
        """Note what the result of an element-wise call is made of.

        operands  those that depend on the input, by their values
        """
        dominator = self._dominator(operation, operands, result)
        if dominator is None or not isinstance(result, Tensor):
            self._let_go(operands)
            return
        (value,) = operation.outputs
        self._trace.dominators[value] = dominator
        self._depth[value] = self._depth.get(dominator, 0) + 1
        self._tensors.update(operands)
        self._tensors[value] = result
        setattr(result, _HOLDS, list(operands.values()))

    def _dominator(
        self, operation: Operation, operands: Mapping[int, Tensor], result: object
    ) -> int | None:
        """The value that the result of a call is made of element by element."""
        known = kinds.of(operation.name)
        if operation.kind == "detached" or not known.elementwise or not operands:
            return None
        if known.shifts and is_affine(operation, self._trace.dependent):  # a linear map's bias
            return None
        shapes = {tensor.shape for tensor in operands.values()}
        if not isinstance(result, Tensor) or shapes != {result.shape}:
            return None
        return self._common(list(operands))

    def _let_go(self, operands: Mapping[int, Tensor]) -> None:
        """Forget the inputs of ReLUs, which no rule needs, when their outputs are used up."""
        for value, tensor in operands.items():
            if value in self._trace.dominators and self._trace.producers[value].kind == "relu":
                vars(tensor).pop(_HOLDS, None)

    def _common(self, values: list[int]) -> int | None:
        """The nearest value that all of these are made of, or are."""
        found = values[0]
        for other in values[1:]:
            while found != other:
                deeper = self._depth.get(found, 0) >= self._depth.get(other, 0)
                above = self._trace.dominators.get(found if deeper else other)
                if above is None:
                    return None
                found, other = (above, other) if deeper else (found, above)
        return found

    def stand_for(self, value: int, tensor: Tensor, begin: Tensor) -> None:
        """Let a tensor be a value that was made of `begin`."""
        setattr(tensor, _HOLDS, [begin])
        self._tensors[value] = tensor

    def root(self, operation: Operation) -> tuple[int, Tensor, str, bool] | None:
        """Where a function ends at this call that rules for single calls would not treat as one.

        Returns the value that it starts from, its tensor, its kind, and whether it may not be 0 at
        0; None for a call that its own kind says all about.
        """
        value, trace = operation.outputs[0], self._trace
        root = trace.dominators.get(value)
        if root is None:
            return None
        is_bounded = self._is_bounded_relu(operation, root)
        if is_bounded:
            self._halves.add(root)
        elif operation.kind == "relu":
            return None
        while root in trace.dominators and (root in self._halves or not self._is_end(root)):
            root = trace.dominators[root]
        begin = self._tensors.get(root)
        if begin is None or not begin.is_floating_point():
            return None
        operations = list(slice_of(trace, value, root))
        is_one = is_bounded or _is_one(operations, trace.dependent)
        if not is_one and not _scales_one(operations, root):
            return None
        zero = self._at(0.0, value, root, begin)
        if zero is None or not bool(zero.isfinite().all()):
            return None
        kind = self._kind(value, root, begin, operations)
        if (
            kind == "activation"
            and _adds_relus(operations)
            and self._is_0_below_0(value, root, begin)
        ):
            return None  # a multiple of one ReLU: each of them has its rule
        if not is_one and kind == "activation":  # of (x + |x|) / 2, only the whole is a ReLU
            return None
        return root, begin, kind, bool((zero != 0).any())

    def softmax(self, operation: Operation) -> tuple[int, Tensor, str, bool] | None:
        """What `root` tells of a softmax: exp(x) / sum exp(x), or exp(x) (1 / sum exp(x))."""
        if operation.kind != "division":
            return None
        made = {n: self._trace.producers.get(n) for n in operation.inputs()}
        for value, maker in made.items():
            if maker is not None and maker.name == "exp" and self._divides_by_sum(operation, value):
                root = maker.inputs()[0] if maker.root is None else maker.root
                begin = self._tensors.get(root)
                return None if begin is None else (root, begin, "softmax", False)
        return None

    def _divides_by_sum(self, operation: Operation, value: int) -> bool:
        """Whether a quotient is of a value and a sum of its entries."""
        producers = self._trace.producers
        others = [n for n in operation.inputs() if n != value]
        while len(others) == 1 and (maker := producers.get(others[0])) is not None:
            if maker.name == "sum":
                return maker.inputs() == [value]
            if maker.kind not in ("reciprocal", "structural"):  # 1 / s is a number times 1 / s
                return False
            others = maker.inputs()
        return False

    def _is_bounded_relu(self, operation: Operation, before: int) -> bool:
        """Whether a call and the one before it are the two halves of min(max(x, 0), bound)."""
        root = self._trace.dominators.get(before)
        begin = None if root is None else self._tensors.get(root)
        if root is None or begin is None:
            return False
        inner = self._trace.producers[before]
        halves = (operation, inner)
        if not all(kinds.of(half.name).bound for half in halves):
            return False
        if all(half.kind != "relu" for half in halves):
            return False
        return self._kind(operation.outputs[0], root, begin, [operation, inner]) == "bounded_relu"

    def _is_end(self, value: int) -> bool:
        """Whether rules treat what made a value by itself: a ReLU, or a constant per channel."""
        operation = self._trace.producers[value]
        return operation.kind == "relu" or is_affine(operation, self._trace.dependent)

    def _kind(self, value: int, root: int, begin: Tensor, operations: list[Operation]) -> str:
        """The kind of a spelled-out function: what it does says whether it is a ReLU."""
        if not any(kinds.of(operation.name).kinked for operation in operations):
            return "activation"
        probe = torch.tensor(_PROBE, dtype=begin.dtype)
        y = self._at(probe, value, root, begin)
        if y is None or y.shape != probe.shape or not bool(y[-1] > 0):
            return "activation"
        if not torch.equal(y, probe.clamp(0, y[-1].item())):
            return "activation"
        return "relu" if y[-1] == probe[-1] else "bounded_relu"

    def _is_0_below_0(self, value: int, root: int, begin: Tensor) -> bool:
        probe = torch.tensor(_PROBE, dtype=begin.dtype)
        y = self._at(probe, value, root, begin)
        return y is not None and y.shape == probe.shape and not bool(y[probe < 0].any())

    def _at(self, x: Tensor | float, value: int, root: int, begin: Tensor) -> Tensor | None:
        """f(x), on the host where no constant of f lies elsewhere; what f(0) is made of is kept."""
        for device in dict.fromkeys((torch.device("cpu"), begin.device)):
            given = {root: torch.as_tensor(x, dtype=begin.dtype, device=device)}
            if isinstance(x, float):
                given = self._at_zero.setdefault((root, device), given)
            try:
                with torch.no_grad():
                    return evaluate(self._trace, value, given)
            except (RuntimeError, IndexError):  # constants of another device, or of many entries
                continue
        return None


_PROBE = (-1e4, -37.5, -2.5, -1.0, -0.25, -(2**-10), 0.0, 2**-10, 0.25, 1.0, 2.5, 37.5, 1e4)


def is_affine(operation: Operation, dependent: set[int]) -> bool:
    """Whether a call shifts or scales by constants of several entries, or by parameters."""
    if not kinds.of(operation.name).shifts_or_scales or operation.kind not in _PLAIN:
        return False
    constants = [arg for arg in operation.args if isinstance(arg, Tensor)]
    inputs = set(operation.inputs())
    is_one = len(inputs & dependent) == 1
    return is_one and (any(c.ndim > 0 for c in constants) or not inputs <= dependent)


_PLAIN = ("structural", "affine")


def slice_of(trace: Trace, value: int, root: int) -> Iterator[Operation]:
    """The operations between a root and a value, the last one first."""
    queue, seen = [value], {root}
    while queue:
        value = queue.pop()
        if value in seen or value not in trace.dependent:
            continue
        seen.add(value)
        operation = trace.producers[value]
        yield operation
        queue.extend(operation.inputs())


def _is_one(operations: list[Operation], dependent: set[int]) -> bool:
    """Whether operations are one function that rules for each of them would not treat as such.

    The rules for a chain of calls multiply (f(u) - f(0)) / u for each; that is the whole's unless
    a call inside gives something else than 0 at 0, or two paths meet. The root of a variance and
    its reciprocal are parts of a normalisation, not a function by themselves.
    """
    last, *inner = operations
    if all(_is_straight(operation) for operation in operations):
        return False
    if len(dependent.intersection(last.inputs())) > 1:
        return True
    if last.kind in ("other", "smooth", "product"):  # of a value with itself
        return True
    if _is_straight(last) or all(_keeps_zero(operation) for operation in inner):
        return False
    bent = [operation for operation in inner if not _is_straight(operation)]
    return last.kind != "reciprocal" or not all(kinds.of(part.name).root for part in bent)


def _scales_one(operations: list[Operation], root: int) -> bool:
    """Whether a spelled-out function is shifted or scaled."""
    return len(operations) > 1 and _is_straight(operations[0]) and operations[1].root == root


def _adds_relus(operations: list[Operation]) -> bool:
    bent = [operation for operation in operations if not _is_straight(operation)]
    return _is_straight(operations[0]) and all(operation.kind == "relu" for operation in bent)


def _is_straight(operation: Operation) -> bool:
    return kinds.of(operation.name).straight and operation.kind in _PLAIN


def _keeps_zero(operation: Operation) -> bool:
    """Whether a call gives 0 at 0, whatever its constants are."""
    known = kinds.of(operation.name)
    scales = _is_straight(operation) and not known.shifts
    return scales or operation.kind == "relu" or known.zero


def function_of(
    trace: Trace, value: int, root: int, parameters: Mapping[int, Tensor], x: Tensor
) -> Tensor:
    """A value as a function of the root that it is made of."""
    return evaluate(trace, value, {**parameters, root: x})


def evaluate(trace: Trace, value: int, given: dict[int, Tensor]) -> Tensor:
    """A value, from others that it is made of; what lies between is kept in `given`."""

    def resolve(ref: Ref) -> Tensor:
        known = trace.constants.get(ref.index)
        if ref.index in given or known is None:
            return evaluate(trace, ref.index, given)
        return known

    if value not in given:
        operation = trace.producers[value]
        args, kwargs = tree_map(resolve, (operation.args, operation.kwargs), Ref)
        result = every(operation.function(*args, **kwargs), Tensor)
        given[value] = result[operation.picks[operation.outputs.index(value)]]
    return given[value]
