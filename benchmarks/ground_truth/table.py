"""The committed result: benchmarks/results/truth.json, and truth.md made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """truth.json and truth.md."""
    raise NotImplementedError(f"{len(rows)} lines are in out/; {folder} gets its tables next")
