"""The loop over the zoo: `python -m zoo` in the folder benchmarks, or `make zoo`.

    python -m zoo [NAME ...] [--jobs 2] [--timeout 600] [--memory 11] [--no-peers] [--fresh]

Each network runs in a process of its own, under a limit of time and of memory. Each result is one
line of out/zoo.jsonl; a second run goes on where the first one stopped, unless the code changed.
The table is written when every network has its line.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).parents[2]
LINES = ROOT / "out" / "zoo.jsonl"
RESULTS = ROOT / "benchmarks" / "results"


def imported_by(name: str) -> list[Path]:
    """The modules of salience that one of them leads to, itself included."""
    package, found, queue = ROOT / "src" / "salience", set[Path](), [name]
    while queue:
        path = package.joinpath(*queue.pop().split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path in found or not path.exists():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("salience."):
                module = (node.module or "").removeprefix("salience.")
                queue.extend([module, *(f"{module}.{alias.name}" for alias in node.names)])
    return list(found)


def fingerprint() -> str:
    """Of all code that a result depends on."""
    sources = [*imported_by("_tape.tape"), *ROOT.glob("benchmarks/zoo/*.py")]
    sources += [ROOT / "benchmarks" / "networks.py", ROOT / "benchmarks" / "cases.py"]
    unread = ("table.py", "__main__.py")
    digest = hashlib.sha256()
    for path in sorted(path for path in sources if path.name not in unread):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_lines(code: str) -> dict[str, Any]:
    """name -> result, of this code."""
    if not LINES.exists():
        return {}
    rows = [json.loads(line) for line in LINES.read_text().splitlines() if line.endswith("}")]
    return {row["name"]: row for row in rows if row["code"] == code}


def in_own_process(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The result of one network, or why there is none."""
    command = [sys.executable, "-m", "zoo", name, "--here", "--memory", str(given.memory)]
    command += ["--no-peers"] * given.no_peers
    try:
        done = subprocess.run(
            command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=False,
            timeout=given.timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"name": name, "failed": f"more than {given.timeout:g} s"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        last = lines[-1][:300] if lines else "no message"
        return {"name": name, "failed": f"exit {done.returncode}: {last}"}
    return json.loads(done.stdout.splitlines()[-1])


def run(names: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """The results of all names, from the lines of an earlier run where there are any."""
    LINES.parent.mkdir(exist_ok=True)
    if given.fresh:
        LINES.unlink(missing_ok=True)
    code = fingerprint()
    rows = {name: row for name, row in read_lines(code).items() if "failed" not in row}
    missing = [name for name in names if name not in rows]
    with ThreadPoolExecutor(given.jobs) as pool, LINES.open("a") as lines:
        pending = [pool.submit(in_own_process, name, given) for name in missing]
        progress = tqdm(as_completed(pending), total=len(names), initial=len(names) - len(missing))
        for future in progress:
            row = future.result() | {"code": code}
            rows[row["name"]] = row
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            progress.set_postfix_str(row["name"])
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Every law on every architecture")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of names; all without")
    parser.add_argument("--jobs", type=int, default=2, help="processes beside each other")
    parser.add_argument("--timeout", type=float, default=600, help="seconds per network")
    parser.add_argument("--memory", type=float, default=11, help="GiB per network")
    parser.add_argument("--no-peers", action="store_true", help="without captum and zennit")
    parser.add_argument("--fresh", action="store_true", help="forget the results there are")
    parser.add_argument("--here", action="store_true", help="one network in this process, as JSON")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.here:
        from zoo.one import limited, measure

        limited(given.memory)
        print(json.dumps(measure(given.names[0], not given.no_peers)))
        return 0
    from zoo import networks, table

    every = networks.names()
    names = [n for n in every if not given.names or any(part in n for part in given.names)]
    rows = run(names, given)
    print(table.summary([rows[name] for name in names]))
    if names == every:
        table.write([rows[name] for name in names], RESULTS)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
