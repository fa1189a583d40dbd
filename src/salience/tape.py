"""One recorded forward pass, explained by any method."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from salience import inputs, targets
from salience.backward import reaches, walk_back
from salience.checks import check_input, check_model, check_output, no_leaves, values_like
from salience.coverage import Coverage, coverage_of
from salience.errors import SalienceWarning, expected
from salience.inputs import Leaf, columns, rows
from salience.linear import Weights
from salience.memory import ran_out_of_memory
from salience.methods import Method, find
from salience.recorder import Recorder
from salience.trace import Trace
from salience.walk import Walk


class Tape:
    """One recorded forward pass; made by `salience.record`.

    x       the input as it was given: a tensor (B, ...), or a tuple or dict of tensors
    leaves  where maps are read: the floating-point inputs, and what embeddings make of ids
    output  (B, ...) the model's output, without its graph
    """

    def __init__(
        self,
        x: Any,
        ends: tuple[tuple[Leaf, ...], Tensor],
        trace: Trace,
        walk: Walk,
        again: Callable[..., Tape],
        kept: dict[int, Tensor] | None = None,
    ) -> None:
        self.x, self.trace = x, trace
        self.graph = self.leaves, output = ends  # where the recorded graph begins and ends
        self.output = output.detach()
        self.again = again  # (*values) -> a tape of the same model with others at the leaves
        self.walk, self.kept = walk, kept
        # the last walk without rules: its seed, and m at each leaf
        self._plain: tuple[Tensor, tuple[Tensor, ...]] | None = None

    @property
    def depends_on_input(self) -> bool:
        """Whether a gradient can reach an input from the output."""
        if not self.trace.opaque:
            return self.graph[1].requires_grad
        # an unseen function may have other inputs
        return reaches(self.graph[1], [leaf.tensor for leaf in self.leaves])

    def elsewhere(self, values: Sequence[Tensor]) -> tuple[Any, tuple[Tensor, ...]]:
        """The inputs, and what embeddings make of them, with other values at the leaves."""
        return inputs.at_leaves(self.x, self.leaves, values)

    def coverage(self, method: str | Method) -> Coverage:
        """Which operations got which rule, which passed by autograd and which are not covered."""
        return coverage_of(self.trace, find(method))

    def explain(
        self,
        method: str | Method,
        target: targets.Target = "argmax",
        *,
        start: float | Tensor | None = None,
        seed: int = 0,
        strict: bool = False,
        **parameters: Any,
    ) -> Any:
        """The map of every sample by one method, from this recorded pass.

        method      a name in `salience.methods`, or a `Method`
        target      which scalar of the output: see `salience.targets`
        start       what flows in at the target instead of the method's own (1, or the target's
                    value for LRP and deep Taylor): a number, or one per sample (B,)
        seed        of the random draws of SmoothGrad
        strict      raise where the method has no rule for an operation
        parameters  the method's own, such as eps=1e-3

        Returns a tensor shaped like x; for a tuple or dict of inputs a tuple or dict with a map for
        each floating-point one. Integer ids have their map where they are embedded, (B, ..., D): a
        tuple of maps where several embeddings read them; what no embedding reads has no map (None
        in a tuple, left out of a dict). Maps of relevance methods carry `conservation_error` (B,):
        |sum of all maps - start| / |start|; integrated gradients carry `completeness_error` (B,).

        Errors: SalienceError for an unknown method, parameter or target, and, with strict=True,
        for an operation that the method does not cover.

        >>> import torch, salience
        >>> tape = salience.record(torch.nn.Linear(3, 2).eval(), torch.ones(1, 3))
        >>> tape.explain("gradient", target=1).shape
        torch.Size([1, 3])

        Relevance per token is the sum over the embedding:

        >>> nn = torch.nn
        >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Flatten(), nn.Linear(20, 2))
        >>> tape = salience.record(net.eval(), torch.tensor([[5, 1, 3, 0, 0]]))
        >>> map = tape.explain("lrp_epsilon", target=1)
        >>> map.shape, map.sum(-1).shape
        (torch.Size([1, 5, 4]), torch.Size([1, 5]))
        """
        maps = self.explain_leaves(
            method, target, start=start, seed=seed, strict=strict, **parameters
        )
        return inputs.at_inputs(self.x, self.leaves, maps)

    def explain_leaves(
        self,
        method: str | Method,
        target: targets.Target = "argmax",
        *,
        start: float | Tensor | None = None,
        seed: int = 0,
        strict: bool = False,
        **parameters: Any,
    ) -> tuple[Tensor, ...]:
        """`explain`, as one map for each of the leaves."""
        found = find(method)
        bound = found.bound(parameters)
        if strict:
            self._refuse_uncovered(found, bound)
        if found.check is not None:
            found.check(bound)
        scalar = targets.resolve(target, self.output)
        if found.run is not None:
            if start is not None:
                cure = "Multiply its maps instead."
                raise expected(
                    f"no start for {found.name}, a method of several passes", "one", cure
                )
            made = found.run(self, scalar, seed, **bound)
            return (made,) if isinstance(made, Tensor) else tuple(made)
        value, gradient = self._seed(scalar)
        factor = _factor(found, value, start)
        if factor is not None:
            gradient = gradient * columns(factor, gradient)
        with torch.inference_mode(False), torch.no_grad():
            maps = self._walk(found, bound, gradient)
        if found.relevance:
            begin = value if factor is None else value * factor
            error = ((_total(maps) - begin) / begin).abs()
            for map in maps:
                map.conservation_error = error  # type: ignore[attr-defined]
        return maps

    def _refuse_uncovered(self, method: Method, parameters: dict[str, Any]) -> None:
        walked = find(parameters["base"]) if "base" in parameters else method
        if uncovered := self.coverage(walked).uncovered:
            raise expected(
                f"operations that {method.name} has rules for", ", ".join(uncovered),
                "Use strict=False to pass them by plain autograd, or a gradient-type method.",
            )  # fmt: skip

    def _seed(self, scalar: targets.Scalar) -> tuple[Tensor, Tensor]:
        """The target's value (B,) and its gradient at the output."""
        output = self.output.detach().requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            value = scalar(output)
            if not value.requires_grad:
                raise expected("a target that depends on the output", "one that does not", "")
            (gradient,) = torch.autograd.grad(value.sum(), output)
        return value.detach(), gradient

    def _walk(
        self, method: Method, parameters: dict[str, Any], gradient: Tensor
    ) -> tuple[Tensor, ...]:
        """One backward walk over the recorded graph with the method's rules in force."""
        if method.rules or method.input_rule is not None:
            return walk_back(self, method, parameters, gradient)
        # methods without rules differ in their read-out alone
        if self._plain is None or not torch.equal(self._plain[0], gradient):
            bare = replace(method, readout="m")
            self._plain = (gradient, walk_back(self, bare, parameters, gradient))
        if method.readout == "m":
            return tuple(m.clone() for m in self._plain[1])
        return tuple(m * leaf.tensor for m, leaf in zip(self._plain[1], self.leaves, strict=True))


def _total(maps: tuple[Tensor, ...]) -> Tensor:
    """The sum of all maps of each sample (B,)."""
    wide = [torch.promote_types(map.dtype, torch.float32) for map in maps]
    sums = [rows(map).sum(1, dtype=dtype) for map, dtype in zip(maps, wide, strict=True)]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


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
            SalienceWarning, stacklevel=4,
        )  # fmt: skip
    return torch.where(value == 0, 0, begin / value)


def run_pass(
    model: Callable[..., Any],
    x: Any,
    part: targets.Part = None,
    weights: Weights | None = None,
    keep: bool = False,
    embedded: Sequence[Tensor] = (),
) -> Tape:
    """Record one pass without any checks of the input.

    keep      for a tape to be replayed
    embedded  values in place of what embeddings make of ids, in the order of execution
    """
    shared = Weights() if weights is None else weights
    recorder = Recorder(model, shared, keep, embedded)
    device = inputs.tensors_of(x)[0].device
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        begin = recorder.start(x)
        outputs = _outputs(model, begin, recorder)
        output = recorder.finish(outputs, lambda outputs: targets.select_output(outputs, part))
    recorder.trace.output = recorder.values.number(output)

    module = model if isinstance(model, nn.Module) else None
    state = [*module.parameters(), *module.buffers()] if module else []
    versions = [tensor._version for tensor in state]
    ends = (tuple(recorder.leaves), output)
    held = inputs.each(Tensor.detach, begin)

    def again(*values: Tensor) -> Tape:
        if versions != [tensor._version for tensor in state]:
            raise expected(
                "the model as it was recorded", "one whose weights have changed since",
                "Record it again.",
            )  # fmt: skip
        other, embedded = inputs.at_leaves(held, ends[0], values)
        return run_pass(model, other, part, shared, embedded=embedded)

    return Tape(held, ends, recorder.trace, recorder.walk, again, recorder.readers.kept)


def _outputs(model: Callable[..., Any], x: Any, recorder: Recorder) -> Any:
    """What the model returns; integers that nothing embeds are an error, whatever it does."""
    try:
        with recorder:
            outputs = inputs.call(model, x)
    except (RuntimeError, TypeError) as error:
        if recorder.leaves or ran_out_of_memory(error):
            raise
        raise no_leaves(x) from error
    if not recorder.leaves:
        raise no_leaves(x)
    return outputs


def record(model: Callable[..., Any], x: Any, *, output: targets.Part = None) -> Tape:
    """Record one forward pass of a trained model, to be explained by any method.

    model   a module in eval mode, or any function of tensors
    x       a tensor (B, ...); a tuple or list for model(*x); or a dict for model(**x). Floating-
            point inputs are explained; integer ids are explained where the model embeds them;
            masks, flags and scalars are passed along. All on the model's device and of its dtype
    output  which part to explain where the model returns a tuple or a dict: a key, a position, or
            a path such as (0, "logits") or "0.logits"

    Errors: SalienceError for a model in training mode, an input that is not finite, not a batch or
    neither floating-point nor embedded, an output without a batch dimension or that does not depend
    on the input.

    >>> import torch, salience
    >>> tape = salience.record(torch.nn.Linear(3, 2).eval(), torch.ones(1, 3))
    >>> tape.output.shape
    torch.Size([1, 2])

    Several inputs have several maps, which add up to the output together:

    >>> model = torch.nn.Bilinear(3, 4, 2).eval()
    >>> tape = salience.record(model, {"input1": torch.ones(1, 3), "input2": torch.ones(1, 4)})
    >>> {name: tuple(map.shape) for name, map in tape.explain("gradient", target=1).items()}
    {'input1': (1, 3), 'input2': (1, 4)}
    """
    check_model(model)
    check_input(model, x)
    tape = run_pass(model, x, output)
    check_output(tape.x, tape.output, tape.depends_on_input)
    return tape
