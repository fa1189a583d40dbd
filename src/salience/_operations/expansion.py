"""Run the Python functions of torch so that the calls inside them are seen.

A function such as `F.multi_head_attention_forward` first offers its call to the active mode, and a
mode is off inside its own handler. Here its body runs past that offer, with the mode on.
"""

from __future__ import annotations

import types
from functools import cache


@cache
def past_dispatch(func: types.FunctionType) -> types.FunctionType:
    """A Python torch function that does not hand its call over to a mode again."""
    never = dict.fromkeys(_DISPATCH_CHECKS, _false)
    body = types.FunctionType(
        func.__code__, func.__globals__ | never, func.__name__, func.__defaults__, func.__closure__
    )
    body.__kwdefaults__ = func.__kwdefaults__
    return body


_DISPATCH_CHECKS = (
    "has_torch_function",
    "has_torch_function_unary",
    "has_torch_function_variadic",
)


def _false(*_: object) -> bool:
    return False
