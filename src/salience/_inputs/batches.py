"""Data as they are given, whole or batch by batch: read, checked, and of the model's dtype."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from salience._errors import SalienceError, SalienceWarning, expected
from salience._inputs import trees
from salience._inputs.trees import Key, Model, X
from salience._inputs.validation import check_form


def whole(model: Model, x: object) -> Any:
    """All samples at once, with tensors for arrays; to be called by what the user calls."""
    if not is_whole(x) and not isinstance(x, list):
        raise expected(
            "a tensor, an array or a table (B, ...)",
            type(x).__name__,
            "Load the data first; batches become one by torch.cat(list_of_batches).",
        )
    return in_dtype_of(model, _read(x), 3)


def batches(model: Model, x: object) -> Iterator[tuple[Any, int, int | None]]:
    """Inputs with the number of their first sample, and of all samples where it is known.

    To be iterated over by what the user calls.
    """
    first, form, told = 0, None, False
    for number, item in enumerate([x] if is_whole(x) else _items(x)):
        read = _read(item)
        form = form or _form(read)
        if _form(read) != form:
            raise _unlike(number, _form(read), form)
        batch = in_dtype_of(model, read, None if told else 3)
        told = told or batch is not read
        count = trees.samples_of(batch)
        yield batch, first, count if is_whole(x) else None
        first += count


def is_whole(x: object) -> bool:
    """Whether x holds all samples, rather than batches of them."""
    return trees.is_array(x) or isinstance(x, Mapping | tuple)


def in_dtype_of(model: Model, x: X, calls: int | None) -> X:
    """The inputs, those of float64 as float32 where the model's weights are; x itself if none.

    calls  between the line that a warning is about and this; None: without a warning
    """
    if not any(part.dtype == torch.float64 for part in trees.tensors_of(x)):
        return x
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    dtypes = [p.dtype for p in parameters if p.is_floating_point()]
    if torch.float64 in dtypes or dtypes[:1] != [torch.float32]:
        return x
    if calls is not None:
        warnings.warn(
            "expected inputs of the model's dtype float32; got float64. They are converted: give "
            "float32, or model.double(), to choose.",
            SalienceWarning,
            calls + 1,
        )
    return trees.each(lambda t: t.float() if t.dtype == torch.float64 else t, x)


def _items(x: object) -> Iterator[Any]:
    """The inputs of each batch of an iterable."""
    if isinstance(x, str | bytes) or not isinstance(x, Iterable):
        raise expected(
            "a tensor, an array or an iterable of batches",
            type(x).__name__,
            "Load the data first, for example with numpy.load.",
        )
    for item in x:
        batch = item[0] if isinstance(item, list | tuple) and item else item
        if not is_whole(batch) and not isinstance(batch, list):
            got = type(batch).__name__
            raise expected("batches that are tensors, or start with one", got, "Stack the samples.")
        yield batch


def _read(x: object) -> Any:
    """The inputs with tensors for arrays, checked for what no model takes."""
    parts = trees.parts_of(x).items()
    tensors = {key: trees.tensor_of(p) if trees.is_array(p) else p for key, p in parts}
    x = trees.alike(x, tensors)
    check_form(x)
    return x


def _form(x: object) -> dict[Key, object]:
    """What all batches have in common: their parts, and the shapes of those whose maps have it."""
    return {
        key: tuple(part.shape[1:])
        if isinstance(part, Tensor) and part.ndim and part.is_floating_point()
        else None
        for key, part in trees.parts_of(x).items()
    }


def _unlike(number: int, form: Mapping[Key, object], first: Mapping[Key, object]) -> SalienceError:
    def told(form: Mapping[Key, object]) -> str:
        return f"{form[trees.ALONE] if trees.ALONE in form else dict(form)}"

    return expected(
        f"batches of samples of one shape, {told(first)} as in the first",
        f"{told(form)} in batch {number}, counted from 0",
        "Pad all inputs to one length, or explain the batches one by one.",
    )
