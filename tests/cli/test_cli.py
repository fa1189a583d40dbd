"""The command line: what it writes, and how it answers a user's mistake."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from chosen import chosen
from PIL import Image
from typer.testing import CliRunner

import salience
from salience._cli.app import app

FACTORY = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))

def grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))

def table():
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))

class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Conv2d(3, 2, 3)
    def forward(self, x):
        y = self.dense(x)
        return {"dense": y, "mean": y.mean((2, 3))}

class Detached(nn.Module):
    def forward(self, x):
        return x.detach().flatten(1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.normal(size=(3, 3, 8, 8)).astype(np.float32))
    np.save("t.npy", generator.normal(size=(3, 6)).astype(np.float32))
    return tmp_path


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def explained(*args):
    result = run("explain", *args, "-o", "out")
    assert result.exit_code == 0, result.output
    return result, salience.open("out")


def test_methods_lists_the_registry():
    result = run("methods")
    assert result.exit_code == 0
    for name, method in salience.methods.items():
        assert name in result.stdout
        assert method.source in result.stdout
        for parameter, default in method.parameters.items():
            assert f"{parameter}={default!r}" in result.stdout


def test_all_methods_with_their_errors_inputs_and_outputs(folder):
    result, file = explained("nets.py:net", "x.npy", "--param", "smoothgrad.n=3", "--seed", 4)
    x = torch.from_numpy(np.load("x.npy"))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        scope = {}
        exec(FACTORY, scope)
        network = scope["net"]().eval()
    maps = salience.explain(network, x, chosen({"smoothgrad": {"n": 3}}), seed=4)
    assert list(file) == list(maps) and file.error_names == maps.error_names
    for name, values in maps.items():
        assert name in result.stdout
        np.testing.assert_array_equal(file[name], values, err_msg=name)
        if name in maps.error:
            np.testing.assert_array_equal(file.error[name], maps.error[name])
    np.testing.assert_array_equal(file.inputs, x)
    np.testing.assert_array_equal(file.output, network(x).detach())
    np.testing.assert_array_equal(file.value, network(x).detach().amax(1))
    assert "out/maps.nc" in result.stdout
    assert "out/overview.png" in result.stdout
    with Image.open("out/overview.png") as picture:
        picture.verify()


def test_provenance_tells_versions_options_and_parameters(folder):
    _, file = explained("nets.py:net", "x.npy", "--methods", "lrp_epsilon", "--target", "2",
                        "--param", "lrp_epsilon.eps=0.5")  # fmt: skip
    told = file.attrs
    assert file.parameters == {"lrp_epsilon": {"eps": 0.5, "eps_relative": 0.0}}
    assert json.loads(told["options"])["target"] == "2"
    assert json.loads(told["options"])["seed"] == 0
    assert told["torch"] == torch.__version__
    assert {"salience", "numpy", "python", "model_fingerprint", "data_fingerprint"} <= set(told)


def test_the_same_command_gives_the_same_bytes(folder):
    args = ("nets.py:net", "x.npy", "--methods", "smoothgrad,lrp_alpha_beta")
    explained(*args)
    first = (folder / "out/maps.nc").read_bytes()
    explained(*args, "--overwrite")
    assert (folder / "out/maps.nc").read_bytes() == first


@pytest.mark.parametrize(
    ("model", "more", "target"),
    [
        ("net", ["--target", "3"], 3),
        ("net", ["--target", "3-1"], (3, 1)),
        ("net", ["--target", "4,0,2"], [4, 0, 2]),
        ("Parts", ["--output", "dense", "--target", "(1,0,5)"], (1, 0, 5)),
        ("Parts", ["--output", "mean", "--target", "[1,0,1]"], [1, 0, 1]),
    ],
)
def test_targets(folder, model, more, target):
    _, file = explained(f"nets.py:{model}", "x.npy", "--methods", "gradient", *more)
    scope = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(FACTORY, scope)
        network = scope[model]().eval()
    output = more[1] if model == "Parts" else None
    x = torch.from_numpy(np.load("x.npy"))
    maps = salience.explain(network, x, "gradient", target, output=output)
    np.testing.assert_array_equal(file["gradient"], maps["gradient"])


def test_uncovered_operations_are_named_and_strict_refuses(folder):
    args = ("nets.py:table", "t.npy", "--methods", "guided_backprop")
    result, file = explained(*args)
    assert "gelu" in result.stdout
    assert file.uncovered == {"guided_backprop": ("gelu",)}
    assert file["guided_backprop"].dtype == torch.float32  # the network's type, not the file's
    refused = run("explain", *args, "--strict", "-o", "strict")
    assert refused.exit_code == 2
    assert "expected operations that guided_backprop has rules for; got gelu" in refused.stderr


def test_a_ledger_is_printed_and_stored(folder):
    args = ("nets.py:net", "x.npy", "--methods", "gradient,lrp_epsilon")
    result, file = explained(*args, "--ledger")
    told = file.ledger["lrp_epsilon"].sentence()
    assert told.startswith("lrp_epsilon: ") and told in " ".join(result.stdout.split())
    assert list(file.ledger) == ["lrp_epsilon"]
    plain, file = explained(*args, "--overwrite")
    assert not file.ledger and "reached the input" not in plain.stdout


@pytest.mark.parametrize(("factory", "channels"), [("net", 3), ("grey", 1)])
def test_images_with_markup_in_their_names(folder, factory, channels):
    pictures = folder / "[red]pictures"
    pictures.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (10, 12, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"[bold]{i}.png")
    result = run("explain", f"nets.py:{factory}", "[red]pictures", "--size", 8, "--mean", "0.5",
                 "--std", "0.25", "--methods", "gradient", "-o", "[red]out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "[red]out/maps.nc" in result.stdout
    x = salience.open("[red]out").inputs
    assert x.shape == (2, channels, 8, 8)
    assert -2 <= x.min() < x.max() <= 2
    missing = run("explain", "nets.py:net", "[red]none.png", "-o", "out")
    assert "[red]none.png, which is not there" in missing.stderr


def test_a_warning_is_a_line(folder):
    result, _ = explained("nets.py:net", "x.npy", "--methods", "lrp_alpha_beta",
                          "--param", "lrp_alpha_beta.beta=2.0")  # fmt: skip
    assert "Warning: expected alpha - beta = 1; got 2.0 - 2.0" in result.stderr


MISTAKES = {
    "model spelling": (["nets.py", "x.npy"], "expected a model 'file.py:factory'"),
    "model file": (["none.py:net", "x.npy"], "none.py, which is not there"),
    "factory": (["nets.py:nett", "x.npy"], "expected a factory 'nett'"),
    "data file": (["nets.py:net", "none.npy"], "none.npy, which is not there"),
    "pickled data": (["nets.py:net", "bad.npy"], "are refused"),
    "pickled tensor": (["nets.py:net", "bad.pt"], "are refused"),
    "weights file": (["nets.py:net", "x.npy", "--weights", "none.pt"], "which is not there"),
    "weights fit": (["nets.py:net", "x.npy", "--weights", "other.pt"], "3.weight"),
    "method": (["nets.py:net", "x.npy", "--methods", "gradiant"], "Did you mean 'gradient'?"),
    "no method": (["nets.py:net", "x.npy", "--methods", ""], "expected a known method"),
    "target word": (["nets.py:net", "x.npy", "--target", "dog"], "expected a target: argmax"),
    "target code": (["nets.py:net", "x.npy", "--target", "exit()"], "expected a target: argmax"),
    "target real": (["nets.py:net", "x.npy", "--target", "1.5"], "expected a target: argmax"),
    "target range": (["nets.py:net", "x.npy", "--target", "9"], "expected a target from -5 to 4"),
    "targets": (["nets.py:net", "x.npy", "--target", "1,2"], "one target per sample, 3"),
    "param form": (["nets.py:net", "x.npy", "--param", "eps=1"], "expected METHOD.NAME=VALUE"),
    "param method": (
        ["nets.py:net", "x.npy", "--methods", "gradient", "--param", "lrp_epsilon.eps=1"],
        "expected a known method of --methods (gradient)",
    ),
    "param name": (["nets.py:net", "x.npy", "--param", "lrp_epsilon.epz=1"], "Did you mean 'eps'?"),
    "param value": (["nets.py:net", "x.npy", "--param", "lrp_epsilon.eps=x"], "expected a number"),
    "param range": (["nets.py:net", "x.npy", "--param", "lrp_epsilon.eps=-1"], "expected eps >= 0"),
    "output": (["nets.py:Parts", "x.npy", "--output", "densee"], "Did you mean 'dense'?"),
    "no output": (["nets.py:Parts", "x.npy"], "Name the part to explain"),
    "batch size": (["nets.py:net", "x.npy", "--batch-size", "0"], "a batch size, a whole number"),
    "shape": (["nets.py:net", "t.npy"], "expected inputs that the network takes; got (3, 6)"),
    "no batch": (["nets.py:net", "one.npy"], "expected a batch with 4 dimensions"),
    "not finite": (["nets.py:net", "nan.npy"], "expected finite input"),
    "detached": (["nets.py:Detached", "x.npy"], "output that depends on the input"),
    "numbers": (["nets.py:net", "x.npy", "--mean", "half"], "expected numbers for --mean"),
    "array size": (["nets.py:net", "x.npy", "--size", "8"], "expected images for --size"),
    "device": (["nets.py:net", "x.npy", "--device", "abacus"], "expected a device"),
    "out": (["nets.py:net", "x.npy", "-o", "x.npy"], "expected a folder for -o; got x.npy"),
    "out below a file": (
        ["nets.py:net", "x.npy", "-o", "x.npy/out"],
        "got x.npy/out: Not a directory",
    ),
}


@pytest.mark.parametrize(("args", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_message_and_exit_code_2(folder, args, message):
    np.save("bad.npy", np.array([{"a": 1}]), allow_pickle=True)
    torch.save(torch.nn.Linear(2, 2), "bad.pt")
    torch.save({"0.weight": torch.ones(4, 3, 3, 3)}, "other.pt")
    np.save("one.npy", np.load("x.npy")[0])
    np.save("nan.npy", np.load("x.npy") * np.nan)
    result = run("explain", *args, *([] if "-o" in args else ["-o", "out"]))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("Error: expected ")
    assert "Traceback" not in result.output
    assert not (folder / "out" / "maps.nc").exists()


def test_a_missing_option_is_a_usage_error(folder):
    result = run("explain", "nets.py:net", "x.npy")
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_a_bug_is_not_hidden_as_a_mistake(folder, monkeypatch):
    monkeypatch.setattr("salience._cli.app.explained", lambda *args, **more: 1 / 0)
    assert isinstance(
        run("explain", "nets.py:net", "x.npy", "-o", "out").exception, ArithmeticError
    )


def test_the_module_is_the_command(folder):
    shown = subprocess.run(
        [sys.executable, "-m", "salience", "explain", "none.py:net", "x.npy", "-o", "out"],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr
    assert shown.stderr.startswith("Error: expected a Python file")


def test_importing_the_package_needs_torch_and_numpy_alone():
    code = (
        "import sys, torch, numpy\n"
        "known = set(sys.modules)\n"
        "import salience\n"
        "heavy = {'typer', 'rich', 'matplotlib', 'PIL', 'tqdm', 'safetensors', 'xarray', 'zarr'}\n"
        "more = heavy & (set(sys.modules) - known)\n"
        "assert not more, more\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
