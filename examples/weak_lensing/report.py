"""What the study found, as tables and sentences."""

from __future__ import annotations

from typing import Any

from findings import Finding
from labels import label
from measure import FEW, METHODS, TESTED
from rich.console import Console
from rich.table import Table
from subject import KEYS, OUTPUTS

import salience

SHORT = {"noiseless": "noiseless", "ngal30": "n_gal = 30"}


def show(results: dict[Any, Any], console: Console) -> None:
    """Accuracy, verdicts, attribution, findings, and the average-pool diagnostic."""
    accuracy = Table("network", *OUTPUTS, title="R^2 on freshly simulated unseen cosmologies")
    for name, scores in results["r2"].items():
        accuracy.add_row(name, *(f"{score:.3f}" for score in scores))
    console.print(accuracy, verdict_table(results))
    console.print(share_table(results, "< 0"), share_table(results, ">= 3"))
    show_findings(results, console)
    verdict = salience.verdicts(results["constancy"])["deconvnet"]
    console.print(
        f"\nAverage instead of max-pooling: deconvnet is {verdict.verdict!r}. {verdict.sentence}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def brief(mean: float, low: float, high: float) -> str:
    """.57 [.54 .61]"""
    mid, *ends = (f"{value:.2f}".removeprefix("0") for value in (mean, low, high))
    return f"{mid} [{' '.join(ends)}]"


def columns() -> list[str]:
    return [f"{SHORT[name]}\n{output}" for name, output in KEYS]


def verdict_table(results: dict[Any, Any]) -> Table:
    """Retention with its 95% interval, and the verdict."""
    table = Table(
        "method", *columns(), title="Randomisation test: retention [95% interval], verdict",
        caption=f"Sensitive: interval below 0.2; insensitive: above 0.4. {TESTED} maps, all "
        f"stages; SmoothGrad and integrated gradients: {FEW} maps, 3 stages.",
    )  # fmt: skip
    for method in (*METHODS, "input", "edges", "random_map"):
        found = [results[key]["verdicts"][method] for key in KEYS]
        cells = [f"{brief(v.retention, v.low, v.high)}\n{v.verdict}" for v in found]
        table.add_row(label(method), *cells)
    return table


def share_table(results: dict[Any, Any], cell: str) -> Table:
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


def show_findings(results: dict[Any, Any], console: Console) -> None:
    """Each finding of the paper on each network and output: holds or does not, by how much."""
    found: dict[str, list[tuple[tuple[str, str], Finding]]] = {}
    for key in KEYS:
        for finding in results[key]["findings"]:
            found.setdefault(finding.part, []).append((key, finding))
    console.rule("Findings of Zorrilla Matilla et al. 2020 (arXiv:2007.06529), on these networks")
    for part, rows in sorted(found.items()):
        first = rows[0][1]
        console.print(f"\n[bold]{part}. {first.claim}[/bold]\n    holds where: {first.criterion}",
                      highlight=False)  # fmt: skip
        table = Table.grid(padding=(0, 2))
        for (name, output), finding in rows:
            verdict = "holds" if finding.holds else "[bold]does not hold[/bold]"
            numbers = ", ".join(f"{label(k)} {v:.2g}" for k, v in finding.numbers.items())
            table.add_row(f"    {SHORT[name]}", output, verdict, f"{finding.margin:+.2g}", numbers)
        console.print(table)
