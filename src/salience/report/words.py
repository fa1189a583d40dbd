"""The answer of a study in words: which methods to believe, why, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from salience.controls import NEGATIVE, POSITIVE_METHOD
from salience.verdicts import (
    CONSTANT,
    INSENSITIVE,
    PARTIAL,
    SENSITIVE,
    UNDEFINED,
    UNINFORMATIVE,
    Verdict,
)

if TYPE_CHECKING:
    import xarray

LIMITS = (
    "A top-down cascade keeps the scale of the activations of the layers it has not reached yet, "
    "so similarity at its first stages says little about a method (Binder et al. 2023).",
    "An uninformative map scores well: noise changes with the weights, too. A verdict of "
    "“sensitive” is a necessary condition, not proof that a map is right (Binder et al. 2023). "
    "Hold the verdicts beside a test of faithfulness, never alone.",
    "The score can favour methods: where a map contains the input as a factor, a part of its "
    "absolute values survives whatever the weights are.",
    "The verdicts are about this network, these inputs and this target; another network may "
    "have other ones.",
)
UNTESTED = (
    "This result holds maps, but no randomisation test. Nothing here says which of these methods "
    "can be believed for this network: run salience check on it."
)


def answer(dataset: xarray.Dataset, judged: Mapping[str, Verdict]) -> list[tuple[str, str]]:
    """(heading, sentence) pairs, the conclusion first."""
    groups: dict[str, list[Verdict]] = {}
    rises = dataset.attrs.get("kind") == "efficient"
    for v in judged.values():
        if v.role == "method":
            groups.setdefault(v.verdict, []).append(v)
    parts = []
    if UNINFORMATIVE in groups:
        parts.append((
            "No verdict", "Even the plain gradient's maps survive the randomisation of this "
            "network, so the test cannot tell its methods apart.",
        ))  # fmt: skip
    if v := groups.get(SENSITIVE):
        parts.append((
            "Passed", f"{listed(v)}: the maps change when the network forgets what it "
            f"learned. These are the methods to consider for this network.",
        ))  # fmt: skip
    if v := groups.get(INSENSITIVE):
        told = "maps of a network with random weights are no more complex" if rises else (
            "a network with random weights gives nearly the same maps"
        )  # fmt: skip
        parts.append((
            "Do not believe", f"{listed(v)}: {told}: they do not show what it has learned.",
        ))  # fmt: skip
    if v := groups.get(PARTIAL):
        parts.append((
            "Undecided", f"{listed(v)}: in part, or not clear of the thresholds. Compare "
            "the maps with those of a method that passed before you believe them.",
        ))  # fmt: skip
    if v := groups.get(CONSTANT):
        parts.append((
            "Do not believe", f"{listed(v)}: the same map for every input says nothing about one.",
        ))  # fmt: skip
    if v := groups.get(UNDEFINED):
        parts.append(("No verdict", f"{listed(v)}: similarity is undefined (constant maps)."))
    return [*parts, ("Why", _why(dataset, groups)), ("How sure", _sure(dataset, judged))]


def _why(dataset: xarray.Dataset, groups: Mapping[str, Sequence[Verdict]]) -> str:
    told = (
        "Retention is how much of a method's maps is left, as rank correlation, once the second "
        "half of the network's stages is random, too: 1 if nothing changes, 0 if nothing is left."
    )
    if dataset.attrs.get("kind") == "efficient":
        return (
            "A map of a network with random weights should be more complex (its entropy higher) "
            "than one of the trained network; a method whose maps do not become so does not show "
            "what was learned (Hedström et al. 2024)."
        )
    known = [v for group in groups.values() for v in group if v.retention == v.retention]
    if len(known) > 1:
        known.sort(key=lambda v: v.retention)
        least, most = known[0], known[-1]
        told += (
            f" Here it lies between {least.retention:.2f} ({least.method}) and "
            f"{most.retention:.2f} ({most.method})."
        )
    return told


def _sure(dataset: xarray.Dataset, judged: Mapping[str, Verdict]) -> str:
    repeats, samples = dataset.sizes["repeat"], dataset.sizes["sample"]
    told = [
        f"From {_count(repeats, 'random network')} and {_count(samples, 'input')}; intervals are "
        "95% bootstrap intervals over both, and a verdict is given only where the whole "
        "interval lies on one side of its threshold."
    ]
    if repeats == 1:
        told.append("With one random network, nothing is known of how others would differ.")
    if samples == 1:
        told.append("With one input, nothing is known of how others would differ.")
    fixed = [v for v in judged.values() if v.role == NEGATIVE]
    if fixed and dataset.attrs.get("kind") != "efficient":
        kept = min(v.retention for v in fixed)
        told.append(f"Controls that cannot change keep {kept:.2f}.")
    gradient = judged.get(POSITIVE_METHOD)
    if gradient and dataset.attrs.get("kind") != "efficient":
        told.append(f"The plain gradient, which must change, keeps {gradient.retention:.2f}.")
    undefined = {v.method: v.undefined for v in judged.values() if v.undefined}
    if undefined:
        counts = ", ".join(f"{count} of {name}" for name, count in undefined.items())
        told.append(f"Undefined similarities (constant maps) are left out: {counts}.")
    return " ".join(told)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def listed(judged: Iterable[Verdict]) -> str:
    """Their names, as a list in a sentence, the lowest retention first."""
    names = [v.method for v in sorted(judged, key=lambda v: v.retention)]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
