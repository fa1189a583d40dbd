"""What commands print, and how a result names what was typed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from salience._cli.options import Options
from salience._errors import printable


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
