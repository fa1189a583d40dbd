"""One recorded forward pass, explained by any method."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from salience import targets
from salience.checks import check_input, check_model, check_output, values_like
from salience.errors import SalienceWarning, expected
from salience.linear import Weights
from salience.methods import Method, bind, find
from salience.pullback import bounds_at, to_input
from salience.recorder import Recorder
from salience.sites import LinearSite, Walk
from salience.tables import html_table, text_table
from salience.trace import Trace


class CoverageRow(NamedTuple):
    """How a method treats one kind of call on a tape."""

    operation: str
    kind: str
    calls: int
    treatment: str  # the rule's name, "autograd" or "not covered"


class Coverage(list[CoverageRow]):
    """What a method does with every operation of a tape, in the order of first execution."""

    @property
    def uncovered(self) -> list[str]:
        """The names of operations that the method has no answer for."""
        return [row.operation for row in self if row.treatment == "not covered"]

    def __str__(self) -> str:
        return text_table(CoverageRow._fields, self._rows())

    def _repr_html_(self) -> str:
        return html_table(CoverageRow._fields, self._rows())

    def _rows(self) -> list[list[str]]:
        return [[str(cell) for cell in row] for row in self]


class Tape:
    """One recorded forward pass; made by `salience.record`.

    x       (B, ...) the input
    output  (B, ...) the model's output, without its graph
    """

    def __init__(
        self,
        x: Tensor,
        ends: tuple[Tensor, Tensor],
        trace: Trace,
        walk: Walk,
        again: Callable[[Tensor], Tape],
        kept: dict[int, Tensor] | None = None,
    ) -> None:
        self.x, self.trace = x, trace
        self.graph = self._input, self._output = ends  # where the recorded graph begins and ends
        self.output = self._output.detach()
        self.again = again  # a tape of the same model at another input
        self.walk, self.kept = walk, kept
        self._plain: tuple[Tensor, Tensor] | None = None  # the last walk without rules, its seed

    @property
    def depends_on_input(self) -> bool:
        """Whether a gradient can reach the input from the output."""
        if not self.trace.opaque:
            return self._output.requires_grad
        return _reaches(self._output, self._input)  # an unseen function may have other inputs

    def coverage(self, method: str | Method) -> Coverage:
        """Which operations got which rule, which passed by autograd and which are not covered."""
        found = find(method)
        counts = Counter((op.name, op.kind) for op in self.trace.operations if op.depends)
        return Coverage(
            CoverageRow(name, kind, calls, found.treatment(kind) or "not covered")
            for (name, kind), calls in counts.items()
        )

    def explain(
        self,
        method: str | Method,
        target: targets.Target = "argmax",
        *,
        start: float | Tensor | None = None,
        seed: int = 0,
        strict: bool = False,
        **parameters: Any,
    ) -> Tensor:
        """The map of every sample by one method, from this recorded pass.

        method      a name in `salience.methods`, or a `Method`
        target      which scalar of the output: see `salience.targets`
        start       what flows in at the target instead of the method's own (1, or the target's
                    value for LRP and deep Taylor): a number, or one per sample (B,)
        seed        of the random draws of SmoothGrad
        strict      raise where the method has no rule for an operation
        parameters  the method's own, such as eps=1e-3

        Returns a tensor shaped like x. Maps of relevance methods carry `conservation_error` (B,):
        |sum of the map - start| / |start|; integrated gradients carry `completeness_error` (B,).

        Errors: SalienceError for an unknown method, parameter or target, and, with strict=True,
        for an operation that the method does not cover.

        >>> import torch, salience
        >>> tape = salience.record(torch.nn.Linear(3, 2).eval(), torch.ones(1, 3))
        >>> tape.explain("gradient", target=1).shape
        torch.Size([1, 3])
        """
        found = find(method)
        bound = found.bound(parameters)
        self._check(found, bound, strict)
        scalar = targets.resolve(target, self.output)
        if found.run is not None:
            if start is not None:
                cure = "Multiply its maps instead."
                raise expected(
                    f"no start for {found.name}, a method of several passes", "one", cure
                )
            return found.run(self, scalar, seed, **bound)
        value, gradient = self._seed(scalar)
        factor = _factor(found, value, start)
        if factor is not None:
            gradient = gradient * factor.view(-1, *(1,) * (gradient.ndim - 1))
        with torch.inference_mode(False), torch.no_grad():
            maps = self._walk(found, bound, gradient)
        if found.relevance:
            begin = value if factor is None else value * factor
            missing = maps.flatten(1).sum(1, dtype=_sum_type(maps)) - begin
            maps.conservation_error = (missing / begin).abs()  # type: ignore[attr-defined]
        return maps

    def _check(self, method: Method, parameters: dict[str, Any], strict: bool) -> None:
        walked = find(parameters["base"]) if "base" in parameters else method
        if strict and (uncovered := self.coverage(walked).uncovered):
            raise expected(
                f"operations that {method.name} has rules for", ", ".join(uncovered),
                "Use strict=False to pass them by plain autograd, or a gradient-type method.",
            )  # fmt: skip
        if method.check is not None:
            method.check(parameters)

    def _seed(self, scalar: targets.Scalar) -> tuple[Tensor, Tensor]:
        """The target's value (B,) and its gradient at the output."""
        output = self.output.detach().requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            value = scalar(output)
            if not value.requires_grad:
                raise expected("a target that depends on the output", "one that does not", "")
            (gradient,) = torch.autograd.grad(value.sum(), output)
        return value.detach(), gradient

    def _walk(self, method: Method, parameters: dict[str, Any], gradient: Tensor) -> Tensor:
        """One backward walk over the recorded graph with the method's rules in force."""
        if method.rules or method.input_rule is not None:
            return self._walk_with_rules(method, parameters, gradient)
        # methods without rules differ in their read-out alone
        if self._plain is None or not torch.equal(self._plain[0], gradient):
            bare = replace(method, readout="m")
            self._plain = (gradient, self._walk_with_rules(bare, parameters, gradient))
        m = self._plain[1]
        return m * self.x if method.readout == "x * m" else m.clone()

    def _walk_with_rules(
        self, method: Method, parameters: dict[str, Any], gradient: Tensor
    ) -> Tensor:
        walk = self.walk
        walk.rules = {kind: bind(rule, parameters) for kind, rule in method.rules.items()}
        if method.input_rule is not None:  # it sees the BatchNorm folded in
            walk.rules.setdefault("linear", lambda map, m: map.transpose(m))
        walk.input_rule = method.input_rule and self._input_rule(method.input_rule, parameters)
        try:
            (m,) = torch.autograd.grad(
                self._output, self._input, gradient,
                retain_graph=True, allow_unused=True,
            )  # fmt: skip
            if m is None:
                if not walk.relevance:
                    raise expected(
                        "an output that depends on the input", "one that does not",
                        "Look for detach(), no_grad() or .data in the model's forward.",
                    )  # fmt: skip
                m = torch.zeros_like(self.x)
            if method.readout == "m":
                return m
            maps = m * self.x
            for value, relevance in walk.relevance:
                maps = maps + to_input(self.trace, value, relevance, self.x)
            return maps
        finally:
            walk.reset()

    def _input_rule(
        self, rule: Callable[..., Tensor], parameters: dict[str, Any]
    ) -> Callable[[LinearSite, Tensor], Tensor]:
        """The rule at an input layer, with bounds of x as bounds of what the layer sees."""

        def at(site: LinearSite, m: Tensor) -> Tensor:
            bound = dict(parameters)
            if bound.get("low") is not None and bound.get("high") is not None:
                ends = [values_like(f"a bound {e}", bound[e], self.x) for e in ("low", "high")]
                if bool((ends[0] > ends[1]).any()):
                    raise expected("low <= high", "low above high", "Exchange them.")
                bound["low"], bound["high"] = bounds_at(self.trace, site.source, *ends)
            return bind(rule, bound)(site.linear_map(), m)

        return at


def _reaches(output: Tensor, leaf: Tensor) -> bool:
    """Whether the graph of an output contains a leaf."""
    queue, seen = [output.grad_fn], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) is leaf:
            return True
        queue.extend(before for before, _ in node.next_functions)
    return False


def _factor(method: Method, value: Tensor, start: float | Tensor | None) -> Tensor | None:
    """What the target's gradient is multiplied with so that the walk begins at `start`."""
    start = method.start if start is None else start
    if start is None or (not method.relevance and isinstance(start, float) and start == 1):
        return None
    begin = values_like("a start", start, value)
    if not method.relevance:
        return begin
    if bool((value == 0).any()):
        warnings.warn(
            f"{method.name}: a target of exactly 0 has no relevance to start from; its map is 0.",
            SalienceWarning, stacklevel=3,
        )  # fmt: skip
    return torch.where(value == 0, 0, begin / value)


def _sum_type(maps: Tensor) -> torch.dtype:
    return torch.promote_types(maps.dtype, torch.float32)


def run_pass(
    model: Callable[..., Any],
    x: Tensor,
    part: str | int | None = None,
    weights: Weights | None = None,
    keep: bool = False,
) -> Tape:
    """Record one pass without any checks of the input; keep=True for a tape to be replayed."""
    shared = Weights() if weights is None else weights
    recorder = Recorder(model, shared, keep)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng([x.device] if x.device.type == "cuda" else []))
        start = recorder.start(x)
        with recorder:
            outputs = model(start)
        outputs = recorder.finish(outputs)
    output = targets.select_output(outputs, part)
    recorder.trace.output = recorder.value(output)

    module = model if isinstance(model, nn.Module) else None
    state = [*module.parameters(), *module.buffers()] if module else []
    versions = [tensor._version for tensor in state]

    def again(x: Tensor) -> Tape:
        if versions != [tensor._version for tensor in state]:
            raise expected(
                "the model as it was recorded", "one whose weights have changed since",
                "Record it again.",
            )  # fmt: skip
        return run_pass(model, x, part, shared)

    ends = (start, output)
    return Tape(start.detach(), ends, recorder.trace, recorder.walk, again, recorder.kept)


def record(model: Callable[..., Any], x: Tensor, *, output: str | int | None = None) -> Tape:
    """Record one forward pass of a trained model, to be explained by any method.

    model   a module in eval mode, or any function of one tensor
    x       (B, ...) floating-point input, on the model's device and of its dtype
    output  which part to explain where the model returns a tuple or a dict

    Errors: SalienceError for a model in training mode, an input that is not a finite
    floating-point batch, an output without a batch dimension or that does not depend on the input.

    >>> import torch, salience
    >>> tape = salience.record(torch.nn.Linear(3, 2).eval(), torch.ones(1, 3))
    >>> tape.output.shape
    torch.Size([1, 2])
    """
    check_model(model)
    check_input(model, x)
    tape = run_pass(model, x, output)
    check_output(tape.x, tape.output, tape.depends_on_input)
    return tape
