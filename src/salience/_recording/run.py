"""Run a model once, as it is written, and keep what it did as a tape."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from salience._errors import expected
from salience._inputs import targets, trees
from salience._inputs.batches import in_dtype_of
from salience._inputs.validation import (
    check_input,
    check_length,
    check_model,
    check_output,
    lacks_batch,
    looks_like_one_sample,
    no_leaves,
)
from salience._memory import ran_out_of_memory
from salience._recording.beside import as_it_was, generators_kept, version_of
from salience._recording.linear_maps import Weights
from salience._recording.recorder import Recorder
from salience.tape import Tape


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
    device = trees.tensors_of(x)[0].device
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(generators_kept(device))
        stack.enter_context(as_it_was(model))
        stack.enter_context(_as_written())
        begin = recorder.start(x)
        outputs = _outputs(model, begin, recorder)
        output = recorder.finish(outputs, lambda outputs: targets.select_output(outputs, part))
    recorder.trace.output = recorder.values.number(output)

    state = recorder.state
    versions = [version_of(tensor) for tensor in state]
    ends = (tuple(recorder.leaves), output)
    held = trees.each(Tensor.detach, begin)

    def unchanged() -> None:
        if versions != [version_of(tensor) for tensor in state]:
            raise expected(
                "the model as it was recorded", "one whose weights have changed since",
                "Record it again.",
            )  # fmt: skip

    def again(*values: Tensor) -> Tape:
        unchanged()
        other, embedded = trees.at_leaves(held, ends[0], values)
        return run_pass(model, other, part, shared, embedded=embedded)

    kept = recorder.readers.kept
    return Tape(held, ends, recorder.trace, recorder.walk, again, kept, unchanged)


def _as_written() -> AbstractContextManager[Any]:
    """Run models as they are written, not as they were compiled."""
    compiled = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _outputs(model: Callable[..., Any], x: Any, recorder: Recorder) -> Any:
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
    model: Callable[..., Any],
    x: Any,
    part: targets.Part = None,
    weights: Weights | None = None,
    keep: bool = False,
    given: Any = None,
) -> Tape:
    """A pass with one output per sample; what fails at one sample alone is told as that.

    given  what the user gave, of which x is a part; x itself by default
    """
    given = x if given is None else given
    if looks_like_one_sample(model, given) and _is_one_sample(model, given, part):
        raise lacks_batch(given)
    try:
        tape = run_pass(model, x, part, weights, keep)
        check_length(tape.x, tape.output)
    except Exception as error:
        if ran_out_of_memory(error) or not _is_one_sample(model, given, part):
            raise
        raise lacks_batch(given) from error
    check_output(tape.x, tape.output, tape.depends_on_input)
    return tape


def _is_one_sample(model: Callable[..., Any], x: Any, part: targets.Part) -> bool:
    """Whether the model takes a batch of x and x for two samples."""
    if not isinstance(x, Tensor):
        return False
    parameter = next(model.parameters(), x) if isinstance(model, nn.Module) else x
    try:
        output = run_pass(model, torch.stack([x.to(parameter.device)] * 2), part).output
    except Exception:  # whatever a model raises
        return False
    return output.ndim > 0 and len(output) == 2


def record(model: Callable[..., Any], x: Any, *, output: targets.Part = None) -> Tape:
    """Record one forward pass of a trained model, to be explained by any method.

    model   a module in eval mode, or any function of tensors
    x       a tensor (B, ...); a tuple or list for model(*x); or a dict for model(**x). Floating-
            point inputs are explained; integer ids are explained where the model embeds them;
            masks, flags and scalars are passed along. All on the model's device and of its dtype;
            float64 becomes float32 where the model's weights are, with a warning
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
    if isinstance(x, Tensor | Mapping | list | tuple):
        x = in_dtype_of(model, x, 2)
    check_input(model, x)
    return checked_pass(model, x, output)
