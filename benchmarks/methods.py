"""What every single-pass method costs, beside captum and zennit: correctness first, then time.

    python benchmarks/methods.py [--quick] [--device cpu|cuda] [--out benchmarks/results]

Times are medians of interleaved runs in one process, as multiples of one plain gradient (forward
and input gradient, parameters frozen): CPU time on one thread, or wall time on a synchronised GPU.
Each of salience's methods is a recording and an explanation. Peak memory is that of a process of
its own. A budget that is missed is printed as MISSED.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import cases
import memory
import networks
import report
import torch
from cases import Case
from rich.console import Console
from torch import Tensor, nn

TOLERANCE = 1e-6  # float64: stabilisers of the peers, added to denominators


# -- correctness ----------------------------------------------------------------------------------


def compare(network: str, size: int, device: str) -> dict[str, Any]:
    """Largest relative differences of maps in float64: to input x gradient, and to the peers."""
    model = networks.build(network, device=device, dtype=torch.float64)
    x = networks.inputs(2, size, device=device, dtype=torch.float64)
    chosen = networks.classes(model, x)
    ours = {case.row: cases.maps_of(case, model, x, chosen) for case in cases.SALIENCE}
    rows = []
    for case in cases.PEERS:
        found = cases.maps_of(case, model, x, chosen)
        wrong = case.wrong.get(network)
        rows.append(
            {
                "package": case.package,
                "method": case.row,
                "difference": cases.difference(ours[case.row], found),
                "wrong": wrong,
            }
        )
    return {"size": size, "laws": cases.as_gradient(model, x, chosen), "peers": rows}


def disagreements(compared: dict[str, Any]) -> list[str]:
    """What should be equal and is not."""
    laws = [name for name, value in compared["laws"].items() if not value < TOLERANCE]
    peers = [
        f"{row['package']} {row['method']}"
        for row in compared["peers"]
        if row["wrong"] is None and not row["difference"] < TOLERANCE
    ]
    return laws + peers


# -- time -----------------------------------------------------------------------------------------


def clock(device: str) -> Callable[[], float]:
    """CPU seconds of this process, or wall seconds of a synchronised GPU."""
    if device == "cpu":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return now


def interleaved(
    every: Sequence[Case], model: nn.Module, x: Tensor, chosen: Tensor, rounds: int, peers: int,
    now: Callable[[], float],
) -> dict[Case, list[float]]:  # fmt: skip
    """Seconds of every case in every round; round 0 warms up, and peers run in `peers` rounds."""
    seconds: dict[Case, list[float]] = {case: [] for case in every}
    for number in range(rounds + 1):
        for case in every:
            if case in cases.PEERS and number > peers:
                continue
            with case.open(model, x, chosen) as maps:
                start = now()
                maps()
                stop = now()
            if number:
                seconds[case].append(stop - start)
    return seconds


def _row(case: Case, seconds: list[float], unit: float, network: str) -> dict[str, Any]:
    middle = median(seconds)
    spread = quantiles(seconds, n=4) if len(seconds) > 1 else [middle] * 3
    budget, limit = cases.BUDGETS.get(case.row, (None, None))
    ours = case.package.startswith("salience")
    return {
        "package": case.package,
        "method": case.row,
        "gradients": middle / unit,
        "quartiles": [spread[0] / unit, spread[2] / unit],
        "seconds": middle,
        "runs": len(seconds),
        "budget": budget if ours else None,
        "limit": limit if ours else None,
        "wrong": case.wrong.get(network),
    }


def measure_time(network: str, batch: int, size: int, device: str, rounds: int, peers: int) -> Any:
    """Every case in plain gradients, and all methods on one tape beside the sum of the parts."""
    model = networks.build(network, device=device)
    x = networks.inputs(batch, size, device=device)
    chosen = networks.classes(model, x)
    every = [cases.PLAIN, *cases.SALIENCE, cases.TOGETHER, *cases.NEXT_BATCH, *cases.PEERS]
    seconds = interleaved(every, model, x, chosen, rounds, peers, clock(device))
    unit = median(seconds[cases.PLAIN])
    rows = [_row(case, times, unit, network) for case, times in seconds.items()]
    parts = sum(median(seconds[case]) for case in cases.SALIENCE)
    return {
        "batch": batch,
        "size": size,
        "rows": rows,
        "together": {
            "of_the_sum_of_the_parts": median(seconds[cases.TOGETHER]) / parts,
            "sum_of_the_parts": parts / unit,
            "budget": cases.TOGETHER_BUDGET,
        },
    }


def measure_memory(network: str, batch: int, size: int, device: str) -> list[dict[str, Any]]:
    """Peaks in MiB, with and without the model, over those of the plain gradient."""
    rows: list[dict[str, Any]] = []
    for case in memory.ALL:
        peak = memory.in_own_process(network, case, batch, size, device)
        rows.append({"package": case.package, "method": case.row})
        for part, found in peak.items():
            rows[-1][part] = found / 2**20
            rows[-1][f"{part}_ratio"] = rows[-1][part] / rows[0][part]
        if case is cases.TOGETHER:
            rows[-1]["budget"] = cases.MEMORY_BUDGET
    return rows


# -- printing -------------------------------------------------------------------------------------


def show_correctness(console: Console, network: str, compared: dict[str, Any]) -> None:
    """Differences, peers that are wrong marked."""
    rows: list[Any] = [("law", name, value, "") for name, value in compared["laws"].items()]
    for row in compared["peers"]:
        note = f"peer is wrong: {row['wrong']}" if row["wrong"] else ""
        rows.append((row["package"], row["method"], row["difference"], note))
    columns = ("against", "method", "largest relative difference", "note")
    report.table(console, f"{network}: maps, float64, {compared['size']} px", columns, rows)


def show_costs(console: Console, network: str, timed: Any, peaks: Sequence[Any]) -> None:
    """Times and peaks beside their budgets."""
    rows = [
        (
            row["package"], row["method"], row["gradients"],
            "{:.3g}-{:.3g}".format(*row["quartiles"]), row["limit"] or "", row["budget"] or "",
            report.verdict(row["gradients"], row["budget"]) or "wrong maps" * bool(row["wrong"]),
        )
        for row in timed["rows"]
    ]  # fmt: skip
    shared = timed["together"]
    share = shared["of_the_sum_of_the_parts"]
    rows.append(
        (
            "salience", "all on one tape / sum of the parts", share, "", "", shared["budget"],
            report.verdict(share, shared["budget"]),
        )
    )  # fmt: skip
    columns = ("package", "method", "plain gradients", "quartiles", "limit", "budget", "")
    report.table(
        console, f"{network}: time, batch {timed['batch']}, {timed['size']} px", columns, rows
    )
    if peaks:
        rows = [
            (
                row["package"], row["method"], row["over_import"], row["over_import_ratio"],
                row["over_model"], row["over_model_ratio"], row.get("budget", ""),
                report.verdict(row["over_import_ratio"], row.get("budget")),
            )
            for row in peaks
        ]  # fmt: skip
        columns = ("package", "method", "MiB with model", "x gradient", "MiB without", "x gradient")
        report.table(console, f"{network}: peak memory", (*columns, "budget", ""), rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small pictures, one round, no memory")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="folder of the JSON file; not written without")
    parser.add_argument("--networks", nargs="+", choices=networks.NETWORKS, metavar="NAME",
                        default=list(networks.NETWORKS))  # fmt: skip
    parser.add_argument("--batch", type=int, help="samples per pass, instead of the network's own")
    parser.add_argument("--size", type=int, help="pixels of the pictures' sides")
    parser.add_argument("--rounds", type=int, help="runs of salience's methods")
    parser.add_argument("--peer-rounds", type=int, help="runs of the peers' methods")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    torch.set_num_threads(1)
    size = given.size or (64 if given.quick else 224)
    rounds = given.rounds or (1 if given.quick else 7)
    peers = given.peer_rounds or (1 if given.quick else 3)
    console = Console(width=130)
    result = report.header(given.device) | {"networks": {}}
    wrong: list[str] = []
    for name in given.networks:
        compared = compare(name, 64, given.device)
        show_correctness(console, name, compared)
        wrong += [f"{name}: {what}" for what in disagreements(compared)]
        batch = given.batch or networks.NETWORKS[name].batch
        timed = measure_time(name, batch, size, given.device, rounds, peers)
        peaks = [] if given.quick else measure_memory(name, batch, size, given.device)
        show_costs(console, name, timed, peaks)
        result["networks"][name] = {"correctness": compared, "time": timed, "memory": peaks}
    if given.out:
        path = report.write(result, given.out, f"methods-{given.device}")
        console.print(f"written: {path}")
    for what in wrong:
        console.print(f"[red]DIFFERENT from what it should equal:[/] {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
