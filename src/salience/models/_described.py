"""Networks from files, which say how their input looks; what a network's input must look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from salience._errors import expected
from salience._inputs.validation import first_convolution, looks_like_one_sample
from salience.models._bounded import Bounded


class FileModel(nn.Module):
    """A network read from a file, which tells the names and the shapes of its inputs.

    network         runs the pass; its parameters, buffers and layers appear here by their names
    shapes          of the inputs by name, in their order, batch first; None where any size will
                    do, or None for unknown
    channels_last   whether images are (B, H, W, C)
    max_bytes       that a tensor of a pass may have, watched at the first input of each shape, or
                    at all where the values of an input decide what is made: what a file asks for is
                    its author's choice, not its user's

    A file that was saved for batches of n runs any other batch n samples at a time.
    """

    def __init__(
        self,
        network: nn.Module,
        shapes: Mapping[str, Sequence[int | None] | None],
        *,
        channels_last: bool = False,
        call: Callable[..., object] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__()
        # the same dictionaries: what is moved, loaded or listed here is so in the network
        self._parameters, self._buffers = network._parameters, network._buffers
        self._modules = network._modules
        self._moved = network._apply
        self.call = network.__call__ if call is None else call
        self._max_bytes = max_bytes
        self._watched: set[object] = set()  # shapes of inputs
        self.shapes = {n: None if shape is None else tuple(shape) for n, shape in shapes.items()}
        self.channels_last = channels_last
        self._batch = _batch_of(self.shapes)

    def forward(self, *given: Tensor, **named: Tensor) -> object:
        x = self.in_order(*given, **named)
        batch, count = self._batch, max((len(part) for part in x if part.ndim), default=0)
        if batch is None or count == batch:
            return self._run(x)
        return _joined([self._part(x, i, min(batch, count - i)) for i in range(0, count, batch)])

    def in_order(self, *given: Tensor, **named: Tensor) -> list[Tensor]:
        """The inputs in the order of the file, of the shapes that it tells."""
        held = dict(zip(self.shapes, given, strict=False)) | named
        if held.keys() != self.shapes.keys() or len(given) + len(named) != len(self.shapes):
            got = ", ".join([*(f"{tuple(part.shape)}" for part in given), *named]) or "none"
            raise expected(
                f"the {_several(len(self.shapes))} of the file ({', '.join(self.shapes)})",
                got,
                "Give several in a tuple, in this order, or in a dict by these names.",
            )
        for name, shape in self.shapes.items():
            check_shape(held[name], shape, "" if len(held) == 1 else f" {name}")
        return [held[name] for name in self.shapes]

    def _run(self, x: Sequence[Tensor]) -> object:
        kind = tuple((part.shape, part.dtype, part.device) for part in x)
        if self._max_bytes is None or kind in self._watched:
            return self.call(*x)
        with Bounded(self._max_bytes) as watch:
            outputs = self.call(*x)
        if not watch.by_values:
            self._watched.add(kind)
        return outputs

    def _part(self, x: Sequence[Tensor], first: int, count: int) -> object:
        """The outputs of some samples, filled up to a whole batch by repeating the last one."""
        parts = [part[first : first + count] if part.ndim else part for part in x]
        if self._batch is not None and count < self._batch:
            place = torch.arange(self._batch, device=x[0].device).clamp(max=count - 1)
            parts = [part.index_select(0, place) if part.ndim else part for part in parts]
        return _cut(self._run(parts), count)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FileModel:
        self._moved(fn, recurse)
        return self


def channels_first(model: FileModel) -> FileModel:
    """A channels-last network as one that takes images as (B, C, H, W)."""
    shapes = {
        name: (shape[0], shape[3], *shape[1:3]) if _is_image(shape) else shape
        for name, shape in model.shapes.items()
    }

    def call(*x: Tensor) -> object:
        return model(*(part.permute(0, 2, 3, 1) if part.ndim == 4 else part for part in x))

    return FileModel(model, shapes, call=call).eval()


def _is_image(shape: tuple[int | None, ...] | None) -> TypeGuard[tuple[int | None, ...]]:
    return shape is not None and len(shape) == 4


def _batch_of(shapes: Mapping[str, tuple[int | None, ...] | None]) -> int | None:
    """The number of samples that a file was saved for; None where any will do."""
    sizes = {name: shape[0] for name, shape in shapes.items() if shape and shape[0] is not None}
    if len(set(sizes.values())) > 1:
        raise expected(
            "inputs with the same number of samples first",
            f"{sizes}",
            "Export the network with one batch size, or put what all samples share into it.",
        )
    return next(iter(sizes.values()), None)


def _several(count: int) -> str:
    return "input" if count == 1 else f"{count} inputs"


def check_shape(x: Tensor, shape: tuple[int | None, ...] | None, name: str = "") -> None:
    """Raise unless an input fits the shape that a file tells."""
    if not shape:
        return
    free = "(B, " + ", ".join("any" if n is None else str(n) for n in shape[1:]) + ")"
    sizes = zip(x.shape[1:], shape[1:], strict=False)
    if x.ndim != len(shape) or any(n is not None and n != given for given, n in sizes):
        raise expected(
            f"an input{name} {free}, as the file tells",
            f"{tuple(x.shape)}",
            "Change the input (images: --size), or export the network for this size.",
        )


def _cut(outputs: object, count: int) -> object:
    """The outputs of the first samples."""
    if isinstance(outputs, Tensor):
        return outputs[:count] if outputs.ndim else outputs
    if isinstance(outputs, dict):
        return {key: _cut(item, count) for key, item in outputs.items()}
    if isinstance(outputs, list | tuple):
        return tuple(_cut(item, count) for item in outputs)
    return outputs


def _joined(parts: list[Any]) -> object:
    """The outputs of several passes as that of one."""
    first = parts[0]
    if isinstance(first, Tensor) and first.ndim:
        return torch.cat(parts)
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, list | tuple):
        return tuple(_joined(list(column)) for column in zip(*parts, strict=True))
    return first


def image_layout(model: nn.Module) -> tuple[int, bool]:
    """How a model takes images: its channels (1 or 3), and whether they come last.

    >>> image_layout(torch.nn.Conv2d(1, 4, 3))
    (1, False)
    """
    last = isinstance(model, FileModel) and model.channels_last
    shapes = model.shapes.values() if isinstance(model, FileModel) else ()
    for shape in filter(_is_image, shapes):
        return 1 if shape[-1 if last else 1] == 1 else 3, last
    first = first_convolution(model)
    return 1 if first is not None and first.in_channels == 1 else 3, last


def check_batch(model: nn.Module, x: Tensor) -> None:
    """Raise for a single sample without its batch dimension, where the network tells."""
    if isinstance(model, FileModel):
        model.in_order(x)
        return
    if looks_like_one_sample(model, x):
        raise expected(
            f"a batch with {x.ndim + 1} dimensions (B, C, ...)",
            f"one sample {tuple(x.shape)}",
            "Add a batch dimension, for example array[None], and save it again.",
        )
