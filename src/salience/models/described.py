"""Networks from files, which say how their input looks; what a network's input must look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from salience.checks import first_convolution, looks_like_one_sample
from salience.errors import expected
from salience.models.bounded import Bounded


class FileModel(nn.Module):
    """A network read from a file, of one input whose shape the file tells.

    network         runs the pass; its parameters, buffers and layers appear here by their names
    shape           of the input, batch first; None where any size will do, or None for unknown
    channels_last   whether images are (B, H, W, C)
    max_bytes       that a tensor of a pass may have, watched at the first input of each shape, or
                    at all where the values of an input decide what is made: what a file asks for is
                    its author's choice, not its user's

    A file that was saved for batches of n runs any other batch n samples at a time.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int | None] | None,
        *,
        channels_last: bool = False,
        call: Callable[[Tensor], Any] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__()
        # the same dictionaries: what is moved, loaded or listed here is so in the network
        self._parameters, self._buffers = network._parameters, network._buffers
        self._modules = network._modules
        self._moved = network._apply
        self.call = network.__call__ if call is None else call
        self._max_bytes = max_bytes
        self._watched: set[Any] = set()  # shapes of inputs
        self.input_shape = None if shape is None else tuple(shape)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Any:
        check_shape(x, self.input_shape)
        batch = self.input_shape[0] if self.input_shape else None
        if batch is None or len(x) == batch:
            return self._run(x)
        return _joined([self._part(x[i : i + batch], batch) for i in range(0, len(x), batch)])

    def _run(self, x: Tensor) -> Any:
        kind = x.shape, x.dtype, x.device
        if self._max_bytes is None or kind in self._watched:
            return self.call(x)
        with Bounded(self._max_bytes) as watch:
            outputs = self.call(x)
        if not watch.by_values:
            self._watched.add(kind)
        return outputs

    def _part(self, x: Tensor, batch: int) -> Any:
        """The outputs of some samples, filled up to a whole batch by repeating the last one."""
        count = len(x)
        if count < batch:
            x = x.index_select(0, torch.arange(batch, device=x.device).clamp(max=count - 1))
        return _cut(self._run(x), count)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FileModel:
        self._moved(fn, recurse)
        return self


def channels_first(model: FileModel) -> FileModel:
    """A channels-last network as one that takes images as (B, C, H, W)."""
    shape = model.input_shape
    first = None if shape is None else (shape[0], shape[-1], *shape[1:-1])

    def call(x: Tensor) -> Any:
        return model(x.permute(0, 2, 3, 1))

    return FileModel(model, first, call=call).eval()


def check_shape(x: Tensor, shape: tuple[int | None, ...] | None) -> None:
    """Raise unless an input fits the shape that a file tells."""
    if not shape:
        return
    free = "(B, " + ", ".join("any" if n is None else str(n) for n in shape[1:]) + ")"
    sizes = zip(x.shape[1:], shape[1:], strict=False)
    if x.ndim != len(shape) or any(n is not None and n != given for given, n in sizes):
        raise expected(
            f"an input {free}, as the file tells", f"{tuple(x.shape)}",
            "Change the input (images: --size), or export the network for this size.",
        )  # fmt: skip


def _cut(outputs: Any, count: int) -> Any:
    """The outputs of the first samples."""
    if isinstance(outputs, Tensor):
        return outputs[:count] if outputs.ndim else outputs
    if isinstance(outputs, dict):
        return {key: _cut(item, count) for key, item in outputs.items()}
    if isinstance(outputs, list | tuple):
        return tuple(_cut(item, count) for item in outputs)
    return outputs


def _joined(parts: list[Any]) -> Any:
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
    shape = model.input_shape if isinstance(model, FileModel) else None
    last = isinstance(model, FileModel) and model.channels_last
    if shape and len(shape) == 4:
        return 1 if shape[-1 if last else 1] == 1 else 3, last
    first = first_convolution(model)
    return 1 if first is not None and first.in_channels == 1 else 3, last


def check_batch(model: nn.Module, x: Tensor) -> None:
    """Raise for a single sample without its batch dimension, where the network tells."""
    if isinstance(model, FileModel):
        check_shape(x, model.input_shape)
        return
    if looks_like_one_sample(model, x):
        raise expected(
            f"a batch with {x.ndim + 1} dimensions (B, C, ...)", f"one sample {tuple(x.shape)}",
            "Add a batch dimension, for example array[None], and save it again.",
        )  # fmt: skip
