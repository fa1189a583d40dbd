"""The user's model as it stays: what a pass leaves on it is taken back; copies run beside it."""

from __future__ import annotations

import copy
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from salience._errors import expected
from salience._inputs.trees import Model

M = TypeVar("M", bound=nn.Module)

SEEDED = threading.RLock()  # held while something is drawn from generators that all threads share


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to; those of inference mode are not counted."""
    return 0 if tensor.is_inference() else tensor._version


@contextmanager
def as_it_was(model: Model) -> Iterator[None]:
    """Put back, after a pass, the attributes and buffers that a model assigns in its forward.

    All of them together: a cache and the flag that says it is there must not part.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    plain = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    # modules and parameters themselves are no business of a pass
    kept = [(now, dict(now)) for m in plain for now in (vars(m), m._buffers)]
    scripted = [m for m in modules if isinstance(m, torch.jit.ScriptModule)]
    unseen = [(b, version_of(b), b.clone()) for m in scripted for b in m.buffers(recurse=False)]
    try:
        yield
    finally:
        for now, before in kept:
            if now.keys() != before.keys() or any(now[key] is not before[key] for key in before):
                for key in now.keys() - before.keys():
                    del now[key]
                now.update(before)
        with torch.no_grad():
            for buffer, version, value in unseen:  # compiled code writes past the recorder
                if version_of(buffer) != version:
                    buffer.copy_(value)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Put back the generators of torch, numpy and Python, where a model draws from them."""
    with SEEDED:
        put_back = _generators(device)
    try:
        yield
    finally:
        with SEEDED:
            put_back()


def _generators(device: torch.device) -> Callable[[], None]:
    """What puts the generators back as they are now."""
    python, legacy, own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(own)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)

    return put_back


def copy_of(model: M, weights: Mapping[str, Tensor] | None = None) -> M:
    """A copy of a module that shares its parameters, but for those that are given by name.

    Buffers and whatever else it holds are its own, without the graphs of earlier calls.

    Errors: SalienceError for a model that cannot be copied.
    """
    weights = weights or {}
    memo: dict[int, object] = {}
    for name, parameter in model.named_parameters():
        if name in weights:
            new = weights[name].detach().to(parameter).clone()
            memo[id(parameter)] = nn.Parameter(new, requires_grad=parameter.requires_grad)
        elif not parameter.is_inference():
            memo[id(parameter)] = parameter
    for tensor in _tensors_in(model):
        if id(tensor) not in memo and (tensor.is_inference() or not tensor.is_leaf):
            value = tensor.detach().clone()
            same = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if same else value
    try:
        with torch.inference_mode(False):
            found = copy.deepcopy(model, memo)
    except Exception as error:
        raise expected(
            "a model that can be copied",
            f"one that cannot: {error}",
            "Leave open files, locks and generators out of it.",
        ) from error
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if name in weights and not torch.equal(parameter, weights[name].to(parameter)):
                parameter.copy_(weights[name])  # of scripted modules, which copy by themselves
    return found


def _tensors_in(model: nn.Module) -> Iterator[Tensor]:
    """The tensors that a copy would copy: in modules, containers and objects, nested at will."""
    queue: list[object] = [model]
    seen: set[int] = set()
    while queue:
        held = queue.pop()
        if id(held) in seen or isinstance(held, torch.jit.ScriptModule):
            continue
        seen.add(id(held))
        if isinstance(held, Tensor):
            yield held
        elif isinstance(held, Mapping):
            queue.extend(held.values())
        elif isinstance(held, list | tuple | set | frozenset | deque):
            queue.extend(held)
        elif (
            hasattr(held, "__dict__")
            and not isinstance(held, type)
            and (isinstance(held, nn.Module) or not callable(held))
        ):
            queue.append(vars(held))
