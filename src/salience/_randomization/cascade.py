"""A network on its way from trained to random: one tape per stage, beside the user's model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn

from salience._errors import SalienceError
from salience._operations.calls import Arguments
from salience._randomization.options import Cascade
from salience._randomization.weights import Stage, random_weights, stages_of
from salience._recording.beside import copy_of
from salience._recording.linear_maps import Weights
from salience._recording.replay import can_replay, replay
from salience._recording.run import run_pass
from salience._recording.trace import Operation
from salience._tape.tape import Tape


def ordered_stages(tape: Tape, order: str) -> list[tuple[int, Stage]]:
    """The stages with their place in execution order, in the order of the cascade."""
    stages = list(enumerate(stages_of(tape.recording.trace)))
    return stages[::-1] if order == "top_down" else stages


def randomized_tapes(
    model: Callable[..., object], tape: Tape, cascade: Cascade, repeat: int, scored: Collection[int]
) -> Iterator[tuple[int, Tape]]:
    """(number in the cascade, tape) of each scored stage of one repeat.

    A stage's random weights come from the stream of (seed, repeat, place in execution order), so
    every order draws the same ones.
    """
    changed: dict[int, Tensor] = {}
    shared = Weights()  # what derives from the weights of this repeat
    for number, (place, stage) in enumerate(ordered_stages(tape, cascade.order)):
        where = (cascade.seed, repeat, place)
        drawn = random_weights(model, tape.recording.trace, stage, where, cascade.weights)
        changed = drawn if cascade.order == "independent" else {**changed, **drawn}
        if number in scored:
            yield number, _randomized(model, tape, cascade, dict(changed), shared)


def _randomized(
    model: Callable[..., object],
    tape: Tape,
    cascade: Cascade,
    changed: dict[int, Tensor],
    shared: Weights,
) -> Tape:
    def with_random_weights() -> Callable[..., object]:
        if cascade.batch_norm != "keep":  # copies of the model have the statistics of training
            raise SalienceError(
                "expected batch_norm='keep' where the model itself must run again, for methods of "
                "several passes or operations that cannot be replayed; got "
                f"{cascade.batch_norm!r}. Use single-pass methods, and see tape.coverage for "
                "operations that were not seen."
            )
        return _copy_with(model, tape, changed)

    found = None
    if can_replay(tape.recording.trace):
        transform = _statistics(tape, cascade.batch_norm, changed)
        found = replay(tape.recording, changed, shared, with_random_weights, transform)
    if found is None:
        found = run_pass(with_random_weights(), tape.x, tape.recording.part)
    return Tape(found)


def _copy_with(
    model: Callable[..., object], tape: Tape, changed: dict[int, Tensor]
) -> Callable[..., object]:
    """A copy of the model that has the random weights."""
    if not isinstance(model, nn.Module):
        raise SalienceError(
            "expected a torch.nn.Module, whose copy can be given random weights; got a function. "
            "Wrap it in a module, or use single-pass methods."
        )
    named = dict(model.named_parameters())
    weights = {tape.recording.trace.parameters[value]: drawn for value, drawn in changed.items()}
    unknown = weights.keys() - named.keys()
    if unknown:
        raise SalienceError(
            "expected parameters that are registered with the model where it must run again; got "
            f"{len(unknown)} that are not. Assign them as torch.nn.Parameter to the module."
        )
    return copy_of(model, weights)


def _statistics(
    tape: Tape, batch_norm: str, changed: dict[int, Tensor]
) -> Callable[[Operation, Arguments], Arguments] | None:
    """BatchNorm's running statistics on the randomised network."""
    if batch_norm == "keep":
        return None

    def transform(operation: Operation, args: Arguments) -> Arguments:
        if operation.kind != "batch_norm":
            return args
        a, weight, bias, mean, variance, *rest = args
        if batch_norm == "recalibrate":
            dims = [d for d in range(a.ndim) if d != 1]
            variance, mean = torch.var_mean(a.detach(), dims, correction=0)
        else:
            maker = tape.recording.trace.producers.get(operation.inputs()[0])
            stage = operation if weight is not None or maker is None else maker
            if any(i in changed for i in stage.inputs()):
                mean, variance = torch.zeros_like(mean), torch.ones_like(variance)
        return (a, weight, bias, mean, variance, *rest)

    return transform
