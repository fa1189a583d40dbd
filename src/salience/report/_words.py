"""What a study says, in words: how much of each method's maps is left, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from salience._names import NEGATIVE
from salience._study import sentences as words
from salience._study.study import Study
from salience._study.verdicts import HALF, SMALL, Verdict, Verdicts, counted

LIMITS = (
    "That a map changes says that it depends on the weights, not that it is right: random maps "
    "change completely, too (Binder et al. 2023). Hold this beside a test of faithfulness, never "
    "alone.",
    "A cascade keeps the scale of the activations of the layers that it has not reached yet, so "
    "similarity at its first stages says little about a method (Binder et al. 2023).",
    "A floor is what the trained network's maps give. Where they have much in common on all "
    "inputs, it is high, and little can be left above it.",
    "All of this is about this network, these inputs and this target; another network may have "
    "other numbers.",
)
UNTESTED = (
    "This result holds maps, but no randomisation test. Nothing here says how much of them is left "
    "when the network's weights are random: run salience check on it."
)
_TOLD: Mapping[str, tuple[str, str]] = {  # heading and sentence, in the order of the answer
    words.COMPLETELY: (
        "Change completely",
        f"what is left is not clearly more than {SMALL:.0%} of the pattern, beyond what maps have "
        "in common that share less.",
    ),
    words.PART: (
        "Change in part",
        f"some of the pattern is left, and not clearly more than {HALF:.0%} of it.",
    ),
    words.HARDLY: (
        "Hardly change",
        f"more than {HALF:.0%} of the pattern is left: a random network gives similar maps.",
    ),
    words.UNDECIDED: (
        "Undecided",
        "the interval is too wide: take more random networks and inputs.",
    ),
    words.RISES: (
        "Become more complex",
        "the entropy of the maps rises when all weights are random.",
    ),
    words.FALLS: (
        "Do not become more complex",
        "the entropy of the maps does not rise when all weights are random.",
    ),
    words.CONSTANT: ("Constant", "the same map for every input says nothing about one."),
    words.UNINFORMATIVE: (
        "No verdict",
        "the score cannot tell, since maps that share less are as alike by it.",
    ),
}


def answer(study: Study, judged: Verdicts) -> list[tuple[str, str]]:
    """(heading, sentence) pairs, the conclusion first."""
    groups: dict[str, list[Verdict]] = {}
    for v in judged.values():
        if v.role == "method":
            groups.setdefault(v.verdict, []).append(v)
    parts = [
        (heading, f"{listed(groups[verdict])}: {sentence}")
        for verdict, (heading, sentence) in _TOLD.items()
        if verdict in groups
    ]
    parts += _undefined(judged, groups.get(words.UNDEFINED, []))
    return [*parts, ("What that means", _means(study, judged)), ("How sure", _sure(study, judged))]


def _undefined(judged: Verdicts, found: list[Verdict]) -> list[tuple[str, str]]:
    """Why some have no verdict: one line for each reason."""
    reasons: dict[str, list[Verdict]] = {}
    for v in found:
        if not judged.randomized:
            why = "no network of this test is random as a whole."
        elif math.isnan(v.value):
            why = "the score is undefined (constant maps)."
        elif judged.repeats == 1:
            why = "one random network says nothing about others."
        else:
            why = "a floor takes the maps of three inputs or more."
        reasons.setdefault(why, []).append(v)
    return [("No verdict", f"{listed(v)}: {why}") for why, v in reasons.items()]


def _means(study: Study, judged: Verdicts) -> str:
    if study.rises:
        return (
            "A map of a network with random weights should be more complex (its entropy higher) "
            "than one of the trained network (Hedström et al. 2024)."
        )
    score = words.SCORES.get(judged.score, judged.score)
    where = f"with {judged.randomized}" if judged.randomized else "at the end of the cascade"
    told = (
        f"Similarity is {score} between the maps of the trained network and those of one {where}: "
        "1 if nothing changes. Its floor is the largest of what it is for random maps, for the "
        "trained network's maps of two inputs, and, where maps are x times multipliers, for the "
        "same x times the multipliers of another input. What is left is counted from there to 1."
    )
    known = [v for v in judged.values() if v.role == "method" and v.value == v.value]
    if len(known) > 1:
        known.sort(key=lambda v: v.value)
        least, most = known[0], known[-1]
        told += (
            f" Here it lies between {least.value:.2f} ({least.method}) and "
            f"{most.value:.2f} ({most.method})."
        )
    return told


def _sure(study: Study, judged: Verdicts) -> str:
    repeats, samples = study.repeats, study.samples
    told = [f"From {counted(repeats, 'random network')} and {counted(samples, 'input')}."]
    if repeats == 1:
        told.append("With one random network, nothing is known of how others would differ.")
    else:
        told.append("The intervals are 95% intervals over both, and the words go by them.")
    if samples == 1:
        told.append("With one input, nothing is known of how others would differ.")
    fixed = [v for v in judged.values() if v.role == NEGATIVE]
    if fixed and not study.rises:
        told.append(f"Controls that cannot change keep {min(v.value for v in fixed):.2f}.")
    undefined = {v.method: v.undefined for v in judged.values() if v.undefined}
    if undefined:
        counts = ", ".join(f"{count} of {name}" for name, count in undefined.items())
        told.append(f"Undefined similarities (constant maps) are left out: {counts}.")
    return " ".join(told)


def listed(judged: Iterable[Verdict]) -> str:
    """Their names, as a list in a sentence, the lowest value first."""
    names = [v.method for v in sorted(judged, key=lambda v: v.value)]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
