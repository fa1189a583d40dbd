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
from figures import FIGURES, save_figure
from findings import Finding
from measure import JOBS, MANY, PARTS, SINGLE, TESTED, TREATMENTS
from rich.console import Console
from store import part_path, stored
from subject import KEYS, NETWORKS, OUTPUTS, Subject, accuracy, load, unseen_maps
from tqdm import tqdm

import salience.report

Results = dict[Any, Any]
Job = tuple[Any, ...]  # a function and its arguments
OF_OUTPUTS = ("test", "few", "faithful", *TREATMENTS[1:])  # parts that each output has


def run_job(name: str, label: str, seed: int, folder: Path, fresh: bool) -> None:
    """Measure one part of one network, unless its file is there."""
    torch.set_num_threads(1)
    subject = load(name, seed)
    path = part_path(folder, name, label)
    stored(path, subject.settings, lambda: PARTS[label](subject), fresh)


def in_pool(pool: ProcessPoolExecutor, title: str, jobs: dict[Any, Job]) -> dict[Any, Any]:
    """What each job (function, arguments) returns, beside a bar that names the last one."""
    futures = {pool.submit(*job): name for name, job in jobs.items()}
    with tqdm(as_completed(futures), title, len(jobs), leave=False) as bar:
        for future in bar:
            future.result()  # an error is raised at once
            bar.set_postfix_str(str(futures[future]))
    return {name: future.result() for future, name in futures.items()}


def judge(name: str, output: str, seed: int, folder: Path) -> Results:
    """Verdicts and findings of one output of a network, and its page."""
    torch.set_num_threads(1)
    here: Results = {
        part: xarray.load_dataset(part_path(folder, name, f"{part} {output}"))
        for part in OF_OUTPUTS
    }
    for part in ("maps", "cascade"):
        here[part] = xarray.load_dataset(part_path(folder, name, part))
    here["shares"] = here["maps"].sel({"output": output})
    here["study"] = salience.Study(here["test"]).with_faithfulness(salience.Study(here["faithful"]))
    # what is left once all is random, and whether a strong correlation survives the cascade, as
    # the paper asked
    for kept, criterion in {"words": "full", "verdicts": "retention"}.items():
        single, many = (
            salience.verdicts(here[part], criterion=criterion) for part in ("test", "few")
        )
        here[kept] = {**single, **{method: many[method] for method in MANY}}
    here["findings"] = found(here, name, load(name, seed), OUTPUTS.index(output))
    write_page(here, name, output, page_path(folder, name, output))
    return here


def found(here: Results, name: str, subject: Subject, target: int) -> list[Finding]:
    """All findings on one output of a network."""
    treated = {treatment: here[treatment] for treatment in TREATMENTS[1:]}
    judged = {t: salience.verdicts(data, criterion="retention") for t, data in treated.items()}
    arguments = (subject.network, subject.x[:TESTED], target)
    return [
        *findings.parameters(here["verdicts"]),
        *(one for t, verdicts in judged.items() for one in findings.parameters(verdicts, t)),
        *findings.beyond_floors(
            here["words"], here["study"], comparisons.factor_alone(subject.x[:TESTED])
        ),
        *comparisons.equivalences(*arguments), *comparisons.settings(*arguments),
        findings.attribution(name, here["shares"], here["verdicts"]),
    ]  # fmt: skip


def shares_of(result: Results) -> xarray.Dataset:
    """Attribution by class of kappa, from all unseen cosmologies, as a report takes it."""
    shares = result["shares"][["mean", "low", "high"]].sel({"method": SINGLE})
    chance = result["shares"]["chance"].sel({"method": SINGLE}).isel({"method": 0}, drop=True)
    return shares.assign(chance=chance).assign_attrs(units="sigma")


def page_path(folder: Path, name: str, output: str) -> Path:
    return folder / f"report-{name}-{output}.html"


def write_page(result: Results, name: str, output: str, path: Path) -> None:
    """The report of one output of a network."""
    salience.report.build(
        result["study"], path, title=f"Which maps of {name}, {output}, can be used?",
        attribution=shares_of(result),
    )  # fmt: skip


def study(seed: int, folder: Path, fresh: bool, workers: int) -> Results:
    """All parts, verdicts, pages and figures, `workers` at a time."""
    unseen_maps(seed, progress=True)  # once, before the jobs that read them
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        parts = {
            f"{name}: {part}": (run_job, name, part, seed, folder, fresh) for name, part in JOBS
        }
        in_pool(pool, "measure", parts)
        jobs = {key: (judge, *key, seed, folder) for key in KEYS}
        results: Results = in_pool(pool, "judge", jobs)
        in_pool(pool, "figures", {name: (save_figure, name, results, folder) for name in FIGURES})
    results["r2"] = {name: accuracy(load(name, seed)) for name in NETWORKS}
    results["constancy"] = xarray.load_dataset(part_path(folder, "average_pool", "constancy"))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seed", type=int, default=21, help="of the simulated maps")
    parser.add_argument("--out", type=Path, default=Path("out/weak_lensing"))
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    parser.add_argument("--workers", type=int, default=2, help="parts measured at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small maps: a second thread costs more than it gives
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()

    results = study(options.seed, options.out, options.fresh, options.workers)
    with (options.out / "report.txt").open("w") as file:
        report.full(results, Console(file=file, width=110))
    console, seconds = Console(), time.perf_counter() - start
    report.screen(results, console)
    console.print(
        f"\nAll numbers: {options.out}/report.txt; figures and data beside it ({seconds:.0f} s).\n"
        f"To open in a browser: {page_path(options.out, *KEYS[-1])} and three more.",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
