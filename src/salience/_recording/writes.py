"""Calls that write in place as pure functions, whose results replace what was written to.

So no value that a rule needs is overwritten.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from salience._errors import expected
from salience._operations import kinds
from salience._operations.calls import Arguments, Function, Keywords
from salience._operations.pure import functional_form, placed, restrided, scattered
from salience._recording.calls import Calls
from salience._recording.linear_sites import AffineSite, LinearSite
from salience._recording.standing import Standing, base_of
from salience._recording.trace import tree_map


def write(
    calls: Calls,
    standing: Standing,
    func: Function,
    name: str,
    args: Arguments,
    kwargs: Keywords,
) -> Any:
    """What a call returns that writes into its first argument or into out=."""
    out = kwargs.get("out")
    handle = args[0] if out is None else out
    args, kwargs = tree_map(standing.current, (args, kwargs), Tensor)
    if not calls.operands(args, kwargs) and not standing.is_state(handle):
        return func(*args, **kwargs)  # constants of the model's own making
    if not isinstance(handle, Tensor):
        raise NotImplementedError(f"{name} with several out= tensors cannot be recorded")
    if out is not None:
        del kwargs["out"]
        result = calls.apply(func, name, args, kwargs)
    else:
        result = _functional(calls, func, name, args, kwargs)
    target = standing.current(handle)
    if result is target:
        return handle
    if kinds.of(name).reshapes:  # nothing is written: the handle is another view now
        if not target._is_view():
            result = calls.apply(torch.clone, "clone", (result,), {})
        standing.replace(target, result)
        return handle
    _refuse_detached(calls, target, name)
    _put(calls, standing, target, result)
    return None if name == "__setitem__" else handle


def _functional(
    calls: Calls, func: Function, name: str, args: Arguments, kwargs: Keywords
) -> Tensor:
    """The result of an in-place call, with its target left as it was."""
    if name == "relu_" and _may_overwrite(calls, args[0]):
        return calls.apply(torch.relu_, "relu", args, kwargs)
    pure, name = functional_form(func, name)
    return calls.apply(pure, name, args, kwargs)


def _may_overwrite(calls: Calls, tensor: Tensor) -> bool:
    """Whether only the in-place ReLU reads a value, which no rule needs before it."""
    index = calls.values.number(tensor)
    if index is None or calls.readers.consumed(index) or tensor._is_view():
        return False
    producer = calls.producer(tensor)
    return producer is not None and isinstance(producer.site, LinearSite | AffineSite)


def _refuse_detached(calls: Calls, target: Tensor, name: str) -> None:
    producer = calls.producer(target)
    if producer is not None and kinds.of(producer.name).detached:
        raise expected(
            "writes into tensors that autograd sees",
            f"{name} on a result of {producer.name}",
            "Write into the tensor itself, or into a clone.",
        )


def _put(calls: Calls, standing: Standing, target: Tensor, result: Tensor) -> None:
    """Let a target, or what it is a view of, stand for what a write into it gives."""
    if result.dtype != target.dtype:
        result = calls.apply(torch.Tensor.to, "to", (result, target.dtype), {})
    if target._is_view():
        base = base_of(target)
        geometry = (target.size(), target.stride(), target.storage_offset())
        if target.numel() == base.numel():  # what was there before is gone
            offset = target.storage_offset() - base.storage_offset()
            args = (result, (base.size(), base.stride()), *geometry[:2], offset)
            result = calls.apply(placed, "contiguous", args, {})
        else:
            args = (standing.current(base), result, *geometry)
            result = calls.apply(scattered, "as_strided_scatter", args, {})
        target = base
    elif result.stride() != target.stride() and result.shape == target.shape:
        result = calls.apply(restrided, "contiguous", (result, target.stride()), {})
    standing.replace(target, result)
