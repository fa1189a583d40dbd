"""Work in parts that are halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Result = TypeVar("Result")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )


def in_parts(
    function: Callable[[slice], Result], count: int, size: int
) -> Iterator[tuple[slice, Result]]:
    """function(part) for consecutive parts of range(count); parts are halved as memory asks.

    Errors: whatever the function raises, and running out of memory with a part of one.
    """
    start, size = 0, max(1, size)
    while start < count:
        part = slice(start, min(start + size, count))
        try:
            result = function(part)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not ran_out_of_memory(error):
                raise
            size = (min(size, part.stop - part.start) + 1) // 2
            continue
        yield part, result
        start = part.stop
