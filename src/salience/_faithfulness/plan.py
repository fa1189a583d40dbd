"""What a test of faithfulness compares, found out from a pass of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from salience._errors import NotApplicable, expected, warn
from salience._faithfulness.effects import random_sets
from salience._faithfulness.grid import Grid, grid_of
from salience._faithfulness.options import Removal
from salience._faithfulness.replacements import check_replacement
from salience._faithfulness.scores import Score
from salience._faithfulness.subject import check_leaves, has_neighbors, space_of, values_of
from salience._inputs import trees
from salience._inputs.targets import Part, Target
from salience._inputs.trees import Inputs
from salience._names import FLOOR, NEGATIVE, OCCLUSION, RANDOM_MAP, REFERENCE
from salience._randomization.cascade import ordered_stages
from salience._randomization.options import Cascade
from salience._recording.run import checked_pass
from salience._tape.tape import Tape
from salience._tape.together import some
from salience.rules._method import Method


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
    means      per value of a subject, the samples that a replacement may be made of
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
    means: tuple[Tensor, ...]

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
            + self.grid.count * ("deletion" in kinds)
            + (len(self.sets) + 1) * ("subsets" in kinds)
            + 2 * removal.steps * scored * len(signs)
        )


def planned(question: Question, x: Inputs) -> Plan:
    """The plan for inputs x; to be called by what the user calls."""
    run = partial(checked_pass, question.model, part=question.output, keep=True, given=x)
    tape = Tape(run(some(x, slice(1))))
    check_leaves(tape.leaves)
    removal, samples = question.removal, trees.samples_of(x)
    replacement = check_replacement(removal.replacement, samples, has_neighbors(tape.leaves))
    ids = tape.leaves[0].embedded and isinstance(replacement, float)
    grid = grid_of(space_of(tape.leaves[0]), removal.cell, removal.window)
    if grid.count < 3:
        cure = "Give a smaller cell."
        raise expected("at least three cells, to correlate over", f"{grid.count}", cure)
    methods = _applicable(question, tape)
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
        means=_everything(question, x, tape, ids),
    )


def _roles(question: Question, methods: tuple[Method, ...], tape: Tape) -> dict[str, str]:
    names = [*(method.name for method in methods), *question.given]
    leaf = tape.leaves[0]
    space = leaf.tensor.shape[2:]
    edges = not leaf.embedded and len(space) > 0 and min(space) > 1
    deletion = any(score.of == "deletion" for score in question.scores.values())
    fixed = {"input": NEGATIVE, **({"edges": NEGATIVE} if edges else {}), RANDOM_MAP: FLOOR}
    fixed |= {OCCLUSION: REFERENCE} if deletion else {}
    for name in names:
        if names.count(name) > 1 or name in fixed:
            cure = "Give each map its own name, and none of a control's."
            raise expected("maps and controls of different names", f"{name!r} twice", cure)
    return dict.fromkeys(names, "method") | fixed


def _applicable(question: Question, tape: Tape) -> tuple[Method, ...]:
    """The methods that can explain this network, found out before the long work."""
    found: list[Method] = []
    for method in question.methods:
        try:
            if method.single_pass:
                tape.explain_leaves(method, lambda out: out.flatten(1).sum(1))
            found.append(method)
        except NotApplicable as error:
            if not question.skip:
                raise
            warn(f"{method.name} is left out: {error}")
    return tuple(found)


def _everything(question: Question, x: Inputs, tape: Tape, ids: bool) -> tuple[Tensor, ...]:
    """The values of all samples; of embedded ids their mean, which takes a pass of each."""
    if ids or not tape.leaves[0].embedded:
        leaf = tape.leaves[0]
        part = trees.parts_of(x)[leaf.key]
        whole = trees.Leaf(leaf.key, leaf.value, part, leaf.embedded)
        return tuple(values_of(x, [whole], ids))
    totals: list[Tensor] = []
    count = trees.samples_of(x)
    for start in range(0, count, 16):
        here = some(x, slice(start, start + 16))
        leaves = Tape(checked_pass(question.model, here, question.output)).leaves
        sums = [v.double().mean(2).sum(0) for v in values_of(here, leaves, ids=False)]  # (C,)
        totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
    like = [leaf.tensor for leaf in tape.leaves]
    return tuple((t / count).to(v)[None, :, None] for t, v in zip(totals, like, strict=True))
