"""What parts are removed of: the values of an input's positions, and the network at others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from salience._errors import SalienceError, not_applicable
from salience._inputs import trees
from salience._inputs.targets import Part, select_output
from salience._inputs.trees import Inputs, Leaf, Model
from salience._recording.beside import as_it_was, copy_of, generators_kept
from salience._recording.run import uncompiled
from salience._tape.tape import Tape

Plain = Callable[[Inputs], Tensor]  # the outputs of inputs
Network = Callable[[list[Tensor]], Tensor]  # values, (K * B, C, *space) each -> (K * B, ...)


@dataclass(frozen=True)
class Subject:
    """Some samples, as values of positions that can be removed.

    values    (B, C, *space), channels second; ids as (B, 1, T); a list where several embeddings
              read the same ids
    outputs   the network at other values, batched copies of the whole batch
    """

    values: list[Tensor]
    outputs: Network


def check_leaves(leaves: Sequence[Leaf]) -> None:
    """Raise unless all leaves belong to one input, position by position."""
    keys = {leaf.key for leaf in leaves}
    spaces = {tuple(space_of(leaf)) for leaf in leaves}
    if len(keys) > 1 or len(spaces) > 1:
        shapes = ", ".join(str(tuple(leaf.tensor.shape[1:])) for leaf in leaves)
        cure = "Bind the others in a module of your own, which takes one input."
        raise not_applicable("one explained input, for parts of it to be removed", shapes, cure)


def space_of(leaf: Leaf) -> torch.Size:
    """The positions of a leaf: all but its samples and channels."""
    return channels_second(leaf.tensor, leaf.embedded).shape[2:]


def channels_second(tensor: Tensor, embedded: bool) -> Tensor:
    """(B, C, *space) of a map or of values: features (B, F) are positions of one channel."""
    if embedded:
        return tensor.movedim(-1, 1)
    return tensor[:, None] if tensor.ndim == 2 else tensor


def has_neighbors(leaves: Sequence[Leaf]) -> bool:
    """Whether positions are points of space or time, not features or tokens."""
    return not any(leaf.embedded or leaf.tensor.ndim == 2 for leaf in leaves)


def values_of(x: Inputs, leaves: Sequence[Leaf], ids: bool) -> list[Tensor]:
    """What is replaced: the ids themselves, or the values at the leaves."""
    if ids:
        return [trees.parts_of(x)[leaves[0].key][:, None]]
    return [channels_second(leaf.tensor.detach(), leaf.embedded) for leaf in leaves]


def subject_of(tape: Tape, plain: Plain | None, ids: bool) -> Subject:
    """The samples of a recorded pass as a subject.

    plain  the network without a record, where it can run so
    ids    whether ids are replaced by another id
    """
    values = values_of(tape.x, tape.leaves, ids)
    if plain is None or (tape.leaves[0].embedded and not ids):
        return Subject(values, lambda new: tape.again(*at_leaves(tape.leaves, new)).output)

    def outputs(new: list[Tensor]) -> Tensor:
        return plain(_inputs(tape.x, tape.leaves, new[0], ids))

    return Subject(values, outputs)


def at_leaves(leaves: Sequence[Leaf], new: Sequence[Tensor]) -> list[Tensor]:
    """Values (B, C, *space) in the shapes of the leaves."""
    pairs = zip(leaves, new, strict=True)
    return [
        values.movedim(1, -1) if leaf.embedded else values.reshape(-1, *leaf.tensor.shape[1:])
        for leaf, values in pairs
    ]


def _inputs(x: Any, leaves: Sequence[Leaf], new: Tensor, ids: bool) -> Inputs:
    """The inputs of batched copies, with other values at the leaf or other ids."""
    if not ids:
        return trees.at_leaves(x, leaves, at_leaves(leaves, [new]))[0]
    key, copies = leaves[0].key, len(new) // trees.samples_of(x)
    return trees.alike(x, {**trees.repeated(x, copies, [key]), key: new[:, 0]})


def plain_of(model: Model, part: Part) -> Plain | None:
    """The model beside itself, without a record; None where it cannot be copied."""
    copied = model
    if isinstance(model, nn.Module):
        try:
            copied = copy_of(model)  # a forward may write its buffers
        except SalienceError:
            return None

    def outputs(x: Inputs) -> Tensor:
        device = trees.tensors_of(x)[0].device
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(generators_kept(device))
            stack.enter_context(as_it_was(copied))
            stack.enter_context(uncompiled())
            return select_output(trees.call(copied, x), part)

    return outputs
