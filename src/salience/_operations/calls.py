"""What a call of a torch function is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]
Arguments = tuple[Any, ...]  # whatever torch's functions take
Keywords = dict[str, Any]
Question = Callable[[object], bool]  # of an argument, such as whether it depends on the input
