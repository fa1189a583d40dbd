"""One backward walk over a recorded graph, with the rules of a method in force."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from salience._errors import expected
from salience._inputs.validation import values_at
from salience._names import BIASES
from salience._recording.linear_maps import LinearMap
from salience._recording.linear_sites import LinearSite
from salience._recording.recording import Recording
from salience._tape.accounts import Take, watch
from salience._tape.input_layer import bounds_at, to_inputs
from salience._tape.unruled import losses
from salience.rules._losses import Parts, parts_of
from salience.rules._method import Method, Rule
from salience.rules._rules import unchanged


class Found(NamedTuple):
    """What a walk found at each leaf.

    maps         what the method reads off
    multipliers  m, where the maps are x * m; None where they are m itself, or where a rule at an
                 input layer handed back relevance
    """

    maps: tuple[Tensor, ...]
    multipliers: tuple[Tensor, ...] | None


def walk_back(
    recording: Recording, method: Method, gradient: Tensor, take: Take | None = None
) -> Found:
    """What the method reads off at each leaf, for a gradient at the output.

    take  is told what relevance every operation does not hand on
    """
    walk, begins = recording.walk, [leaf.tensor for leaf in recording.leaves]
    edges = {} if take is None or recording.trace.opaque else recording.edges or {}
    with walk.alone():
        walk.rules = dict(method.rules)
        if method.input_rule is not None:  # it sees the BatchNorm folded in
            walk.rules.setdefault("linear", unchanged)
            walk.input_rule = _input_rule(recording, method.input_rule, method.bounds)
        if take is not None:
            watch(walk, take, partial(_at_input, recording, method))
        ends = [*begins, *edges.values()]
        found = torch.autograd.grad(
            recording.output, ends, gradient, retain_graph=True, allow_unused=True
        )
        if take is not None:
            arrived = dict(zip(edges, found[len(begins) :], strict=True))
            for name, loss in losses(recording, arrived):
                take(name, loss)
        found = found[: len(begins)]
        if not walk.relevance and all(m is None for m in found):
            raise expected(
                "an output that depends on the input",
                "one that does not",
                "Look for detach(), no_grad() or .data in the model's forward.",
            )
        pairs = zip(found, begins, strict=True)
        ms = tuple(torch.zeros_like(x) if m is None else m for m, x in pairs)
        if method.readout == "m":
            return Found(ms, None)
        return Found(_relevance(recording, ms, take), None if walk.relevance else ms)


def _relevance(
    recording: Recording, ms: tuple[Tensor, ...], take: Take | None
) -> tuple[Tensor, ...]:
    """x * m at each leaf, and what rules at input layers handed back."""
    leaves = recording.leaves
    begins = {leaf.value: leaf.tensor for leaf in leaves}
    maps = {leaf.value: m * leaf.tensor for m, leaf in zip(ms, leaves, strict=True)}
    for value, relevance in recording.walk.relevance:
        parts = to_inputs(recording.trace, value, relevance, begins)
        for leaf, part in parts.items():
            maps[leaf] = maps[leaf] + part
        if take is not None and value not in parts:  # what is padded keeps its share
            for lost in (relevance, *(-part for part in parts.values())):
                take(BIASES, lost)
    return tuple(maps.values())


def _input_rule(
    recording: Recording, rule: Rule, bounds: tuple[object, object] | None
) -> Callable[[LinearSite, Tensor], Tensor | None]:
    """The rule at an input layer, with bounds of x as bounds of what the layer sees."""

    def at(site: LinearSite, m: Tensor) -> Tensor | None:
        return rule(site.linear_map(), m, *_bounds(recording, bounds, site))

    return at


def _at_input(
    recording: Recording, method: Method, site: LinearSite, linear: LinearMap, m: Tensor
) -> Parts | None:
    """What the method's rule for an input layer loses."""
    assert method.input_rule is not None
    return parts_of(method.input_rule, linear, m, *_bounds(recording, method.bounds, site))


def _bounds(
    recording: Recording, bounds: tuple[object, object] | None, site: LinearSite
) -> tuple[Tensor, ...]:
    """The bounds of what an input layer sees, if there are any."""
    if bounds is None:
        return ()
    low, high = (
        values_at(f"a bound {name}", bound, recording.x, recording.leaves)
        for name, bound in zip(("low", "high"), bounds, strict=True)
    )
    if any(bool((low[leaf] > high[leaf]).any()) for leaf in low):
        raise expected("low <= high", "low above high", "Exchange them.")
    return bounds_at(recording.trace, site.source, low, high)
