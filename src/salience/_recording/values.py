"""Which tensors belong to a pass: each is a numbered value of its trace."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import Node

from salience._recording.trace import Ref, Trace, every

_TAG = "_salience_value"  # on tensors of the pass: (the pass's token, number of the value)


class Values:
    """The values of one pass."""

    def __init__(self, trace: Trace) -> None:
        self._trace, self._token = trace, object()
        # node of autograd -> id of the memory that it wrote, and the value
        self._made: dict[Node, tuple[int, int]] = {}

    def number(self, tensor: object) -> int | None:
        """The number of a tensor's value, if the tensor belongs to this pass."""
        tag = getattr(tensor, _TAG, None)
        return tag[1] if tag is not None and tag[0] is self._token else None

    def add(self, tensor: Tensor) -> int:
        """A new value, the tensor's."""
        number = self._trace.new_value()
        self._trace.shapes[number] = tensor.shape
        self.stand_for(number, tensor)
        return number

    def stand_for(self, number: int, tensor: Tensor) -> None:
        """Let a tensor be a value."""
        setattr(tensor, _TAG, (self._token, number))
        if tensor.grad_fn is not None:
            base = tensor._base
            self._made[tensor.grad_fn] = id(tensor if base is None else base), number

    def sources(self, tensor: Tensor) -> set[int]:
        """The ids of the tensors of this pass that a tensor, not of it, was made from."""
        return {memory for memory, _ in self._made_of(tensor)}

    def read_by(self, tensor: Tensor) -> set[int]:
        """The values of this pass that a tensor, not of it, was made from."""
        return {number for _, number in self._made_of(tensor)}

    def _made_of(self, tensor: Tensor) -> set[tuple[int, int]]:
        queue, seen, found = [tensor.grad_fn], set(), set()
        while queue:
            node = queue.pop()
            known = getattr(node, "variable", None)  # where a graph begins
            number = self.number(known) if known is not None else None
            if number is not None and known is not None:
                found.add((id(known), number))
            elif node in self._made:
                found.add(self._made[node])
            elif node is not None and node not in seen:
                seen.add(node)
                queue.extend(before for before, _ in node.next_functions)
        return found

    def ref(self, tensor: Tensor) -> Tensor | Ref:
        """What stands for a tensor in a recorded call."""
        number = self.number(tensor)
        return tensor if number is None else Ref(number)

    def depends(self, tensor: object) -> bool:
        """Whether a tensor (or one in a list of tensors) depends on the input."""
        known = self._trace.dependent
        if isinstance(tensor, Tensor):
            return self.number(tensor) in known
        return any(self.number(leaf) in known for leaf in every(tensor, Tensor))
