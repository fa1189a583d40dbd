"""The relevance methods that are held against the oracle beyond ReLU networks, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from oracle_lrp import explain
from torch import Tensor, nn

import salience

Cases = list[tuple[str, dict[str, float]]]
CASES: Cases = [
    ("lrp_epsilon", {"eps": 1e-3}),
    ("lrp_epsilon", {"eps": 1e-9}),
    ("lrp_alpha_beta", {"alpha": 2.0, "beta": 1.0}),
    ("lrp_alpha_beta", {"alpha": 1.0, "beta": 0.0}),
    ("excitation_backprop", {}),
    ("deep_taylor", {}),
]


def check(net: nn.Module, oracle: Callable[..., Any], x: Tensor, cases: Cases = CASES) -> None:
    """Every method, on one tape."""
    tape = salience.record(net, x)
    for method, given in cases:
        equal(tape, explain(oracle, x, 1, method, given), method, given)


def equal(tape: salience.Tape, expected: Tensor, method: str, given: dict[str, float]) -> None:
    """The tape's map is the expected one, and the method has a rule for all that it passed."""
    maps, scale = tape.explain(method, target=1, **given), float(expected.abs().max())
    assert scale > 0
    torch.testing.assert_close(
        maps, expected, rtol=0, atol=1e-9 * scale, msg=lambda m: f"{method} {given}: {m}"
    )
    assert tape.coverage(method).uncovered == []
