"""Record a forward pass at the level of operations.

A `TorchFunctionMode` sees every torch function wherever it is called from: modules, functional
code, methods, reused modules, keyword calls. Three things happen to a call:

* a function written in Python is run with its own calls seen (so the table of `kinds` names only
  functions written in C++);
* a call that writes in place becomes a pure function whose result replaces the value that the
  user's tensor stands for (`writes`);
* a call of a kind that rules treat becomes a site, all others plain autograd (`calls`).
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from salience._errors import expected
from salience._inputs import trees
from salience._operations import kinds
from salience._operations.calls import Arguments, Function, Keywords
from salience._operations.expansion import past_dispatch
from salience._recording import embedded_ids
from salience._recording.calls import Calls
from salience._recording.linear_maps import Weights
from salience._recording.linear_sites import AffineSite
from salience._recording.standing import Standing
from salience._recording.trace import Operation, every, tree_map
from salience._recording.writes import write


def _nonnegative(leaves: Sequence[trees.Leaf]) -> list[int]:
    """The inputs without a negative entry: all are read at once, and nothing after them."""
    some = [leaf for leaf in leaves if leaf.tensor.numel()]
    if not some:
        return []
    known = torch.stack([leaf.tensor.detach().amin() >= 0 for leaf in some]).tolist()
    return [leaf.value for leaf, is_known in zip(some, known, strict=True) if is_known]


class Recorder(TorchFunctionMode):
    """The state of one recording."""

    def __init__(
        self,
        model: trees.Model,
        weights: Weights,
        keep: bool = False,
        embedded: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        self.leaves: list[trees.Leaf] = []
        self._ids, self._samples = embedded_ids.Ids(), 0
        self._given = list(embedded)  # what embeddings shall have, in the order of execution
        # weak: what a pass holds is freed with it
        self._calls = Calls(weights, keep, weakref.ref(self))  # type: ignore[arg-type]
        self.trace, self.walk = self._calls.trace, self._calls.walk
        self.values, self.readers = self._calls.values, self._calls.readers
        self.edges = self._calls.edges
        self._standing = Standing(self._calls, model)
        self.state = self._standing.state
        self._expanding: list[Function] = []

    def start(self, x: trees.Inputs) -> trees.Inputs:
        """Copies of the inputs: values of the trace that gradients reach, and ids."""
        x = trees.each(lambda part: part.detach().clone(), x)
        self._samples = trees.samples_of(x)
        for key, part in trees.parts_of(x).items():
            if trees.per_sample(part) and part.is_floating_point():
                self.leaves.append(trees.Leaf(key, self.values.add(part), part.requires_grad_()))
            elif trees.per_sample(part) and part.dtype != torch.bool:
                self._ids.mark(part, embedded_ids.Origin(key))
        self.trace.dependent.update(leaf.value for leaf in self.leaves)
        self._calls.nonnegative.update(_nonnegative(self.leaves))
        return x

    def __torch_function__(
        self,
        func: Function,
        types: Collection[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        if not all(issubclass(kind, Tensor) for kind in types):
            return NotImplemented  # a variable of another library, which calls again with its value
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            raise expected(
                "a model that takes no gradients itself",
                "torch.autograd.grad in its forward",
                "Explain the network whose gradient it takes.",
            )
        if func is torch.Tensor.register_hook:  # a replay would lose it
            self.trace.branches = True
        if kinds.is_python(func) and func not in self._expanding[-1:]:
            return self._expand(func, args, kwargs)
        name = kinds.operation_name(func)
        if kinds.of(name).aside:
            return self._ask(func, name, args, kwargs)
        if self._ids.any:
            return self._call_with_ids(func, name, args, kwargs)
        return self._call(func, name, args, kwargs)

    def _call(self, func: Function, name: str, args: Arguments, kwargs: Keywords) -> object:
        if kinds.is_in_place(name) or kwargs.get("out") is not None:
            return write(self._calls, self._standing, func, name, args, kwargs)
        return self._calls.apply(func, name, *self._current(args, kwargs))

    def _current(self, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
        return tree_map(self._standing.current, (args, kwargs), Tensor)

    def _call_with_ids(
        self, func: Function, name: str, args: Arguments, kwargs: Keywords
    ) -> object:
        ids = self._ids.embedded(name, args, kwargs)
        if ids is not None:
            current_args, current_kwargs = self._current(args, kwargs)
            if not self.values.depends((current_args, current_kwargs)):
                return self._embed(func, name, current_args, current_kwargs, ids)
        result = self._call(func, name, args, kwargs)
        written = args[:1] if kinds.is_in_place(name) else ()
        bases = [t._base for t in written if isinstance(t, Tensor) and t._is_view()]
        self._ids.follow(name, args, kwargs, [result, written, bases])
        return result

    def _embed(
        self, func: Function, name: str, args: Arguments, kwargs: Keywords, ids: Tensor
    ) -> object:
        """What an embedding makes of ids: a leaf that gradients reach."""
        origin = self._ids.origin(ids)
        assert origin is not None
        bag = name == "embedding_bag"
        place = (0, 1) if bag or origin.batch is None else (origin.batch, origin.each)
        function = embedded_ids.leaf_of(func, *place)
        try:
            leaf = function(*args, **kwargs)
        except IndexError as error:
            raise embedded_ids.out_of_range(ids, error) from None
        if self._given:
            leaf = embedded_ids.as_given(leaf, self._given.pop(0))
        index = self.values.add(embedded_ids.checked(leaf, self._samples))
        self.readers.keep(self._calls.operands(args, kwargs), None)
        args, kwargs = tree_map(self.values.ref, (args, kwargs), Tensor)
        operation = Operation(name, "weights", function, args, kwargs, (index,), (0,), depends=True)
        self._calls.register(operation, [])
        self.leaves.append(trees.Leaf(origin.key, index, leaf, embedded=True))
        result = leaf
        if place != (0, 1):
            result = self._calls.apply(embedded_ids.as_called, "movedim", (leaf, *place), {})
        return (result, None, None, None) if bag else result

    def _ask(self, func: Function, name: str, args: Arguments, kwargs: Keywords) -> object:
        """A question about a tensor, which is no part of the computation."""
        if self._standing.any_replaced:
            args, kwargs = self._current(args, kwargs)
        self.trace.branches |= kinds.of(name).read and self.values.depends((args, kwargs))
        return func(*args, **kwargs)

    def _expand(self, func: types.FunctionType, args: Arguments, kwargs: Keywords) -> object:
        """Run the body of a Python function past its own dispatch, with its calls recorded."""
        self._expanding.append(func)
        try:
            with self:
                return past_dispatch(func)(*args, **kwargs)
        finally:
            self._expanding.pop()

    def finish(self, outputs: object, select: Callable[[object], Tensor]) -> Tensor:
        """The output that is explained, as a tensor of this pass."""
        current = self._standing.current
        output = current(select(outputs))
        read = {id(t): t for t in (*map(current, every(outputs, Tensor)), output)}
        self.readers.consume([t for t in read.values() if self.values.number(t) is not None], None)
        for operation in self.trace.operations:
            site = operation.site
            if isinstance(site, AffineSite) and (site.is_number or not site.is_ruled):
                operation.kind = "structural"  # by plain autograd
        self._standing.forget()
        return output
