"""What a verdict says, in a sentence with its evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from salience._names import NEGATIVE

SENSITIVE, PARTIAL, INSENSITIVE = "sensitive", "partial", "insensitive"
CONSTANT, UNINFORMATIVE, UNDEFINED = "constant over inputs", "uninformative", "undefined"
Ends = tuple[float, float]  # of an interval


def of_method(
    name: str,
    verdict: str,
    retention: float,
    ends: Ends,
    limits: Sequence[float],
    doubt: str,
) -> str:
    """About a method: its retention with the ends of the interval, and the limits for it.

    doubt  what makes the test uninformative, as a clause
    """
    kept = _retention(retention, ends)
    if verdict == PARTIAL:
        return f"{name} {_partial(kept, ends, limits)}"
    return {
        SENSITIVE: f"{name} depends on what the network learned: its maps change when the weights "
        f"are randomised ({kept}, all below {limits[0]:g}).",
        INSENSITIVE: f"{name} hardly depends on what the network learned ({kept}, all above "
        f"{limits[1]:g}): a network with random weights gives nearly the same maps.",
        CONSTANT: _constant(name),
        UNINFORMATIVE: f"no verdict about {name} ({kept}): on this network and these inputs "
        f"{doubt}.",
        UNDEFINED: _undefined(name, retention, kept),
    }[verdict]


def of_rise(name: str, verdict: str, rise: float, ends: Ends) -> str:
    """About a method, by how much the complexity of its maps rises."""
    if verdict == CONSTANT:
        return _constant(name)
    if verdict == UNDEFINED:
        return _undefined(name, rise, _rise(rise, ends))
    return f"{name}: {verdict} ({_rise(rise, ends)} when all weights are randomised)."


def of_control(name: str, role: str, mean: float, ends: Ends, *, rises: bool) -> str:
    """About a control, which has no verdict: it shows what a score means."""
    seen = (_rise if rises else _retention)(mean, ends)
    kind = "a map that no weight can change" if role == NEGATIVE else "noise, for what chance gives"
    return f"{name} is a control, {kind}: {'undefined' if math.isnan(mean) else seen}."


def _retention(mean: float, ends: Ends) -> str:
    return f"retention {mean:.2f}{_interval(ends, '.2f')}"


def _rise(mean: float, ends: Ends) -> str:
    return f"complexity rises by {mean:+.0%}{_interval(ends, '+.0%')}"


def _interval(ends: Ends, form: str) -> str:
    return "" if math.isnan(ends[0]) else f" [{ends[0]:{form}}, {ends[1]:{form}}]"


def _constant(name: str) -> str:
    return f"{name} gives the same map for every input: it says nothing about the inputs."


def _undefined(name: str, mean: float, seen: str) -> str:
    if math.isnan(mean):
        return f"no verdict about {name}: its score is undefined at every stage."
    return f"no verdict about {name} ({seen}): one input and one repeat have no interval."


def _partial(kept: str, ends: Ends, limits: Sequence[float]) -> str:
    """What an interval says that lies on neither side of the range between the limits."""
    low, high = limits
    below, above = ends[0] < low, ends[1] > high
    if below and above:
        return (
            f"is undecided ({kept}, from below {low:g} to above {high:g}): more inputs and repeats "
            "make the interval narrower."
        )
    where, part = f"between {low:g} and {high:g}", "in part"
    if below:
        where, part = f"not clear of {low:g}", "at least in part"
    elif above:
        where, part = f"not clear of {high:g}", "at most in part"
    return (
        f"depends on what the network learned {part} ({kept}, {where}): compare its maps with a "
        "sensitive method's."
    )
