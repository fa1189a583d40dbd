"""Names of files come from anybody: a terminal shows them and does not obey them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from salience import SalienceError
from salience._cli.app import app
from salience._cli.inputs import load_inputs
from salience._errors import printable
from salience.models import load_model

EVIL = "a\x1b[2J\x07\x85\u202ee"
SHOWN = r"a\x1b[2J\x07\x85\u202ee"


def obeyed(text):
    return [c for c in text if not c.isprintable() and c != "\n"]


def test_what_is_printable_stays():
    for text in ("", "Fotos/Käse 日本.png", "a'b\"c\\d", "expected x; got y. Do z."):
        assert printable(text) == text
    assert printable(EVIL) == SHOWN
    assert printable("one\ntwo\tthree") == "one two three"
    printable("\udcff\ud800").encode()  # of a name that is no UTF-8


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".keras", ".pt", ".h5", ".py:net", ".npy"])
def test_errors(tmp_path, suffix):
    (tmp_path / f"{EVIL}{suffix.partition(':')[0]}").write_bytes(b"x")
    for load in (load_model, lambda path: load_inputs([path])):
        with pytest.raises(SalienceError) as raised:
            load(f"{tmp_path}/{EVIL}{suffix}")
        assert SHOWN in str(raised.value) and not obeyed(str(raised.value))


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text("import torch\ndef net(): return torch.nn.Conv2d(3, 2, 4)\n")
    Image.new("RGB", (4, 4), (9, 99, 200)).save(tmp_path / f"{EVIL}.png")
    given = ["nets.py:net", f"{EVIL}.png", "--target", "(0,0,0)", "--methods", "gradient"]
    more = {"explain": [], "check": ["--repeats", "1", "--show", "1"]}
    for command, options in more.items():
        out = f"{command}{EVIL}"
        result = CliRunner().invoke(app, [command, *given, *options, "-o", out])
        assert result.exit_code == 0, result.output
        assert f"{command}{SHOWN}" in result.output and not obeyed(result.output.replace("\r", ""))
    for command in ("report", "view"):
        result = CliRunner().invoke(app, [command, f"{EVIL}.nc"])
        assert result.exit_code == 2
        assert SHOWN in result.output and not obeyed(result.output.replace("\r", ""))
    result = CliRunner().invoke(app, ["report", f"check{EVIL}", "-o", f"{EVIL}.html"])
    assert result.exit_code == 0 and not obeyed(result.output.replace("\r", ""))
    assert SHOWN in result.output


def test_a_name_that_is_no_text(tmp_path, monkeypatch):
    """Names are bytes: those that are no UTF-8 have no letters that could be written."""
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pt")
    (tmp_path / "nets.py").write_text("import torch\ndef net(): return torch.nn.Linear(3, 2)\n")
    np.save(tmp_path / "x\udcff.npy", np.ones((2, 3), "f4"))
    given = ["nets.py:net", "x\udcff.npy", "--weights", "w.pt", "--methods", "gradient"]
    result = CliRunner().invoke(app, ["check", *given, "--repeats", "1", "-o", "out"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["explain", *given, "-o", "maps"])
    assert result.exit_code == 0, result.output


def test_a_folder_that_is_no_text(tmp_path, monkeypatch):
    """netCDF's library writes to names that are text alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text("import torch\ndef net(): return torch.nn.Linear(3, 2)\n")
    np.save("x.npy", np.ones((2, 3), "f4"))
    given = ["nets.py:net", "x.npy", "--methods", "gradient", "--repeats", "1"]
    result = CliRunner().invoke(app, ["check", *given, "-o", "out\udcff"])
    assert result.exit_code == 2
    assert r"out\udcff. Choose another one, or --format zarr." in result.stderr
    result = CliRunner().invoke(app, ["check", *given, "-o", "out\udcff", "--format", "zarr"])
    assert result.exit_code == 0, result.output
