"""Run a model once, as it is written, and keep what it did."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TypeGuard

import torch
from torch import Tensor, nn

from salience._inputs import targets, trees
from salience._inputs.validation import (
    check_length,
    check_output,
    lacks_batch,
    looks_like_one_sample,
    no_leaves,
)
from salience._memory import ran_out_of_memory
from salience._recording.beside import as_it_was, generators_kept, version_of
from salience._recording.linear_maps import Weights
from salience._recording.recorder import Recorder
from salience._recording.recording import Recording, check_unchanged


def run_pass(
    model: trees.Model,
    x: trees.Inputs,
    part: targets.Part = None,
    weights: Weights | None = None,
    keep: bool = False,
    embedded: Sequence[Tensor] = (),
) -> Recording:
    """Record one pass without any checks of the input.

    keep      for a recording to be replayed
    embedded  values in place of what embeddings make of ids, in the order of execution
    """
    shared = Weights() if weights is None else weights
    recorder = Recorder(model, shared, keep, embedded)
    device = trees.tensors_of(x)[0].device
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(generators_kept(device))
        stack.enter_context(as_it_was(model))
        stack.enter_context(uncompiled())
        begin = recorder.start(x)
        outputs = _outputs(model, begin, recorder)
        output = recorder.finish(outputs, lambda outputs: targets.select_output(outputs, part))
    recorder.trace.output = recorder.values.number(output)
    return Recording(
        x=trees.each(Tensor.detach, begin),
        leaves=tuple(recorder.leaves),
        output=output,
        trace=recorder.trace,
        walk=recorder.walk,
        model=lambda: model,
        part=part,
        weights=shared,
        edges=recorder.edges,
        kept=recorder.readers.kept,
        versions=tuple((tensor, version_of(tensor)) for tensor in recorder.state),
    )


def at_other_values(recording: Recording, values: Sequence[Tensor]) -> Recording:
    """A pass of the same model with other values at the leaves."""
    check_unchanged(recording)
    x, embedded = trees.at_leaves(recording.x, recording.leaves, values)
    return run_pass(recording.model(), x, recording.part, recording.weights, embedded=embedded)


def uncompiled() -> AbstractContextManager[object]:
    """Run models as they are written, not as they were compiled."""
    compiled = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _outputs(model: trees.Model, x: trees.Inputs, recorder: Recorder) -> object:
    """What the model returns; integers that nothing embeds are an error, whatever it does."""
    try:
        with recorder:
            outputs = trees.call(model, x)
    except (RuntimeError, TypeError) as error:
        if recorder.leaves or ran_out_of_memory(error):
            raise
        raise no_leaves(x) from error
    if not recorder.leaves:
        raise no_leaves(x)
    return outputs


def checked_pass(
    model: trees.Model,
    x: trees.Inputs,
    part: targets.Part = None,
    weights: Weights | None = None,
    keep: bool = False,
    given: trees.Inputs | None = None,
) -> Recording:
    """A pass with one output per sample; what fails at one sample alone is told as that.

    given  what the user gave, of which x is a part; x itself by default
    """
    given = x if given is None else given
    if looks_like_one_sample(model, given) and _is_one_sample(given, model, part):
        raise lacks_batch(given)
    try:
        recording = run_pass(model, x, part, weights, keep)
        check_length(recording.x, recording.output)
    except Exception as error:
        if ran_out_of_memory(error) or not _is_one_sample(given, model, part):
            raise
        raise lacks_batch(given) from error
    check_output(recording.x, recording.output, recording.depends_on_input)
    return recording


def _is_one_sample(x: trees.Inputs, model: trees.Model, part: targets.Part) -> TypeGuard[Tensor]:
    """Whether the model takes a batch of x and x for two samples."""
    if not isinstance(x, Tensor):
        return False
    parameter = next(model.parameters(), x) if isinstance(model, nn.Module) else x
    try:
        output = run_pass(model, torch.stack([x.to(parameter.device)] * 2), part).output
    except Exception:  # whatever a model raises
        return False
    return output.ndim > 0 and len(output) == 2
