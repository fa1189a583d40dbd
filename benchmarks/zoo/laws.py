"""What is checked of one network: finite maps, laws, conservation, coverage.

Laws that hold on every network, whatever it is made of:

    gradient   the tape's gradient is autograd's
    gates      guided backprop and deconvnet are autograd's backward walk with each ReLU's incoming
               gradient cut off at 0 (deconvnet: without the ReLU's own mask)

and on nets of linear maps, ReLU, pooling and BatchNorm alone:

    epsilon    LRP-epsilon with eps -> 0 is input x gradient, biases included
    conserved  without biases, its maps add up to the output
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from cases import OURS, difference, plain_gradient
from torch import Tensor, nn

import salience
from salience._tape.coverage import HELD

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
# The difference is in proportion to eps / |z|, with |z| down to 1e-9 and below. Not 0: the rule is
# the gradient by a short cut then.
TINY = 1e-18
RELU_ONLY = frozenset(("linear", "batch_norm", "relu", "structural"))
CONSERVING = ("lrp_epsilon", "lrp_alpha1_beta0", "lrp_alpha2_beta1", "deep_taylor")
PASSES: dict[str, dict[str, Any]] = {
    "smoothgrad": {"n": 4},
    "integrated_gradients": {"max_steps": 64},
}


def operations(tape: salience.Tape) -> list[dict[str, Any]]:
    """Name, kind, number of calls and treatment by LRP and by guided backprop, as recorded."""
    counts: dict[tuple[str, str], dict[str, Any]] = {}
    for method, key in (("lrp_epsilon", "lrp"), ("guided_backprop", "guided")):
        for row in tape.coverage(method):
            op = {"name": row.operation, "kind": row.kind, "calls": 0, key: HELD}
            op = counts.setdefault((row.operation, row.kind), op)
            op["calls"] += row.calls if key == "lrp" else 0
            if op.setdefault(key, HELD) == HELD:  # what passes counts, where not all calls are held
                op[key] = row.treatment
    return list(counts.values())


def relu_only(tape: salience.Tape) -> bool:
    """Whether LRP-epsilon must tend to input x gradient: nothing but linear maps and ReLU."""
    return {op.kind for op in tape.recording.trace.operations if op.depends} <= RELU_ONLY


def explain_all(tape: salience.Tape, target: list[int]) -> Iterator[tuple[str, Tensor | str]]:
    """Every single-pass method's map, or the error it raised."""
    for row, (method, parameters) in OURS.items():
        try:
            yield row, tape.maps(salience.methods[method].having(**parameters), target)
        except Exception as error:  # a finding, to be stated in the table
            yield row, described(error)


def described(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def maps(model: nn.Module, x: Tensor, target: list[int]) -> dict[str, Any]:
    """Finite or not, conservation error and seconds of all single-pass methods on one tape."""
    start = time.perf_counter()
    tape = salience.record(model, x)
    found: dict[str, Any] = {"finite": {}, "conservation": {}, "errors": {}}
    for row, result in explain_all(tape, target):
        if isinstance(result, str):
            found["errors"][row] = result
            continue
        ((method, held),) = result.items()
        found["finite"][row] = bool(held.isfinite().all())
        if row in CONSERVING:
            found["conservation"][row] = result.error[method].max().item()
    found["seconds"] = time.perf_counter() - start
    return found | {"operations": operations(tape), "relu_only": relu_only(tape)}


def several_passes(model: nn.Module, x: Tensor, target: list[int]) -> dict[str, Any]:
    """SmoothGrad and integrated gradients: finite or not, and the error of completeness."""
    found: dict[str, Any] = {}
    for method, parameters in PASSES.items():
        used = salience.methods[method].having(**parameters)
        result = salience.record(model, x).maps(used, target)
        found[method] = {"finite": bool(result[method].isfinite().all())}
        if method == "integrated_gradients":
            found[method]["completeness_error"] = result.error[method].max().item()
    return found


def laws(model: nn.Module, x: Tensor, classes: Tensor) -> dict[str, float | str]:
    """Relative differences that must vanish; law -> largest difference, or the error raised."""
    target = classes.tolist()
    checks: dict[str, Callable[[salience.Tape], float]] = {}
    checks["gradient"] = lambda tape: difference(
        tape.explain("gradient", target), plain_gradient(model, x, classes)
    )
    for method in ("guided_backprop", "deconvnet"):
        checks[method] = lambda tape, method=method: difference(
            tape.explain(method, target), gated(model, x, classes, method)
        )
    tape = salience.record(model, x)
    if relu_only(tape):
        checks["epsilon"] = lambda tape: difference(
            tape.explain("lrp_epsilon", target, eps=TINY),
            x * plain_gradient(model, x, classes),
        )
    found: dict[str, float | str] = {}
    for law, check in checks.items():
        try:
            found[law] = check(tape)
        except Exception as error:  # a finding, to be stated in the table
            found[law] = described(error)
    return found


def gated(model: nn.Module, x: Tensor, classes: Tensor, method: str) -> Tensor:
    """Guided backprop or deconvnet on autograd's own graph, whatever the model's code looks like.

    The naive form: a hook at every node of the graph that is a ReLU.
    """
    leaf = x.detach().requires_grad_()
    value = model(leaf).gather(1, classes[:, None]).sum()
    for node in nodes(value.grad_fn):
        if node.name() == "ReluBackward0" or _is_bounded_relu(node):
            if method == "guided_backprop":
                node.register_prehook(lambda m: (m[0].clamp(min=0),))
            else:
                node.register_hook(lambda _, m: (m[0].clamp(min=0),))
    (gradient,) = torch.autograd.grad(value, leaf)
    return gradient


def _is_bounded_relu(node: Any) -> bool:
    return node.name() == "HardtanhBackward0" and node._saved_min_val == 0


def nodes(start: Any) -> Iterator[Any]:
    """The nodes of an autograd graph."""
    queue, seen = [start], {start}
    while queue:
        node = queue.pop()
        yield node
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                queue.append(before)


@torch.no_grad()
def remove_biases(model: nn.Module) -> None:
    """Make the model positively homogeneous, if ReLU is all that is not linear in it."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.zero_()


def conserved(model: nn.Module, x: Tensor) -> dict[str, float] | None:
    """Conservation errors where no bias takes relevance; None: the model is not homogeneous.

    alpha-beta can lose relevance by its definition, where all contributions have one sign.
    """
    with torch.no_grad():
        y, twice = model(x), model(2 * x)
    if not difference(twice, 2 * y) < TOLERANCE[x.dtype]:
        return None
    tape, target = salience.record(model, x), y.argmax(1).tolist()
    found: dict[str, float] = {}
    for row in CONSERVING:
        method, parameters = OURS[row]
        if row == "lrp_epsilon":
            parameters = {"eps": TINY}
        maps = tape.maps(salience.methods[method].having(**parameters), target)
        found[row] = maps.error[method].max().item()
    return found
