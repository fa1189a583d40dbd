"""Pure forms of what a model does in place, so that no value is overwritten behind a rule."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from salience._operations.calls import Function

Ints = tuple[int, ...]
_NN: Any = torch._C._nn  # type: ignore[attr-defined]  # activations that are not methods


def under_autocast(func: Function, device: str, dtype: torch.dtype) -> Function:
    """The function as the model ran it, also when rules and replays call it later."""

    def call(*args: object, **kwargs: object) -> object:
        with torch.autocast(device, dtype):
            return func(*args, **kwargs)

    return call


def unhooked() -> AbstractContextManager[object]:
    """Keep what autograd saves, where a checkpoint in the model would compute it again."""
    if _hooks_of_saved is None or _hooks_of_saved(False) is None:
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)


# nothing public says whether a checkpoint is active
_autograd: Any = getattr(torch._C, "_autograd", None)
_hooks_of_saved = getattr(_autograd, "_top_saved_tensors_default_hooks", None)


def functional_form(func: Function, name: str) -> tuple[Function, str]:
    """The pure form of a function that writes into its first argument, and its name."""
    if not name.startswith("__"):
        for place in (torch.Tensor, _NN, torch):
            if hasattr(place, name[:-1]):
                return getattr(place, name[:-1]), name[:-1]

    def written(target: Tensor, *rest: object, **options: object) -> Tensor:
        copy = target.clone()
        func(copy, *rest, **options)
        return copy

    return written, name


def scattered(base: Tensor, part: Tensor, size: Ints, stride: Ints, offset: int) -> Tensor:
    """The base with a view of it replaced; as_strided_scatter has a wrong gradient (torch 2.13)."""
    copy = base.clone()
    copy.as_strided(size, stride, offset - base.storage_offset()).copy_(part)
    return copy


def placed(part: Tensor, whole: tuple[Ints, Ints], size: Ints, stride: Ints, offset: int) -> Tensor:
    """A tensor (size, stride) that a view of it, which covers all of it, was written into."""
    copy = torch.empty_strided(*whole, dtype=part.dtype, device=part.device)
    copy.as_strided(size, stride, offset).copy_(part)
    return copy


def restrided(tensor: Tensor, stride: Ints) -> Tensor:
    empty = torch.empty_strided(tensor.size(), stride, dtype=tensor.dtype, device=tensor.device)
    return empty.copy_(tensor)
