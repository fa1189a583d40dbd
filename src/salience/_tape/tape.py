"""One recorded forward pass, explained by any method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from salience._errors import expected, warn
from salience._inputs import targets, trees
from salience._inputs.batches import in_dtype_of
from salience._inputs.surroundings import check_plain
from salience._inputs.trees import Leaf, columns, rows
from salience._inputs.validation import (
    check_input,
    checked_model,
    values_like,
)
from salience._recording.recording import Recording, check_unchanged
from salience._recording.run import at_other_values, checked_pass
from salience._study.ledger import Ledger
from salience._study.maps import Maps
from salience._tape.accounts import Take, accounted, ledger_of
from salience._tape.backward import Found, walk_back
from salience._tape.coverage import Coverage, coverage_of
from salience._tape.maps import maps_of, warn_incomplete
from salience._tape.shown import as_html, as_text
from salience.rules._method import Attribution, Method
from salience.rules._table import Methods, choose, find


class Tape:
    """One recorded forward pass; made by `salience.record`; printed, it says of what.

    x       the input as it was given: a tensor (B, ...), or a tuple or dict of tensors
    leaves  where maps are read: the floating-point inputs, and what embeddings make of ids
    output  (B, ...) the model's output, without its graph

    >>> import torch, salience
    >>> salience.record(torch.nn.Linear(3, 2).eval(), torch.ones(1, 3))
    Tape of Linear: 1 recorded operation
    part    shape   type     map
    input   (1, 3)  float32  (1, 3)
    output  (1, 2)  float32
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.x: Any = recording.x
        self.leaves: tuple[Leaf, ...] = recording.leaves
        self.output: Tensor = recording.output.detach()
        # the last walk without rules: its seed, and m at each leaf
        self._plain: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def __repr__(self) -> str:
        return as_text(self.recording)

    def _repr_html_(self) -> str:
        return as_html(self.recording)

    def again(self, *values: Tensor) -> Tape:
        """A tape of the same model, recorded at other values of the leaves."""
        return Tape(at_other_values(self.recording, values))

    def coverage(self, method: str | Method) -> Coverage:
        """Which operations got which rule, which passed by autograd and which are not covered."""
        return coverage_of(self.recording.trace, find(method))

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
        target      which scalar of the output: see the README
        start       what flows in at the target instead of the method's own (1, or the target's
                    value for LRP and deep Taylor): a number, or one per sample (B,)
        seed        of the random draws of SmoothGrad
        strict      raise where the method has no rule for an operation
        parameters  the method's own, such as eps=1e-3

        Returns a tensor shaped like x; for a tuple or dict of inputs a tuple or dict with a map for
        each floating-point one. Integer ids have their map where they are embedded, (B, ..., D): a
        tuple of maps where several embeddings read them; what no embedding reads has no map (None
        in a tuple, left out of a dict). `maps` gives the maps with the error of their sum.

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
        chosen = find(method).having(**parameters)
        made = self.explain_leaves(chosen, target, start=start, seed=seed, strict=strict)
        warn_incomplete(chosen, made.error)
        return trees.at_inputs(self.x, self.leaves, made.maps)

    def ledger(
        self,
        method: str | Method,
        target: targets.Target = "argmax",
        *,
        start: float | Tensor | None = None,
        **parameters: Any,
    ) -> Ledger:
        """Where the relevance of a method went, of each sample: to the input, to biases, ...

        method, target, start and parameters are those of `explain`. It takes one walk, or two and
        what they note where sequences come first or heads are folded into the batch.

        Errors: SalienceError as for `explain`, and for a method whose maps are no relevance.

        >>> import torch, salience
        >>> tape = salience.record(torch.nn.Linear(3, 2).eval(), torch.ones(1, 3))
        >>> list(tape.ledger("lrp_epsilon", target=1))[:3]
        ['input', 'biases', 'eps']
        """
        chosen = find(method).having(**parameters)
        if not chosen.relevance or chosen.run is not None:
            cure = "Choose one of LRP, deep Taylor or excitation backprop."
            raise expected("a method whose maps are relevance", chosen.name, cure)
        found = self.explain_leaves(chosen, target, start=start, ledger=True).ledger
        assert found is not None
        return found

    def maps(
        self,
        methods: Methods | None = None,
        target: targets.Target = "argmax",
        *,
        seed: int = 0,
        strict: bool = False,
        ledger: bool = False,
    ) -> Maps[Any]:
        """The maps of several methods with their errors, as `salience.explain` returns them.

        >>> import torch, salience
        >>> tape = salience.record(torch.nn.Linear(3, 2).eval(), torch.ones(2, 3))
        >>> maps = tape.maps(["gradient", salience.rules.lrp_epsilon(eps=0.0)], target=1)
        >>> bool((maps.error["lrp_epsilon"] < 1).all())
        True
        """
        skip, chosen = methods is None, choose(methods)
        made = maps_of(self, chosen, target, seed=seed, strict=strict, skip=skip, ledger=ledger)
        for used in chosen:
            warn_incomplete(used, made.error.get(used.name))
        return made

    def explain_leaves(
        self,
        method: Method,
        target: targets.Target = "argmax",
        *,
        start: float | Tensor | None = None,
        seed: int = 0,
        strict: bool = False,
        ledger: bool = False,
    ) -> Attribution:
        """`explain`, as one map for each of the leaves; with the ledger of relevance, if asked."""
        check_plain()
        if strict:
            self._refuse_uncovered(method)
        scalar = targets.resolve(target, self.output)
        if method.run is not None:
            if start is not None:
                cure = "Multiply its maps instead."
                got = "one"
                raise expected(f"no start for {method.name}, a method of several passes", got, cure)
            return _attribution(method.run(self, scalar, seed))
        check_unchanged(self.recording)
        value, gradient = self._seed(scalar)
        factor, lost = _factor(method, value, start), None
        with torch.inference_mode(False), torch.no_grad():
            if factor is not None and not method.relevance:
                gradient = gradient * columns(factor, gradient)
            if ledger and method.relevance:
                maps, lost = accounted(self.recording, value, gradient, self._back(method))
                ms = None
            else:
                maps, ms = self._walk(method, gradient)
            if factor is not None and method.relevance:  # afterwards: 1 / value may overflow
                maps, ms = _times(maps, factor), None if ms is None else _times(ms, factor)
        if not method.relevance:
            return Attribution(maps, None, value, ms)
        begin = value if factor is None else value * factor
        error = ((_total(maps) - begin) / begin).abs()
        if lost is None:
            return Attribution(maps, error, value, ms)
        if factor is not None:
            lost = {name: held * factor for name, held in lost.items()}
        return Attribution(maps, error, value, ms, ledger_of(method.name, begin, lost))

    def _back(self, method: Method) -> Callable[[Tensor, Take], tuple[Tensor, ...]]:
        return lambda gradient, take: walk_back(self.recording, method, gradient, take).maps

    def uncovered(self, method: Method) -> list[str]:
        """The operations that the method, or the one that it averages, has no rule for."""
        return self.coverage(method.parameters.get("base", method)).uncovered

    def _refuse_uncovered(self, method: Method) -> None:
        if uncovered := self.uncovered(method):
            raise expected(
                f"operations that {method.name} has rules for",
                ", ".join(uncovered),
                "Use strict=False to pass them by plain autograd, or a gradient-type method.",
            )

    def _seed(self, scalar: targets.Scalar) -> tuple[Tensor, Tensor]:
        """The target's value (B,) and its gradient at the output."""
        with torch.inference_mode(False), torch.enable_grad():
            output = self.output.detach().requires_grad_()
            value = scalar(output)
            if not value.requires_grad:
                raise expected("a target that depends on the output", "one that does not", "")
            (gradient,) = torch.autograd.grad(value.sum(), output)
        return value.detach(), gradient

    def _walk(self, method: Method, gradient: Tensor) -> Found:
        """One backward walk over the recorded graph with the method's rules in force."""
        if method.rules or method.input_rule is not None:
            return walk_back(self.recording, method, gradient)
        # methods without rules differ in their read-out alone
        plain = self._plain  # another thread may replace it
        if plain is None or not torch.equal(plain[0], gradient):
            bare = replace(method, readout="m")
            plain = self._plain = (gradient, walk_back(self.recording, bare, gradient).maps)
        if method.readout == "m":
            return Found(tuple(m.clone() for m in plain[1]), None)
        pairs = zip(plain[1], self.leaves, strict=True)
        return Found(tuple(m * leaf.tensor for m, leaf in pairs), plain[1])


def _attribution(made: Any) -> Attribution:
    """What a user's own method of several passes returns: an attribution, maps, or one map."""
    if isinstance(made, Attribution):
        return made
    return Attribution((made,) if isinstance(made, Tensor) else tuple(made))


def record(model: Callable[..., object], x: Any, *, output: targets.Part = None) -> Tape:
    """Record one forward pass of a trained model, to be explained by any method.

    model   a module in eval mode, or any function of tensors
    x       a tensor (B, ...); a tuple or list for model(*x); or a dict for model(**x). Floating-
            point inputs are explained; integer ids are explained where the model embeds them;
            masks, flags and scalars are passed along. All on the model's device and of its dtype;
            float64 becomes the dtype of the model's weights, with a warning
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
    model = checked_model(model)
    if isinstance(x, Tensor | Mapping | list | tuple):
        x = in_dtype_of(model, x)
    check_input(model, x)
    return Tape(checked_pass(model, x, output))


def _times(maps: tuple[Tensor, ...], factor: Tensor) -> tuple[Tensor, ...]:
    return tuple((map * columns(factor, map)).to(map.dtype) for map in maps)


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
        warn(f"{method.name}: a target of exactly 0 has no relevance to start from; its map is 0.")
    wide = torch.promote_types(value.dtype, torch.float32)
    return torch.where(value == 0, 0, begin.to(wide) / value)
