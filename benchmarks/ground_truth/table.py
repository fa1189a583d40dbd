"""The committed result: benchmarks/results/truth.json, and truth.md made from it.

`python -m ground_truth.table` makes both again from the lines in out/truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import report

from ground_truth import findings
from ground_truth.candidates import CONTROLS, REFERENCES
from ground_truth.findings import QUALITIES
from ground_truth.page import markdown
from ground_truth.rules import good, rules, stopped_by
from ground_truth.statistics import Result, mean, read

RESULTS = Path(__file__).parents[1] / "results"
GATES = "package, occlusion_auc"  # the score of the gates of `Study.recommend`
CHOSEN = f"gates, best: {GATES}"  # its rule, whose choices are in the table


def write(lines: list[dict[str, Any]], folder: Path) -> None:
    """truth.json, one entry a line, and truth.md."""
    results = [read(line) for line in lines]
    content = report.header("cpu") | {"command": "make truth"} | rounded(found(results))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "truth.json").write_text(as_lines(content))
    (folder / "truth.md").write_text(markdown(content))


def found(results: Sequence[Result]) -> dict[str, Any]:
    """Everything that is reported, as JSON."""
    learned = [r for r in results if findings.learned(r)]
    true = [r for r in learned if findings.holds(r)]
    every = findings.outcomes(results, rules(findings.scores_of(true)))
    first, second = findings.halves(true)
    return {
        "untrained": sum(name.startswith("gradient@") for name in results[0].quality["auc"]),
        "networks": [network(r, every) for r in results],
        "methods": methods(true),
        "scores": scores(true),
        "scores where the truth does not hold": _taus([r for r in learned if r not in true]),
        "by kind": findings.by_kind(true, "auc"),
        "by kind, mass": findings.by_kind(true, "mass"),
        "halves": [sorted({r.line["network"] for r in half}) for half in (first, second)],
        "chance": [findings.chance(half) for half in (first, second)],
        "rules": {
            name: [findings.shares(one, half) for half in (first, second, true)]
            for name, one in every.items()
        },
        "picked": picked(true, every),
    }


def network(result: Result, every: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One case: what it learned, whether its truth holds, what was best and what was chosen."""
    kept = (
        "name network family head accuracy need regression dead training_seconds truth share good "
        "uncovered seconds"
    ).split()
    name = result.line["name"]
    return {key: result.line[key] for key in kept} | {
        "learned": findings.learned(result), "holds": findings.holds(result),
        "quality": {
            quality: {m: mean(result.quality[quality][m]) for m in _shown(result)}
            for quality in QUALITIES
        },
        "tau": {
            quality: {s: findings.tau(s, quality, result) for s in result.scores}
            for quality in QUALITIES[:2]
        },
        "choice": {rule: one[name].choice for rule, one in every.items() if rule == CHOSEN},
        "stopped": {m: stopped_by(m, GATES, result) for m in result.methods},
    }  # fmt: skip


def _shown(result: Result) -> list[str]:
    own = [*result.methods, *CONTROLS, *REFERENCES]
    return [name for name in own if name in result.quality["auc"]]


def methods(results: Sequence[Result]) -> dict[str, Any]:
    """method -> its mean localisation, that on untrained networks, and how often it is near the
    best one."""
    table: dict[str, Any] = {}
    for name in _shown(max(results, key=lambda r: len(_shown(r)))):
        own = [r for r in results if name in r.quality["auc"]]
        row: dict[str, Any] = {}
        for quality in QUALITIES:
            row[quality] = _mean(mean(r.quality[quality][name]) for r in own)
            row[f"{quality}, untrained"] = _mean(
                mean(values)
                for r in own
                for key, values in r.quality[quality].items()
                if key.startswith(f"{name}@")
            )
        if name in results[0].methods:
            for quality in ("auc", "mass"):
                row[f"{quality}, near"] = _mean(
                    good(quality, r)[r.methods.index(name)] for r in own
                )
        table[name] = row
    return table


def _mean(values: Iterable[float]) -> float | None:
    there = [v for v in values if v == v]
    return sum(there) / len(there) if there else None


def scores(results: Sequence[Result]) -> dict[str, Any]:
    """score -> tau with each quality, over methods and with controls, and its ladders."""
    table = _taus(results)
    within = findings.taus(results, "auc", with_controls=True)
    for score, row in table.items():
        row["auc, with controls"] = within[score]
        for noise in ("rough", "smooth"):
            row[noise] = findings.ordered(score, noise, results)
    return table


def _taus(results: Sequence[Result]) -> dict[str, Any]:
    if not results:
        return {}
    every = {quality: findings.taus(results, quality) for quality in QUALITIES}
    return {
        score: {quality: every[quality][score] for quality in QUALITIES} for score in every["auc"]
    }


def picked(results: Sequence[Result], every: dict[str, Any]) -> dict[str, Any]:
    """Rules picked on one half of the networks and reported on the other one, over many halves."""
    kinds = {"any single score": "best: ", "gates and one score": "gates, best: "}
    kinds |= {"gates, then cheapest": "gates, cheapest: ", "any rule": ""}
    by = {"auc": lambda s: s["auc"], "auc and mass": lambda s: s["auc"] + s["mass"]}
    return {
        f"{kind}, by {goal}": findings.picked_on_one_half(
            results, every, lambda name, start=start: name.startswith(start), value
        )
        for kind, start in kinds.items()
        for goal, value in by.items()
    }


def rounded(tree: Any) -> Any:
    """Numbers to three digits, None for NaN: JSON that everything reads, with readable changes."""
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [rounded(value) for value in tree]
    if isinstance(tree, float):
        return None if tree != tree else float(f"{tree:.3g}")
    return tree


def as_lines(content: dict[str, Any]) -> str:
    """JSON with an entry of each table on a line of its own."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list):
            inner = ",\n".join(json.dumps(item) for item in value)
            parts.append(f" {json.dumps(key)}: [\n{inner}\n]")
        elif isinstance(value, dict):
            inner = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            parts.append(f" {json.dumps(key)}: {{\n{inner}\n}}")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    from ground_truth.__main__ import measured

    write(measured(), RESULTS)
