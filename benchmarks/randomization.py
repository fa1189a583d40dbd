"""What the randomisation test costs, beside Quantus' MPRT: correctness first, then time and memory.

    python benchmarks/randomization.py [--quick] [--device cpu|cuda] [--out benchmarks/results]

Times are CPU seconds on one thread (wall seconds on a synchronised GPU) of whole tests, one repeat,
all stages, as multiples of one plain gradient that is measured before and after each of them. The
study of captum's and zennit's methods by Quantus is an estimate: a run of Quantus with the plain
gradient, whose gradients are replaced by what the peer's method costs. A budget that is missed is
printed as MISSED.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cascades
import cases
import memory
import networks
import report
import torch
from cases import Case
from methods import clock, interleaved
from rich.console import Console
from torch import Tensor, nn

TOLERANCE = 1e-6  # float64
BUDGET = 0.9  # plain gradients per method and stage, scores included
CHEAPER = 8.0  # than Quantus running captum's and zennit's versions
UNITS = 3  # plain gradients measured before and after each test
# methods of the study -> row of cases.OURS with the same parameters
ROWS = {name: "lrp_alpha2_beta1" if name == "lrp_alpha_beta" else name for name in cascades.METHODS}

# -- time -----------------------------------------------------------------------------------------


def seconds_of(case: Case, model: nn.Module, x: Tensor, chosen: Tensor, now: Any) -> float:
    with case.open(model, x, chosen) as run:
        start = now()
        run()
        return now() - start


def measure_tests(
    every: Sequence[tuple[Case, int]], model: nn.Module, x: Tensor, chosen: Tensor, now: Any
) -> dict[Case, dict[str, Any]]:
    """Each case's whole test in plain gradients, the median of its number of runs, interleaved."""
    plain = partial(seconds_of, cases.PLAIN, model, x, chosen, now)
    plain()  # warms up
    found: dict[Case, list[tuple[float, float]]] = {case: [] for case, _ in every}
    before = [plain() for _ in range(UNITS)]
    for number in range(max(runs for _, runs in every)):
        for case in (case for case, runs in every if number < runs):
            seconds = seconds_of(case, model, x, chosen, now)
            after = [plain() for _ in range(UNITS)]
            found[case].append((seconds / median(before + after), seconds))
            before = after
    return {
        case: {
            "package": case.package,
            "test": case.row,
            "gradients": median(ratio for ratio, _ in runs),
            "runs": [ratio for ratio, _ in runs],
            "seconds": median(seconds for _, seconds in runs),
        }
        for case, runs in found.items()
    }


def measure_peers(
    network: str, model: nn.Module, x: Tensor, chosen: Tensor, now: Any
) -> dict[str, dict[str, float]]:
    """Method -> package -> plain gradients of one explanation, where its maps are right."""
    peers = [case for case in cases.PEERS if case.row in ROWS.values()]
    seconds = interleaved([cases.PLAIN, *peers], model, x, chosen, 3, 1, now)
    unit = median(seconds[cases.PLAIN])
    found: dict[str, dict[str, float]] = {name: {} for name in ROWS}
    for name, row in ROWS.items():
        for case in peers:
            if case.row == row and network not in case.wrong:
                found[name][case.package] = median(seconds[case]) / unit
    return found


def estimate(
    peers: dict[str, dict[str, float]], alone: float, explanations: int, stages: int, ours: int
) -> dict[str, float]:
    """Plain gradients of Quantus' study of every method, each by the cheaper package.

    alone, explanations, stages: of Quantus' test of the plain gradient. A test of a method is that
    test with the method's passes in place of the gradients. It has a stage per layer where
    salience has one per linear map with its normalisation, so `equal_stages` scales it down.
    """
    overhead = (alone - explanations) / stages  # per stage: weights, scores, copies
    costs = [min(found.values()) for found in peers.values()]
    extra = explanations - stages  # explanations of the trained network

    def study(stages: int) -> float:
        return sum((stages + extra) * cost + stages * overhead for cost in costs)

    return {"overhead": overhead, "own_stages": study(stages), "equal_stages": study(ours)}


# -- memory ---------------------------------------------------------------------------------------


def peak_in_own_process(row: str, network: str, batch: int, size: int, device: str) -> float:
    """The peak in MiB over that of the imported packages, of one case of PEAKS."""
    arguments = ["--peak", row, "--network", network, "--device", device]
    arguments += ["--batch", str(batch), "--size", str(size)]
    script = str(Path(__file__).resolve())
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])["over_import"] / 2**20


PEAKS = {"plain gradient": cases.PLAIN} | {
    case.row: case for case in (cascades.ALONE, cascades.ALL_SCORES)
}


def measure_memory(network: str, batch: int, size: int, device: str) -> list[dict[str, Any]]:
    """Peaks of the test and of one plain gradient, model included."""
    found = {row: peak_in_own_process(row, network, batch, size, device) for row in PEAKS}
    unit = found["plain gradient"]
    return [{"test": row, "mib": peak, "ratio": peak / unit} for row, peak in found.items()]


# -- printing -------------------------------------------------------------------------------------


def show_correctness(console: Console, network: str, compared: dict[str, Any]) -> list[str]:
    """Differences of scores; hands back what should be equal and is not."""
    rows: list[Any] = [("naive loop, scipy", "whole test, same weights", compared["naive"], "")]
    if other := compared["quantus"]:
        what = f"{other['explanations']} explanations, {other['stages']} stages"
        rows.append(("Quantus", "each network that Quantus drew", other["difference"], what))
    columns = ("against", "what", "largest difference of a score", "")
    report.table(console, f"{network}: Spearman of the gradient, float64", columns, rows)
    return [f"{network}: {row[0]}" for row in rows if not row[2] < TOLERANCE]


def show_tests(console: Console, title: str, result: dict[str, Any]) -> None:
    """Costs per stage, per method and stage; the studies against each other; peaks."""
    rows = [
        (
            row["package"], row["test"], row["gradients"], row["stages"], row["per_stage"],
            row["per_method_and_stage"], row["budget"] or "",
            report.verdict(row["per_method_and_stage"], row["budget"]),
        )
        for row in result["tests"]
    ]  # fmt: skip
    columns = ("package", "test", "plain gradients", "stages", "per stage", "and method", "budget")
    report.table(console, f"{title}: whole tests, time", (*columns, ""), rows)
    rows = [
        (row["salience"], row["quantus"], row["times"], CHEAPER, row["verdict"])
        for row in result["study"]
    ]
    if rows:
        columns = ("salience, all methods", "Quantus with captum and zennit, estimated")
        columns = (*columns, "times cheaper", "at least", "")
        report.table(console, f"{title}: full study, time", columns, rows)
    peaks = [(row["test"], row["mib"], row["ratio"]) for row in result["memory"]]
    columns = ("test", "MiB with model", "x plain gradient")
    report.table(console, f"{title}: peak memory", columns, peaks)


# -- the run --------------------------------------------------------------------------------------


def measure(
    network: str, batch: int, size: int, device: str, rounds: int, quantus: dict[str, int] | None
) -> dict[str, Any]:
    """Times of all tests and of the peers' methods; quantus: what a test of Quantus consists of."""
    model = networks.build(network, device=device)
    x = networks.inputs(batch, size, device=device)
    chosen, now = networks.classes(model, x), clock(device)
    stages = len(cascades.stages(model, x[:1]))
    every = [(cascades.ALONE, 2 * rounds + 1), (cascades.ONE_SCORE, rounds)]
    every.append((cascades.ALL_SCORES, rounds))
    if quantus:
        every.insert(1, (cascades.QUANTUS, rounds + 1))
    found = measure_tests(every, model, x, chosen, now)
    for case, row in found.items():
        own = quantus["stages"] if quantus and case is cascades.QUANTUS else stages
        together = case in (cascades.ONE_SCORE, cascades.ALL_SCORES)
        row["stages"], row["per_stage"] = own, row["gradients"] / own
        row["per_method_and_stage"] = row["per_stage"] / (len(ROWS) if together else 1)
        row["budget"] = BUDGET if together else None
    result: dict[str, Any] = {"tests": list(found.values()), "peers": {}, "study": []}
    if quantus:
        peers = measure_peers(network, model, x, chosen, now)
        alone = found[cascades.QUANTUS]["gradients"]
        theirs = estimate(peers, alone, quantus["explanations"], quantus["stages"], stages)
        result |= {"peers": peers, "estimate": theirs, "study": studies(found, theirs)}
    return result


def studies(found: dict[Case, dict[str, Any]], theirs: dict[str, float]) -> list[dict[str, Any]]:
    """The full study of all methods: salience's measured one, Quantus' estimated one."""
    rows = []
    for case in (cascades.ONE_SCORE, cascades.ALL_SCORES):
        for stages in ("own_stages", "equal_stages"):
            times = theirs[stages] / found[case]["gradients"]
            rows.append(
                {
                    "salience": case.row,
                    "quantus": f"|Spearman|, {stages.replace('_', ' ')}",
                    "gradients": [found[case]["gradients"], theirs[stages]],
                    "times": times,
                    "target": CHEAPER,
                    "verdict": "ok" if times >= CHEAPER else "MISSED",
                }
            )
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two pictures of 160 pixels")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="folder of the JSON file; not written without")
    parser.add_argument("--network", choices=networks.NETWORKS, default="resnet18")
    parser.add_argument("--batch", type=int, help="samples, instead of 4")
    parser.add_argument("--size", type=int, help="pixels of the pictures' sides, instead of 224")
    parser.add_argument("--rounds", type=int, default=1, help="runs of the tests of all methods")
    parser.add_argument("--peak", choices=PEAKS, help=argparse.SUPPRESS)  # measure_memory's child
    return parser.parse_args()


def main() -> int:
    given = arguments()
    torch.set_num_threads(1)
    batch = given.batch or (2 if given.quick else 4)
    size = given.size or (160 if given.quick else 224)
    if given.peak:
        print(json.dumps(memory._peak(given.network, PEAKS[given.peak], batch, size, given.device)))
        return 0
    console = Console(width=130)
    # first: a process starts with the high-water mark of the one that starts it
    peaks = measure_memory(given.network, batch, size, given.device)
    reason = cascades.missing_quantus()
    if reason:
        console.print(f"[yellow]SKIPPED:[/] {reason}; see benchmarks/requirements.txt")
    compared = cascades.compare(given.network, given.device, quantus=reason is None)
    wrong = show_correctness(console, given.network, compared)
    result = report.header(given.device) | {
        "network": given.network, "batch": batch, "size": size, "skipped": reason,
        "correctness": compared,
    }  # fmt: skip
    result |= measure(given.network, batch, size, given.device, given.rounds, compared["quantus"])
    result["memory"] = peaks
    show_tests(console, f"{given.network}, batch {batch}, {size} px", result)
    if given.out:
        path = report.write(result, given.out, f"randomization-{given.device}")
        console.print(f"written: {path}")
    for what in wrong:
        console.print(f"[red]DIFFERENT from what it should equal:[/] {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
