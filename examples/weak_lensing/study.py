"""The weak-lensing study: `python examples/weak_lensing/study.py`. README.md beside it explains.

Each part is a job: it keeps what it measured in the output folder, where it is used again unless
--fresh is given, or the seed, the weights or the code have changed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import comparisons
import findings
import report
import torch
import xarray
from figures import save_figures
from measure import JOBS, MANY, PARTS, SINGLE, TESTED
from rich.console import Console
from store import part_path, stored
from subject import KEYS, NETWORKS, OUTPUTS, accuracy, load, unseen_maps
from tqdm import tqdm

import salience.report

Results = dict[Any, Any]


def run_job(name: str, label: str, seed: int, folder: Path, fresh: bool) -> float:
    """Measure one part of one network, unless its file is there; returns the seconds it took."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    subject = load(name, seed)
    path = part_path(folder, name, label)
    stored(path, subject.settings, lambda: PARTS[label](subject), fresh)
    return time.perf_counter() - start


def run_jobs(seed: int, folder: Path, fresh: bool, workers: int) -> None:
    """All parts, `workers` at a time, with the time of each as it is finished."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = {
            pool.submit(run_job, name, label, seed, folder, fresh): f"{name}: {label}"
            for name, label in JOBS
        }
        with tqdm(as_completed(jobs), "measure", len(jobs), unit="part") as bar:
            for job in bar:
                bar.write(f"{job.result():7.1f} s  {jobs[job]}")


def collect(seed: int, folder: Path) -> Results:
    """What the jobs measured, verdicts and findings, by network or (network, output)."""
    subjects = {name: load(name, seed) for name in NETWORKS}
    parts = {
        (name, label): xarray.load_dataset(part_path(folder, name, label)) for name, label in JOBS
    }
    results: Results = {"r2": {name: accuracy(s) for name, s in subjects.items()}}
    results["constancy"] = parts["average_pool", "constancy"]
    for name, output in tqdm(KEYS, "findings"):
        here: Results = {"cascade": parts[name, "cascade"], "maps": parts[name, "maps"]}
        here |= {part: parts[name, f"{part} {output}"] for part in ("test", "few")}
        # whether a strong correlation survives the cascade, as the paper asked
        single, many = (
            salience.verdicts(here[part], criterion="retention") for part in ("test", "few")
        )
        here["verdicts"] = {**single, **{method: many[method] for method in MANY}}
        here["shares"] = here["maps"].sel({"output": output})
        subject, target = subjects[name], OUTPUTS.index(output)
        arguments = (subject.network, subject.x[:TESTED], target)
        here["findings"] = [
            *findings.parameters(here["verdicts"]), *comparisons.equivalences(*arguments),
            *comparisons.settings(*arguments),
            findings.attribution(name, here["shares"], here["verdicts"]),
        ]  # fmt: skip
        results[name, output] = here
    return results


def shares_of(result: Results) -> xarray.Dataset:
    """Attribution by class of kappa, from all unseen cosmologies, as a report takes it."""
    shares = result["shares"][["mean", "low", "high"]].sel({"method": SINGLE})
    chance = result["shares"]["chance"].sel({"method": SINGLE}).isel({"method": 0}, drop=True)
    return shares.assign(chance=chance).assign_attrs(units="sigma")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seed", type=int, default=21, help="of the simulated maps")
    parser.add_argument("--out", type=Path, default=Path("out/weak_lensing"))
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    parser.add_argument("--workers", type=int, default=2, help="parts measured at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small maps: a second thread costs more than it gives
    options.out.mkdir(parents=True, exist_ok=True)
    console, start = Console(), time.perf_counter()

    unseen_maps(options.seed, progress=True)  # once, before the jobs that read them
    run_jobs(options.seed, options.out, options.fresh, options.workers)
    results = collect(options.seed, options.out)
    report.show(results, console)
    with (options.out / "report.txt").open("w") as file:
        report.show(results, Console(file=file, width=110))
    save_figures(results, options.out)
    for name, output in KEYS:
        page = options.out / f"report-{name}-{output}.html"
        salience.report.build(
            results[name, output]["test"], page,
            title=f"What is left of the maps of {name}, {output}, when the weights are random?",
            attribution=shares_of(results[name, output]),
        )  # fmt: skip
    seconds = time.perf_counter() - start
    console.print(f"Figures, report.txt and data: {options.out}/ ({seconds:.0f} s)")
    console.print(f"Reports to open in a browser, such as {page}")


if __name__ == "__main__":
    main()
