"""`salience check` and the figures of a randomisation test."""

import hashlib
import io
import json
import shlex

import numpy as np
import pytest
import safetensors.torch
import torch
import xarray
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import salience
from salience._cli import results
from salience._cli.app import app

FACTORY = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
                         nn.Flatten(), nn.Linear(64, 5))

def table():
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))

def bare():
    return nn.Sequential(nn.ReLU(), nn.Flatten())

class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
    def forward(self, x):
        return {"logits": self.layer(x), "rest": x}
"""
SINGLE = [name for name, method in salience.methods.items() if method.single_pass]
CONTROLS = ["input", "edges", "random_map"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.normal(size=(3, 3, 8, 8)).astype(np.float32))
    np.save("t.npy", generator.normal(size=(3, 6)).astype(np.float32))
    return tmp_path


def made(name, seed=0):
    """The network that the command makes."""
    scope = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        exec(FACTORY, scope)
        return scope[name]().eval()


def run(*args):
    return CliRunner().invoke(app, ["check", *map(str, args)])


def checked(*args):
    result = run(*args, "-o", "out")
    assert result.exit_code == 0, result.output
    return result


def test_scores_verdicts_and_figures_of_the_command(folder):
    result = checked("nets.py:net", "x.npy", "--repeats", 2, "--seed", 4, "--target", "3",
                     "--show", 1)  # fmt: skip
    x = torch.from_numpy(np.load("x.npy"))
    expected = salience.randomization_test(
        made("net", 4),
        x,
        target=3,
        cascade=salience.Cascade(repeats=2, seed=4),
        keep_maps=1,
        progress=False,
    ).data
    with xarray.open_dataset("out/study.nc") as file:
        data = file.load()
    for name in expected.data_vars:
        np.testing.assert_array_equal(data[name], expected[name], err_msg=str(name))
    for name in ("method", "stage", "role", "map_stage"):
        assert list(data[name].values) == list(expected[name].values)
    assert data.attrs["model_fingerprint"] == expected.attrs["model_fingerprint"]
    assert json.loads(data.attrs["command"])["target"] == "3"
    judged = salience.verdicts(expected)
    assert dict(salience.verdicts(data)) == dict(judged)
    flat = " ".join(result.stdout.split())
    for verdict in judged.values():
        assert (verdict.sentence in flat) == (verdict.role == "method")
    assert "Binder 2023" in flat
    for name in ("study.nc", "similarity.png", "cascade.png"):
        assert f"out/{name}" in result.stdout
    for name in ("similarity.png", "cascade.png"):
        with Image.open(f"out/{name}") as picture:
            picture.verify()
    assert sorted(p.name for p in (folder / "out").iterdir()) == sorted(
        ["study.nc", "similarity.png", "cascade.png", "plane.png"]
    )


DEEP = """
from torch import nn

def deep():
    layers = [layer for _ in range(12) for layer in (nn.Conv1d(2, 2, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3))
"""


def test_all_scored_stages_are_kept_for_the_report(folder):
    (folder / "deep.py").write_text(DEEP)
    np.save("d.npy", np.random.default_rng(0).normal(size=(6, 2, 8)).astype(np.float32))
    checked("deep.py:deep", "d.npy", "--methods", "gradient", "--repeats", 1)
    with xarray.open_dataset("out/study.nc") as data:
        assert list(data["map_stage"].values) == ["trained", *data["stage"].values]
        assert data["maps"].shape == (1, 14, 4, 2, 8) and data["maps"].dtype == np.float32
        assert list(data["map_sample"].values) == ["0", "1", "2", "3"]


def test_the_command_line_that_is_kept_gives_the_same_again(folder):
    words = ("nets.py:net", "x.npy", "--methods", "lrp_epsilon", "--repeats", 1, "--seed", 3,
             "--param", "lrp_epsilon.eps=0.5", "--target", "0-1", "--retarget")  # fmt: skip
    checked(*words)
    with xarray.open_dataset("out/study.nc") as file:
        first = file.load()
    line = shlex.split(first.attrs["command_line"])
    assert line[:2] == ["salience", "check"]
    assert CliRunner().invoke(app, [*line[1:], "--overwrite"]).exit_code == 0
    with xarray.open_dataset("out/study.nc") as file:
        again = file.load()
    assert again.attrs["command_line"] == first.attrs["command_line"]
    np.testing.assert_array_equal(again["spearman"], first["spearman"])
    assert "'eps': 0.5" in again.attrs["method_parameters"] and again.attrs["retarget"] == 1


def test_images_and_the_file_of_weights_are_named(folder):
    random = np.random.default_rng(0)
    for name in ("a <b>.png", "c.png"):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(name)
    safetensors.torch.save_file(made("net", 5).state_dict(), "net.safetensors")
    checked("nets.py:net", "a <b>.png", "c.png", "--methods", "gradient", "--repeats", 1,
            "--weights", "net.safetensors")  # fmt: skip
    with xarray.open_dataset("out/study.nc") as data:
        assert list(data["map_sample"].values) == ["a <b>.png", "c.png"]
        digest = hashlib.sha256((folder / "net.safetensors").read_bytes()).hexdigest()
        assert data.attrs["weights_file_sha256"] == digest
    assert CliRunner().invoke(app, ["report", "out", "-o", "page.html"]).exit_code == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert '<option value="0">a &lt;b&gt;.png</option>' in page


def test_costs_are_printed_on_request(folder):
    arguments = ("nets.py:table", "t.npy", "--methods", "lrp_epsilon", "--repeats", 1)
    line = next(line for line in checked(*arguments, "--cost").stdout.splitlines()
                if "│ lrp_epsilon" in line)  # fmt: skip
    assert float(line.split("│")[6]) > 0
    with xarray.open_dataset("out/study.nc") as data:
        assert "cost" not in data
    plain = checked(*arguments, "--overwrite").stdout
    assert "cost" not in plain and "│ lrp_epsilon" in plain


def test_a_cost_that_cannot_be_measured_does_not_lose_the_test(folder, monkeypatch):
    def refused(*args, **options):
        raise salience.SalienceError("expected a clock; got none.")

    monkeypatch.setattr("salience._cli.costs.cost", refused)
    result = checked("nets.py:table", "t.npy", "--methods", "gradient", "--repeats", 1, "--cost")
    assert "The cost was not measured: expected a clock" in result.stdout
    assert "│ gradient" in result.stdout and (folder / "out/study.nc").exists()


def test_progress_is_told_on_stderr(folder):
    result = checked("nets.py:table", "t.npy", "--repeats", 1, "--methods", "gradient")
    assert "randomisation test: 100%" in result.stderr
    assert "randomisation test" not in result.stdout


def test_options_reach_the_test(folder):
    checked("nets.py:net", "x.npy", "--methods", "lrp_epsilon", "--order", "bottom_up",
            "--repeats", 1, "--stages", 2, "--scores", "pearson,spearman", "--score", "pearson",
            "--init", "permute", "--batch-norm", "reset", "--retarget", "--batch-size", 2,
            "--param", "lrp_epsilon.eps=0.5", "--show", 0)  # fmt: skip
    with xarray.open_dataset("out/study.nc") as file:
        data = file.load()
    assert {"pearson", "spearman"} <= set(data.data_vars)
    assert not {"spearman_abs", "maps"} & set(data.data_vars)
    assert list(data["method"].values) == ["lrp_epsilon", "gradient", *CONTROLS]
    assert data.sizes["stage"] == 2
    wanted = {"order": "bottom_up", "weights": "permute", "batch_norm": "reset", "retarget": 1}
    assert {name: data.attrs[name] for name in wanted} == wanted
    assert "'eps': 0.5" in data.attrs["method_parameters"]
    assert data.attrs["score"] == salience.open("out").verdicts().score == "pearson"
    assert not (folder / "out/cascade.png").exists()


def test_zarr_is_written_twice(folder):
    for seed, more in ((1, []), (2, ["--overwrite"])):
        checked("nets.py:table", "t.npy", "--format", "zarr", "--methods", "gradient",
                "--repeats", 1, "--seed", seed, *more)  # fmt: skip
        with xarray.open_zarr("out/study.zarr", consolidated=False) as data:
            assert data.attrs["seed"] == seed
            assert data["maps"].shape == (1, 3, 3, 6)
    assert not list((folder / "out").glob(".*"))


def test_uncovered_operations_are_named(folder):
    result = checked("nets.py:table", "t.npy", "--methods", "guided_backprop", "--repeats", 1)
    assert "guided_backprop has no rule for gelu" in result.stdout
    assert salience.open("out").uncovered == {"guided_backprop": ["gelu"], "gradient": []}


def test_a_part_of_the_output(folder):
    checked("nets.py:Parts", "t.npy", "--output", "logits", "--methods", "gradient",
            "--repeats", 1)  # fmt: skip
    with xarray.open_dataset("out/study.nc") as data:
        assert data.attrs["output"] == "logits"
    refused = run("nets.py:Parts", "t.npy", "--output", "logit", "-o", "other")
    assert refused.exit_code == 2
    assert "Did you mean 'logits'?" in refused.stderr


def test_one_sample_and_one_repeat(folder):
    np.save("one.npy", np.load("x.npy")[:1])
    checked("nets.py:net", "one.npy", "--repeats", 1, "--methods", "gradient")
    assert set(salience.open("out").verdicts()) == {"gradient", *CONTROLS}


def test_undefined_similarities_are_counted(folder):
    np.save("flat.npy", np.zeros((2, 6), np.float32))  # x * gradient is constant
    result = checked("nets.py:table", "flat.npy", "--methods", "input_x_gradient",
                     "--repeats", 1, "--target", 0)  # fmt: skip
    assert "similarities of input_x_gradient were undefined" in " ".join(result.stdout.split())
    told = salience.open("out").verdicts()["input_x_gradient"]
    assert np.isnan(told.retention) and told.undefined > 0


MISTAKES = {
    "model": (["none.py:net", "x.npy"], "none.py, which is not there"),
    "data": (["nets.py:net", "none.npy"], "none.npy, which is not there"),
    "shape": (["nets.py:net", "t.npy"], "expected inputs that the network takes"),
    "method": (["nets.py:net", "x.npy", "--methods", "gradiant"], "Did you mean 'gradient'?"),
    "target": (["nets.py:net", "x.npy", "--target", "dog"], "expected a target: argmax"),
    "order": (["nets.py:net", "x.npy", "--order", "topdown"], "Did you mean 'top_down'?"),
    "repeats": (["nets.py:net", "x.npy", "--repeats", "0"], "repeats, a whole number of"),
    "stages": (["nets.py:net", "x.npy", "--stages", "few"], "all or a number for --stages"),
    "many stages": (["nets.py:net", "x.npy", "--stages", "9"], "the network has 3"),
    "scores": (["nets.py:net", "x.npy", "--scores", "ssimm"], "Did you mean 'ssim'?"),
    "score": (["nets.py:net", "x.npy", "--score", "rank"], "expected a known score"),
    "score of small maps": (["nets.py:net", "x.npy", "--score", "hog"], "24 x 24 pixels for hog"),
    "init": (["nets.py:net", "x.npy", "--init", "Own"], "Did you mean 'own'?"),
    "batch norm": (["nets.py:net", "x.npy", "--batch-norm", "kep"], "Did you mean 'keep'?"),
    "format": (["nets.py:net", "x.npy", "--format", "csv"], "expected a known format (nc, zarr)"),
    "batch size": (["nets.py:net", "x.npy", "--batch-size", "0"], "a batch size, a whole number"),
    "nothing to randomise": (["nets.py:bare", "x.npy"], "expected a model with parameters"),
    "param": (["nets.py:net", "x.npy", "--param", "smoothgrad.n=3"], "known method of --methods"),
    "out": (["nets.py:net", "x.npy", "-o", "x.npy"], "expected a folder for -o; got x.npy"),
}


@pytest.mark.parametrize(("args", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_message_and_exit_code_2(folder, args, message):
    result = run(*args, *([] if "-o" in args else ["-o", "out"]))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: expected ")
    assert "Traceback" not in result.output
    assert not list((folder / "out").glob("*")) if (folder / "out").exists() else True


def test_help_shows_an_example_that_parses(folder):
    shown = CliRunner().invoke(app, ["check", "--help"], env={"COLUMNS": "100"})
    assert shown.exit_code == 0
    assert "salience check net.py:make maps.npy --weights net.safetensors -o out" in shown.stdout


def test_verdicts_in_a_table_keep_brackets_and_put_controls_last():
    tones = {"[red]method": ("method", "hardly", 0.7), "nan": ("method", "undefined", float("nan")),
             "input": ("negative control", "negative control", 1.0)}  # fmt: skip
    judged = salience.Verdicts({
        name: salience.Verdict(name, role, verdict, kept, kept, kept)
        for name, (role, verdict, kept) in sorted(tones.items())
    }, total=3)  # fmt: skip
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(results.verdict_table(judged))
    lines = console.export_text().splitlines()
    rows = [line for line in lines if line.startswith(("│", "├"))]
    assert [row.split()[1] for row in rows if row[0] == "│"] == ["[red]method", "nan", "input"]
    assert rows[2].startswith("├")
    assert "0.70" in rows[0] and "[0.70, 0.70]" in rows[0] and "hardly" in rows[0]
    assert "negative control" in rows[3]
