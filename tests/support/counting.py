"""How many convolutions torch runs, layer by layer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
Counts = list[tuple[int, int]]  # per convolution in the net's order: forward, backward


class Convolutions(TorchDispatchMode):
    """Count convolutions by the shape of their weight, and what the backward ones compute."""

    def __init__(self) -> None:
        super().__init__()
        self.forward: Counter[torch.Size] = Counter()
        self.backward: Counter[torch.Size] = Counter()
        self.masks: set[tuple[bool, ...]] = set()
        self.clamped: Counter[torch.Size] = Counter()
        self.products = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten.convolution.default:
            self.forward[args[1].shape] += 1
        elif func is aten.convolution_backward.default:
            self.backward[args[2].shape] += 1
            self.masks.add(tuple(args[-1]))
        elif func in (aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default):
            self.clamped[args[0].shape] += 1
        elif func in (aten.mm.default, aten.addmm.default):
            self.products += 1
        return func(*args, **(kwargs or {}))

    def of(self, net: nn.Module) -> Counts:
        shapes = [m.weight.shape for m in net.modules() if isinstance(m, nn.Conv2d)]
        assert len(set(shapes)) == len(shapes), "layers are told apart by their shapes"
        wide = [torch.Size([s[0], 2 * s[1], *s[2:]]) for s in shapes]  # W+ beside W-
        assert not set(wide) & set(shapes)
        assert set(self.forward) | set(self.backward) <= {*shapes, *wide}
        return [
            (self.forward[shape] + self.forward[twice], self.backward[shape] + self.backward[twice])
            for shape, twice in zip(shapes, wide, strict=True)
        ]
