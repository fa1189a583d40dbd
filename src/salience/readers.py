"""Who reads a value: what decides which BatchNorm is folded, and what a replay needs to keep."""

from __future__ import annotations

from torch import Tensor

from salience.sites import BatchNormSite, LinearSite, join, separate
from salience.trace import Site, Trace
from salience.values import Values


class Readers:
    """The readers of the values of one pass."""

    def __init__(self, trace: Trace, values: Values, keep: bool) -> None:
        self._trace, self._values = trace, values
        self._consumed: set[int] = set()
        self.kept: dict[int, Tensor] | None = {} if keep else None  # what a replay starts from

    def consumed(self, number: int) -> bool:
        """Whether a value was read."""
        return number in self._consumed

    def consume(self, operands: list[Tensor], reader: Site | None) -> None:
        """Note who reads the outputs of linear maps: a BatchNorm alone is folded into the map,
        a ReLU alone stands for its input. A second reader undoes both."""
        for tensor in operands:
            number = self._values.number(tensor)
            producer = self._trace.producers.get(number) if number is not None else None
            if number is None or producer is None:
                continue
            site = producer.site
            if isinstance(site, LinearSite | BatchNormSite):
                if number not in self._consumed:
                    join(site, reader)
                else:
                    separate(site, tensor.detach())
                    if self.kept is not None:
                        self.kept[number] = tensor
            self._consumed.add(number)

    def keep(self, operands: list[Tensor], reader: Site | None) -> None:
        """Keep what a replay may find unchanged beside something that changed."""
        if self.kept is None or (len(operands) < 2 and not isinstance(reader, LinearSite)):
            return
        if isinstance(reader, BatchNormSite) and reader.folded:  # replayed with its linear map
            operands = operands[1:]
        for tensor in operands:
            number = self._values.number(tensor)
            assert number is not None
            self.kept[number] = tensor

    def separate_all(self) -> None:
        """Undo what was decided by readers, where a function that was not seen may be one."""
        for operation in self._trace.operations:
            if isinstance(operation.site, LinearSite | BatchNormSite):
                separate(operation.site, None)
