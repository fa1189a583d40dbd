"""What commands print, and how a result names what was typed."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

from salience._cli.options import Options
from salience._cli.parse import command_line
from salience._errors import printable
from salience._study.provenance import weights_file


def show_files(folder: Path, lines: Sequence[Path | str]) -> None:
    """Name the files in the folder where they lie by now, between other lines."""
    for line in lines:
        text = str(folder / line.name) if isinstance(line, Path) else line
        console().print(Text(printable(text)), soft_wrap=True)


def told(given: Options) -> dict[str, object]:
    """Options as a result keeps them."""
    return {key: str(v) if isinstance(v, Path) else v for key, v in given.items()}


def console() -> Console:
    """Where results are printed."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def circumstances(command: str, given: Options, seconds: float | None = None) -> dict[str, object]:
    """What a result says of the command that made it."""
    found: dict[str, object] = {
        "command": json.dumps(told(given)),
        "command_line": printable(command_line(command, given)),
        **weights_file(given.get("weights")),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "numpy": np.__version__,
    }
    return found if seconds is None else found | {"seconds": round(seconds, 1)}
