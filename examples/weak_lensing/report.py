"""What the study found: one screen for the terminal, and all numbers for report.txt."""

from __future__ import annotations

from collections import Counter
from typing import Any

from findings import Finding
from labels import label
from measure import FEW, METHODS, REPEATS, TESTED
from rich.console import Console
from rich.table import Table
from subject import KEYS, OUTPUTS

import salience

Results = dict[Any, Any]
SHORT = {"noiseless": "noiseless", "ngal30": "n_gal = 30"}
SIGNS = {"omega_m": "Ω_m", "sigma_8": "σ_8"}
BRIEF = {  # of what a finding claims, for a line of the screen
    "1a": "gradient, input × gradient, LRP-ε depend on the weights",
    "1b": "guided b., deconvnet, deep Taylor, α1β0 keep strong correlations",
    "1c": "so does LRP-α2β1",
    "1d": "these four keep more than chance and the input give *",
    "1e": "these four tell more than on untrained networks *",
    "2a": "LRP with ε = 0 is input × gradient",
    "2b": "α1β0 is excitation backprop",
    "3a": "ε above 10⁻³ makes maps noise",
    "3b": "α = 2 ± 0.1 changes nothing",
    "4a": "κ < 0 holds 69 to 86% of the attribution, without noise",
    "4b": "κ > 3σ holds 36 to 68% of the attribution, with noise",
}


def screen(results: Results, console: Console) -> None:
    """What was found, in one screen of 80 columns that ends with the recommendation."""
    accuracy = "; ".join(
        f"{SHORT.get(name, 'average pooling')} {scores[0]:.2f}, {scores[1]:.2f}"
        for name, scores in results["r2"].items()
    )
    console.print(f"R² of Ω_m, σ_8 on unseen maps: {accuracy}\n", highlight=False)
    console.print(left_table(results), findings_table(results), highlight=False)
    verdict = salience.verdicts(results["constancy"])["deconvnet"]
    console.print(f"Average in place of max-pooling: deconvnet is {verdict.verdict}.\n")
    advice = recommendations(results)
    console.print("[bold]Which map to use, by what removing squares of 13 arcmin does[/bold]")
    if any(one.methods for one in advice.values()):
        console.print(advice_table(advice), highlight=False)
    for key, one in advice.items():
        if not one.methods:
            console.print(f"{heading(key)}: {one.sentence}", highlight=False)


def full(results: Results, console: Console) -> None:
    """All tables, findings with their numbers, and recommendations."""
    accuracy = Table("network", *OUTPUTS, title="R^2 on freshly simulated unseen cosmologies")
    for name, scores in results["r2"].items():
        accuracy.add_row(name, *(f"{score:.3f}" for score in scores))
    console.print(accuracy, retention_table(results), similarity_table(results))
    console.print(share_table(results, "< 0"), share_table(results, ">= 3"))
    show_findings(results, console)
    verdict = salience.verdicts(results["constancy"])["deconvnet"]
    console.print(
        f"\nAverage instead of max-pooling: deconvnet is {verdict.verdict!r}. {verdict.sentence}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for key, advice in recommendations(results).items():
        console.rule(heading(key))
        agreed = salience.agreement(
            [results[key][part] for part in ("test", "reset", "recalibrate")]
        )
        for table in (results[key]["study"].faithfulness(), advice, agreed):
            console.print(f"{table}\n", highlight=False, soft_wrap=True, markup=False)


def recommendations(results: Results) -> dict[tuple[str, str], salience.Recommendation]:
    return {key: results[key]["study"].recommend() for key in KEYS}


def heading(key: tuple[str, str]) -> str:
    return f"{SHORT[key[0]]}, {SIGNS[key[1]]}"


def brief(mean: float, low: float, high: float) -> str:
    """.57 [.54 .61]"""
    return f"{short(mean)} [{short(low)} {short(high)}]"


def short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def columns() -> list[str]:
    return [f"{SHORT[name]}\n{output}" for name, output in KEYS]


def left_table(results: Results) -> Table:
    """How much of each method's maps is left above the floor once all weights are random."""
    title = "Left of the maps above the floor, once all weights are random"
    table = Table(box=None, padding=(0, 1, 0, 0), title_justify="left", title=title)
    table.add_column("method")
    for k, (name, output) in enumerate(KEYS):
        over = SHORT[name] if k % len(OUTPUTS) == 0 else ""
        table.add_column(f"{over}\n{SIGNS[output]}", justify="right")
    table.add_column(f"of {len(KEYS)}, maps change")
    for method in METHODS:
        found = [results[key]["words"][method] for key in KEYS]
        told = Counter(v.verdict for v in found)
        words = ", ".join(
            f"{count} {word.removeprefix('changes ')}" for word, count in told.items()
        )
        shares = [f"{max(v.share.mean, 0):.0%}" for v in found]
        table.add_row(label(method), *shares, words)
    return table


def advice_table(advice: dict[tuple[str, str], salience.Recommendation]) -> Table:
    """The methods to use, with the score of the first beside its controls."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("network, output", "recommended"):
        table.add_column(name)
    for name in ("AUC [95%]", "untrained", "input", "noise"):
        table.add_column(name, justify="right")
    for key, one in advice.items():
        if one.methods:
            best, controls = one.measured[one.methods[0]], one.measured
            others = (best.score - best.gain, controls["input"].score, controls["random_map"].score)
            table.add_row(
                heading(key), f"use {' or '.join(map(label, one.methods))}",
                brief(best.score, best.low, best.high), *map(short, others),
            )  # fmt: skip
    return table


def findings_table(results: Results) -> Table:
    """On how many networks, outputs and treatments of BatchNorm each finding holds."""
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False, title_justify="left",
                  title="\nFindings of Zorrilla Matilla et al. 2020 (* not theirs) that hold here",
                  title_style="bold")  # fmt: skip
    for part, rows in by_part(results).items():
        holds = sum(finding.holds for _, finding in rows)
        table.add_row(part, BRIEF[part], f"{holds} of {len(rows)}")
    return table


def retention_table(results: Results) -> Table:
    """Retention with its 95% interval, and the word for it."""
    table = Table(
        "method", *columns(), title="Retention down the cascade [95% interval]",
        caption=f"Sensitive: interval below 0.2; insensitive: above 0.4. {TESTED} maps, {REPEATS} "
        f"random networks, all stages; SmoothGrad, integrated gradients: {FEW} maps, 3 stages.",
    )  # fmt: skip
    for method in (*METHODS, "input", "edges", "random_map"):
        found = [results[key]["verdicts"][method] for key in KEYS]
        cells = [f"{brief(v.retention, v.low, v.high)}\n{v.verdict}" for v in found]
        table.add_row(label(method), *cells)
    return table


def similarity_table(results: Results) -> Table:
    """Similarity once all weights are random, its largest floor, and the word for what is left."""
    table = Table(
        "method", *columns(), title="|Rank correlation| once all weights are random / its floor",
        caption="Floor: the largest of noise, maps of two inputs, x times another input's m.",
    )  # fmt: skip
    for method in METHODS:
        found = [results[key]["words"][method] for key in KEYS]
        cells = [f"{brief(v.value, v.low, v.high)} / {v.floor:.2f}\n{v.verdict}" for v in found]
        table.add_row(label(method), *cells)
    return table


def share_table(results: Results, cell: str) -> Table:
    """F of one class of kappa with its 95% interval, beside the chance level."""
    title = f"Attribution F(kappa {cell} sigma) [95% interval]"
    table = Table("method", *columns(), title=title)
    shares = [results[key]["shares"].sel({"class": cell}) for key in KEYS]
    table.add_row("chance", *(f"{data['chance'].values[0]:.3f}" for data in shares))
    for method in METHODS:
        rows = [data.sel({"method": method}) for data in shares]
        numbers = [[r[part].item() for part in ("mean", "low", "high")] for r in rows]
        cells = [brief(*row) for row in numbers]
        table.add_row(label(method), *cells)
    return table


def by_part(results: Results) -> dict[str, list[tuple[tuple[str, str], Finding]]]:
    """The findings on all networks and outputs, by their number."""
    found: dict[str, list[tuple[tuple[str, str], Finding]]] = {}
    for key in KEYS:
        for finding in results[key]["findings"]:
            found.setdefault(finding.part, []).append((key, finding))
    return dict(sorted(found.items()))


def show_findings(results: Results, console: Console) -> None:
    """Each finding on each network and output: holds or does not, by how much."""
    console.rule("Findings of Zorrilla Matilla et al. 2020 (arXiv:2007.06529), on these networks")
    for part, rows in by_part(results).items():
        first = rows[0][1]
        console.print(f"\n[bold]{part}. {first.claim}[/bold]\n    holds where: {first.criterion}",
                      highlight=False)  # fmt: skip
        table = Table.grid(padding=(0, 2))
        for (name, output), finding in rows:
            verdict = "holds" if finding.holds else "[bold]does not hold[/bold]"
            numbers = ", ".join(f"{label(k)} {v:.2g}" for k, v in finding.numbers.items())
            where = f"    {SHORT[name]} {finding.where}"
            table.add_row(where, output, verdict, f"{finding.margin:+.2g}", numbers)
        console.print(table)
