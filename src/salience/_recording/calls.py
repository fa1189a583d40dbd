"""Pure calls on the values of a pass: run through their sites, and put on its trace."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from salience._operations import kinds
from salience._operations.calls import Arguments, Function, Keywords
from salience._operations.operands import (
    decomposition_of,
    flattened,
    linear_slots,
    of_itself,
    positional,
)
from salience._operations.pure import under_autocast, unhooked
from salience._recording.affine import step_of, without_zeros
from salience._recording.classify import (
    asks_finiteness,
    classify,
    gates,
    layer_of,
    selects,
    stays_reciprocal,
    weight_of,
)
from salience._recording.elementwise import Elements, function_of
from salience._recording.hinge import Ruled, Walk
from salience._recording.linear_maps import Weights
from salience._recording.linear_sites import AffineSite, LinearSite
from salience._recording.nonlinear_sites import ElementSite
from salience._recording.readers import Readers
from salience._recording.trace import (
    Operation,
    Trace,
    every,
    make_site,
    of_operands,
    run_operation,
    tree_map,
)
from salience._recording.values import Values


class Calls:
    """The calls of one pass.

    seen  what makes calls inside a call come here too
    """

    def __init__(
        self, weights: Weights, keep: bool, seen: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self.trace, self.walk, self.weights = Trace(), Walk(), weights
        self.values = Values(self.trace)
        self.readers = Readers(self.trace, self.values, keep)
        self._elements, self._seen = Elements(self.trace), seen
        self.edges: dict[int, GradientEdge] = {}  # of values that no site made
        self.ungraded: set[int] = set()  # values made under no_grad
        self._contracted: set[int] = set()  # values with a contraction upstream
        self._reciprocals: set[int] = set()  # values that are 1 / b
        self._chosen: set[int] = set()  # values that the input only chose
        self.nonnegative: set[int] = set()  # values that are, by what made them
        self._layers = 0  # linear maps so far

    def apply(self, func: Function, name: str, args: Arguments, kwargs: Keywords) -> Any:
        """Run a pure call on values and put it on the trace."""
        name, func, args, kwargs = of_itself(name, func, args, kwargs)
        operands = self.operands(args, kwargs)
        if not operands:
            return func(*args, **kwargs)
        known = kinds.of(name)
        depends = self.values.depends(args[:1] if known.alone else operands)
        chosen = depends and selects(name, args, kwargs, self.values.depends)
        depends = depends and not chosen and not asks_finiteness(name, args)
        chosen = chosen or any(self.values.number(t) in self._chosen for t in operands)
        func, args = flattened(name, func, args)
        args, kwargs = positional(name, args, kwargs)
        if depends and known.parts is not None and self._has_no_kind(name, args, kwargs):
            is_linear = linear_slots(name, self.values.depends, args) is not None
            parts = decomposition_of(name, args, kwargs, is_linear)
            if parts is not None:
                with self._seen():
                    return parts(*args, **kwargs)
        device = operands[0].device.type
        if torch.is_autocast_enabled(device):
            func = under_autocast(func, device, torch.get_autocast_dtype(device))
        if known.step == "batch_norm" and len(args) > 5 and args[5]:
            args = (*args[:3], None, None, *args[5:])  # running statistics are only written
        operation = Operation(name, "weights", func, args, kwargs, (), (), depends)
        if depends:
            classify(operation, self.values.depends, self._is_reciprocal)
            if chosen and gates(operation):
                operation.kind, operation.operands, operation.shares = "other", (0,), ()
        result = self._run(operation, operands)
        return self._recorded(operation, operands, result, chosen)

    def _has_no_kind(self, name: str, args: Arguments, kwargs: Keywords) -> bool:
        return kinds.kind_of(name, args, kwargs, self.values.depends) == "other"

    def operands(self, args: Arguments, kwargs: Keywords) -> list[Tensor]:
        """The values among the arguments of a call."""
        tensors = every((args, kwargs), Tensor)
        return [t for t in tensors if self.values.number(t) is not None]

    def _recorded(
        self, operation: Operation, operands: list[Tensor], result: object, chosen: bool
    ) -> object:
        """The result of a call, whose tensors are new values."""
        tensors, depends = every(result, Tensor), operation.depends
        picks = tuple(i for i, tensor in enumerate(tensors) if self.values.number(tensor) is None)
        if not picks:  # no tensor, or one of the operands itself
            return result
        operation.picks = picks
        operation.outputs = tuple(self.values.add(tensors[i]) for i in picks)
        if depends and operation.site is None:
            self.readers.consume(operands, None)
            made = zip(operation.outputs, (tensors[i] for i in picks), strict=True)
            graded = {value: tensor for value, tensor in made if tensor.grad_fn is not None}
            self.edges.update({v: get_gradient_edge(t) for v, t in graded.items()})
        if chosen and not depends:
            self._chosen.update(operation.outputs)
        if depends and not torch.is_grad_enabled():
            self.ungraded.update(operation.outputs)
        numbers = any(tensors[i].is_floating_point() or tensors[i].is_complex() for i in picks)
        if not numbers and operation.site is None:
            operation.kind = "structural" if depends else operation.kind
        if depends and stays_reciprocal(operation, self.values.depends, self._is_reciprocal):
            self._reciprocals.update(operation.outputs)
        if depends and self._is_nonnegative(operation):
            self.nonnegative.update(operation.outputs)
        arguments = operation.args, operation.kwargs
        operation.args, operation.kwargs = tree_map(self.values.ref, arguments, Tensor)
        self.register(operation, operands)
        if depends:
            self.readers.follow(operation, [t for t in operands if self.values.depends(t)], result)
        gated = chosen and operation.kind == "other"
        return self._as_one(operation, operands, result) if depends and not gated else result

    def register(self, operation: Operation, operands: list[Tensor]) -> None:
        """Put an operation on the trace."""
        self.trace.operations.append(operation)
        self.trace.producers.update(dict.fromkeys(operation.outputs, operation))
        if operation.depends:
            self.trace.dependent.update(operation.outputs)
            upstream = any(self.values.number(t) in self._contracted for t in operands)
            if upstream or operation.kind == "linear":
                self._contracted.update(operation.outputs)

    def unseen(self, tensor: Tensor) -> None:
        """Put the result of a function that is not seen on the trace."""
        for number in self.values.read_by(tensor):
            self.readers.unseen(number)
        index = self.values.add(tensor)
        name = maker_of(tensor)
        operation = Operation(name, "opaque", _cannot_replay, (), {}, (index,), (0,), depends=True)
        self.trace.dependent.add(index)
        self._contracted.add(index)
        self.trace.operations.append(operation)
        self.trace.opaque = True

    def _as_one(self, operation: Operation, operands: list[Tensor], result: Any) -> Any:
        """The result of a call, made one with the calls before it that spell a function with it."""
        numbers = {self.values.number(t): t for t in operands}
        known = {n: t for n, t in numbers.items() if n is not None and n in self.trace.dependent}
        self._elements.follow(operation, known, result)
        found = self._elements.root(operation) or self._elements.softmax(operation)
        if found is None:
            return result
        root, begin, kind, shifted = found
        (value,) = operation.outputs
        operation.kind, operation.root, operation.shares = kind, root, ()
        function = partial(function_of, weakref.proxy(self.trace), value, root, {})
        operation.site = ElementSite(self.walk, kind, function, True, shifted)
        self.readers.consume([begin], operation.site)
        if self.readers.kept is not None:
            self.readers.kept[root] = begin
        result = Ruled.apply(operation.site, begin, result)
        self.values.stand_for(value, result)
        if kind in _RECTIFIED:
            self.nonnegative.add(value)
        self._elements.stand_for(value, result, begin)
        self._reciprocals.discard(value)
        return result

    def _is_nonnegative(self, operation: Operation) -> bool:
        """Whether what a call gives is not negative, whatever the values are."""
        known, given = kinds.of(operation.name), (operation.args, operation.kwargs)
        tensors = every(given, Tensor)
        if any(t.is_complex() for t in tensors):
            return False
        if known.nonnegative or operation.kind in _RECTIFIED:
            return True
        if not known.keeps_sign:
            return False
        if known.step is not None or known.fills:  # whose numbers are among the results
            numbers = [n for part in (given[0], given[1].values()) for n in part]
            if any(isinstance(n, int | float) and not n >= 0 for n in numbers):
                return False
        floating = [t for t in tensors if t.is_floating_point()]
        return all(self.values.number(t) in self.nonnegative for t in floating)

    def _is_reciprocal(self, tensor: object) -> bool:
        return self.values.number(tensor) in self._reciprocals

    def _run(self, operation: Operation, operands: list[Tensor]) -> object:
        first = not any(self.values.number(t) in self._contracted for t in operands)
        args, kwargs = operation.args, operation.kwargs
        operation.site = make_site(self.walk, self.weights, operation, args, kwargs, first)
        if operation.site is None and operation.depends:
            operation.site = self._affine_site(operation)
        if isinstance(operation.site, LinearSite) and operation.slots is not None:
            source = self.values.number(args[operation.slots.activation])
            operation.site.source = source or 0
            operation.site.nonnegative = source in self.nonnegative
        if isinstance(operation.site, LinearSite) or operation.kind == "batch_norm":
            assert isinstance(operation.site, LinearSite | AffineSite)
            weight = self.values.number(weight_of(operation))
            name = self.trace.parameters.get(weight, "")  # type: ignore[arg-type]
            operation.site.layer = layer_of(operation, name, first, self._layers)
            self._layers += 1
        if operation.depends and operation.site is not None:
            self.readers.consume(operands, operation.site)
        self.readers.keep(operands, operation.site)
        with unhooked():
            return run_operation(operation, operation.site, args, kwargs)

    def _affine_site(self, operation: Operation) -> AffineSite | None:
        """The site of a call that shifts or scales by constants, if that is more than a number."""
        args, kwargs = operation.args, operation.kwargs
        places = [i for i, arg in enumerate(args) if self.values.depends(arg)]
        if operation.kind not in ("structural", "batch_norm") or len(places) != 1:
            return None
        (place,) = places
        step = step_of(operation.name, args, kwargs, place, self.weights)
        if step is None or any(map(self._is_contracted, args)):
            return None
        constants = args[:place] + args[place + 1 :]
        if operation.kind == "structural" and all(self.values.number(c) is None for c in constants):
            step = without_zeros(step)  # a bias may be 0 now, and not when it is randomised
        maker = self._maker(args[place])
        ruled = self.values.number(args[place]) in self._contracted and (
            maker is None or maker.kind not in _SCALED_BY_ITSELF
        )
        kind = "batch_norm" if operation.kind == "batch_norm" else "affine"
        operation.operands = (place,)
        function = of_operands(operation, args, kwargs)
        site = AffineSite(self.walk, self.weights, kind, function, step, ruled)
        site.nonnegative = self.values.number(args[place]) in self.nonnegative
        self.readers.adopt(site, args[place], step)
        if site.head is None and kind == "affine" and not any(c.ndim for c in step.constants):
            return None
        operation.kind = kind
        return site

    def producer(self, value: object) -> Operation | None:
        number = self.values.number(value)
        return None if number is None else self.trace.producers.get(number)

    def _maker(self, tensor: Tensor) -> Operation | None:
        """The call that made the entries of a value, rearranged since or not."""
        maker = self.producer(tensor)
        while maker is not None and maker.kind == "structural" and kinds.of(maker.name).layout:
            before = next((n for n in maker.inputs() if n in self.trace.dependent), -1)
            maker = self.trace.producers.get(before)
        return maker

    def _is_contracted(self, value: object) -> bool:
        """Whether a constant is a linear map's result, as a recurrent layer's of its first state:
        of each sample its own, and no bias."""
        producer = self.producer(value)
        if producer is None or producer.depends:
            return False
        return kinds.of(producer.name).contraction is not None


_RECTIFIED = ("relu", "bounded_relu")
# kinds that make values of a scale of their own, whose shift and scale are no linear map
_SCALED_BY_ITSELF = ("normalization", "product", "division", "attention")


def maker_of(tensor: Tensor) -> str:
    """What autograd calls the function that made a tensor."""
    return tensor.grad_fn.name() if tensor.grad_fn is not None else "unknown"


def _cannot_replay(*_: object) -> None:
    raise NotImplementedError("this operation was not seen by the recorder")
