"""truth.md, made from the content of truth.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

NOTES = """
Trained networks whose answer is known, since the generator of their data put it there. Nothing but
the data and the networks decides here what a good map is. *package*: the scores of
`salience.faithfulness` with its own cells and windows; all others are naive ones of this folder.

- **truth**: by intervention on the samples that are explained. *outside*: how much the target
  changes (root of the mean square, in standard deviations of the network's outputs) when all that
  lies outside of the truth is drawn anew; *inside*: when another answer is put inside. The truth
  *holds* where the first is under a third of the second; scores and rules are held against networks
  that reached what was asked of them and whose truth holds.
- **AUC, mass**: of |map|, summed over channels, for the positions of the truth. *of cells*: AUC of
  |sum of the map| in cells of 4 pixels, where what cancels does not count.
- **tau**: Kendall's, over the {methods} methods, between a score's and localisation's means over
  samples; then the mean over networks, with a bootstrap interval (95%) over networks. *with
  controls*: also over a random map, the input, its edges and each method on {untrained} untrained
  networks.
- **ladder**: the map that finds the truth best, mixed with 0, 10, 25, 50, 75 and 100% of its own
  values elsewhere (*rough*) or of another sample's map upside down (*smooth*): the share of
  networks (of samples) where the score falls at each step.
- **rules** choose by every other sample and are judged on those between: how often the AUC (the
  mass) of the choice is within 5% of the best method's.
""".strip()


def markdown(content: dict[str, Any]) -> str:
    """The whole page."""
    packages = ", ".join(f"{name} {v}" for name, v in content["versions"].items() if v)
    methods = [name for name, row in content["methods"].items() if "auc, near" in row]
    notes = NOTES.format(methods=len(methods), untrained=content["untrained"])
    lines = ["# Which score tells a good map, which rule chooses one", ""]
    lines += [
        f"Made by `make truth` on {content['date']}: {packages}; {content['machine']['cpu']}."
    ]
    lines += ["", notes, "", "## Networks", "", *_networks(content["networks"])]
    lines += ["", "## Methods", "", *_methods(content["methods"])]
    lines += ["", "## Scores", "", *_scores(content["scores"])]
    lines += ["", "## Variants by kind of data and target", "", *_kinds(content)]
    lines += ["", "## Rules", "", *_rules(content)]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    alignment = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(row)} |" for row in (head, alignment, *rows)]


def _number(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _estimate(found: Sequence[float | None]) -> str:
    center, low, high = found
    return "–" if center is None else f"{_number(center)} [{_number(low)}, {_number(high)}]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _networks(rows: list[dict[str, Any]]) -> list[str]:
    head = (
        "network", "accuracy or R²", "asked", "outside", "inside", "flips: outside", "inside",
        "truth", "best AUC", "lrp_composite", "occlusion", "best mass", "lrp_composite",
        "occlusion", "chosen", "its AUC", "its mass",
    )  # fmt: skip
    return _table(head, map(_network, rows))


def _network(row: dict[str, Any]) -> list[str]:
    truth, quality = row["truth"], row["quality"]
    choice = next(iter(row["choice"].values()))
    said = "dead" if row["dead"] else "holds" if row["holds"] else "**does not hold**"
    said = said if row["learned"] or row["dead"] else "**not learned**"
    cells = [row["name"], _number(row["accuracy"], 3), _number(row["need"])]
    cells += [_number(truth[key]) for key in ("outside", "inside")]
    cells += [_share(truth.get(f"{key} flips")) for key in ("outside", "inside")] + [said]
    for name in ("auc", "mass"):
        own = {m: v for m, v in quality[name].items() if v is not None and m in row["stopped"]}
        best = max(own, key=own.__getitem__)
        others = [_number(quality[name].get(m), 3) for m in ("lrp_composite", "occlusion")]
        cells += [f"{best} {_number(own[best], 3)}", *others]
    chosen = [_number(quality[name].get(choice), 3) for name in ("auc", "mass")]
    return [*cells, choice or "none", *chosen]


def _methods(rows: dict[str, dict[str, Any]]) -> list[str]:
    head = ("map", "AUC", "untrained", "near the best", "mass", "untrained", "near the best",
            "AUC of cells", "untrained")  # fmt: skip
    return _table(
        head,
        [
            [
                name,
                *(
                    cell
                    for quality in ("auc", "mass")
                    for cell in (
                        _number(row[quality], 3),
                        _number(row[f"{quality}, untrained"], 3),
                        _share(row.get(f"{quality}, near")),
                    )
                ),
                _number(row["auc of cells"], 3),
                _number(row["auc of cells, untrained"], 3),
            ]
            for name, row in sorted(rows.items(), key=lambda item: -item[1]["auc"])
        ],
    )


def _scores(rows: dict[str, dict[str, Any]]) -> list[str]:
    head = ("score", "tau: AUC", "mass", "AUC of cells", "AUC, with controls", "ladder: rough",
            "smooth")  # fmt: skip
    falling = sorted(rows.items(), key=lambda item: -(item[1]["auc"][0] or 0))
    return _table(
        head,
        [
            [
                name,
                *(
                    _estimate(row[key])
                    for key in ("auc", "mass", "auc of cells", "auc, with controls")
                ),
                *(_ladder(row[noise]) for noise in ("rough", "smooth")),
            ]
            for name, row in falling
        ],
    )


def _ladder(found: dict[str, float] | None) -> str:
    return f"{_share(found['networks'])} ({_share(found['samples'])})" if found else "–"


SHOWN = [
    f"{family}, {variant}"
    for family, variants in {
        "cells": "signed absolute magnitude".split(),
        "windows": "signed absolute magnitude".split(),
        "subsets 25%": "signed absolute magnitude".split(),
    }.items()
    for variant in [f"{v} {name}" for v in variants for name in ("pearson", "spearman")]
] + [
    "curves, srg signed", "curves, srg absolute", "places by windows, auc drop",
    "places by windows, auc magnitude", "places by windows, mass drop", "package, occlusion_auc",
    "package, occlusion_mass",
    "places by windows, mass magnitude", "stability, spearman", "randomization, full change",
]  # fmt: skip


def _kinds(content: dict[str, Any]) -> list[str]:
    """tau with AUC, and with mass, by kind."""
    kinds = list(content["by kind"])
    rows = []
    for score in SHOWN:
        pairs = [
            (content["by kind"][k].get(score), content["by kind, mass"][k].get(score))
            for k in kinds
        ]
        rows.append([score, *(_pair(a, b) for a, b in pairs)])
    return ["tau with AUC / with mass:", "", *_table(("score", *kinds), rows)]


def _pair(first: Any, second: Any) -> str:
    return f"{_number(first[0] if first else None)} / {_number(second[0] if second else None)}"


def _rules(content: dict[str, Any]) -> list[str]:
    first, second = content["chance"]
    head = (
        "rule", "first half: AUC", "mass", "second half: AUC", "mass", "all: AUC", "mass", "both",
        "none", "a control",
    )  # fmt: skip
    rows = [["a random choice", *(_share(h[q]) for h in (first, second) for q in ("auc", "mass")),
             "", "", "", "0%", "0%"]]  # fmt: skip
    falling = sorted(
        content["rules"].items(), key=lambda item: -(item[1][0]["auc"] + item[1][0]["mass"])
    )
    for name, halves in falling:
        cells = [_share(half[q]) for half in halves for q in ("auc", "mass")]
        rows.append([name, *cells, *(_share(halves[2][k]) for k in ("both", "none", "control"))])
    lines = [f"First half: {', '.join(content['halves'][0])}.", "", *_table(head, rows), ""]
    lines += ["Picked on one half of the networks and reported on the other, over 200 halves:", ""]
    picked = [
        [name, *(_share(row["other half"][k]) for k in ("auc", "mass", "both", "none", "control")),
         "; ".join(f"{rule} ({_share(share)})" for rule, share in row["picked"].items())]
        for name, row in content["picked"].items()
    ]  # fmt: skip
    head = ("picked among", "AUC", "mass", "both", "none", "a control", "how often which")
    return lines + _table(head, picked)
