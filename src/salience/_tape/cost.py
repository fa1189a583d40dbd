"""What a map by each method costs, in plain gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from salience._errors import NotApplicable, expected, warn
from salience._inputs import trees
from salience._inputs.batches import all_samples
from salience._inputs.targets import Part, Target, resolve, rows_of, select_output
from salience._inputs.trees import Inputs
from salience._inputs.validation import whole_number
from salience._memory import in_parts, ran_out_of_memory
from salience._recording.beside import copy_of, generators_kept
from salience._recording.run import checked_pass, run_pass
from salience._tape.explain import SAMPLES_PER_PASS
from salience._tape.tape import Tape
from salience._tape.together import some
from salience.rules._method import Method
from salience.rules._table import Methods, choose, find

_RUNS, _ENOUGH = 3, 0.2  # a measurement is repeated unless it took so many seconds

Model = Callable[..., object]
Wanted = Callable[[Tensor], Target]  # the target of the samples at hand, by their output
Clock = Callable[[], float]


def cost(
    model: Model,
    x: object,
    methods: Methods | None = None,
    target: Target = "argmax",
    *,
    batch_size: int | None = None,
    output: Part = None,
) -> dict[str, float]:
    """What a map by each method costs, in plain gradients: the one measured time of the package.

    (recording a forward pass + one backward walk for the maps, on a pass of the method's own) /
    (plain autograd: forward + input gradient), both of the first batch of x. Methods of several
    passes include all of them. Median processor seconds, on a GPU synchronised wall seconds.

    model, x, methods, target, output
                as for `salience.explain`
    batch_size  samples of the batch (default 16), halved when memory runs out

    Returns {method: cost}, without methods that do not apply (with a warning) unless they are
    named.

    Errors: SalienceError as for `salience.explain`, and for a model that cannot be copied, whose
    own forward may write its buffers, or that plain autograd has no gradient of.

    Known limits: on one tape methods share the forward pass, and cost less together. Of ids, whose
    embedding plain autograd does not know for an input, the unit is this package's own gradient.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> costs = salience.cost(net.eval(), torch.randn(3, 6), ["gradient", "lrp_epsilon"])
    >>> list(costs), costs["gradient"] > 0
    (['gradient', 'lrp_epsilon'], True)
    """
    chosen = choose(methods)
    if batch_size is not None:
        whole_number("a batch size", batch_size, 1, f"The default is {SAMPLES_PER_PASS}.")
    model, x, total = all_samples(model, x)

    def measure(part: slice) -> dict[str, float | NotApplicable]:
        wanted = partial(rows_of, target, part, total)
        return _measured(model, some(x, part), chosen, wanted, output)

    size, device = min(total, batch_size or SAMPLES_PER_PASS), trees.tensors_of(x)[0].device
    with generators_kept(device), torch.inference_mode(False), torch.enable_grad():
        found = next(in_parts(measure, size, size))[1]
    for name, failed in found.items():
        if isinstance(failed, NotApplicable):
            if methods is not None:
                raise failed
            warn(f"{name} is left out: {failed}")
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _measured(
    model: Model,
    x: Inputs,
    methods: Sequence[Method],
    wanted: Wanted,
    output: Part,
) -> dict[str, float | NotApplicable]:
    """Each method's cost, or why it has none."""
    now: Clock = partial(_now, trees.tensors_of(x)[0].device)

    def one_map(method: Method) -> None:
        tape = Tape(run_pass(model, x, output))
        tape.explain_leaves(method, wanted(tape.output))

    ids = any(leaf.embedded for leaf in checked_pass(model, x, output).leaves)
    walked = partial(one_map, find("gradient"))
    plain = walked if ids else _gradient(model, x, wanted, output)
    for call in (plain, walked):  # warms up
        call()
    unit = _seconds(plain, now)
    found: dict[str, float | NotApplicable] = {}
    for method in methods:
        try:
            found[method.name] = _seconds(partial(one_map, method), now) / unit
        except NotApplicable as error:
            found[method.name] = error
    return found


def _gradient(model: Model, x: Inputs, wanted: Wanted, output: Part) -> Callable[[], None]:
    """The unit of cost: forward and input gradient by autograd alone."""
    copied = copy_of(model) if isinstance(model, nn.Module) else model  # a forward may write

    def run() -> None:
        leaves = trees.each(_leaf, x)
        floating = [t for t in trees.tensors_of(leaves) if t.requires_grad]
        try:
            made = select_output(trees.call(copied, trees.each(Tensor.clone, leaves)), output)
            scalar = resolve(wanted(made), made.detach())
            torch.autograd.grad(scalar(made).sum(), floating, allow_unused=True)
        except RuntimeError as error:
            if ran_out_of_memory(error):
                raise
            raise expected(
                "a model that plain autograd has a gradient of, for the unit of cost",
                f"{type(error).__name__}: {error}",
                "Time salience.explain, whose passes may do without.",
            ) from error

    return run


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_() if x.is_floating_point() else x


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _seconds(call: Callable[[], None], now: Clock) -> float:
    """Median seconds."""
    spent: list[float] = []
    while len(spent) < _RUNS and sum(spent) < _ENOUGH:
        start = now()
        call()
        spent.append(now() - start)
    return median(spent)
