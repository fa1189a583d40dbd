"""The command line with several inputs, with token ids, signals and volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray
from PIL import Image
from typer.testing import CliRunner

import salience
from salience._cli.app import app

FACTORY = """
import torch
from torch import nn

class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 4)
        self.mix, self.head = nn.Conv1d(4, 5, 3, padding=1), nn.Linear(5, 3)
    def forward(self, ids):
        h = torch.relu(self.mix(self.words(ids).mT)).mean(-1)
        return {"scores": self.head(h)}, h

class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.text = Text()
        self.look, self.read = nn.Linear(36, 4), nn.Linear(5, 4)
        self.head = nn.Linear(3 + 4 + 4 + 1, 2)
    def forward(self, ids, image, row, mask, scale, age):
        t = self.text(ids * mask)[0]["scores"]
        parts = [t, self.look(image.flatten(1)).relu(), self.read(row).relu(), age[:, None]]
        return self.head(torch.cat(parts, 1)) * scale

def normed():
    return nn.Sequential(nn.Embedding(30, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(24, 3))

def bag():
    return nn.Sequential(nn.EmbeddingBag(30, 4), nn.Linear(4, 3))

def signal():
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(152, 3))

def volume():
    return nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 3))
"""
IDS = np.random.default_rng(0).integers(1, 30, (3, 6))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    random = np.random.default_rng(0)
    np.save("ids.npy", IDS.astype(">i4"))
    np.savez("both.npz", **both())
    np.save("signal.npy", random.normal(size=(3, 2, 40)).astype("f4"))
    np.save("volume.npy", random.normal(size=(3, 1, 6, 7, 5)).astype("f4"))
    return tmp_path


def both():
    random = np.random.default_rng(1)
    return {
        "ids": IDS.astype("u2"), "mask": IDS > 4, "image": random.normal(size=(3, 1, 6, 6)),
        "row": random.normal(size=(3, 5)).astype("f4"), "scale": np.array(2.0),
        "age": random.normal(size=3),
    }  # fmt: skip


def made(name):
    scope = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(FACTORY, scope)
        return scope[name]().eval()


def run(command, *args):
    return CliRunner().invoke(app, [command, *map(str, args)])


def explained(*args):
    result = run("explain", *args, "-o", "out")
    assert result.exit_code == 0, result.output
    return result, salience.open("out")


def checked(*args):
    result = run("check", *args, "--repeats", 1, "-o", "out")
    assert result.exit_code == 0, result.output
    with xarray.open_dataset("out/study.nc") as file:
        return result, file.load()


def pictures(folder):
    found = sorted(file.name for file in (folder / "out").glob("*.png"))
    for name in found:
        with Image.open(folder / "out" / name) as picture:
            picture.verify()
    return found


# -- salience explain ------------------------------------------------------------------------------


def test_ids_have_relevance_per_token(folder):
    result, file = explained("nets.py:Text", "ids.npy", "--output", "0.scores", "--target", 1,
                             "--methods", "gradient,lrp_epsilon")  # fmt: skip
    ids = torch.from_numpy(IDS)
    maps = salience.explain(made("Text"), ids, ["gradient", "lrp_epsilon"], 1, output="0.scores")
    with xarray.open_dataset("out/maps.nc") as held:
        per_token = held.maps.load()[:, 0]
    for row, (name, values) in enumerate(maps.items()):
        assert file[name].shape == (3, 6, 4)
        np.testing.assert_array_equal(file[name], values)
        np.testing.assert_allclose(per_token[row], values.numpy().sum(-1), atol=1e-7)
    np.testing.assert_array_equal(file.error["lrp_epsilon"], maps.error["lrp_epsilon"])
    np.testing.assert_array_equal(file.inputs, IDS)
    assert file.inputs.dtype == torch.int64
    assert pictures(folder) == ["overview.png"] and "out/overview.png" in result.stdout
    assert run("report", "out", "-o", "page.html").exit_code == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert '"methods":["gradient","lrp_epsilon"]' in page


def test_several_inputs_have_their_own_maps_and_pictures(folder):
    result, file = explained("nets.py:Both", "both.npz", "--methods", "gradient,lrp_epsilon",
                             "--batch-size", 2)  # fmt: skip
    x = {name: torch.as_tensor(part.astype("i8") if part.dtype.kind == "u" else part)
         for name, part in both().items()}  # fmt: skip
    x = {name: part.float() if part.is_floating_point() else part for name, part in x.items()}
    maps = salience.explain(made("Both"), x, ["gradient", "lrp_epsilon"])
    for method, held in maps.items():
        assert set(held) == {"ids", "image", "row", "age"}
        for name, values in held.items():
            np.testing.assert_allclose(file[method][name], values, rtol=1e-5, atol=1e-8)
        assert set(file[method]) == set(held)
    for name in both().keys() - {"scale"}:
        np.testing.assert_allclose(file.inputs[name], both()[name], rtol=1e-6)
    assert file.error["lrp_epsilon"].shape == (3,)
    shapes = "{'ids': (3, 6), 'mask': (3, 6), 'image': (3, 1, 6, 6)"
    assert file.attrs["data_shape"].startswith(shapes)
    assert pictures(folder) == ["overview_ids.png", "overview_image.png", "overview_row.png"]
    assert "No picture of age: its maps have no space." in result.stdout
    refused = run("report", "out", "-o", "page.html")
    assert refused.exit_code == 2
    assert "expected scores, or the maps of one input" in refused.stderr


def test_names_of_inputs_are_no_paths(folder):
    (folder / "odd.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n"
        "    def forward(self, **x):\n        return super().forward(sum(x.values()))\n"
        "def net(): return Net(5, 2)\n"
    )
    np.savez("odd.npz", **{"../../a": np.ones((2, 5)), "b c": np.ones((2, 5))})
    explained("odd.py:net", "odd.npz", "--methods", "gradient")
    assert pictures(folder) == ["overview_______a.png", "overview_b_c.png"]


def test_maps_without_space_have_no_picture(folder):
    result, file = explained("nets.py:bag", "ids.npy", "--methods", "gradient")
    assert file["gradient"].shape == (3, 4)
    assert pictures(folder) == []
    assert "No picture of the input: its maps have no space." in result.stdout


def test_methods_that_do_not_apply_are_left_out_unless_named(folder):
    result, file = explained("nets.py:normed", "ids.npy", "--methods", "single-pass")
    assert "deep_taylor" not in file and "lrp_epsilon" in file
    assert "Warning: deep_taylor is left out: " in result.stderr
    refused = run("explain", "nets.py:normed", "ids.npy", "--methods", "deep_taylor", "-o", "no")
    assert refused.exit_code == 2
    assert "got 'layer_norm'" in refused.stderr


@pytest.mark.parametrize("methods", ["all", "single-pass"])
def test_a_parameter_changes_nothing_about_what_check_leaves_out(folder, methods):
    few = ["--param", "lrp_epsilon.eps=0.1", "--stages", 1]
    few += ["--param", "smoothgrad.n=2"] if methods == "all" else []
    result, data = checked("nets.py:normed", "ids.npy", "--methods", methods, *few)
    names = list(data.method.values)
    assert "deep_taylor" not in names and {"lrp_epsilon", "gradient"} <= set(names)
    assert "Warning: deep_taylor is left out: " in result.stderr
    assert "'eps': 0.1" in data.attrs["method_parameters"]


# -- salience check --------------------------------------------------------------------------------


def test_check_of_ids_keeps_relevance_per_token(folder):
    _, data = checked("nets.py:Text", "ids.npy", "--output", "0.scores", "--target", 1,
                      "--methods", "lrp_epsilon", "--show", 2)  # fmt: skip
    expected = salience.randomization_test(
        made("Text"),
        torch.from_numpy(IDS),
        "lrp_epsilon",
        1,
        cascade=salience.Cascade(repeats=1),
        output="0.scores",
        progress=False,
    ).data
    assert list(data.stage.values) == ["head.weight", "mix.weight", "words.weight"]
    for score in ("spearman", "spearman_abs", "spearman_of_abs", "pearson"):
        np.testing.assert_array_equal(data[score], expected[score])
    assert not {"ssim", "hog"} & set(data)
    assert data["maps"].shape == (2, 4, 2, 6) and data["inputs"].dtype == np.int64
    assert pictures(folder) == ["cascade.png", "plane.png", "similarity.png"]
    assert run("report", "out", "-o", "page.html").exit_code == 0
    refused = run("report", "out", "-o", "page.html", "--edges", "0,3")
    assert refused.exit_code == 2 and "classes of their values; got ids" in refused.stderr


def test_check_of_several_inputs_has_scores_and_no_maps(folder):
    result, data = checked("nets.py:Both", "both.npz", "--methods", "lrp_epsilon")
    assert "Maps of several inputs are scored as one, and not kept" in result.stdout
    assert "Faithfulness was not measured: expected one explained input" in result.stdout
    assert "maps" not in data and pictures(folder) == ["similarity.png"]
    assert data.attrs["data_shape"].startswith("{'ids': (3, 6)")
    assert list(data.stage.values)[-1] == "text.words.weight"
    assert run("report", "out", "-o", "page.html").exit_code == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "lrp_epsilon" in page and "panel-0" not in page
    silent, _ = checked("nets.py:Both", "both.npz", "--methods", "lrp_epsilon", "--show", 0,
                        "--overwrite")  # fmt: skip
    assert "not kept" not in silent.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [(("--cell", "99"), "at most 40"), (("--replacement", "blurr"), "Did you mean 'blur'"),
     (("--only", "faithfulnes"), "faithfulness"), (("--cell", "a"), "whole numbers for --cell"),
     (("--subsets", "1"), "subsets"), (("--window", "1", "--cell", "2"), "window at least")],
)  # fmt: skip
def test_a_mistake_about_what_is_removed_is_an_error(folder, options, told):
    arguments = ("nets.py:signal", "signal.npy", "-o", "out", "--methods", "gradient", *options)
    done = run("check", *arguments)
    assert done.exit_code == 2 and told in " ".join(done.output.split())
    assert not (folder / "out").exists()


@pytest.mark.parametrize("kind", ["signal", "volume"])
def test_signals_and_volumes(folder, kind):
    explained(f"nets.py:{kind}", f"{kind}.npy", "--methods", "gradient,lrp_epsilon")
    assert pictures(folder) == ["overview.png"]
    _, data = checked(f"nets.py:{kind}", f"{kind}.npy", "--methods", "gradient", "--show", 2,
                      "--overwrite")  # fmt: skip
    assert not {"ssim", "hog"} & set(data)
    assert pictures(folder) == ["cascade.png", "plane.png", "similarity.png"]
    assert run("report", "out", "-o", "page.html").exit_code == 0


MISTAKES = {
    "ssim of ids": (["check", "nets.py:Text", "ids.npy", "--output", "0.scores", "--score", "ssim"],
                    "expected a single floating-point input for ssim; got several inputs, or ids"),
    "names": (["explain", "nets.py:Text", "both.npz", "--output", "0.scores"],
              "A dict is given by names"),
    "integers that nothing embeds": (["explain", "nets.py:signal", "ids.npy"],
                                     "got torch.int64 that no embedding reads"),
    "output": (["explain", "nets.py:Text", "ids.npy", "--output", "0.score"],
               "Did you mean 'scores'?"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_message_and_exit_code_2(folder, args, message):
    result = run(*args, "-o", "out")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
