"""Operations of a file's network, refused before they make more than a limit."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from salience._errors import SalienceError, expected
from salience._files.untrusted import check_size, in_words
from salience._operations.calls import Arguments, Keywords

_BY_VALUES = torch.ops.aten.repeat_interleave.Tensor  # as many as the operand's values say
_READ = torch.ops.aten._local_scalar_dense.default  # a value as a number of Python

_BEYOND = 2**63  # bytes, which torch cannot count

_ATEN = torch.ops.aten
# Into how many tensors an operator cuts one, at most: torch makes each, and memory bounds none.
PIECES: dict[object, Callable[..., int]] = {
    _ATEN.tensor_split.sections: lambda self, sections, dim=0: sections,
    _ATEN.tensor_split.tensor_indices_or_sections: lambda self, tensor_indices_or_sections, dim=0: (
        int(tensor_indices_or_sections) if tensor_indices_or_sections.ndim == 0
        else len(tensor_indices_or_sections) + 1
    ),
    _ATEN.unbind.int: lambda self, dim=0: self.shape[dim],
    **dict.fromkeys(
        (_ATEN.split.Tensor, _ATEN.unsafe_split.Tensor),
        lambda self, split_size, dim=0: -(-self.shape[dim] // max(split_size, 1)),
    ),
    **dict.fromkeys(
        (_ATEN.chunk.default, _ATEN.unsafe_chunk.default),
        lambda self, chunks, dim=0: min(chunks, self.shape[dim] or chunks),
    ),
}  # fmt: skip
_MOST_PIECES = 2**20


class Bounded(TorchDispatchMode):
    """Refuses a tensor that is larger than a limit, before memory is given to it.

    A few bytes of a file can ask for any size: by a shape, a padding, a number of repeats, or by
    two long vectors. Each operation is asked for its result's shape first. A refusal that a library
    catches, or wraps in words of its own, is raised again at the end.

    most       bytes of one tensor, views of fewer entries among them
    total      bytes of all that is made together, views left out
    by_values  whether other values of the same shapes may make other shapes
    """

    def __init__(self, most: int, total: int | None = None) -> None:
        super().__init__()
        self._most, self._total, self._made = most, total, 0
        self._refusal: SalienceError | None = None
        self.by_values = False

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Arguments = (), kwargs: Keywords | None = None
    ) -> object:
        given = dict(kwargs or {})
        try:
            _check_pieces(func, args, given)
            sizes = _sizes(func, args, given)
            self.by_values |= sizes is None or func in (_READ, _BY_VALUES)
            self._check(func, sizes or [])
        except SalienceError as error:
            self._refusal = error
            raise
        return func(*args, **given)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        super().__exit__(kind, error, trace)
        if self._refusal is not None and error is not self._refusal:
            raise self._refusal from None

    def _check(self, func: OpOverload, sizes: list[int]) -> None:
        check_size(max(sizes, default=0), f"a network with {func.__name__}", self._most)
        if self._total is not None and not any(r.alias_info for r in func._schema.returns):
            self._made += sum(sizes)
            if self._made > self._total:
                raise expected(
                    "layers as large as the weights in the file",
                    f"layers that take more than {in_words(self._total)} when they are built",
                    "Save the network again.",
                )


def _check_pieces(func: OpOverload, args: Arguments, given: Keywords) -> None:
    if func in PIECES and (made := PIECES[func](*args, **given)) > _MOST_PIECES:
        raise expected(
            f"at most {_MOST_PIECES} pieces of a tensor",
            f"a network with {func.__name__} into {made}",
            "Save the network without it.",
        )


def _sizes(func: OpOverload, args: Arguments, given: Keywords) -> list[int] | None:
    """Bytes of each tensor that a call would return; None where that depends on values."""
    tensors = [leaf for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)]
    if given.get("device") == torch.device("meta") or any(t.is_meta for t in tensors):
        return []
    if func is _BY_VALUES:
        return [int(args[0].sum()) * 8]
    args, given = tree_map(_shape_alone, (args, given))
    names = [argument.name for argument in func._schema.arguments]
    if "device" in names[len(args) :]:
        given["device"] = "meta"
    args = tuple("meta" if n == "device" else a for n, a in zip(names, args, strict=False))
    try:
        made = func(*args, **given)
    except Exception as error:
        if "overflow" in str(error):
            return [_BEYOND]
        if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
            return None
        raise  # what no shape function takes can end the process
    # an empty tensor by its other sides: what is made of each of its places takes memory
    return [
        prod(n or 1 for n in t.shape) * t.itemsize
        for t in tree_leaves(made)
        if isinstance(t, Tensor)
    ]


def _shape_alone(value: object) -> object:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
