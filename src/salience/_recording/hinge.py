"""The hinge between autograd and the rules: what backward means is looked up when it runs.

A site is one recorded operation that rules may treat. Its forward pass is the user's own function;
its backward pass asks the tape's `Walk` which rule is active. So one recorded pass serves every
method, and a method without a rule for a kind of operation gets plain autograd there.

What flows back is the multiplier m; relevance is R = a * m at an activation a.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor

# a site, m at its output, and what its rule made of it
Note = Callable[[Any, Tensor, Any], None]


class Walk:
    """What backward means at this moment: the active rules, the relevance they handed back, and who
    takes note of what every site does.

    All sites of a tape look here, on the threads of autograd too, so that a tape is walked by one
    thread at a time: `alone` makes others wait.
    """

    def __init__(self) -> None:
        self.rules: dict[str, Callable[[Any, Tensor], Tensor]] = {}
        self.input_rule: Callable[[Any, Tensor], Tensor | None] | None = None
        self.relevance: list[tuple[int, Tensor]] = []  # at numbered values
        self.note: Note | None = None
        self._lock = RLock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A walk of this thread's own; one that it is in the middle of goes on afterwards."""
        with self._lock:
            before = self.rules, self.input_rule, self.relevance, self.note
            self.rules, self.input_rule, self.relevance, self.note = {}, None, [], None
            try:
                yield
            finally:
                self.rules, self.input_rule, self.relevance, self.note = before


class Ruled(torch.autograd.Function):
    """A site in the graph of autograd."""

    @staticmethod
    def forward(ctx: Any, site: Any, *operands: Tensor) -> Tensor:
        ctx.site, ctx.operands = site, len(operands)
        ctx.set_materialize_grads(False)  # nothing flows through what a rule went past
        return site.forward(*operands)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_outputs[0] is None:
            return (None,) * (1 + ctx.operands)
        back = ctx.site.backward(grad_outputs[0])
        if ctx.site.walk.note is not None:
            ctx.site.walk.note(ctx.site, grad_outputs[0], back)
        return (None, *back) if isinstance(back, tuple) else (None, back)
