"""What can be known about a function of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from salience._operations.calls import Arguments, Function, Keywords, Question
from salience._operations.contractions import Contraction
from salience._operations.held_norms import Backward

# What a call with one constant does to its other operand.
Step = Literal["add", "sub", "rsub", "neg", "mul", "div", "batch_norm"]
Kind = str | Callable[[Arguments, Keywords, Question], str]


@dataclass(frozen=True)
class Row:
    """What is known about a function, and of one without a row."""

    kind: Kind = "other"

    elementwise: bool = False
    straight: bool = False  # shifts, scales or converts each entry
    root: bool = False  # a power, which normalisations are spelled with
    zero: bool = False  # an activation with f(0) = 0
    kinked: bool = False  # has a kink, which a ReLU can be spelled with
    bound: bool = False  # cuts off on one side: two of these give a ReLU with an upper bound
    of_two: bool = False  # with a constant for one of two operands, an element-wise function

    nonnegative: bool = False  # what it gives is never below 0
    keeps_sign: bool = False  # nor is this, where no operand is

    layout: bool = False  # rearranges entries, so that a bias may be added later
    reciprocal: bool = False  # leaves a reciprocal one
    fills: bool = False  # may write numbers between its entries
    indexing: bool = False  # has indices, which decide nothing of their own
    selects: bool = False  # picks rows or entries of a table
    embeds: bool = False  # looks up ids in a table of numbers
    positions: bool = False  # gives positions or counts, which are no ids
    finiteness: bool = False  # asks which values are infinite or no numbers
    equality: bool = False
    alone: bool = False  # takes no value from any operand but the first

    aside: bool = False  # no part of the computation: a question, or a tensor of some shape
    read: bool = False  # hands a value to Python, where the model may branch on it
    detached: bool = False  # the same memory, behind the back of autograd
    reshapes: bool = False  # in place, and writes nothing
    writes: bool | None = None  # in place; None: as the underscore in its name says

    step: Step | None = None
    operands: tuple[str, ...] = ("input",)  # their names, in order
    packed: tuple[str, ...] = ()  # the same, of packed sequences
    contraction: Contraction | None = None
    held: Callable[..., Backward] | None = None  # backward with 1 / sigma held constant
    parts: Function | None = None  # what is recorded in its place, unless its kind is known
    whole: Callable[..., bool] | None = None  # which calls have no parts
    told: tuple[str, str] | None = None  # the method, and what it takes from the other operand

    @property
    def shifts(self) -> bool:
        return self.step in ("add", "sub", "rsub")

    @property
    def scales(self) -> bool:
        return self.step in ("mul", "div")

    @property
    def shifts_or_scales(self) -> bool:
        return self.step is not None and self.step != "batch_norm"


def row(kind: Kind = "other", traits: str = "", operands: str = "input", **known: object) -> Row:
    """A row by the names of what is true, and by those of the operands."""
    true = dict.fromkeys(traits.split(), True)
    return replace(Row(kind, operands=tuple(operands.split())), **true, **known)
