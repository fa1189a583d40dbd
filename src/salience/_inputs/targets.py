"""Which scalar of the output is explained.

One grammar, for classifiers, regressors and dense outputs; every form becomes a function from an
output (B, ...) to one scalar per sample (B,).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsInt

import numpy as np
import torch
from torch import Tensor

from salience._errors import SalienceError, expected, unknown
from salience._inputs.trees import tensor_of

# int, (int, int), list of int, "argmax", index tuple, mask or function
Target = (
    SupportsInt | str | Sequence[object] | Tensor | np.ndarray | Callable[[Tensor], Tensor] | None
)
Scalar = Callable[[Tensor], Tensor]
Part = str | int | tuple[str | int, ...] | None  # of a model's output


def select_output(outputs: object, part: Part) -> Tensor:
    """The tensor to explain, where a model returns tuples or dicts, nested at will.

    part  a key or position, or a path of them: ("heads", 0) or "heads.0"; what it leads to may
          hold one tensor alone

    Errors: several tensors and no part named; a part that is not there; not a float tensor.
    """
    known = _items(outputs)
    if part is not None and known is None:
        raise expected(
            "a tuple or dict from the model, for output=",
            type(outputs).__name__,
            "Leave output out.",
        )
    path: Sequence[object] = part if isinstance(part, tuple) else () if part is None else (part,)
    if isinstance(part, str) and part not in (known or {}):
        path = part.split(".")
    for step in path:
        outputs = _at(outputs, step)
    return _floating(_alone(outputs))


def _items(outputs: Any) -> Mapping[Any, object] | None:
    """The parts of a container by name or position; None for anything else."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if hasattr(outputs, "_asdict"):  # a named tuple has both
        return {**dict(enumerate(outputs)), **outputs._asdict()}
    if isinstance(outputs, list | tuple):
        return dict(enumerate(outputs))
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        return dict(vars(outputs))
    return None


def _at(outputs: object, step: object) -> object:
    known = _items(outputs) or {}
    if step not in known and isinstance(step, str) and step.isdigit():
        step = int(step)
    if step not in known:
        raise unknown("output part", step, map(str, known))
    return known[step]


def _paths(outputs: Any) -> dict[tuple[object, ...], Tensor]:
    """Every tensor in nested containers, by its path."""
    if isinstance(outputs, Tensor):
        return {(): outputs}
    if hasattr(outputs, "_asdict"):
        outputs = outputs._asdict()
    parts = (_items(outputs) or {}).items()
    return {(key, *path): t for key, part in parts for path, t in _paths(part).items()}


def _alone(outputs: object) -> object:
    """The one tensor of nested containers."""
    found = _paths(outputs)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        return outputs
    if isinstance(outputs, list | tuple) and all(isinstance(item, Mapping) for item in outputs):
        raise expected(
            "a tensor (B, ...) from the model",
            "a list of dicts, as detectors return for each image",
            "Explain what the head makes of the whole batch, before boxes are selected: "
            "wrap the model in a module that returns those class scores or boxes.",
        )
    names = [path[0] if len(path) == 1 else path for path in found]
    raise expected(
        "one tensor from the model",
        f"a {type(outputs).__name__} with {names}",
        f"Name the part to explain, for example output={names[0]!r}.",
    )


def _floating(output: object) -> Tensor:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = f"{output.dtype} values" if isinstance(output, Tensor) else type(output).__name__
        raise expected(
            "a floating-point output tensor of the model",
            got,
            "Explain the layer before it is turned into labels (logits, not argmax).",
        )
    return output


def resolve(target: Target, output: Tensor) -> Scalar:
    """The target as a function of outputs shaped like this one, fixed at this output.

    output: (B, ...); the function maps (B, ...) to (B,). "argmax" is decided here once, so that
    noisy and interpolated passes explain the same class.
    """
    if callable(target):
        return _checked(target)
    if isinstance(target, str):
        if target != "argmax":
            raise unknown("target", target, ["argmax"])
        return _argmax(output)
    if isinstance(target, bool) or target is None:
        raise _unusable(target)
    if isinstance(target, np.ndarray):
        target = tensor_of(target)
    if isinstance(target, Tensor) and target.ndim > 0:
        classes = not target.is_floating_point() and target.dtype != torch.bool
        return _per_sample(target.tolist(), output) if classes else _mask(target, output)
    if isinstance(target, list):
        return _per_sample(target, output)
    if isinstance(target, tuple):
        return _pair_or_index(target, output)
    return _index((_integer(target),), output)


def _unusable(target: object) -> SalienceError:
    return expected(
        'a target: 3, (3, 5), [1, 7, 2], "argmax", an index tuple, a mask or a function',
        repr(target),
        "See the table of targets in the README.",
    )


def _integer(value: Any) -> int:
    try:
        return int(value) if int(value) == value else _no_integer(value)
    except (TypeError, ValueError):
        raise _unusable(value) from None


def _no_integer(value: object) -> int:
    raise _unusable(value)


def _argmax(output: Tensor) -> Scalar:
    if output.ndim == 1:
        return lambda out: out
    if output.ndim != 2:
        raise expected(
            "an output (B, K) for the target 'argmax'",
            f"an output {tuple(output.shape)}",
            "Give an index such as (class, row, col), or a mask of the output's shape.",
        )
    if output.shape[1] == 0:
        raise expected("an output with at least one value", f"{tuple(output.shape)}", "")
    return _gather(output.argmax(1))


def _gather(classes: Tensor) -> Scalar:
    return lambda out: out.gather(1, classes[:, None])[:, 0]


def _index(index: tuple[int, ...], output: Tensor) -> Scalar:
    """One position of the output, the same for all samples."""
    shape = tuple(output.shape[1:])
    if not shape and index == (0,):
        return lambda out: out
    if len(index) != len(shape):
        raise expected(
            f"{len(shape)} indices for one sample's output of shape {shape}",
            f"{index}",
            "For dense outputs give (class, row, col) or a mask.",
        )
    for i, size in zip(index, shape, strict=True):
        if not -size <= i < size:
            raise expected(
                f"a target from {-size} to {size - 1}",
                f"{i} (the model's output is {tuple(output.shape)})",
                "Choose an output that exists.",
            )
    return lambda out: out[(slice(None), *index)]


def _pair_or_index(target: tuple[object, ...], output: Tensor) -> Scalar:
    index = tuple(map(_integer, target))
    if output.ndim == 2 and len(index) == 2:
        first, second = (_index((i,), output) for i in index)
        return lambda out: first(out) - second(out)
    return _index(index, output)


def _per_sample(targets: Sequence[object], output: Tensor) -> Scalar:
    if len(targets) != len(output):
        raise expected(
            f"one target per sample, {len(output)} in this batch",
            f"{len(targets)} targets",
            "Give a single number for all samples, or one for each.",
        )
    rows = [target if isinstance(target, tuple) else (_integer(target),) for target in targets]
    for row in rows:
        _index(tuple(map(_integer, row)), output)
    if output.ndim == 1:
        return lambda out: out
    if not rows:
        return lambda out: out.flatten(1).sum(1)
    index = torch.tensor(rows, device=output.device) % torch.tensor(
        output.shape[1:], device=output.device
    )  # (B, output.ndim - 1)
    samples = torch.arange(len(rows), device=output.device)
    return lambda out: out[(samples, *index.T)]


def _mask(mask: Tensor, output: Tensor) -> Scalar:
    if mask.shape not in (output.shape, output.shape[1:]):
        raise expected(
            f"a mask of the output's shape {tuple(output.shape)} or {tuple(output.shape[1:])}",
            f"{tuple(mask.shape)}",
            "Give integers for classes, floats or bools for a mask.",
        )
    weights = mask.to(output).expand_as(output)
    return lambda out: (out * weights).flatten(1).sum(1) if out.ndim > 1 else out * weights


def _checked(function: Callable[..., object]) -> Scalar:
    def scalar(out: Tensor) -> Tensor:
        values = function(out)
        if not isinstance(values, Tensor) or values.shape != out.shape[:1]:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise expected(
                f"a target function output -> ({len(out)},), one scalar per sample",
                f"{got}",
                "Do not sum over the batch.",
            )
        return values

    return scalar


def _is_mask(target: Tensor | np.ndarray) -> bool:
    return str(target.dtype).removeprefix("torch.").startswith(("float", "bfloat", "bool"))


def told(target: Target) -> str:
    """A target, as a result says what was explained."""
    return getattr(target, "__name__", "function") if callable(target) else str(target)


def rows_of(target: Target, rows: slice, total: int | None, output: Tensor) -> Target:
    """The part of a target given for all samples (of a total) that belongs to some of them.

    output: (B, ...) of these samples; a mask with its number of dimensions is one for each sample.
    """
    if not isinstance(target, list | Tensor | np.ndarray):
        return target
    each = isinstance(target, list) or (target.ndim > 0 and not _is_mask(target))
    if each and total is not None and len(target) != total:
        raise expected(
            f"one target per sample, {total} in all",
            f"{len(target)} targets",
            "Give a single number for all samples, or one for each.",
        )
    mask_of_each = not isinstance(target, list) and target.ndim == output.ndim
    return target[rows] if each or mask_of_each else target
