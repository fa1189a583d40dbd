"""What a map by each method costs, in plain gradients."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from salience._errors import SalienceError, SalienceWarning
from salience._inputs import trees
from salience._inputs.targets import Part, Target, resolve, rows_of, select_output
from salience._memory import in_parts, ran_out_of_memory
from salience._recording.beside import copy_of, generators_kept
from salience._recording.run import run_pass
from salience._tape.tape import Tape
from salience._tape.together import some
from salience.rules._method import Method
from salience.rules._table import find

UNITS = "gradients (forward + input gradient)"
NOTE = (
    "(recording a forward pass + one backward walk for the maps, on a pass of the method's own) / "
    "(plain autograd: forward + input gradient), both of the same inputs; methods of several "
    "passes include all of them. Median processor seconds, on a GPU synchronised wall seconds. "
    "On one tape methods share the forward pass, and cost less together. Of ids, whose embedding "
    "plain autograd does not know for an input, the unit is this package's own gradient."
)
QUARTER = 4  # measured on one input in so many, to cost little beside the test itself
_QUICK = 0.05  # seconds of a gradient
_RUNS, _ENOUGH = 3, 0.2  # a measurement is repeated unless it took so many seconds


def in_gradients(
    model: Callable[..., Any],
    x: Any,
    total: int,
    methods: Sequence[Method],
    target: Target,
    output: Part,
) -> list[float]:
    """The cost of a map by each method, in plain gradients (see NOTE); NaN: not measured.

    x       (B, ...) the first batch of `total` inputs: one in QUARTER is used unless that is quick,
            fewer where memory runs out
    target  as for `randomization_test`, about all inputs
    """
    device, count = trees.tensors_of(x)[0].device, trees.samples_of(x)
    now, copied = partial(_now, device), model

    def measure(part: slice) -> list[float]:
        here = some(x, part)
        size = trees.samples_of(here)

        def gradient(x: Any) -> Any:
            leaves = trees.each(_leaf, x)
            made = select_output(trees.call(copied, trees.each(Tensor.clone, leaves)), output)
            wanted = rows_of(target, slice(0, trees.samples_of(x)), total, made)
            scalar = resolve(wanted, made.detach())
            floating = [t for t in trees.tensors_of(leaves) if t.requires_grad]
            return torch.autograd.grad(scalar(made).sum(), floating, allow_unused=True)

        def one_map(method: Method, x: Any = here) -> Any:
            tape = Tape(run_pass(model, x, output))
            wanted = rows_of(target, slice(0, trees.samples_of(x)), total, tape.output)
            return tape.explain_leaves(method, wanted)

        whole = any(not t.is_floating_point() for t in trees.tensors_of(here))
        ids = whole and any(leaf.embedded for leaf in run_pass(model, here, output).leaves)
        plain = partial(one_map, find("gradient")) if ids else gradient
        _seconds(lambda: plain(some(here, slice(1))), now)  # warms up
        unit = _seconds(lambda: plain(here), now)
        if size < count and not unit >= _QUICK:  # of few small inputs, bookkeeping is all there is
            return measure(slice(0, count))
        return [_seconds(partial(one_map, method), now) / unit for method in methods]

    with _aside(device):
        if isinstance(model, nn.Module):  # its own forward may write buffers
            try:
                copied = copy_of(model)
            except SalienceError:
                return [float("nan")] * len(methods)
        part = -(-count // QUARTER)
        try:
            return next(in_parts(measure, part, part))[1]
        except IndexError:  # samples that name one another, as nodes of a graph do
            return next(in_parts(measure, count, count))[1]


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_() if x.is_floating_point() else x


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Where no generator moves, gradients are on, and warnings are left to the maps themselves."""
    with (
        warnings.catch_warnings(),
        generators_kept(device),
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
        except (SalienceError, RuntimeError, IndexError) as error:
            if ran_out_of_memory(error):
                raise
            return float("nan")
        spent.append(now() - start)
    return median(spent)
