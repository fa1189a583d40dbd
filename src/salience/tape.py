"""One recorded forward pass, explained by any method."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from salience import inputs, targets
from salience.backward import reaches, walk_back
from salience.checks import check_untransformed, values_like
from salience.coverage import Coverage, coverage_of
from salience.errors import SalienceWarning, expected
from salience.inputs import Leaf, columns, rows
from salience.methods import Method, find
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
        unchanged: Callable[[], None] = lambda: None,
    ) -> None:
        self.unchanged = unchanged  # raises where the model's weights have changed since
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
        check_untransformed()
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
        self.unchanged()
        value, gradient = self._seed(scalar)
        factor = _factor(found, value, start)
        with torch.inference_mode(False), torch.no_grad():
            if factor is not None and not found.relevance:
                gradient = gradient * columns(factor, gradient)
            maps = self._walk(found, bound, gradient)
            if factor is not None and found.relevance:  # afterwards: 1 / value may overflow
                maps = tuple((map * columns(factor, map)).to(map.dtype) for map in maps)
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
        with torch.inference_mode(False), torch.enable_grad():
            output = self.output.detach().requires_grad_()
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
        plain = self._plain  # another thread may replace it
        if plain is None or not torch.equal(plain[0], gradient):
            bare = replace(method, readout="m")
            plain = self._plain = (gradient, walk_back(self, bare, parameters, gradient))
        if method.readout == "m":
            return tuple(m.clone() for m in plain[1])
        return tuple(m * leaf.tensor for m, leaf in zip(plain[1], self.leaves, strict=True))


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
    wide = torch.promote_types(value.dtype, torch.float32)
    return torch.where(value == 0, 0, begin.to(wide) / value)
