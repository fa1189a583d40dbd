"""What a test of faithfulness compares, found out from a pass of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from salience._errors import expected, not_applicable
from salience._faithfulness.effects import random_sets
from salience._faithfulness.grid import Grid, grid_of
from salience._faithfulness.options import Removal
from salience._faithfulness.replacements import check_replacement
from salience._faithfulness.scores import Score, of_windows
from salience._faithfulness.subject import (
    Plain,
    channels_second,
    check_leaves,
    has_neighbors,
    plain_of,
    space_of,
    values_of,
)
from salience._inputs import trees
from salience._inputs.targets import Part, Target
from salience._inputs.trees import Inputs
from salience._names import FLOOR, NEGATIVE, OCCLUSION, RANDOM_MAP, REFERENCE
from salience._randomization.cascade import ordered_stages
from salience._randomization.options import Cascade
from salience._recording.run import checked_pass
from salience._tape.maps import applicable
from salience._tape.tape import Tape
from salience._tape.together import some
from salience.rules._method import Method

SAMPLES = 16  # of a recorded pass


@dataclass(frozen=True)
class Question:
    """What is asked: the arguments of `faithfulness`.

    given  name -> maps that were made elsewhere
    skip   leave methods out that do not apply, with a warning
    """

    model: Callable[..., object]
    methods: tuple[Method, ...]
    given: Mapping[str, Tensor]
    target: Target
    removal: Removal
    scores: Mapping[str, Score]
    cascade: Cascade | None
    output: Part
    skip: bool


@dataclass(frozen=True)
class Plan:
    """How a question is answered.

    methods    those that apply
    roles      name -> "method" or a control's role, of everything that is scored
    uncovered  method -> operations that it has no rule for
    sets       (sets, cells) of bools, the random ones
    stages     of the network, all of which are random on an untrained one; 0 without any
    ids        whether ids are replaced by another id, and not what they are embedded as
    means      per value of a subject, the mean of all samples, where it is the replacement
    plain      the network without a record; None where it cannot be copied
    """

    question: Question
    methods: tuple[Method, ...]
    roles: Mapping[str, str]
    uncovered: Mapping[str, str]
    grid: Grid
    sets: Tensor
    replacement: str | float | Tensor
    stages: int
    ids: bool
    means: tuple[Tensor | None, ...]
    plain: Plain | None

    @property
    def networks(self) -> int:
        """Untrained networks."""
        return self.question.cascade.repeats if self.question.cascade and self.stages else 0

    @property
    def passes(self) -> int:
        """Perturbed passes of each sample."""
        kinds = {score.of for score in self.question.scores.values()}
        removal, scored = self.question.removal, len(self.methods) * (1 + self.networks)
        scored += sum(name not in {m.name for m in self.methods} for name in self.roles)
        signs = {s.sign for s in self.question.scores.values() if s.of == "curves"}
        return (
            1
            + self.grid.count * of_windows(kinds)
            + (len(self.sets) + 1) * ("subsets" in kinds)
            + 2 * removal.steps * scored * len(signs)
        )


def planned(question: Question, x: Inputs) -> Plan:
    """The plan for inputs x; to be called by what the user calls."""
    run = partial(checked_pass, question.model, part=question.output, keep=True, given=x)
    tape = Tape(run(some(x, slice(1))))
    check_leaves(tape.leaves)
    removal, samples = question.removal, trees.samples_of(x)
    tokens = tape.leaves[0].embedded
    neighbors = has_neighbors(tape.leaves)
    replacement = check_replacement(removal.replacement, samples, neighbors, tokens)
    ids = tokens and isinstance(replacement, float)
    grid = grid_of(space_of(tape.leaves[0]), removal.cell, removal.window, neighbors)
    if grid.count < 3:
        told = expected if removal.cell is not None else not_applicable
        cure = "Give a smaller cell, or inputs of more entries."
        raise told("at least three cells, to correlate over", f"{grid.count}", cure)
    none = (None,) * (1 if ids else len(tape.leaves))
    methods = applicable(tape, question.methods, question.skip)
    stages = len(ordered_stages(tape, "top_down")) if question.cascade else 0
    return Plan(
        question=question,
        methods=methods,
        roles=_roles(question, methods, tape),
        uncovered={m.name: ", ".join(tape.uncovered(m)) for m in methods},
        grid=grid,
        sets=random_sets(grid.count, removal.subsets, removal.share, removal.seed),
        replacement=replacement,
        stages=stages,
        ids=ids,
        means=_means(question, x, tape) if replacement == "mean" else none,
        plain=plain_of(question.model, question.output),
    )


def _roles(question: Question, methods: tuple[Method, ...], tape: Tape) -> dict[str, str]:
    names = [*(method.name for method in methods), *question.given]
    leaf = tape.leaves[0]
    space = leaf.tensor.shape[2:]
    edges = not leaf.embedded and len(space) > 0 and min(space) > 1
    kinds = {score.of for score in question.scores.values()}
    fixed = {"input": NEGATIVE, **({"edges": NEGATIVE} if edges else {}), RANDOM_MAP: FLOOR}
    fixed |= {OCCLUSION: REFERENCE} if of_windows(kinds) else {}
    for name in names:
        if names.count(name) > 1 or name in fixed:
            cure = "Give each map its own name, and none of a control's."
            raise expected("maps and controls of different names", f"{name!r} twice", cure)
    return dict.fromkeys(names, "method") | fixed


def _means(question: Question, x: Inputs, tape: Tape) -> tuple[Tensor, ...]:
    """The mean of all samples at each position; of embedded ids that of all tokens, which takes a
    pass of each."""
    leaf = tape.leaves[0]
    if not leaf.embedded:
        part = trees.parts_of(x)[leaf.key]
        return (channels_second(part.mean(0, keepdim=True), embedded=False),)
    totals: list[Tensor] = []
    count = trees.samples_of(x)
    for start in range(0, count, SAMPLES):
        here = some(x, slice(start, start + SAMPLES))
        leaves = Tape(checked_pass(question.model, here, question.output)).leaves
        sums = [v.double().mean(2).sum(0) for v in values_of(here, leaves, ids=False)]  # (C,)
        totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
    like = [leaf.tensor for leaf in tape.leaves]
    return tuple((t / count).to(v)[None, :, None] for t, v in zip(totals, like, strict=True))
