"""A recorded pass: what a walk back, a replay and another pass of the same model need of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import GradientEdge

from salience._errors import expected
from salience._inputs.targets import Part
from salience._inputs.trees import Inputs, Leaf, Model
from salience._recording.beside import version_of
from salience._recording.hinge import Walk
from salience._recording.linear_maps import Weights
from salience._recording.trace import Trace


@dataclass(frozen=True, eq=False)
class Recording:
    """One pass of a model.

    x         the input as it was given: a tensor (B, ...), or a tuple or dict of tensors
    leaves    where the recorded graph begins: the floating-point inputs, and what embeddings make
              of ids
    output    (B, ...) where it ends
    trace     the operations between them
    walk      what backward means while a method walks back
    model     makes the model, for passes at other values
    part      which part of its outputs is explained
    weights   what derives from its weights, shared by its passes; None: nothing is
    edges     where the graph of autograd has the values that no site made: what flows back there;
              None: not known
    kept      the values that a replay may find unchanged; None: it cannot be replayed
    versions  the model's parameters and buffers, and how often each had been written to
    """

    x: Inputs
    leaves: tuple[Leaf, ...]
    output: Tensor
    trace: Trace
    walk: Walk
    model: Callable[[], Model]
    part: Part = None
    weights: Weights | None = None
    edges: dict[int, GradientEdge] | None = None
    kept: dict[int, Tensor] | None = None
    versions: tuple[tuple[Tensor, int], ...] = ()

    @property
    def depends_on_input(self) -> bool:
        """Whether a gradient can reach an input from the output."""
        if not self.trace.opaque:
            return self.output.requires_grad
        # an unseen function may have other inputs
        return _reaches(self.output, [leaf.tensor for leaf in self.leaves])


def check_unchanged(recording: Recording) -> None:
    """Raise where the model's weights have changed since."""
    if any(version_of(tensor) != version for tensor, version in recording.versions):
        raise expected(
            "the model as it was recorded",
            "one whose weights have changed since",
            "Record it again.",
        )


def _reaches(output: Tensor, leaves: list[Tensor]) -> bool:
    """Whether the graph of an output contains one of the leaves."""
    queue, seen = [output.grad_fn], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if any(getattr(node, "variable", None) is leaf for leaf in leaves):
            return True
        queue.extend(before for before, _ in node.next_functions)
    return False
