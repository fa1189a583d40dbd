"""Calls in one form: operands in their positions, and fused calls as their parts."""

from __future__ import annotations

import torch
from torch import Tensor

from salience._operations import kinds
from salience._operations.calls import Arguments, Function, Keywords, Question
from salience._operations.contractions import Slots
from salience._operations.parts import scaled_addmm
from salience._operations.recurrent import is_packed


def linear_slots(name: str, depends: Question, args: Arguments) -> Slots | None:
    """Where W, a and b are, if the call is a contraction with weights; args are positional."""
    known = kinds.of(name).contraction
    return None if known is None else known.slots(args, depends)


def layer_kind(name: str) -> str:
    """What composites call a linear map of this name."""
    known = kinds.of(name).contraction
    is_convolution = known is not None and known.form in ("convolution", "transposed")
    return "convolution" if is_convolution else "dense"


def decomposition_of(
    name: str, args: Arguments, kwargs: Keywords, is_linear: bool
) -> Function | None:
    """The function to record in the place of a call, if it is one of known form.

    is_linear  the call is a linear map, which needs no parts but for factors that rules do not see
    """
    if is_linear:
        return scaled_addmm if any(kwargs.get(key, 1) != 1 for key in ("alpha", "beta")) else None
    known = kinds.of(name)
    is_whole = known.whole is not None and known.whole(*args, **kwargs)
    return None if is_whole else known.parts


def of_itself(
    name: str, func: Function, args: Arguments, kwargs: Keywords
) -> tuple[str, Function, Arguments, Keywords]:
    """view_as(a, b) as view(a, shape of b): it does not read what b holds."""
    told = kinds.of(name).told
    other = args[1] if len(args) > 1 else kwargs.get("other")
    if told is None or not args or not isinstance(other, Tensor):
        return name, func, args, kwargs
    name, what = told
    return name, getattr(torch.Tensor, name), (args[0], getattr(other, what)), {}


def flattened(name: str, func: Function, args: Arguments) -> tuple[Function, Arguments]:
    """einsum(equation, [a, b]) as a function of (equation, a, b)."""
    if name != "einsum" or len(args) < 2 or not isinstance(args[1], list | tuple):
        return func, args
    return _einsum(func), (args[0], *args[1], *args[2:])


def _einsum(func: Function) -> Function:
    return lambda equation, *operands, **options: func(equation, list(operands), **options)


def positional(name: str, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
    """Move operands from keywords to their positions."""
    if not kwargs:
        return args, {}
    known = kinds.of(name)
    names = known.packed if known.packed and is_packed(args, kwargs) else known.operands
    rest = dict(kwargs)
    if names[0] == "input" and "self" in rest:  # as overloads of aten call it
        rest["input"] = rest.pop("self")
    moved = list(args)
    for operand in names[len(args) :]:
        if operand not in rest:
            break
        moved.append(rest.pop(operand))
    return tuple(moved), rest
