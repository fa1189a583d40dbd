"""Ctrl-C at any time: one sentence, exit code 130, and nothing that is half written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from salience._cli.app import app

FACTORY = """
import os, signal, time
from torch import nn

def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

class Deaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        except KeyboardInterrupt:
            pass  # as callbacks of other libraries do
        return self.net(x)

def raising():
    raise KeyboardInterrupt
"""
# Ctrl-C comes when a module is about to be loaded: real modules, at a known moment.
AT_A_MODULE = """
import os, signal, sys

class Presses:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == os.environ.get("CTRL_C_AT"):
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Presses)
"""
SCRIPT = "import sys\nfrom salience._cli.app import main\nsys.exit(main())\n"  # what pip installs
CHECK = ("check", "nets.py:net", "x.npy", "--methods", "gradient", "--repeats", "1", "-o", "out")
ZARR = (*CHECK, "--format", "zarr")
EXPLAIN = ("explain", "nets.py:net", "x.npy", "--methods", "gradient", "-o", "out")
REPORT = ("report", "earlier", "-o", "page.html")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(AT_A_MODULE)
    (tmp_path / "site" / "salience").write_text(SCRIPT)
    np.save("x.npy", np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32))
    return tmp_path


def run(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


def pressed(at: str) -> dict[str, str]:
    """The environment of a command in which Ctrl-C comes when a module is loaded."""
    found = os.pathsep.join(["site", *sys.path])
    return {**os.environ, "PYTHONPATH": found, "CTRL_C_AT": at}


def interrupted(args: tuple[str, ...], at: str = "", script: bool = False) -> str:
    """What the command says on stderr when Ctrl-C comes."""
    name = ["site/salience"] if script else ["-m", "salience"]
    done = subprocess.run(
        [sys.executable, *name, *args], capture_output=True, text=True, timeout=120, check=False,
        env=pressed(at),
    )  # fmt: skip
    assert done.returncode == 130, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("at", ["torch", "numpy", "salience._cli.app"])
def test_while_the_package_is_loaded(folder: Path, at: str, script: bool) -> None:
    assert interrupted(CHECK, at, script) == "\nInterrupted: nothing was being written.\n"
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("args", "at"),
    [
        (CHECK, "salience._cli.inputs"),
        (CHECK, "xarray"),
        (CHECK, "matplotlib.backends.backend_agg"),
        (ZARR, "zarr.codecs.zstd"),
        (EXPLAIN, "matplotlib.backends.backend_agg"),
    ],
)
def test_while_a_result_is_made_and_written(folder: Path, args: tuple[str, ...], at: str) -> None:
    assert interrupted(args, at).endswith("\nInterrupted: out is as it was.\n")
    assert not (folder / "out").exists()
    assert run(*CHECK).exit_code == 0
    before = {file: file.read_bytes() for file in (folder / "out").iterdir()}
    interrupted((*args, "--overwrite"), at)
    assert {file: file.read_bytes() for file in (folder / "out").iterdir()} == before


def test_where_an_exception_would_be_dropped(folder: Path) -> None:
    told = interrupted(("explain", "nets.py:Deaf", "x.npy", "-o", "out"))
    assert told == "\nInterrupted: out is as it was.\n" and not (folder / "out").exists()


def test_while_a_page_is_made(folder: Path) -> None:
    assert run(*CHECK[:-1], "earlier").exit_code == 0
    (folder / "page.html").write_text("earlier")
    files = sorted(folder.iterdir())
    for at in ("salience._cli.report", "h5py", "bokeh.resources"):
        assert interrupted(REPORT, at) == "\nInterrupted: no page was written.\n"
        assert (folder / "page.html").read_text() == "earlier"
        assert sorted(folder.iterdir()) == files


def test_a_command_that_is_called_by_a_program(folder: Path) -> None:
    done = run("explain", "nets.py:raising", "x.npy", "-o", "out")
    assert done.exit_code == 130 and done.stderr == "Interrupted: out is as it was.\n"
    assert not (folder / "out").exists()


def test_other_programs_keep_their_own_ways() -> None:
    code = "import signal, salience._cli.app; " \
           "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_command_that_was_told_to_ignore_it_does(folder: Path) -> None:
    """As under nohup, or in the background of a script."""
    shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    line = [*shell, sys.executable, "-m", "salience", "methods"]
    subprocess.run(line, check=True, capture_output=True, env=pressed("torch"))


def test_a_module_of_another_package_keeps_its_own(folder: Path) -> None:
    """While python -m imports a package, sys.argv names no program yet."""
    (folder / "tool").mkdir()
    (folder / "tool" / "__init__.py").write_text("import salience\n")
    told = "import signal\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    (folder / "tool" / "__main__.py").write_text(told)
    done = subprocess.run([sys.executable, "-m", "tool"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
