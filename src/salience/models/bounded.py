"""Operations of a file's network, refused before they make more than a limit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from salience.errors import expected
from salience.files import check_size, in_words

_BY_VALUES = torch.ops.aten.repeat_interleave.Tensor  # as many as the operand's values say


class Bounded(TorchDispatchMode):
    """Refuses a tensor that is larger than a limit, before memory is given to it.

    A few bytes of a file can ask for any size: by a shape, a padding, a number of repeats, or by
    two long vectors. Each operation is asked for its result's shape first.

    most   bytes of one tensor, views of fewer entries among them
    total  bytes of all that is made together, views left out
    """

    def __init__(self, most: int, total: int | None = None) -> None:
        super().__init__()
        self._most, self._total, self._made = most, total, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        sizes = _sizes(func, args, given)
        check_size(max(sizes, default=0), f"a network with {func.__name__}", self._most)
        if self._total is not None and not any(r.alias_info for r in func._schema.returns):
            self._made += sum(sizes)
            if self._made > self._total:
                raise expected(
                    "layers as large as the weights in the file", "layers that take more than "
                    f"{in_words(self._total)} when they are built", "Save the network again.",
                )  # fmt: skip
        return func(*args, **given)


def _sizes(func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> list[int]:
    """Bytes of each tensor that a call would return; none where that cannot be told."""
    tensors = [leaf for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)]
    if given.get("device") == torch.device("meta") or any(t.is_meta for t in tensors):
        return []
    if func is _BY_VALUES:
        return [int(args[0].sum()) * 8]
    args, given = tree_map(_shape_alone, (args, given))
    if any(argument.name == "device" for argument in func._schema.arguments):
        given["device"] = "meta"
    try:
        made = func(*args, **given)
    except Exception:  # it depends on values, or the call itself will say what is wrong
        return []
    return [t.numel() * t.itemsize for t in tree_leaves(made) if isinstance(t, Tensor)]


def _shape_alone(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
