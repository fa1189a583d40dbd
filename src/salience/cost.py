"""What a map by each method costs, in plain gradients."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from salience.errors import SalienceError, SalienceWarning
from salience.memory import in_parts, ran_out_of_memory
from salience.methods import Method
from salience.tape import run_pass
from salience.targets import Target, resolve, rows_of, select_output

UNITS = "gradients (forward + input gradient)"
NOTE = (
    "(recording a forward pass + one backward walk for the maps, on a pass of the method's own) / "
    "(plain autograd: forward + input gradient), both of the same inputs; methods of several "
    "passes include all of them. Median processor seconds, on a GPU synchronised wall seconds. "
    "On one tape methods share the forward pass, and cost less together."
)
QUARTER = 4  # measured on one input in so many, to cost little beside the test itself
_QUICK = 0.05  # seconds of a gradient
_RUNS, _ENOUGH = 3, 0.2  # a measurement is repeated unless it took so many seconds


def in_gradients(
    model: Callable[..., Any],
    x: Tensor,
    total: int,
    methods: Sequence[Method],
    target: Target,
    output: str | int | None,
    parameters: Mapping[str, Mapping[str, Any]],
) -> list[float]:
    """The cost of a map by each method, in plain gradients (see NOTE); NaN: not measured.

    x       (B, ...) the first batch of `total` inputs: one in QUARTER is used unless that is quick,
            fewer where memory runs out
    target  as for `randomization_test`, about all inputs
    """
    now = partial(_now, x.device)

    def measure(part: slice) -> list[float]:
        here = x[part]

        def gradient(x: Tensor) -> Tensor:
            leaf = x.clone().requires_grad_()
            made = select_output(model(leaf.clone()), output)
            scalar = resolve(rows_of(target, slice(0, len(x)), total, made), made.detach())
            return torch.autograd.grad(scalar(made).sum(), leaf)[0]

        def one_map(method: Method) -> Tensor:
            tape = run_pass(model, here, output)
            wanted = rows_of(target, slice(0, len(here)), total, tape.output)
            return tape.explain(method, wanted, **parameters.get(method.name, {}))

        _seconds(lambda: gradient(here[:1]), now)  # warms up
        unit = _seconds(lambda: gradient(here), now)
        if unit < _QUICK and len(here) < len(x):  # of few small inputs, bookkeeping is all there is
            return measure(slice(0, len(x)))
        return [_seconds(partial(one_map, method), now) / unit for method in methods]

    with _aside(x.device):
        part = -(-len(x) // QUARTER)
        return next(in_parts(measure, part, part))[1]


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Where no generator moves, gradients are on, and warnings are left to the maps themselves."""
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore", SalienceWarning)
        yield


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _seconds(call: Callable[[], Any], now: Callable[[], float]) -> float:
    """Median seconds; NaN where the call fails, which is for the test itself to say."""
    spent: list[float] = []
    while len(spent) < _RUNS and sum(spent) < _ENOUGH:
        start = now()
        try:
            call()
        except (SalienceError, RuntimeError) as error:
            if ran_out_of_memory(error):
                raise
            return float("nan")
        spent.append(now() - start)
    return median(spent)
