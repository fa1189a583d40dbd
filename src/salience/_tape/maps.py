"""The maps of several methods from one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from salience._errors import NotApplicable, warn
from salience._inputs import targets, trees
from salience._study.ledger import Ledger
from salience._study.maps import Maps
from salience.rules._method import Method

if TYPE_CHECKING:
    from salience._tape.tape import Tape


def applicable(tape: Tape, methods: Iterable[Method], skip: bool) -> tuple[Method, ...]:
    """The methods that can explain this network, found out before long work.

    skip  leave out the others, with a warning
    """
    found: list[Method] = []
    for method in methods:
        try:
            if method.single_pass:
                tape.explain_leaves(method, lambda out: out.flatten(1).sum(1))
            found.append(method)
        except NotApplicable as error:
            if not skip:
                raise
            warn(f"{method.name} is left out: {error}")
    return tuple(found)


def warn_incomplete(method: Method, error: Tensor | None) -> None:
    """Say so where a method that refines until it is right to a tolerance had to stop before."""
    tol = method.parameters.get("tol")
    if error is None or not tol or not method.complete:
        return
    open_ = int((error > tol).sum())
    if open_:
        warn(
            f"{method.name}: after max_steps = {method.parameters.get('max_steps')} gradients the "
            f"maps of {open_} of {len(error)} inputs do not add up to f(x) - f(baseline) within "
            f"tol = {tol:g}; the largest error is {float(error.max()):.2g} of it. "
            "Raise max_steps, or tol where that is good enough."
        )


def maps_of(
    tape: Tape,
    methods: Sequence[Method],
    target: targets.Target,
    *,
    seed: int = 0,
    strict: bool = False,
    skip: bool = False,
    tell: bool = True,
    say: Callable[[str], object] = str,
    ledger: bool = False,
) -> Maps[Any]:
    """The maps of methods from one pass.

    skip    leave out the methods that do not apply, with a warning
    tell    what each has no rule for, which costs a look at every operation
    say     is told the name of each method
    ledger  of those whose maps are relevance, where it went
    """
    scalar = targets.resolve(target, tape.output)
    maps: dict[str, object] = {}
    error: dict[str, Tensor] = {}
    ledgers: dict[str, Ledger] = {}
    value: Tensor | None = None
    for method in methods:
        say(method.name)
        try:
            made = tape.explain_leaves(method, scalar, seed=seed, strict=strict, ledger=ledger)
        except NotApplicable as reason:
            if not skip:
                raise
            warn(f"{method.name} is left out: {reason}")
            continue
        maps[method.name] = trees.at_inputs(tape.x, tape.leaves, made.maps)
        value = value if made.value is None else made.value
        if made.error is not None:
            error[method.name] = made.error
        if made.ledger is not None:
            ledgers[method.name] = made.ledger
    used = [method for method in methods if method.name in maps]
    return Maps(
        maps,
        tape.x,
        tape.output,
        scalar(tape.output) if value is None else value,
        error,
        {method.name: tape.uncovered(method) for method in used if tell},
        {method.name: method.parameters for method in used},
        {method.name: method.error for method in used if method.error and method.name in error},
        ledger=ledgers,
    )
