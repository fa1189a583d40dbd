"""What a verdict says, in a sentence with its evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from salience._names import BETWEEN, MULTIPLIERS, NEGATIVE, OTHERS, RANDOM_MAP
from salience._study.evidence import Evidence, Trial
from salience._study.verdicts import Mean, number, span

# once all stages are random
COMPLETELY, PART, HARDLY = "changes completely", "in part", "hardly"
UNDECIDED = "undecided"
_CHANGES = {COMPLETELY: "changes completely", PART: "changes in part", HARDLY: "hardly changes"}
# of the retention down the cascade
SENSITIVE, PARTIAL, INSENSITIVE = "sensitive", "partial", "insensitive"
# of the rise of complexity
RISES, FALLS = "rises", "does not rise"
CONSTANT, UNINFORMATIVE, UNDEFINED = "constant over inputs", "uninformative", "undefined"

SCORES = {
    "spearman_abs": "|Spearman|", "spearman": "Spearman", "spearman_of_abs": "Spearman of |maps|",
    "ssim": "SSIM", "hog": "HOG", "pearson": "Pearson", "complexity_rise": "rise of complexity",
}  # fmt: skip
FLOORS: Mapping[str, str] = {  # what is compared
    RANDOM_MAP: "random maps",
    OTHERS: "maps of two inputs",
    MULTIPLIERS: "x * m and x times another m",
    BETWEEN: "two random networks",
}


def of_full(found: Evidence, verdict: str, test: Trial) -> str:
    """About a method, by what is left of its maps once all stages are random."""
    name, seen = found.name, f"{_similarity(found, test)}{_floor(found)}"
    when = f"with {test.randomized}"
    if verdict in (CONSTANT, UNDEFINED):
        return _neither(found, verdict, _similarity(found, test), test)
    if verdict == UNINFORMATIVE:
        return f"no verdict about {name} ({seen}): {_cannot_tell(found)}."
    share, low, high = found.share
    if verdict == UNDECIDED:
        return (
            f"undecided about {name}: {when}, anything up to {high:.0%} of the pattern is left"
            f"{_beyond(found)} ({seen}); more random networks and inputs make that narrower."
        )
    left = f"{share:.0%} [{low:.0%}, {high:.0%}]"
    if verdict == COMPLETELY:
        left = f"at most {high:.0%}" if high > 0.005 else "nothing"
    told = f"{when}, {left} of the pattern is left{_beyond(found)} ({seen}{_networks(found)})"
    return f"{name} {_CHANGES[verdict]}: {told}{_half(found, test)}."


def _cannot_tell(found: Evidence) -> str:
    """Why a score says nothing, by what makes its floor so high."""
    why = {
        RANDOM_MAP: "random maps of so few entries are as alike by chance",
        OTHERS: "the trained network gives maps as alike for other inputs",
        MULTIPLIERS: "the factor x alone makes maps as alike",
    }
    return f"{why[found.floor]}, so that the score cannot tell"


def of_retention(found: Evidence, verdict: str, limits: Sequence[float], doubt: str) -> str:
    """About a method, by how strongly its maps are correlated down the cascade.

    limits  of the retention: sensitive below the first, insensitive above the second
    doubt   what makes the test uninformative, as a clause
    """
    name, kept = found.name, f"retention {_number(found.value)}"
    if verdict == PARTIAL:
        return f"{name} {_partial(kept, found.value, limits)}"
    if verdict == UNINFORMATIVE:
        return f"no verdict about {name} ({kept}): on this network and these inputs {doubt}."
    if verdict == SENSITIVE:
        return f"{name} keeps no strong correlation ({kept}, all below {limits[0]:g})."
    if verdict == INSENSITIVE:
        return f"{name} keeps strong correlations ({kept}, all above {limits[1]:g})."
    return _neither(found, verdict, kept, None)


def of_rise(found: Evidence, verdict: str, test: Trial) -> str:
    """About a method, by how much the complexity of its maps rises."""
    seen = _rise(found.value)
    told = {
        RISES: "the complexity of its maps rises",
        FALLS: "the complexity of its maps does not rise",
        UNDECIDED: "undecided whether the complexity of its maps rises",
    }
    if verdict in told:
        return f"{found.name}: {told[verdict]} with {test.randomized} ({seen})."
    return _neither(found, verdict, seen, test)


def of_control(found: Evidence, seen: str) -> str:
    """About a control, which has no verdict: it shows what a score means."""
    kind = (
        "a map that no weight can change" if found.role == NEGATIVE else "noise: what chance gives"
    )
    told = "undefined" if math.isnan(found.value.mean) else seen
    return f"{found.name} is a control, {kind} ({told})."


def seen_of(found: Evidence, criterion: str, test: Trial) -> str:
    """The number that a criterion is about, with its interval."""
    if criterion == "rise":
        return _rise(found.value)
    named = SCORES.get(test.score, test.score) if criterion == "full" else "retention"
    return f"{named} {_number(found.value)}"


def _similarity(found: Evidence, test: Trial) -> str:
    return seen_of(found, "full", test)


def _number(seen: Mean) -> str:
    return number(seen.mean) + ("" if math.isnan(seen.low) else f" {span(seen.low, seen.high)}")


def _rise(seen: Mean) -> str:
    ends = "" if math.isnan(seen.low) else f" [{seen.low:+.0%}, {seen.high:+.0%}]"
    return f"{seen.mean:+.0%}{ends}"


def _floor(found: Evidence) -> str:
    if not found.floor:
        return ""
    return f", floor {found.floors[found.floor].mean:.2f}"


def _beyond(found: Evidence) -> str:
    return f" beyond what {FLOORS[found.floor]} have in common" if found.floor else ""


def _half(found: Evidence, test: Trial) -> str:
    """Where in the network the change happens, as a clause."""
    if found.half is None:
        kept = found.share.mean >= 0.5
        return "; more than half of the pattern survives every stage" if kept else ""
    if found.half == 1:
        return "; less than half of the pattern survives the first random stage"
    return f"; half of the pattern survives until {found.half} of {test.total} stages are random"


def _networks(found: Evidence) -> str:
    """How alike the maps of random networks are: what is left may be what they all have."""
    alike = found.floors.get(BETWEEN)
    if alike is None or math.isnan(alike.mean):
        return ""
    return f", {FLOORS[BETWEEN]} {alike.mean:.2f}"


def _neither(found: Evidence, verdict: str, seen: str, test: Trial | None) -> str:
    """About a method that there is no verdict about."""
    name = found.name
    if verdict == CONSTANT:
        return f"{name} gives the same map for every input: it says nothing about the inputs."
    if test is not None and not test.randomized:
        return f"no verdict about {name}: there is no network all of whose stages are random."
    if math.isnan(found.value.mean):
        return f"no verdict about {name}: its score is undefined (constant maps)."
    why = "a floor takes the maps of three inputs or more"
    if math.isnan(found.value.low):
        why = "one random network says nothing about others"
    return f"no verdict about {name} ({seen}): {why}."


def _partial(kept: str, seen: Mean, limits: Sequence[float]) -> str:
    """What an interval says that lies on neither side of the range between the limits."""
    low, high = limits
    below, above = seen.low < low, seen.high > high
    if below and above:
        return (
            f"is undecided ({kept}, from below {low:g} to above {high:g}): more inputs and repeats "
            "make the interval narrower."
        )
    where = f"between {low:g} and {high:g}"
    if below:
        where = f"not clear of {low:g}"
    elif above:
        where = f"not clear of {high:g}"
    return f"keeps some correlation ({kept}, {where})."
