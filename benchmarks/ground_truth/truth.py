"""Whether the truth is true: by changing what lies outside of it, and inside."""

from __future__ import annotations

import torch
from torch import nn

from ground_truth.data import Data
from ground_truth.question import value


def interventions(network: nn.Module, data: Data, target: torch.Tensor, scale: float) -> dict:
    """The target's change, root of the mean square over samples in units of its scale, and the
    share of samples whose class becomes another one, where there are classes."""
    before = value(network, data.x, target)
    found: dict[str, float] = {}
    for name, x in (("outside", data.redrawn), ("inside", data.changed)):
        change = (value(network, x, target) - before).square().mean().sqrt() / scale
        found[name] = float(change)
        with torch.no_grad():
            output = network(x)
        if output.shape[1] > 1:
            found[f"{name} flips"] = float((output.argmax(1) != target).double().mean())
    return found
