"""Mistakes of users: a sentence that names what was given and what to do, and exit code 2."""

from __future__ import annotations

import json
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from randomized import study_of
from report_pages import small_study
from torch import nn
from typer.testing import CliRunner

import salience
from salience import SalienceError
from salience._cli.app import app

X = torch.linspace(-1, 1, 18).view(3, 6)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


# -- in Python -------------------------------------------------------------------------------------


def explain(**given: Any) -> Any:
    return salience.explain(**{"model": net(), "x": X, "methods": "gradient", **given})


def check(**given: Any) -> Any:
    options = {"repeats": 1, "progress": False, **given}
    return study_of(**{"model": net(), "x": X, "methods": "gradient", **options})


def both(case: str, given: dict[str, Any], message: str) -> dict[str, Any]:
    return {f"{case}, {run.__name__}": (run, given, message) for run in (explain, check)}


def nested(layout: torch.layout) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a prototype
        return torch.nested.nested_tensor([X[0], X[1]], layout=layout)


CHOICE = "Choose from gradient, input_x_gradient, smoothgrad"
MISTAKES: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    **both("a class", {"model": nn.Flatten},
           "expected a model; got the class Flatten. Make one and give it its trained weights: "
           "Flatten(...)."),
    **both("no weights", {"model": net().to("meta")},
           "expected a model with weights; got a parameter that is a tensor on the device meta. "
           "Load its weights"),
    **both("meta", {"x": X.to("meta")},
           "expected an input with values; got a tensor on the device meta. Load the data"),
    **both("a part on meta", {"x": {"input": X.to("meta")}},
           "expected an input 'input' with values; got a tensor on the device meta."),
    **both("sparse", {"x": X.to_sparse()},
           "expected a dense input; got a tensor of layout torch.sparse_coo. Convert it: "
           "x.to_dense()."),
    **both("a sparse part", {"x": (X.to_sparse(),)},
           "expected a dense input 0; got a tensor of layout torch.sparse_coo."),
    **both("jagged", {"x": nested(torch.jagged)},
           "expected a dense input; got a nested tensor. Pad it."),
    **both("nested", {"x": nested(torch.strided)}, "expected a dense input; got a nested tensor."),
    **both("a number of methods", {"methods": 3},
           f"expected a name or a list of names for methods; got 3. {CHOICE}"),
    **both("a number in methods", {"methods": ["gradient", 3]},
           "expected the name of a method; got 3. Choose one of: gradient"),
    **both("a negative seed", {"seed": -1},
           "expected seed, a whole number of at least 0; got -1. The default is 0."),
    **both("half a seed", {"seed": 0.5}, "expected seed, a whole number of at least 0; got 0.5."),
    **both("half a batch", {"batch_size": 1.5},
           "expected a batch size, a whole number of at least 1; got 1.5. The default is 16."),
    "batches of other widths": (
        explain, {"x": [X, X[:1], X[:, :4]]},
        "expected batches of samples of one shape, (6,) as in the first; got (4,) in batch 2, "
        "counted from 0. Pad all inputs to one length"),
    "batches of other parts": (
        explain, {"x": [{"input": X}, {"inputs": X}]},
        "expected batches of samples of one shape, {'input': (6,)} as in the first; got {'inputs': "
        "(6,)} in batch 1"),
    "batches for the test": (
        check, {"x": iter([])},
        "expected at least one batch; got an iterable without any. Is it used up already?"),
    "numbers that are no array": (
        explain, {"x": {"input": [0.0] * 10**5}},
        "0.0, 0.0, 0.0, 0.... Give the inputs."),
    "half a repeat": (check, {"repeats": 1.5},
                      "expected repeats, a whole number of at least 1; got 1.5. The default is 5."),
    "repeats as a word": (check, {"repeats": "5"}, "a whole number of at least 1; got '5'."),
    "fewer maps than none": (
        check, {"keep_maps": -1},
        "expected keep_maps, a whole number of at least 0; got -1. The default is 0: none are "
        "kept."),
    "a number of scores": (
        check, {"scores": 2},
        "expected a name or a list of names for scores; got 2. Choose from spearman"),
}  # fmt: skip


@pytest.mark.parametrize(("run", "given", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_python_is_a_sentence(run, given, message):
    with pytest.raises(SalienceError) as raised:
        run(**given)
    assert message in str(raised.value)


@pytest.mark.parametrize("whole", [np.int64(2), np.uint8(2), 2])
def test_whole_numbers_of_any_type_are_whole(whole):
    assert check(repeats=whole, seed=whole, keep_maps=whole).sizes["repeat"] == 2


def test_maps_have_no_verdict():
    with pytest.raises(SalienceError) as raised:
        salience.verdicts(explain())
    assert str(raised.value) == (
        "expected the dataset of a randomisation test; got a Maps without one. Maps alone have no "
        "verdict: give what salience.randomization_test(model, x) returns."
    )


VERDICTS: dict[str, tuple[Callable[[Any], Any], dict[str, Any], str]] = {
    "no resamples": (lambda d: d, {"resamples": 0},
                     "expected resamples, a whole number of at least 1; got 0."),
    "half a resample": (lambda d: d, {"resamples": 1.5}, "a whole number of at least 1; got 1.5."),
    "a negative seed": (lambda d: d, {"seed": -1}, "expected seed, a whole number of at least 0"),
    "a limit as a word": (lambda d: d, {"sensitive": "a"},
                          "0 <= sensitive <= insensitive <= 1; got 'a', 0.4. The defaults are 0.2"),
    "without attributes": (lambda d: d.drop_attrs(), {}, "got one without stage_count. Select"),
    "without roles": (lambda d: d.drop_vars("role"), {}, "got one without role. Select"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "given", "message"), VERDICTS.values(), ids=VERDICTS)
def test_a_mistake_about_verdicts_is_a_sentence(change, given, message):
    with pytest.raises(SalienceError) as raised:
        salience.verdicts(change(check()), **given)
    assert message in str(raised.value)


def test_a_table_is_no_iterable_of_batches():
    table, model = pd.DataFrame(X.numpy(), columns=list("abcdef")), net()
    assert torch.equal(explain(x=table, model=model)["gradient"], explain(model=model)["gradient"])


NAMES = {
    "GradCAM": None, "grad-cam++": None, "DeepLIFT": None, "gradient_shap": None, "LIME": None,
    "qqq": "Choose one of: ", "saliency": "Choose one of: ", "": "Choose one of: ",
    "gradeint": "Did you mean 'gradient'?", "grad": "Did you mean 'gradient'?",
    "LRP-Epsilon": "Did you mean 'lrp_epsilon'?", "epsilon": "Did you mean 'lrp_epsilon'?",
    "InputXGradient": "Did you mean 'input_x_gradient'?",
    "guided": "Did you mean 'guided_backprop'?",
    "lrp": "Did you mean 'lrp_gamma' or 'lrp_epsilon' or 'lrp_composite' or 'lrp_alpha_beta'?",
}  # fmt: skip


@pytest.mark.parametrize(("name", "hint"), NAMES.items(), ids=NAMES)
def test_only_close_names_are_suggested(name, hint):
    with pytest.raises(SalienceError) as raised:
        explain(methods=name)
    said = str(raised.value)
    if hint is None:
        begin = f"expected a method that is implemented; got {name!r}, a method of the field that "
        assert said.startswith(f"{begin}is not among them. Choose one of: gradient, ")
    else:
        assert said.startswith("expected a known method (deconvnet, deep_taylor, ")
        assert f"; got {name!r}. {hint}" in said


def test_a_method_that_is_added_under_a_name_of_the_field_is_found(monkeypatch):
    own = salience.Method("gradcam", "mine", "me")
    monkeypatch.setitem(salience.methods, "gradcam", own)
    assert list(explain(methods="gradcam")) == ["gradcam"]
    with pytest.raises(SalienceError, match="Did you mean 'gradcam'"):
        explain(methods="Grad-CAM")


# -- on the command line ---------------------------------------------------------------------------

FACTORY = """
import sys
from torch import nn

def net():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

def leaves():
    sys.exit()

def fails():
    sys.exit(3)

def says():
    raise SystemExit("no licence")

class Leaves(nn.Linear):
    def forward(self, x):
        raise SystemExit("no licence")

def in_its_pass():
    return Leaves(6, 3)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    (tmp_path / "ends.py").write_text("raise SystemExit(0)\n")
    np.save("x.npy", X.numpy())
    return tmp_path


def refused(*args: Any) -> str:
    """The one line that a command leaves on stderr."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: expected ")
    return line.removeprefix("Error: ")


COMMANDS: dict[str, tuple[list[str], str]] = {
    "a negative seed": (["nets.py:net", "x.npy", "--seed", "-1"],
                        "expected --seed, a whole number of at least 0; got -1. Such as --seed 1."),
    "a method of the field": (["nets.py:net", "x.npy", "--methods", "gradient,GradCAM"],
                              "got 'GradCAM', a method of the field that is not among them."),
    "exit": (["nets.py:leaves", "x.npy"],
             "expected leaves() of nets.py to return a model; got SystemExit ("),
    "exit with a code": (["nets.py:fails", "x.npy"], "got SystemExit: 3 ("),
    "exit with words": (["nets.py:says", "x.npy"], "got SystemExit: no licence ("),
    "exit in a pass": (["nets.py:in_its_pass", "x.npy"],
                       "expected a network that returns; got SystemExit: no licence. Leave"),
    "exit of the file": (["ends.py:net", "x.npy"], "expected ends.py to run; got SystemExit: 0 ("),
}  # fmt: skip


@pytest.mark.parametrize("command", ["explain", "check"])
@pytest.mark.parametrize(("args", "message"), COMMANDS.values(), ids=COMMANDS)
def test_a_mistake_in_a_command_is_one_line(folder, command, args, message):
    assert message in refused(command, *args, "-o", "out")
    assert not list(folder.glob("out/*"))


INDICES: dict[str, tuple[str, str]] = {
    "a list": ('["model-1.safetensors"]', "broken: no fields by their names"),
    "without a map": ('{"metadata": {}}', "something else"),
    "a map that is a list": ('{"weight_map": ["model-1.safetensors"]}', "something else"),
    "files that are numbers": ('{"weight_map": {"head.weight": 1}}', "something else"),
    "no JSON": ('{"weight_map": ', "broken: "),
    "too deep": ("[" * 100_000, "broken: "),
}


@pytest.mark.parametrize(("text", "message"), INDICES.values(), ids=INDICES)
def test_an_odd_index_of_weights_is_one_line(folder, text, message):
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (folder / "model" / "model-1.safetensors").touch()
    (folder / "model" / "model.safetensors.index.json").write_text(text)
    said = refused("explain", "model", "x.npy", "-o", "out")
    assert message in said
    assert "model/model.safetensors.index.json" in said
    assert said.endswith("Download it again.")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


@pytest.mark.parametrize("port", [99999, -1, None])
def test_a_port_that_cannot_be_had_is_one_line(folder, taken, port):
    (folder / "out").mkdir()
    small_study().to_netcdf(folder / "out" / "study.nc")
    asked = taken if port is None else port
    said = refused("view", "out", "--port", asked)
    assert said.startswith(f"expected a free port of this machine, from 0 to 65535; got {asked} (")
    assert said.endswith("Port 0 is any free one.")
