"""What torch does around a call and around a model: transforms, traces, its compiler."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.fx._symbolic_trace
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from salience._errors import expected
from salience._inputs.trees import Model

_C: Any = torch._C
_MODES = _C._TorchDispatchModeKey


def _compiling() -> bool:
    """While a call is traced, which no more of this can be, and where it runs all the same."""
    if torch.compiler.is_compiling():
        return True
    return _C._dynamo.eval_frame.get_eval_frame_callback() not in (None, False)


def _tracing() -> bool:
    proxies = _C._get_dispatch_mode(_MODES.PROXY)
    # the flag itself, where torch has one: its function logs a line
    symbols = getattr(torch.fx._symbolic_trace, "_is_fx_tracing_flag", False)
    return proxies is not None or _C._get_tracing_state() is not None or symbols


_AROUND: dict[str, Callable[[], bool]] = {
    "torch.compile or torch.export": _compiling,  # first: the others cannot be traced
    "a trace (linearize, make_fx, torch.jit.trace)": _tracing,
    "FakeTensorMode": lambda: _C._get_dispatch_mode(_MODES.FAKE) is not None,
    "a transform of torch.func (vmap, grad, jvp)": lambda: (
        _C._functorch.maybe_current_level() is not None
    ),
}


def check_plain() -> None:
    """Raise where torch transforms, traces or compiles what is called.

    A pass is explained by its numbers, which a trace has not, and by gradients of its own.
    """
    for name, around in _AROUND.items():
        if around():
            raise expected(
                "a call on plain tensors",
                f"one inside of {name}",
                "Call salience outside of it, on the whole batch.",
            )


def as_written(model: Model) -> Model:
    """The module that torch.compile wrapped, by whose names results are told; others as they are.

    Hooks of the wrapper would not run with it.
    """
    if "torch._dynamo" not in sys.modules or not isinstance(model, torch._dynamo.OptimizedModule):
        return model
    hooked = model._forward_hooks or model._forward_pre_hooks
    return model if hooked else model._orig_mod


def shape_alone(tensor: Tensor) -> str | None:
    """What a tensor without values is; None for one with values."""
    if tensor.is_meta:
        return "a tensor on the device meta"
    return "a fake tensor" if isinstance(tensor, FakeTensor) else None
