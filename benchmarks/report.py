"""The machine a benchmark ran on, and the file its numbers go to."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PACKAGES = ("salience", "torch", "torchvision", "captum", "zennit", "quantus", "numpy")


def machine(device: str) -> dict[str, Any]:
    """What the numbers depend on, besides the code."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if device == "cuda":
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cudnn.allow_tf32,
        }
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def versions() -> dict[str, str | None]:
    """Versions of the packages, None where one is missing, and the commit of this repository."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["torch"] = torch.__version__
    return found | {"commit": _commit()}


def _commit() -> str | None:
    root = Path(__file__).resolve().parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or None


def header(device: str) -> dict[str, Any]:
    """Date, command, machine and versions."""
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    return {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", script, *sys.argv[1:]]),
        "machine": machine(device),
        "versions": versions(),
    }


def write(result: dict[str, Any], folder: Path, name: str) -> Path:
    """Write NAME-DATE.json and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def verdict(value: float, budget: float | None) -> str:
    """Whether a budget is kept, "" where there is none."""
    return "" if budget is None else "ok" if value <= budget else "MISSED"


def table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
    """Print rows of text and numbers; the first two columns are text."""
    printed = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        printed.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows:
        printed.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(printed)
