"""The answer of a study in words: which methods to believe, why, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from salience._names import NEGATIVE, POSITIVE_METHOD
from salience._study.judge import why_uninformative
from salience._study.sentences import (
    CONSTANT,
    INSENSITIVE,
    PARTIAL,
    SENSITIVE,
    UNDEFINED,
    UNINFORMATIVE,
)
from salience._study.study import Study
from salience._study.verdicts import SCORE, Verdict, Verdicts, counted
from salience.report._numbers import SCORES

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


def answer(study: Study, judged: Verdicts) -> list[tuple[str, str]]:
    """(heading, sentence) pairs, the conclusion first."""
    groups: dict[str, list[Verdict]] = {}
    for v in judged.values():
        if v.role == "method":
            groups.setdefault(v.verdict, []).append(v)
    parts = []
    if UNINFORMATIVE in groups:
        doubt = why_uninformative({n: v.retention for n, v in judged.items()}, judged.thresholds[0])
        why = (
            f"On this network and these inputs {doubt}, so the test cannot tell its methods apart."
        )
        parts.append(("No verdict", why))
    told = _of_groups(rises=study.rises)
    found = [(*told[verdict], groups[verdict]) for verdict in told if verdict in groups]
    parts += [(heading, f"{listed(v)}: {sentence}") for heading, sentence, v in found]
    undefined = groups.get(UNDEFINED, [])
    if v := [one for one in undefined if math.isnan(one.retention)]:
        parts.append(("No verdict", f"{listed(v)}: the score is undefined (constant maps)."))
    if v := [one for one in undefined if not math.isnan(one.retention)]:
        parts.append(("No verdict", f"{listed(v)}: one number has no interval."))
    why = _why(study, groups, judged.score)
    return [*parts, ("Why", why), ("How sure", _sure(study, judged))]


def _of_groups(*, rises: bool) -> dict[str, tuple[str, str]]:
    """verdict -> heading and sentence, in the order of the answer."""
    as_before = (
        "maps of a network with random weights are no more complex"
        if rises
        else "a network with random weights gives nearly the same maps"
    )
    where = "contains 0" if rises else "lies between the thresholds or reaches over one"
    return {
        SENSITIVE: (
            "Passed",
            "the maps change when the network forgets what it learned. These are the "
            "methods to consider for this network.",
        ),
        INSENSITIVE: ("Do not believe", f"{as_before}: they do not show what it has learned."),
        PARTIAL: (
            "In part",
            f"the interval {where}. Compare the maps with those of a method that passed "
            "before you believe them.",
        ),
        CONSTANT: ("Do not believe", "the same map for every input says nothing about one."),
    }


def _why(study: Study, groups: Mapping[str, Sequence[Verdict]], score: str) -> str:
    kept = "rank correlation" if score == SCORE else SCORES.get(score, score)
    told = (
        f"Retention is how much of a method's maps is left, as {kept}, once the second half of the "
        "network's stages is random, too: 1 if nothing changes, 0 if nothing is left."
    )
    if study.rises:
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


def _sure(study: Study, judged: Verdicts) -> str:
    repeats, samples = study.repeats, study.samples
    told = [
        f"From {counted(repeats, 'random network')} and {counted(samples, 'input')}; intervals are "
        "95% bootstrap intervals over both, and a method passes, or fails, only where the whole "
        "interval lies on one side of the threshold."
    ]
    if repeats == 1:
        told.append("With one random network, nothing is known of how others would differ.")
    if samples == 1:
        told.append("With one input, nothing is known of how others would differ.")
    fixed = [v for v in judged.values() if v.role == NEGATIVE]
    if fixed and not study.rises:
        kept = min(v.retention for v in fixed)
        told.append(f"Controls that cannot change keep {kept:.2f}.")
    gradient = judged.get(POSITIVE_METHOD)
    if gradient and not study.rises:
        told.append(f"The plain gradient, which must change, keeps {gradient.retention:.2f}.")
    undefined = {v.method: v.undefined for v in judged.values() if v.undefined}
    if undefined:
        counts = ", ".join(f"{count} of {name}" for name, count in undefined.items())
        told.append(f"Undefined similarities (constant maps) are left out: {counts}.")
    return " ".join(told)


def listed(judged: Iterable[Verdict]) -> str:
    """Their names, as a list in a sentence, the lowest retention first."""
    names = [v.method for v in sorted(judged, key=lambda v: v.retention)]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
