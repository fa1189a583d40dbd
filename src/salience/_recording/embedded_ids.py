"""Which tensors of a pass hold ids that came with the input, and which calls embed them.

Ids have no gradient: the map of an integer input lies at what embeddings make of it. An id stays
one through reshapes, slices, shifts and writes; what is compared, counted or only shaped like ids
(masks, positions) is a constant of the pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from salience._errors import SalienceError, expected
from salience._inputs.trees import Key
from salience._operations import kinds
from salience._operations.calls import Arguments, Function, Keywords
from salience._recording.trace import every

_TAG = "_salience_ids"


class Origin(NamedTuple):
    """Where ids came from."""

    key: Key  # of the input
    batch: int | None = 0  # the dimension that counts samples; None: not known
    each: int = 1  # how many entries of it a sample has


class Ids:
    """The ids of one pass."""

    def __init__(self) -> None:
        self.any = False
        self._pass = object()

    def mark(self, tensor: Tensor, origin: Origin) -> None:
        self.any = True
        setattr(tensor, _TAG, (self._pass, origin))

    def origin(self, tensor: object) -> Origin | None:
        tag = getattr(tensor, _TAG, None)
        return tag[1] if tag is not None and tag[0] is self._pass else None

    def embedded(self, name: str, args: Arguments, kwargs: Keywords) -> Tensor | None:
        """The ids that a call looks up in a table of numbers, if it does."""
        tables = [t for t in every((args, kwargs), Tensor) if t.is_floating_point()]
        if not kinds.of(name).embeds or len(tables) != 1:
            return None
        if name == "__getitem__":
            index = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        elif name == "index_select" and kwargs.get("dim", args[1] if len(args) > 1 else 0) != 0:
            return None
        else:
            index = next((t for t in every((args, kwargs), Tensor) if self.origin(t)), None)
        return index if isinstance(index, Tensor) and self.origin(index) else None

    def follow(self, name: str, args: Arguments, kwargs: Keywords, result: object) -> None:
        """Mark the results of a call that are ids still."""
        known = kinds.of(name)
        if known.positions:
            return
        if known.alone:  # the second operand gives a shape or a type
            args, kwargs = args[:1], {}
        operands = [t for t in every((args, kwargs), Tensor) if self.origin(t) is not None]
        for tensor in every(result, Tensor) if operands else ():
            numbers = not (tensor.is_floating_point() or tensor.is_complex())
            if numbers and tensor.dtype != torch.bool and self.origin(tensor) is None:
                origin = self.origin(operands[0])
                assert origin is not None
                self.mark(tensor, _moved(origin, operands[0], tensor))


def _moved(origin: Origin, ids: Tensor, result: Tensor) -> Origin:
    """Where the samples of ids are in a result."""
    if origin.batch is None or not result._is_view():
        return origin if result.ndim == ids.ndim else origin._replace(batch=None)
    step = ids.stride(origin.batch) * origin.each  # from sample to sample, which views keep
    samples = ids.shape[origin.batch] // origin.each
    found = []
    for d in range(result.ndim):
        each, rest = divmod(result.shape[d], max(1, samples))
        if rest == 0 and result.stride(d) * each == step:
            found.append(Origin(origin.key, d, each))
    # of a single sample every dimension may have these steps
    likely = lambda new: (new.each != origin.each, new.batch != origin.batch)  # noqa: E731
    return min(found, key=likely, default=origin._replace(batch=None))


def leaf_of(func: Function, batch: int, each: int) -> Callable[..., Tensor]:
    """The function of an embedding whose result (B, ...) begins the graph."""

    def leaf(*args: object, **kwargs: object) -> Tensor:
        result = func(*args, **kwargs)
        result = result[0] if isinstance(result, tuple) else result
        result = result.movedim(batch, 0)
        result = result if each == 1 else result.unflatten(0, (-1, each))
        return result.detach().requires_grad_()

    return leaf


def as_called(leaf: Tensor, batch: int, each: int) -> Tensor:
    """What the model's own call gives, for a leaf (B, ...)."""
    return (leaf if each == 1 else leaf.flatten(0, 1)).movedim(0, batch)


def checked(leaf: Tensor, samples: int) -> Tensor:
    """An embedding of ids, if it has the samples of the batch first."""
    if leaf.ndim == 0 or len(leaf) != samples:
        raise expected(
            f"embeddings ({samples}, ...) of {samples} samples",
            f"{tuple(leaf.shape)}",
            "Embed the ids of each sample as they came, and stack them afterwards; a file that was "
            "saved for n samples takes batch_size=n.",
        )
    return leaf


def as_given(leaf: Tensor, given: Tensor) -> Tensor:
    """Another value for an embedding of the same shape."""
    if leaf.shape != given.shape:
        raise expected(
            f"a model whose embeddings do not depend on the batch size, {tuple(given.shape)}",
            f"{tuple(leaf.shape)}",
            "Use methods of a single pass.",
        )
    return given.detach().clone().requires_grad_()


def out_of_range(ids: Tensor, error: IndexError) -> SalienceError:
    got = f"ids from {int(ids.min())} to {int(ids.max())}"
    return expected("ids that the embedding has rows for", got, f"torch says: {error}.")
