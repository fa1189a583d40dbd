"""The loop over the networks: `python -m ground_truth` in the folder benchmarks, or `make truth`.

    python -m ground_truth [NAME ...] [--jobs 1] [--fresh]

Each network is trained, or read from the cache, and measured in a process of its own. Each result
is one line of out/truth/lines.jsonl; a second run goes on where the first one stopped, unless the
code changed. The tables are written when every network has its line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm
from zoo.__main__ import imported_by

from ground_truth.cases import CASES, Case
from ground_truth.train import fingerprint

ROOT = Path(__file__).parents[2]
LINES = ROOT / "out" / "truth" / "lines.jsonl"
RESULTS = ROOT / "benchmarks" / "results"
UNREAD = ("__main__.py", "cases.py", "table.py", "rules.py", "statistics.py", "findings.py")


def code_of(case: Case) -> str:
    """A fingerprint of the case, and of all code that its line depends on."""
    rooms = ("_tape.explain", "_randomization.run", "_faithfulness.run")
    sources = {path for room in rooms for path in imported_by(room)}
    sources |= {p for p in Path(__file__).parent.glob("*.py") if p.name not in UNREAD}
    digest = hashlib.sha256(f"{fingerprint(case.recipe)} {case.head}".encode())
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_lines(codes: dict[str, str]) -> dict[str, Any]:
    """name -> result, of the code that is asked for, without those that failed."""
    if not LINES.exists():
        return {}
    rows = [json.loads(line) for line in LINES.read_text().splitlines() if line.endswith("}")]
    wanted = (row for row in rows if codes.get(row["name"]) == row["code"])
    return {row["name"]: row for row in wanted if "failed" not in row}


def measured() -> list[dict[str, Any]]:
    """The lines there are of this code, in the order of the cases."""
    rows = read_lines({case.name: code_of(case) for case in CASES})
    return [rows[case.name] for case in CASES if case.name in rows]


def in_own_process(name: str) -> dict[str, Any]:
    """The result of one case, or why there is none."""
    command = [sys.executable, "-m", "ground_truth", name, "--here"]
    done = subprocess.run(
        command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        last = lines[-1][:300] if lines else "no message"
        return {"name": name, "failed": f"exit {done.returncode}: {last}"}
    return json.loads(done.stdout.splitlines()[-1])


def run(names: list[str], jobs: int, fresh: bool) -> dict[str, Any]:
    """The results of all names, from the lines of an earlier run where there are any."""
    LINES.parent.mkdir(parents=True, exist_ok=True)
    if fresh:
        LINES.unlink(missing_ok=True)
    codes = {case.name: code_of(case) for case in CASES if case.name in names}
    rows = read_lines(codes)
    missing = [name for name in names if name not in rows]
    with ThreadPoolExecutor(jobs) as pool, LINES.open("a") as lines:
        pending = [pool.submit(in_own_process, name) for name in missing]
        progress = tqdm(as_completed(pending), total=len(names), initial=len(names) - len(missing))
        for future in progress:
            row = future.result()
            row["code"] = codes[row["name"]]
            rows[row["name"]] = row
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            progress.set_postfix_str(row["name"])
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Scores of maps against a known truth")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of names; all without")
    parser.add_argument("--jobs", type=int, default=1, help="processes beside each other")
    parser.add_argument("--fresh", action="store_true", help="forget the results there are")
    parser.add_argument("--here", action="store_true", help="one case in this process, as JSON")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.here:
        from ground_truth.measure import measure

        case = next(case for case in CASES if case.name == given.names[0])
        print(json.dumps(measure(case)))
        return 0
    from ground_truth import table

    every = [case.name for case in CASES]
    names = [n for n in every if not given.names or any(part in n for part in given.names)]
    rows = run(names, given.jobs, given.fresh)
    failed = {name: rows[name]["failed"] for name in names if "failed" in rows[name]}
    print(json.dumps(failed, indent=1) if failed else f"{len(names)} networks")
    if names == every and not failed:
        table.write([rows[name] for name in names], RESULTS)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
