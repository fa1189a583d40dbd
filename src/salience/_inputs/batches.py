"""Data as they are given, whole or batch by batch: read, checked, and of the model's dtype."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from salience._errors import SalienceError, expected, warn
from salience._inputs import trees
from salience._inputs.trees import Inputs, Key, Model, X
from salience._inputs.validation import check_form, check_input, checked_model

_WIDE = (torch.float64,)  # what numbers are in Python, and rarely meant
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def whole(model: Model, x: object) -> Inputs:
    """All samples at once, as `batches` reads them, on the model's device."""
    parts = [batch for batch, _, _ in batches(model, x)]
    if not parts:
        raise no_batches()
    return to_device_of(model, joined(parts))


def all_samples(model: Model, x: object) -> tuple[Model, Inputs, int]:
    """The model as it is written, all samples at once, and how many there are.

    Errors: SalienceError for what `checked_model` and `check_input` refuse, and for no samples.
    """
    model = checked_model(model)
    read = whole(model, x)
    check_input(model, read)
    if not (count := trees.samples_of(read)):
        raise expected("at least one sample", "none", "Look at how the data were chosen.")
    return model, read, count


def joined(parts: Sequence[Any]) -> Any:
    """Inputs or maps of consecutive batches as one; what is no tensor is that of the first."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Mapping):
        return {key: joined([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple | list):
        return tuple(joined(column) for column in zip(*parts, strict=True))
    if not trees.per_sample(first):
        return first
    if len(shapes := {tuple(part.shape[1:]) for part in parts}) > 1:
        cure = "Pad all inputs to one length, or take the batches one by one."
        raise expected("batches of samples of one shape", f"{sorted(shapes)}", cure)
    return torch.cat(list(parts))


def to_device_of(model: Model, x: X) -> X:
    """The inputs on the device of the model's weights."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return x if parameter is None else trees.each(lambda t: t.to(parameter.device), x)


def no_batches() -> SalienceError:
    return expected("at least one batch", "an iterable without any", "Is it used up already?")


def batches(model: Model, x: object) -> Iterator[tuple[Inputs, int, int | None]]:
    """Inputs with the number of their first sample, and of all samples where it is known."""
    first, form, told = 0, None, False
    for number, item in enumerate([x] if is_whole(x) else _items(x)):
        read = _read(item)
        form = form or _form(read)
        if _form(read) != form:
            raise _unlike(number, _form(read), form)
        batch = in_dtype_of(model, read, tell=not told)
        told = told or batch is not read
        count = trees.samples_of(batch)
        yield batch, first, count if is_whole(x) else None
        first += count


def is_whole(x: object) -> bool:
    """Whether x holds all samples, rather than batches of them."""
    return trees.is_array(x) or isinstance(x, Mapping | tuple)


def in_dtype_of(model: Model, x: X, kinds: Container[torch.dtype] = _WIDE, tell: bool = True) -> X:
    """The inputs in the dtype of the model's weights; x itself where nothing is converted.

    kinds  that are converted, where the model has no weights of them: no others
    tell   that digits are lost, in a warning
    """
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    dtypes = [p.dtype for p in parameters if p.is_floating_point()]
    given = {part.dtype for part in trees.tensors_of(x) if part.is_floating_point()}
    converted = [kind for kind in given.difference(dtypes) if kind in kinds]
    if not converted or not dtypes or dtypes[0] not in FLOATS:
        return x
    own = dtypes[0]
    digits, largest = torch.finfo(own).eps, torch.finfo(own).max
    kinds_of = map(torch.finfo, converted)
    narrowed = [kind for kind in kinds_of if kind.eps < digits or kind.max > largest]
    if tell and narrowed:
        name = _name(own)
        warn(
            f"expected inputs of the model's dtype {name}; got {narrowed[0].dtype}. They are "
            f"converted: give {name}, or model.double(), to choose."
        )
    return trees.each(lambda t: t.to(own) if t.dtype in converted else t, x)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def _read(x: object) -> Inputs:
    """The inputs with tensors for arrays, checked for what no model takes."""
    parts = trees.parts_of(x).items()
    tensors = {key: trees.tensor_of(p) if trees.is_array(p) else p for key, p in parts}
    read = trees.alike(x, tensors)
    check_form(read)
    return read


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
