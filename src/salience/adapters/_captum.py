"""Methods as captum's attribution classes; captum itself is not imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from salience._errors import SalienceError, expected
from salience._inputs import targets
from salience._inputs.trees import rows
from salience._inputs.validation import values_at
from salience._tape.tape import Tape, record
from salience.rules._table import Method, find

_F = TypeVar("_F", bound=Callable[..., object])


def captum(
    method: str | Method, *, output: targets.Part = None, **parameters: Any
) -> Callable[[Callable[..., object]], CaptumAttribution]:
    """A method as one of captum's attribution classes: call it with the model, then `attribute`.

    method      a name in `salience.methods`, or a `Method`
    output      which part to explain where the model returns a tuple or a dict
    parameters  the method's own, and start, seed or strict, as for `Tape.explain`

    Errors: SalienceError for an unknown method; `attribute` has the others.

    >>> import torch, salience
    >>> from salience import adapters
    >>> LRP = adapters.captum("lrp_epsilon", eps=1e-2)
    >>> LRP(torch.nn.Linear(3, 2).eval()).attribute(torch.ones(4, 3), target=1).shape
    torch.Size([4, 3])
    """
    return partial(CaptumAttribution, find(method), parameters, output)


def _wrapped(function: _F) -> _F:
    """The function with itself as `__wrapped__`, which captum's NoiseTunnel calls."""

    @wraps(function)
    def same(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs)

    return same  # type: ignore[return-value]


@dataclass(frozen=True)
class CaptumAttribution:
    """What captum's tools ask of an attribution; made by `salience.adapters.captum`."""

    method: Method
    parameters: Mapping[str, Any]
    output: targets.Part
    forward_func: Callable[..., object]

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether maps are contributions to the output rather than sensitivities of it."""
        walked = find(self.parameters.get("base", self.method.parameters.get("base", self.method)))
        return walked.readout == "x * m" or "baseline" in walked.parameters

    def has_convergence_delta(self) -> bool:
        """Whether the maps of the method add up to something."""
        return self.method.relevance or "baseline" in self.method.parameters

    @_wrapped
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: object = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """The maps of a batch, as captum's `attribute` returns them.

        inputs                   a tensor (B, ...), or a tuple of them for model(*inputs)
        target                   as captum means it, None where there is one output per sample: 3;
                                 the index (3, 5) of a dense output; a list or tensor (B,) of
                                 classes; a list of B index tuples
        additional_forward_args  passed after the inputs and not explained: one, or a tuple
        return_convergence_delta
                                 also return (B,): for relevance methods what the walk starts from
                                 minus the sum of the maps, as captum's LRP; for integrated
                                 gradients the sum minus f(x) - f(x0), as captum's

        Returns a tensor shaped like the inputs, or a tuple of them; with the delta, a pair.

        Errors: SalienceError for a target that does not select one value per sample, an input
        without a map, a delta of a method without one, and as for `salience.record`.

        >>> import torch
        >>> from salience import adapters
        >>> IG = adapters.captum("integrated_gradients", baseline=0.5)
        >>> x = (torch.ones(4, 3), torch.ones(4, 5))
        >>> maps, delta = IG(torch.nn.Bilinear(3, 5, 2).eval()).attribute(
        ...     x, target=1, return_convergence_delta=True
        ... )
        >>> [map.shape for map in maps], delta.shape
        ([torch.Size([4, 3]), torch.Size([4, 5])], torch.Size([4]))
        """
        if not isinstance(inputs, Tensor | tuple):
            raise expected(
                "inputs: a tensor or a tuple of tensors",
                type(inputs).__name__,
                "For a dict of inputs use salience.record.",
            )
        if return_convergence_delta and not self.has_convergence_delta():
            raise expected(
                "a method whose maps add up, for its convergence delta",
                self.method.name,
                "Leave return_convergence_delta out.",
            )
        model = _with_arguments(self.forward_func, additional_forward_args)
        tape = record(model, inputs, output=self.output)
        wanted = _target(target, tape.output)
        maps = tape.explain(self.method, wanted, **self.parameters)
        parts = maps if isinstance(maps, tuple) else (maps,)
        for i, part in enumerate(parts):
            if not isinstance(part, Tensor):
                raise expected(
                    "inputs with one map each",
                    f"{'none' if part is None else 'several'} for input {i}",
                    "Pass masks and flags as additional_forward_args; for ids that several "
                    "embeddings read use salience.record.",
                )
        return (maps, self._delta(tape, wanted, parts)) if return_convergence_delta else maps

    def _delta(self, tape: Tape, target: targets.Target, maps: tuple[Tensor, ...]) -> Tensor:
        scalar = targets.resolve(target, tape.output)
        value = scalar(tape.output)  # (B,)
        total = torch.stack([rows(map).sum(1) for map in maps]).sum(0)
        if "baseline" in self.method.parameters:
            baseline = {**self.method.parameters, **self.parameters}["baseline"]
            begins = values_at("a baseline", baseline, tape.x, tape.leaves).values()
            there = tape.again(*(begin.contiguous() for begin in begins))
            return total - (value - scalar(there.output))
        start = self.parameters.get("start", self.method.start)
        return (value if start is None else start) - total


class _Bound(nn.Module):
    """A model with its last arguments; its parameters keep their names."""

    def __init__(self, model: nn.Module, last: tuple[object, ...]) -> None:
        super().__init__()
        self.training = False  # eval() would reach the user's model
        self.model, self.last = model, last

    def forward(self, *inputs: object) -> object:
        return self.model(*inputs, *self.last)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.named_parameters(*args, **kwargs)


def _with_arguments(model: Callable[..., object], last: object) -> Callable[..., object]:
    """The model as a function of the inputs that are explained."""
    if last is None:
        return model
    last = last if isinstance(last, tuple) else (last,)
    if isinstance(model, nn.Module):
        return _Bound(model, last)
    return lambda *inputs: model(*inputs, *last)


def _target(target: object, output: Tensor) -> targets.Target:
    """What captum's target selects, as a target of salience's grammar.

    captum's tuple is always an index: (3, 5) on an output (B, K) is an error, not a difference.
    """
    if isinstance(target, Tensor):
        target = target.item() if target.numel() == 1 else target.tolist()
    if not isinstance(target, list):
        return _index(target, output)
    if any(isinstance(each, int) and (output.ndim != 2 or each < 0) for each in target):
        raise _no_target(target, output)
    return [_index(each, output) for each in target]


def _index(target: Any, output: Tensor) -> tuple[int, ...]:
    """An index for all dimensions of a sample's output; those of size 1 may be left out."""
    index = () if target is None else target if isinstance(target, tuple) else (target,)
    rest = output.shape[1 + len(index) :]
    whole = all(isinstance(i, int) and not isinstance(i, bool) for i in index)
    if not whole or len(index) >= output.ndim or rest.numel() != 1:
        raise _no_target(target, output)
    return (*index, *[0] * len(rest))


def _no_target(target: object, output: Tensor) -> SalienceError:
    return expected(
        f"a captum target with one value per sample of an output {tuple(output.shape)}",
        repr(target),
        "Give a class, an index tuple for dense outputs, or a list with one per "
        "sample; differences, masks and functions are targets of salience.record.",
    )
