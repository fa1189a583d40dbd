"""Who reads a value: what is part of the linear map before it, and what a replay keeps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from salience._operations import kinds
from salience._recording.affine import Layout, Step, pulled
from salience._recording.chains import cut, join
from salience._recording.linear_sites import AffineSite, LinearSite
from salience._recording.nonlinear_sites import ElementSite
from salience._recording.trace import Operation, Ref, Site, Trace, every
from salience._recording.values import Values


class Tail(NamedTuple):
    """Where a linear map may go on: a value that is the map's result, maybe rearranged."""

    head: LinearSite | AffineSite
    position: int  # how many parts the map has until here
    shape: torch.Size  # of z
    layouts: tuple[Layout, ...] = ()  # from z to the value


class Readers:
    """The readers of the values of one pass."""

    def __init__(self, trace: Trace, values: Values, keep: bool) -> None:
        self._trace, self._values = trace, values
        self._consumed: set[int] = set()
        self._tails: dict[int, Tail] = {}
        self.kept: dict[int, Tensor] | None = {} if keep else None  # what a replay starts from

    def consumed(self, number: int) -> bool:
        """Whether a value was read."""
        return number in self._consumed

    def adopt(self, site: AffineSite, a: Tensor, step: Step) -> None:
        """Let shifts and scales be part of the linear map whose result they alone read."""
        number = self._values.number(a)
        tail = self._tails.get(number) if number is not None else None
        if tail is None or number in self._consumed:
            return
        if tail.layouts and not isinstance(tail.head, LinearSite):
            return
        if tail.layouts and not step.is_number:
            site.pull = partial(_pulled, tail.layouts, tail.shape, a.shape)
        before = (tail.head, *tail.head.chain)[-1]
        if join(tail.head, site):
            site.source = before

    def follow(self, operation: Operation, operands: Sequence[Tensor], result: object) -> None:
        """Note where a linear map may go on after a call."""
        site = operation.site
        if not isinstance(result, Tensor) or not operation.outputs:
            return
        (value,) = operation.outputs
        if isinstance(site, LinearSite):
            self._tails[value] = Tail(site, 0, result.shape)
        elif isinstance(site, AffineSite):
            head = site.head or site
            tail = self._tails.get(self._values.number(operands[0]) or -1)
            whole = tail.shape if tail is not None and site.head is not None else result.shape
            layouts = tail.layouts if tail is not None and site.head is not None else ()
            self._tails[value] = Tail(head, len(head.chain), whole, layouts)
        elif kinds.of(operation.name).layout and operation.kind == "structural":
            before = self._values.number(operands[0])
            tail = self._tails.get(before) if before is not None else None
            alone = len(every((operation.args, operation.kwargs), Ref)) == 1
            if tail is None or not alone or result.numel() != operands[0].numel():
                return
            if isinstance(operation.args[0], Ref) and result.is_floating_point():
                layout = _layout(operation)
                self._tails[value] = tail._replace(layouts=(*tail.layouts, layout))

    def consume(self, operands: Sequence[Tensor], reader: Site | None) -> None:
        """Note who reads the outputs of linear maps: a ReLU alone stands for its input. A second
        reader undoes that, and what was part of the map behind what it reads."""
        for tensor in operands:
            number = self._values.number(tensor)
            if number is None or number not in self._trace.producers:
                continue
            site = self._trace.producers[number].site
            if isinstance(site, LinearSite | AffineSite):
                self._read(site, reader, number, tensor)
            if number in self._consumed and number in self._tails:
                self._cut(number, tensor)
            self._consumed.add(number)

    def unseen(self, number: int) -> None:
        """A function that was not seen reads a value."""
        site = self._trace.producers[number].site if number in self._trace.producers else None
        if isinstance(site, LinearSite | AffineSite):
            site.rectified = None
        if number in self._tails:
            self._cut(number, None)
        self._consumed.add(number)

    def _read(
        self, site: LinearSite | AffineSite, reader: Site | None, number: int, tensor: Tensor
    ) -> None:
        if number in self._consumed:
            site.rectified = None
            site.keep(tensor.detach())
            if self.kept is not None:
                self.kept[number] = tensor
        elif isinstance(reader, ElementSite) and reader.kind == "relu":
            site.rectified = reader
            site.keep(None)
        elif isinstance(reader, AffineSite) and reader.source is site:
            site.keep(None)

    def _cut(self, number: int, tensor: Tensor | None) -> None:
        tail = self._tails[number]
        first = cut(tail.head, tail.position)
        if first is None:
            return
        if first.a is None and tensor is not None:
            first.a = tensor.detach()
        if self.kept is not None and tensor is not None:
            self.kept[number] = tensor
        moved = {id(part): number for number, part in enumerate((first, *first.chain))}
        for value, other in self._tails.items():
            site = self._trace.producers[value].site
            if id(site) in moved:
                self._tails[value] = other._replace(head=first, position=moved[id(site)])

    def keep(self, operands: list[Tensor], reader: Site | None) -> None:
        """Keep what a replay may find unchanged beside something that changed."""
        if self.kept is None or (
            len(operands) < 2 and not isinstance(reader, LinearSite | AffineSite)
        ):
            return
        if isinstance(reader, AffineSite) and reader.head is not None and reader.is_beside:
            operands = [t for t in operands if not self._values.depends(t)]  # replayed with its map
        for tensor in operands:
            number = self._values.number(tensor)
            assert number is not None
            self.kept[number] = tensor


def _pulled(layouts: Sequence[Layout], before: torch.Size, after: torch.Size, step: Step) -> Step:
    """A step at a rearranged value, as one at the value before that."""
    parts = [None if part is None else pulled(part, layouts, before, after) for part in step[1:]]
    return Step(step.place, *parts)


def _layout(operation: Operation) -> Layout:
    function, rest, kwargs = operation.function, operation.args[1:], operation.kwargs
    return lambda t: function(t, *rest, **kwargs)
