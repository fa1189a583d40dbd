"""Record a forward pass at the level of operations.

A `TorchFunctionMode` sees every torch function wherever it is called from: modules, functional
code, methods, reused modules, keyword calls. Three things happen to a call:

* a function written in Python is run with its own calls seen (so the tables of `ops` name only
  functions written in C++);
* a call that writes in place becomes a pure function whose result replaces the value that the
  user's tensor stands for (`_replaced`), so that no value which a rule needs is overwritten;
* a call of a kind that rules treat becomes a site (`sites`), all others plain autograd.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from salience import ops
from salience.sites import BatchNormSite, ElementSite, LinearSite, Ruled, Walk, Weights
from salience.trace import Operation, Ref, Site, Trace, leaves, tree_map

_TAG = "_salience_value"  # on tensors of the pass: (the recorder's token, number of the value)


class Recorder(TorchFunctionMode):
    """The state of one recording."""

    def __init__(self, model: Callable[..., Any], weights: Weights) -> None:
        super().__init__()
        self.trace, self.walk, self.weights = Trace(), Walk(), weights
        self._token = object()
        self._expanding: list[Callable[..., Any]] = []
        self._replaced: dict[int, tuple[Tensor, Tensor]] = {}
        self._consumed: set[int] = set()
        self._contracted: set[int] = set()  # values with a contraction upstream
        self.opaque = False
        module = model if isinstance(model, nn.Module) else None
        self._names = {id(p): name for name, p in module.named_parameters()} if module else {}
        self._state = set(self._names)
        if module:
            self._state.update(id(buffer) for buffer in module.buffers())
        self._frozen: dict[int, Tensor] = {}

    # -- values -----------------------------------------------------------------------------------

    def start(self, x: Tensor) -> Tensor:
        """The input as a value of the trace that gradients reach."""
        x = x.detach().requires_grad_()
        self.trace.dependent.add(self._tag(x))
        return x

    def value(self, tensor: Any) -> int | None:
        """The number of a tensor's value, if the tensor belongs to this pass."""
        tag = getattr(tensor, _TAG, None)
        return tag[1] if tag is not None and tag[0] is self._token else None

    def _tag(self, tensor: Tensor) -> int:
        index = self.trace.new_value()
        self.trace.shapes[index] = tensor.shape
        setattr(tensor, _TAG, (self._token, index))
        return index

    def depends(self, tensor: Any) -> bool:
        """Whether a tensor (or one in a list of tensors) depends on the input."""
        return any(self.value(leaf) in self.trace.dependent for leaf in leaves(tensor, Tensor))

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
        if self.value(tensor) is not None:
            return tensor
        if id(tensor) in self._names or (tensor.is_leaf and tensor.requires_grad):
            return self._freeze(tensor)
        if tensor.requires_grad:  # made by a function that the mode does not see
            self._record_opaque(tensor)
        return tensor

    def _freeze(self, parameter: Tensor) -> Tensor:
        frozen = self.weights.frozen(parameter)
        if self.value(frozen) is None:
            number = len(self.trace.parameters)
            name = self._names.get(id(parameter), f"parameter_{number}")
            index = self._tag(frozen)
            self.trace.parameters[index], self.trace.constants[index] = name, frozen
        return frozen

    def _record_opaque(self, tensor: Tensor) -> None:
        name = tensor.grad_fn.name() if tensor.grad_fn is not None else "unknown"
        index = self._tag(tensor)
        operation = Operation(name, "opaque", _cannot_replay, (), {}, (index,), depends=True)
        self.trace.dependent.add(index)
        self._contracted.add(index)
        self.trace.operations.append(operation)
        self.opaque = True

    # -- calls ------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if ops.is_python(func) and func not in self._expanding[-1:]:
            return self._expand(func, args, kwargs)
        name = ops.operation_name(func)
        if name in ops.QUERIES and not self._replaced:
            return func(*args, **kwargs)
        if ops.is_in_place(name) or kwargs.get("out") is not None:
            return self._write(func, name, args, kwargs)
        args, kwargs = tree_map(self.current, (args, kwargs), Tensor)
        return self._apply(func, name, args, kwargs)

    def _expand(self, func: types.FunctionType, args: Any, kwargs: Any) -> Any:
        """Run the body of a Python function past its own dispatch, with its calls recorded."""
        self._expanding.append(func)
        try:
            with self:
                return _past_dispatch(func)(*args, **kwargs)
        finally:
            self._expanding.pop()

    def _write(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """A call that writes in place, as a pure function."""
        out = kwargs.get("out")
        handle = args[0] if out is None else out
        current_args, current_kwargs = tree_map(self.current, (args, kwargs), Tensor)
        ours = [*leaves((current_args, current_kwargs), Tensor)]
        if not any(self.value(t) is not None for t in ours) and not self._is_state(handle):
            return func(*current_args, **current_kwargs)  # constants of the model's own making
        if not isinstance(handle, Tensor):
            raise NotImplementedError(f"{name} with several out= tensors cannot be recorded")
        if out is not None:
            del current_kwargs["out"]
            result = self._apply(func, name, current_args, current_kwargs)
        else:
            result = self._functional(func, name, current_args, current_kwargs)
        target = self.current(handle)
        if result.dtype != target.dtype:
            result = self._apply(torch.Tensor.to, "to", (result, target.dtype), {})
        if target._is_view():
            base = _base(target)
            geometry = (target.size(), target.stride(), target.storage_offset())
            args = (self.current(base), result, *geometry)
            result = self._apply(torch.as_strided_scatter, "as_strided_scatter", args, {})
            target = base
        elif result.stride() != target.stride() and result.shape == target.shape:
            result = self._apply(_restrided, "contiguous", (result, target.stride()), {})
        self._replace(target, result)
        return None if name == "__setitem__" else handle

    def _is_state(self, handle: Any) -> bool:
        return id(handle) in self._state or (
            isinstance(handle, Tensor) and handle._is_view() and id(handle._base) in self._state
        )

    def _functional(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        """The result of an in-place call, with its target left as it was."""
        if name == "relu_" and self._may_overwrite(args[0]):
            return self._apply(torch.relu_, "relu", args, kwargs)
        pure = getattr(torch.Tensor, name[:-1], None) or getattr(torch._C._nn, name[:-1], None)
        if pure is not None and not name.startswith("__"):
            return self._apply(pure, name[:-1], args, kwargs)

        def written(target: Tensor, *rest: Any, **options: Any) -> Tensor:
            copy = target.clone()
            func(copy, *rest, **options)
            return copy

        return self._apply(written, name, args, kwargs)

    def _may_overwrite(self, tensor: Tensor) -> bool:
        """Whether only the in-place ReLU reads a value, which no rule needs before it."""
        index = self.value(tensor)
        if index is None or index in self._consumed or tensor._is_view():
            return False
        producer = self.trace.producers.get(index)
        return producer is not None and isinstance(producer.site, LinearSite | BatchNormSite)

    def _apply(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Run a pure call on values and put it on the trace."""
        operands = [t for t in leaves((args, kwargs), Tensor) if self.value(t) is not None]
        if not operands:
            return func(*args, **kwargs)
        depends = self.depends(operands)
        site, operation = None, None
        if depends:
            args, kwargs = ops.positional(name, args, kwargs)
            kind, site, a = self._site(func, name, args, kwargs)
            self._consume(operands, site)
            result = func(*args, **kwargs) if site is None else Ruled.apply(site, a)
        else:
            kind, result = "weights", func(*args, **kwargs)
        outputs = [t for t in leaves(result, Tensor) if self.value(t) is None]
        if not outputs:  # a number, a shape, or one of the operands itself
            return result
        refs = tree_map(self._ref, (args, kwargs), Tensor)
        operation = Operation(
            name, kind, func, *refs, tuple(map(self._tag, outputs)), depends, site
        )
        self._register(operation, operands)
        return result

    def _ref(self, tensor: Tensor) -> Tensor | Ref:
        index = self.value(tensor)
        return tensor if index is None else Ref(index)

    def _register(self, operation: Operation, operands: list[Tensor]) -> None:
        trace = self.trace
        trace.operations.append(operation)
        trace.producers.update(dict.fromkeys(operation.outputs, operation))
        if operation.depends:
            self.trace.dependent.update(operation.outputs)
            upstream = any(self.value(t) in self._contracted for t in operands)
            if upstream or operation.kind == "linear":
                self._contracted.update(operation.outputs)

    # -- sites ------------------------------------------------------------------------------------

    def _site(
        self, func: Any, name: str, args: Any, kwargs: Any
    ) -> tuple[str, Site | None, Tensor | None]:
        """The kind of a call, and where rules treat its kind, its site and input."""
        slots = ops.linear_slots(name, self.depends, args)
        if slots is not None:
            a = args[slots.activation]
            first = self.value(a) not in self._contracted
            bias = None
            if slots.bias is not None and len(args) > slots.bias:
                bias = args[slots.bias]
            call, weight = _linear_call(func, slots, args, kwargs), args[slots.weight]
            site = LinearSite(self.walk, self.weights, call, weight, bias, first)
            site.source = self.value(a) or 0
            site.fold_scale = partial(ops.fold_scale, name, slots, weight)
            return "linear", site, a
        kind = ops.kind_of(name, args, kwargs, self.depends)
        if kind == "batch_norm":
            return kind, BatchNormSite(self.walk, self.weights, args), args[0]
        if kind in ("relu", "bounded_relu", "activation"):

            def function(x: Tensor) -> Tensor:
                return func(x, *args[1:], **kwargs)

            if self.depends(args[1:]):
                return "other", None, None
            return kind, ElementSite(self.walk, kind, function, kind != "relu"), args[0]
        return kind, None, None

    def _consume(self, operands: list[Tensor], reader: Site | None) -> None:
        """Note who reads the outputs of linear maps: a BatchNorm alone is folded into the map,
        a ReLU alone stands for its input. A second reader undoes both."""
        for tensor in operands:
            index = self.value(tensor)
            producer = self.trace.producers.get(index) if index is not None else None
            if index is None or producer is None:
                continue
            site = producer.site
            if isinstance(site, LinearSite | BatchNormSite):
                if index in self._consumed:
                    _separate(site, tensor.detach())
                else:
                    _join(site, reader)
            self._consumed.add(index)

    def finish(self, outputs: Any) -> Any:
        """The model's outputs as tensors of this pass."""
        outputs = tree_map(self.current, outputs, Tensor)
        self._consume([t for t in leaves(outputs, Tensor) if self.value(t) is not None], None)
        if self.opaque:  # an unseen function may have read anything
            for operation in self.trace.operations:
                if isinstance(operation.site, LinearSite | BatchNormSite):
                    _separate(operation.site, None)
        self._replaced.clear()
        return outputs


def _base(view: Tensor) -> Tensor:
    base = view._base
    assert base is not None
    return base


def _join(site: LinearSite | BatchNormSite, reader: Site | None) -> None:
    """The first reader of a linear map's output."""
    if isinstance(site, LinearSite) and isinstance(reader, BatchNormSite):
        fold = site.fold_scale(reader.scale, site.z.ndim)
        if fold is None:
            return
        site.folded, site.fold, reader.folded = reader, fold, True
    elif isinstance(reader, ElementSite) and reader.kind == "relu":
        site.rectified = reader
    else:
        return
    site.keep(None)


def _separate(site: LinearSite | BatchNormSite, z: Tensor | None) -> None:
    """A second reader of a linear map's output z, which is recomputed on demand if not given."""
    if isinstance(site, LinearSite) and site.folded is not None:
        norm, site.folded = site.folded, None
        norm.folded = False
        norm.a, norm.source = z, site
    site.rectified = None
    site.keep(z)


@lru_cache(maxsize=None)
def _past_dispatch(func: types.FunctionType) -> types.FunctionType:
    """A Python torch function that does not hand its call over to a mode again."""
    never = dict.fromkeys(_DISPATCH_CHECKS, _false)
    body = types.FunctionType(
        func.__code__, func.__globals__ | never, func.__name__, func.__defaults__, func.__closure__
    )
    body.__kwdefaults__ = func.__kwdefaults__
    return body


_DISPATCH_CHECKS = (
    "has_torch_function", "has_torch_function_unary", "has_torch_function_variadic",
)  # fmt: skip


def _false(*_: Any) -> bool:
    return False


def _restrided(tensor: Tensor, stride: tuple[int, ...]) -> Tensor:
    empty = torch.empty_strided(tensor.size(), stride, dtype=tensor.dtype, device=tensor.device)
    return empty.copy_(tensor)


def _linear_call(
    func: Callable[..., Tensor], slots: ops.Slots, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[..., Tensor]:
    """(a, weight, bias) -> the call with these operands; it keeps no tensor of the call."""
    operands = (slots.activation, slots.weight, slots.bias)
    rest = [None if i in operands else arg for i, arg in enumerate(args)]

    def call(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        full = list(rest)
        full[slots.activation], full[slots.weight] = a, weight
        if slots.bias is not None and slots.bias < len(full):
            missing = slots.bias == 0  # addmm cannot go without its bias
            full[slots.bias] = a.new_zeros(()) if bias is None and missing else bias
        return func(*full, **kwargs)

    return call


def _cannot_replay(*_: Any) -> Any:
    raise NotImplementedError("this operation was not seen by the recorder")
