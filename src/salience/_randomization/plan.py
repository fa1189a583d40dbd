"""What a test compares: its methods and controls, and the stages that it scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from salience._errors import expected, unknown
from salience._inputs.targets import Part, Target
from salience._inputs.trees import Inputs
from salience._names import RANDOM_MAP
from salience._randomization import controls
from salience._randomization.cascade import ordered_stages
from salience._randomization.options import Cascade
from salience._recording.run import checked_pass
from salience._scores.similarity import Similarity
from salience._study.stages import evenly_spread
from salience._tape.maps import applicable
from salience._tape.tape import Tape
from salience._tape.together import check_shown, some, values_of
from salience.rules._method import Method

KINDS = ("standard", "smooth", "efficient")


@dataclass(frozen=True)
class Question:
    """What a test is asked: the arguments of `randomization_test`.

    skip  leave methods out that do not apply, with a warning
    """

    model: Callable[..., object]
    methods: tuple[Method, ...]
    target: Target
    cascade: Cascade
    kind: str
    scores: Mapping[str, Similarity]
    retarget: bool
    controls: bool
    keep_maps: int
    output: Part
    skip: bool

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of test", self.kind, KINDS)


@dataclass(frozen=True)
class Stages:
    """The stages that are scored, in the order of the cascade.

    numbers    of `total` in the cascade
    places     in execution order
    untouched  parameters of the model that no stage has
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    places: tuple[int, ...]
    total: int
    untouched: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How a question is answered.

    methods    those that apply
    controls   names of maps that no weight can change, and of random ones
    uncovered  method -> operations that it has no rule for
    """

    question: Question
    methods: tuple[Method, ...]
    controls: tuple[str, ...]
    uncovered: Mapping[str, str]
    stages: Stages

    @property
    def names(self) -> list[str]:
        """Methods, then controls."""
        return [*(method.name for method in self.methods), *self.controls]


def planned(question: Question, x: Inputs) -> Plan:
    """The plan for inputs x, from a pass of one sample; to be called by what the user calls."""
    run = partial(checked_pass, question.model, part=question.output, keep=True, given=x)
    try:
        tape = Tape(run(some(x, slice(1))))
    except IndexError:  # samples that name one another, as nodes of a graph do
        tape = Tape(run(x))
    fixed: list[str] = []
    if question.controls:
        fixed = [*controls.unchanging(values_of(x, tape.leaves)), RANDOM_MAP]
    _check_distinct([*(method.name for method in question.methods), *fixed])
    if question.keep_maps:
        check_shown(x, tape.leaves)
    methods = applicable(tape, question.methods, question.skip)
    uncovered = {m.name: ", ".join(tape.uncovered(m)) for m in methods}
    return Plan(question, methods, tuple(fixed), uncovered, _scored(question, tape))


def _check_distinct(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            cure = "Give each method its own name, and none of a control's."
            raise expected("methods and controls of different names", f"{name!r} twice", cure)


def _scored(question: Question, tape: Tape) -> Stages:
    cascade, model = question.cascade, question.model
    found = ordered_stages(tape, cascade.order)
    count = 1 if question.kind == "efficient" else cascade.stages
    numbers = evenly_spread(count, len(found))
    named = {name for name, _ in model.named_parameters()} if isinstance(model, nn.Module) else {}
    reached = {name for _, stage in found for name in stage.parameters.values()}
    return Stages(
        names=tuple(found[i][1].name for i in numbers),
        numbers=tuple(numbers),
        places=tuple(found[i][0] for i in numbers),
        total=len(found),
        untouched=tuple(sorted(set(named) - reached)),
    )
