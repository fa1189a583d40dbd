"""Notebooks executed in memory, in a kernel of this interpreter and without a user's settings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_SECONDS = 200  # for a cell, on a busy machine


def executed(cells: list[str], folder: Path) -> list[list[dict[str, Any]]]:
    """The outputs of each cell.

    folder  where the kernel works, finds no settings and leaves what it leaves

    In a process of its own: nbclient leaves sockets open, and asyncio's loop.

    Errors: AssertionError with what a cell, or the kernel, has raised.
    """
    names = "IPYTHONDIR JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR".split()
    settings = dict.fromkeys(names, str(folder))
    there = {**os.environ, **settings, "JUPYTER_PLATFORM_DIRS": "1"}
    there.pop("MPLBACKEND", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__], input=json.dumps(cells), cwd=folder, env=there,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _execute(cells: list[str]) -> list[list[dict[str, Any]]]:
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    book = new_notebook(cells=list(map(new_code_cell, cells)))
    specs = KernelSpecManager(kernel_dirs=[])  # no installed kernels: sys.executable's alone
    kernels = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    NotebookClient(book, km=kernels, timeout=_SECONDS).execute()
    return [cell.outputs for cell in book.cells]


if __name__ == "__main__":
    print(json.dumps(_execute(json.load(sys.stdin))))
