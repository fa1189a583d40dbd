"""Networks no larger than the weights beside them: a description of a few bytes can ask for any."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from math import prod

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from salience._errors import expected

_TENSORS = 256  # that a file may leave out: what is computed, and heads that were not trained
_VALUES = 2**22


@contextmanager
def no_larger_than(shapes: Collection[Sequence[int]], what: str) -> Iterator[None]:
    """Within, building a network in this thread ends where it outgrows these weights twofold.

    The network is refused at the first tensor too many, before those that would follow are made.
    """
    most = {"tensors": 2 * len(shapes) + _TENSORS, "values": 2 * sum(map(prod, shapes)) + _VALUES}
    places: dict[tuple[int, str], int] = {}  # loading writes again what building has registered
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None or threading.get_ident() != thread:
            return
        place = (id(module), name)
        found["values"] += tensor.numel() - places.get(place, 0)
        places[place] = tensor.numel()
        found["tensors"] = len(places)
        for kind, number in found.items():
            if number > most[kind]:
                raise expected(
                    f"a network of the {len(shapes)} tensors that its weights have",
                    f"{what}, which describes a larger one: more than {most[kind]} {kind}",
                    "Take the description and the weights from the same place.",
                )

    found = {"tensors": 0, "values": 0}
    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
