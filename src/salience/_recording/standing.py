"""What the user's tensors stand for: what was written since, and weights without gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from salience._errors import expected
from salience._inputs.trees import Model
from salience._recording.calls import Calls, maker_of


class Standing:
    """The tensors of one pass as its values.

    state  the model's parameters and buffers
    """

    def __init__(self, calls: Calls, model: Model) -> None:
        self._calls, self._values, self._trace = calls, calls.values, calls.trace
        self._replaced: dict[int, tuple[Tensor, Tensor]] = {}
        module = model if isinstance(model, nn.Module) else None
        named = [] if module is None else list(module.named_parameters())
        self._names = {id(parameter): name for name, parameter in named}
        self.state: list[Tensor] = [parameter for _, parameter in named]
        if module is not None:
            self.state.extend(module.buffers())
        self._ids_of_state = set(map(id, self.state))

    def current(self, tensor: Tensor) -> Tensor:
        """What the user's tensor stands for: after writes in place, and without its gradient."""
        while True:
            if id(tensor) in self._replaced:
                tensor = self._replaced[id(tensor)][1]
            elif self._replaced and tensor._is_view() and id(tensor._base) in self._replaced:
                self.replace(tensor, self._view_of(self.current(base_of(tensor)), tensor))
            else:
                known = self._parameter(tensor)
                if known is tensor:
                    return tensor
                tensor = known

    def replace(self, tensor: Tensor, by: Tensor) -> None:
        self._replaced[id(tensor)] = (tensor, by)

    @property
    def any_replaced(self) -> bool:
        return bool(self._replaced)

    def forget(self) -> None:
        """The user's tensors are what they are again, at the end of a pass."""
        self._replaced.clear()

    def is_state(self, handle: object) -> bool:
        """Whether a tensor, or what it is a view of, belongs to the model."""
        base = handle._base if isinstance(handle, Tensor) and handle._is_view() else None
        return not self._ids_of_state.isdisjoint((id(handle), id(base)))

    def _view_of(self, base: Tensor, view: Tensor) -> Tensor:
        geometry = (view.size(), view.stride(), view.storage_offset())
        return self._calls.apply(torch.as_strided, "as_strided", (base, *geometry), {})

    def _parameter(self, tensor: Tensor) -> Tensor:
        weights, index = self._calls.weights, self._values.number(tensor)
        if index is not None:
            if index in self._calls.ungraded and tensor.requires_grad:  # by a custom Function
                self._unseen(tensor)
            return tensor
        if id(tensor) in self._names or (tensor.is_leaf and tensor.requires_grad):
            return self._freeze(tensor)
        if tensor.requires_grad and not self._values.sources(tensor):  # of parameters, or long ago
            self._trace.branches = True
            return weights.frozen(tensor)
        if tensor.requires_grad:  # made by a function that the mode does not see
            self._unseen(tensor)
        return weights.frozen(tensor) if tensor.is_inference() else tensor

    def _freeze(self, parameter: Tensor) -> Tensor:
        frozen, trace = self._calls.weights.frozen(parameter), self._trace
        if self._values.number(frozen) is None:
            number = len(trace.parameters)
            name = self._names.get(id(parameter), f"parameter_{number}")
            index = self._values.add(frozen)
            trace.parameters[index], trace.constants[index] = name, frozen
        return frozen

    def _unseen(self, tensor: Tensor) -> None:
        if self._replaced and not self._values.sources(tensor).isdisjoint(self._replaced):
            raise expected(
                "no write in place before a function that cannot be seen",
                f"one before {maker_of(tensor)}",
                "Write h = h + y for h += y, or use functions of torch.",
            )
        self._calls.unseen(tensor)


def base_of(view: Tensor) -> Tensor:
    base = view._base
    assert base is not None
    return base
