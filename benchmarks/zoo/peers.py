"""captum and zennit on the same network, by their public interfaces.

LRP-epsilon with eps -> 0 (that is: 1e-15) and guided backprop. zennit's LRP runs with a canoniser
(torchvision's ResNet has one of its own, all others get the one that folds BatchNorm) and without
one, and the better outcome counts.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from cases import (
    Case,
    captum_attribution,
    captum_lrp,
    difference,
    maps_of,
    of_captum,
    of_zennit,
    zennit_lrp,
    zennit_relu,
)
from torch import Tensor, nn

import salience
from zoo.laws import described

EPS = 1e-15
# for what their other stabilisers, 1e-9 and 1e-12, come to next to small denominators
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2}
BETTER = ("right", "finite", "is the gradient", "wrong", "not finite")  # and errors last
CASES: tuple[Case, ...] = (
    of_captum("lrp_epsilon", captum_lrp("EpsilonRule", epsilon=EPS)),
    of_captum("guided_backprop", captum_attribution("GuidedBackprop")),
    of_zennit("lrp_epsilon", zennit_lrp("Epsilon", epsilon=EPS)),
    of_zennit("lrp_epsilon", zennit_lrp("Epsilon", epsilon=EPS), canonize=False),
    of_zennit("guided_backprop", zennit_relu("ReLUGuidedBackprop"), "1", canonize=False),
)


def compare(model: nn.Module, x: Tensor, classes: Tensor, relu_only: bool) -> dict[str, Any]:
    """package -> method -> what came: "right" means equal to what it must equal.

    LRP-epsilon must equal input x gradient where the network is ReLU-only; elsewhere only "finite"
    can be said of it. Guided backprop must equal salience's, which `laws` holds to autograd's
    graph; "is the gradient" names the peers' way to fail in silence.
    """
    tape, target = salience.record(model, x), classes.tolist()
    gradient, guided = (tape.explain(name, target) for name in ("gradient", "guided_backprop"))
    del tape
    found: dict[str, Any] = {"captum": {}, "zennit": {}}
    for case in CASES:
        exact = x * gradient if relu_only else None
        wanted = guided if case.row == "guided_backprop" else exact
        outcome = _outcome(case, model, x, classes, wanted, gradient)
        earlier = found[case.package].get(case.row)
        if earlier is None or _rank(outcome) < _rank(earlier):
            found[case.package][case.row] = outcome
    return found


def _rank(outcome: dict[str, Any]) -> int:
    kind = outcome["outcome"]
    return BETTER.index(kind) if kind in BETTER else len(BETTER)


def _outcome(
    case: Case, model: nn.Module, x: Tensor, classes: Tensor, wanted: Tensor | None,
    gradient: Tensor,
) -> dict[str, Any]:  # fmt: skip
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps = maps_of(case, model, x, classes)
    except Exception as error:  # a finding, to be stated in the table
        found = {"outcome": type(error).__name__, "error": described(error)}
    else:
        found = _judged(maps, wanted, gradient)
    return found | {"seconds": time.perf_counter() - start}


def _judged(maps: Tensor, wanted: Tensor | None, gradient: Tensor) -> dict[str, Any]:
    if not bool(maps.isfinite().all()):
        return {"outcome": "not finite"}
    if wanted is None:
        return {"outcome": "finite"}
    error, tolerance = difference(maps, wanted), TOLERANCE[maps.dtype]
    if error < tolerance:
        return {"outcome": "right", "difference": error}
    silent = difference(maps, gradient) < tolerance
    return {"outcome": "is the gradient" if silent else "wrong", "difference": error}
