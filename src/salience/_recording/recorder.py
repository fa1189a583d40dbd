"""Record a forward pass at the level of operations.

A `TorchFunctionMode` sees every torch function wherever it is called from: modules, functional
code, methods, reused modules, keyword calls. Three things happen to a call:

* a function written in Python is run with its own calls seen (so the tables of `kinds` name only
  functions written in C++);
* a call that writes in place becomes a pure function whose result replaces the value that the
  user's tensor stands for (`_replaced`), so that no value which a rule needs is overwritten;
* a call of a kind that rules treat becomes a site, all others plain autograd.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from salience._errors import expected
from salience._inputs import trees
from salience._operations import kinds
from salience._operations.expansion import past_dispatch
from salience._operations.operands import flattened, linear_slots, of_itself, parts_of, positional
from salience._operations.pure import (
    functional_form,
    placed,
    restrided,
    scattered,
    under_autocast,
    unhooked,
)
from salience._recording import embedded_ids
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
    leaves,
    make_site,
    of_operands,
    run_operation,
    tree_map,
)  # fmt: skip
from salience._recording.values import Values


class Recorder(TorchFunctionMode):
    """The state of one recording."""

    def __init__(
        self,
        model: Callable[..., Any],
        weights: Weights,
        keep: bool = False,
        embedded: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        self.leaves: list[trees.Leaf] = []
        self._ids, self._samples = embedded_ids.Ids(), 0
        self._given = list(embedded)  # what embeddings shall have, in the order of execution
        self.trace, self.walk, self.weights = Trace(), Walk(), weights
        self.values = Values(self.trace)
        self.readers = Readers(self.trace, self.values, keep)
        self.elements = Elements(self.trace)
        self._expanding: list[Callable[..., Any]] = []
        self._ungraded: set[int] = set()  # values made under no_grad
        self._replaced: dict[int, tuple[Tensor, Tensor]] = {}
        self._contracted: set[int] = set()  # values with a contraction upstream
        self._reciprocals: set[int] = set()  # values that are 1 / b
        self._chosen: set[int] = set()  # values that the input only chose
        self._layers = 0  # linear maps so far
        module = model if isinstance(model, nn.Module) else None
        named = list(module.named_parameters()) if module else []
        self._names = {id(parameter): name for name, parameter in named}
        self.state: list[Tensor] = [parameter for _, parameter in named]
        if module:
            self.state.extend(module.buffers())
        self._ids_of_state = set(map(id, self.state))

    # -- values -----------------------------------------------------------------------------------

    def start(self, x: Any) -> Any:
        """Copies of the inputs: values of the trace that gradients reach, and ids."""
        x = trees.each(lambda part: part.detach().clone(), x)
        self._samples = trees.samples_of(x)
        for key, part in trees.parts_of(x).items():
            if trees.per_sample(part) and part.is_floating_point():
                self.leaves.append(trees.Leaf(key, self.values.add(part), part.requires_grad_()))
            elif trees.per_sample(part) and part.dtype != torch.bool:
                self._ids.mark(part, embedded_ids.Origin(key))
        self.trace.dependent.update(leaf.value for leaf in self.leaves)
        return x

    def current(self, tensor: Tensor) -> Tensor:
        """What the user's tensor stands for: after writes in place, and without its gradient."""
        while True:
            if id(tensor) in self._replaced:
                tensor = self._replaced[id(tensor)][1]
            elif self._replaced and tensor._is_view() and id(tensor._base) in self._replaced:
                self._replace(tensor, self._view_of(self.current(_base(tensor)), tensor))
            else:
                known = self._parameter(tensor)
                if known is tensor:
                    return tensor
                tensor = known

    def _view_of(self, base: Tensor, view: Tensor) -> Tensor:
        geometry = (view.size(), view.stride(), view.storage_offset())
        return self._apply(torch.as_strided, "as_strided", (base, *geometry), {})

    def _replace(self, tensor: Tensor, by: Tensor) -> None:
        self._replaced[id(tensor)] = (tensor, by)

    def _parameter(self, tensor: Tensor) -> Tensor:
        index = self.values.number(tensor)
        if index is not None:
            if index in self._ungraded and tensor.requires_grad:  # made by a custom Function
                self._record_opaque(tensor)
            return tensor
        if id(tensor) in self._names or (tensor.is_leaf and tensor.requires_grad):
            return self._freeze(tensor)
        if tensor.requires_grad and not self.values.sources(tensor):  # of parameters, or long ago
            self.trace.branches = True
            return self.weights.frozen(tensor)
        if tensor.requires_grad:  # made by a function that the mode does not see
            self._record_opaque(tensor)
        return self.weights.frozen(tensor) if tensor.is_inference() else tensor

    def _freeze(self, parameter: Tensor) -> Tensor:
        frozen = self.weights.frozen(parameter)
        if self.values.number(frozen) is None:
            number = len(self.trace.parameters)
            name = self._names.get(id(parameter), f"parameter_{number}")
            index = self.values.add(frozen)
            self.trace.parameters[index], self.trace.constants[index] = name, frozen
        return frozen

    def _record_opaque(self, tensor: Tensor) -> None:
        name = tensor.grad_fn.name() if tensor.grad_fn is not None else "unknown"
        for number in self.values.read_by(tensor):
            self.readers.unseen(number)
        if self._replaced and not self.values.sources(tensor).isdisjoint(self._replaced):
            raise expected(
                "no write in place before a function that cannot be seen", f"one before {name}",
                "Write h = h + y for h += y, or use functions of torch.",
            )  # fmt: skip
        index = self.values.add(tensor)
        operation = Operation(name, "opaque", _cannot_replay, (), {}, (index,), (0,), depends=True)
        self.trace.dependent.add(index)
        self._contracted.add(index)
        self.trace.operations.append(operation)
        self.trace.opaque = True

    # -- calls ------------------------------------------------------------------------------------

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if not all(issubclass(kind, Tensor) for kind in types):
            return NotImplemented  # a variable of another library, which calls again with its value
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            raise expected(
                "a model that takes no gradients itself", "torch.autograd.grad in its forward",
                "Explain the network whose gradient it takes.",
            )  # fmt: skip
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

    def _call(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if kinds.is_in_place(name) or kwargs.get("out") is not None:
            return self._write(func, name, args, kwargs)
        args, kwargs = tree_map(self.current, (args, kwargs), Tensor)
        return self._apply(func, name, args, kwargs)

    def _call_with_ids(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        ids = self._ids.embedded(name, args, kwargs)
        if ids is not None:
            current_args, current_kwargs = tree_map(self.current, (args, kwargs), Tensor)
            if not self.values.depends((current_args, current_kwargs)):
                return self._embed(func, name, current_args, current_kwargs, ids)
        result = self._call(func, name, args, kwargs)
        written = args[:1] if kinds.is_in_place(name) else ()
        bases = [t._base for t in written if isinstance(t, Tensor) and t._is_view()]
        self._ids.follow(name, args, kwargs, [result, written, bases])
        return result

    def _embed(self, func: Any, name: str, args: Any, kwargs: Any, ids: Tensor) -> Any:
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
        operands = [t for t in leaves((args, kwargs), Tensor) if self.values.number(t) is not None]
        self.readers.keep(operands, None)
        args, kwargs = tree_map(self.values.ref, (args, kwargs), Tensor)
        operation = Operation(name, "weights", function, args, kwargs, (index,), (0,), depends=True)
        self._register(operation, [])
        self.leaves.append(trees.Leaf(origin.key, index, leaf, embedded=True))
        result = leaf
        if place != (0, 1):
            result = self._apply(embedded_ids.as_called, "movedim", (leaf, *place), {})
        return (result, None, None, None) if bag else result

    def _ask(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """A question about a tensor, which is no part of the computation."""
        if self._replaced:
            args, kwargs = tree_map(self.current, (args, kwargs), Tensor)
        self.trace.branches |= kinds.of(name).read and self.values.depends((args, kwargs))
        return func(*args, **kwargs)

    def _expand(self, func: types.FunctionType, args: Any, kwargs: Any) -> Any:
        """Run the body of a Python function past its own dispatch, with its calls recorded."""
        self._expanding.append(func)
        try:
            with self:
                return past_dispatch(func)(*args, **kwargs)
        finally:
            self._expanding.pop()

    def _write(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """A call that writes in place, as a pure function."""
        out = kwargs.get("out")
        handle = args[0] if out is None else out
        current_args, current_kwargs = tree_map(self.current, (args, kwargs), Tensor)
        ours = leaves((current_args, current_kwargs), Tensor)
        if not any(self.values.number(t) is not None for t in ours) and not self._is_state(handle):
            return func(*current_args, **current_kwargs)  # constants of the model's own making
        if not isinstance(handle, Tensor):
            raise NotImplementedError(f"{name} with several out= tensors cannot be recorded")
        if out is not None:
            del current_kwargs["out"]
            result = self._apply(func, name, current_args, current_kwargs)
        else:
            result = self._functional(func, name, current_args, current_kwargs)
        target = self.current(handle)
        if result is target:
            return handle
        if kinds.of(name).reshapes:  # nothing is written: the handle is another view now
            if not target._is_view():
                result = self._apply(torch.clone, "clone", (result,), {})
            self._replace(target, result)
            return handle
        self._refuse_detached(target, name)
        if result.dtype != target.dtype:
            result = self._apply(torch.Tensor.to, "to", (result, target.dtype), {})
        if target._is_view():
            base = _base(target)
            geometry = (target.size(), target.stride(), target.storage_offset())
            if target.numel() == base.numel():  # what was there before is gone
                offset = target.storage_offset() - base.storage_offset()
                args = (result, (base.size(), base.stride()), *geometry[:2], offset)
                result = self._apply(placed, "contiguous", args, {})
            else:
                args = (self.current(base), result, *geometry)
                result = self._apply(scattered, "as_strided_scatter", args, {})
            target = base
        elif result.stride() != target.stride() and result.shape == target.shape:
            result = self._apply(restrided, "contiguous", (result, target.stride()), {})
        self._replace(target, result)
        return None if name == "__setitem__" else handle

    def _refuse_detached(self, target: Tensor, name: str) -> None:
        producer = self.trace.producers.get(self.values.number(target))  # type: ignore[arg-type]
        if producer is not None and kinds.of(producer.name).detached:
            raise expected(
                "writes into tensors that autograd sees", f"{name} on a result of {producer.name}",
                "Write into the tensor itself, or into a clone.",
            )  # fmt: skip

    def _is_state(self, handle: Any) -> bool:
        base = handle._base if isinstance(handle, Tensor) and handle._is_view() else None
        return not self._ids_of_state.isdisjoint((id(handle), id(base)))

    def _functional(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        """The result of an in-place call, with its target left as it was."""
        if name == "relu_" and self._may_overwrite(args[0]):
            return self._apply(torch.relu_, "relu", args, kwargs)
        pure, name = functional_form(func, name)
        return self._apply(pure, name, args, kwargs)

    def _may_overwrite(self, tensor: Tensor) -> bool:
        """Whether only the in-place ReLU reads a value, which no rule needs before it."""
        index = self.values.number(tensor)
        if index is None or self.readers.consumed(index) or tensor._is_view():
            return False
        producer = self.trace.producers.get(index)
        return producer is not None and isinstance(producer.site, LinearSite | AffineSite)

    def _apply(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Run a pure call on values and put it on the trace."""
        name, func, args, kwargs = of_itself(name, func, args, kwargs)
        known = kinds.of(name)
        operands = [t for t in leaves((args, kwargs), Tensor) if self.values.number(t) is not None]
        if not operands:
            return func(*args, **kwargs)
        depends = self.values.depends(args[:1] if known.alone else operands)
        chosen = depends and selects(name, args, kwargs, self.values.depends)
        depends = depends and not chosen and not asks_finiteness(name, args)
        chosen = chosen or any(self.values.number(t) in self._chosen for t in operands)
        func, args = flattened(name, func, args)
        args, kwargs = positional(name, args, kwargs)
        parts = None
        if depends and known.parts is not None:
            is_linear = linear_slots(name, self.values.depends, args) is not None
            parts = parts_of(name, args, kwargs, is_linear)
        if parts is not None:
            with self:
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
        tensors = leaves(result, Tensor)
        picks = tuple(i for i, tensor in enumerate(tensors) if self.values.number(tensor) is None)
        if not picks:  # no tensor, or one of the operands itself
            return result
        if depends and operation.site is None:
            self.readers.consume(operands, None)
        operation.picks = picks
        operation.outputs = tuple(self.values.add(tensors[i]) for i in picks)
        if chosen and not depends:
            self._chosen.update(operation.outputs)
        if depends and not torch.is_grad_enabled():
            self._ungraded.update(operation.outputs)
        numbers = any(tensors[i].is_floating_point() or tensors[i].is_complex() for i in picks)
        if not numbers and operation.site is None:
            operation.kind = "structural" if depends else operation.kind
        if depends and stays_reciprocal(operation, self.values.depends, self._is_reciprocal):
            self._reciprocals.update(operation.outputs)
        operation.args, operation.kwargs = tree_map(self.values.ref, (args, kwargs), Tensor)
        self._register(operation, operands)
        if depends:
            self.readers.follow(operation, [t for t in operands if self.values.depends(t)], result)
        gated = chosen and operation.kind == "other"
        return self._as_one(operation, operands, result) if depends and not gated else result

    def _as_one(self, operation: Operation, operands: list[Tensor], result: Any) -> Any:
        """The result of a call, made one with the calls before it that spell a function with it."""
        numbers = {self.values.number(t): t for t in operands}
        known = {n: t for n, t in numbers.items() if n is not None and n in self.trace.dependent}
        self.elements.follow(operation, known, result)
        found = self.elements.root(operation) or self.elements.softmax(operation)
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
        self.elements.stand_for(value, result, begin)
        self._reciprocals.discard(value)
        return result

    def _is_reciprocal(self, tensor: Tensor) -> bool:
        return self.values.number(tensor) in self._reciprocals

    def _run(self, operation: Operation, operands: list[Tensor]) -> Any:
        first = not any(self.values.number(t) in self._contracted for t in operands)
        args, kwargs = operation.args, operation.kwargs
        operation.site = make_site(self.walk, self.weights, operation, args, kwargs, first)
        if operation.site is None and operation.depends:
            operation.site = self._affine_site(operation)
        if isinstance(operation.site, LinearSite) and operation.slots is not None:
            operation.site.source = self.values.number(args[operation.slots.activation]) or 0
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
        self.readers.adopt(site, args[place], step)
        if site.head is None and kind == "affine" and not any(c.ndim for c in step.constants):
            return None
        operation.kind = kind
        return site

    def _maker(self, tensor: Tensor) -> Operation | None:
        """The call that made the entries of a value, rearranged since or not."""
        maker = self.trace.producers.get(self.values.number(tensor))  # type: ignore[arg-type]
        while maker is not None and maker.kind == "structural" and kinds.of(maker.name).layout:
            before = next((n for n in maker.inputs() if n in self.trace.dependent), -1)
            maker = self.trace.producers.get(before)
        return maker

    def _is_contracted(self, value: Any) -> bool:
        """Whether a constant is a linear map's result, as a recurrent layer's of its first state:
        of each sample its own, and no bias."""
        producer = self.trace.producers.get(self.values.number(value))  # type: ignore[arg-type]
        if producer is None or producer.depends:
            return False
        return kinds.of(producer.name).contraction is not None

    def _register(self, operation: Operation, operands: list[Tensor]) -> None:
        trace = self.trace
        trace.operations.append(operation)
        trace.producers.update(dict.fromkeys(operation.outputs, operation))
        if operation.depends:
            self.trace.dependent.update(operation.outputs)
            upstream = any(self.values.number(t) in self._contracted for t in operands)
            if upstream or operation.kind == "linear":
                self._contracted.update(operation.outputs)

    def finish(self, outputs: Any, select: Callable[[Any], Tensor]) -> Tensor:
        """The output that is explained, as a tensor of this pass."""
        output = self.current(select(outputs))
        read = {id(t): t for t in (*map(self.current, leaves(outputs, Tensor)), output)}
        self.readers.consume([t for t in read.values() if self.values.number(t) is not None], None)
        for operation in self.trace.operations:
            site = operation.site
            if isinstance(site, AffineSite) and (site.is_number or not site.is_ruled):
                operation.kind = "structural"  # by plain autograd
        self._replaced.clear()
        return output


# kinds that make values of a scale of their own, whose shift and scale are no linear map
_SCALED_BY_ITSELF = ("normalization", "product", "division")


def _base(view: Tensor) -> Tensor:
    base = view._base
    assert base is not None
    return base


def _cannot_replay(*_: Any) -> Any:
    raise NotImplementedError("this operation was not seen by the recorder")
