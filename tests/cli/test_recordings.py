"""How often the commands record a pass: explain once per batch, check as the test itself does."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from salience._cli.app import app

NETS = """
from torch import nn

def images():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))

def words():
    return nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3))
"""


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recordings: list[int]) -> list[int]:
    """Networks and data in a folder, and the number of samples of every pass recorded."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    random = np.random.default_rng(0)
    np.save("images.npy", random.normal(size=(5, 1, 8, 8)).astype("f4"))
    np.save("words.npy", random.integers(5, size=(5, 3)))
    return recordings


def run(*words: str) -> None:
    done = CliRunner().invoke(app, [*words, "-o", "out"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("methods", ["gradient", "gradient,lrp_epsilon,deep_taylor", "single-pass"])
def test_explain_records_each_batch_once_however_many_methods(recorded, methods):
    run("explain", "nets.py:images", "images.npy", "--methods", methods)
    assert recorded == [5]


def test_explain_in_batches(recorded):
    run("explain", "nets.py:words", "words.npy", "--methods", "single-pass", "--batch-size", "2")
    assert recorded == [2, 2, 1]


@pytest.mark.parametrize(("data", "passes"), [("images", [1, 5]), ("words", [1, 1, 5])])
def test_check_records_what_the_test_does(recorded, data, passes):
    """Its plan and its batch; of ids, one more sample tells whether their maps can be shown."""
    options = ("--repeats", "2", "--methods", "gradient", "--only", "randomization")
    run("check", f"nets.py:{data}", f"{data}.npy", *options)
    assert recorded == passes


def test_check_records_what_faithfulness_does(recorded):
    """Its plan, its batch, and each untrained network without its inputs."""
    options = ("--repeats", "2", "--methods", "gradient,lrp_epsilon", "--only", "faithfulness")
    run("check", "nets.py:images", "images.npy", *options)
    assert recorded == [1, 5, 5, 5]


def test_costs_are_measured_on_request(recorded):
    run("explain", "nets.py:images", "images.npy", "--methods", "gradient", "--cost")
    assert recorded[0] == 5 and len(recorded) > 1
