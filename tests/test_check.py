"""`salience check` and the figures of a randomisation test."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import salience
from salience import SalienceError, plot, results
from salience.cli import app
from salience.pictures import shortened

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
SINGLE = [name for name, method in salience.methods.items() if method.run is None]
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


def deep(stages, **options):
    """The test on a deep network: many stages, long names."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.feature_extraction = nn.ModuleList(
                nn.ModuleDict({"depthwise_separable_convolution": nn.Conv2d(2, 2, 3, padding=1)})
                for _ in range(stages)
            )

        def forward(self, x):
            for i, block in enumerate(self.feature_extraction):
                x = block["depthwise_separable_convolution"](x.relu() if i else x)
            return x.mean((2, 3))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Encoder().eval()
        for layer in network.feature_extraction:
            nn.init.dirac_(layer["depthwise_separable_convolution"].weight)
        x = torch.rand(2, 2, 8, 8)
    options = {"repeats": 2, "keep_maps": 2, "progress": False, **options}
    return salience.randomization_test(network, x, target=0, **options)


@pytest.fixture(scope="module")
def study():
    return deep(3, methods=list(salience.methods), parameters={
        "smoothgrad": {"n": 2}, "integrated_gradients": {"max_steps": 4, "tol": 1.0}})  # fmt: skip


def texts(figure):
    """Everything that is written in a figure, with its box."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.savefig(io.BytesIO())  # constrained layouts find their places when they are drawn
    found = list(figure.texts)
    for legend in figure.legends:
        found += [*legend.get_texts(), legend.get_title()]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    return [(t, t.get_window_extent(renderer)) for t in found if t.get_text() and t.get_visible()]


def corners(text, renderer):
    """The four corners of a text, which may be turned."""
    angle, box = np.deg2rad(text.get_rotation()), text.get_window_extent(renderer)
    text.set_rotation(0)
    flat = text.get_window_extent(renderer)
    text.set_rotation(np.rad2deg(angle))
    sides = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * [flat.width, flat.height]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return sides @ turn.T + [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]


def apart(a, b):
    """Whether a line separates two convex shapes (the separating axis theorem)."""
    for shape in (a, b):
        for edge in np.roll(shape, -1, 0) - shape:
            axis = np.array([-edge[1], edge[0]])
            first, second = a @ axis, b @ axis
            if first.max() <= second.min() or second.max() <= first.min():
                return True
    return False


def assert_readable(figure):
    """No text overlaps another one or a picture, or leaves the figure."""
    found = texts(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    shapes = [(text.get_text(), corners(text, renderer)) for text, _ in found]
    boxes = [axes.get_window_extent(renderer) for axes in figure.axes]
    pictures = [box.corners()[[0, 1, 3, 2]] for box in boxes]
    width, height = figure.bbox.width, figure.bbox.height
    for i, (word, shape) in enumerate(shapes):
        assert shape.min() >= -1 and (shape <= [width + 1, height + 1]).all(), word
        assert all(apart(shape, picture) for picture in pictures), f"{word!r} is on a picture"
        for other, beside in shapes[i + 1 :]:
            assert apart(shape, beside), f"{word!r} overlaps {other!r}"


def test_the_overlap_check_sees_overlaps():
    figure = Figure()
    figure.text(0.5, 0.5, "one word")
    figure.text(0.55, 0.5, "another")
    with pytest.raises(AssertionError, match="'one word' overlaps 'another'"):
        assert_readable(figure)


def test_scores_verdicts_and_figures_of_the_command(folder):
    result = checked("nets.py:net", "x.npy", "--repeats", 2, "--seed", 4, "--target", "3",
                     "--show", 1)  # fmt: skip
    x = torch.from_numpy(np.load("x.npy"))
    expected = salience.randomization_test(
        made("net", 4), x, target=3, repeats=2, seed=4, keep_maps=1, progress=False
    )
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
    told = json.loads((folder / "out/verdicts.json").read_text())
    flat = " ".join(result.stdout.split())
    for name, verdict in judged.items():
        assert told["verdicts"][name]["verdict"] == verdict.verdict
        assert told["verdicts"][name]["retention"] == pytest.approx(verdict.retention)
        assert (verdict.sentence in flat) == (verdict.role == "method")
    assert "Binder 2023" in flat
    assert told["thresholds"] == [0.2, 0.4]
    for name in ("study.nc", "verdicts.json", "similarity.png", "cascade.png"):
        assert f"out/{name}" in result.stdout
    for name in ("similarity.png", "cascade.png"):
        with Image.open(f"out/{name}") as picture:
            picture.verify()
    assert sorted(p.name for p in (folder / "out").iterdir()) == sorted(
        ["study.nc", "verdicts.json", "similarity.png", "cascade.png"]
    )


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
    assert json.loads((folder / "out/verdicts.json").read_text())["score"] == "pearson"
    assert not (folder / "out/cascade.png").exists()


def test_zarr_is_written_twice(folder):
    for seed in (1, 2):
        checked("nets.py:table", "t.npy", "--format", "zarr", "--methods", "gradient",
                "--repeats", 1, "--seed", seed)  # fmt: skip
        with xarray.open_zarr("out/study.zarr", consolidated=False) as data:
            assert data.attrs["seed"] == seed
            assert data["maps"].shape == (1, 3, 2, 6)
    assert not list((folder / "out").glob(".*"))


def test_uncovered_operations_are_named(folder):
    result = checked("nets.py:table", "t.npy", "--methods", "guided_backprop", "--repeats", 1)
    assert "guided_backprop has no rule for gelu" in result.stdout
    assert json.loads((folder / "out/verdicts.json").read_text())["uncovered"] == {
        "guided_backprop": ["gelu"]
    }


def test_a_part_of_the_output(folder):
    checked("nets.py:Parts", "t.npy", "--output", "logits", "--methods", "gradient",
            "--repeats", 1)  # fmt: skip
    with xarray.open_dataset("out/study.nc") as data:
        assert data.attrs["output"] == "logits"
    refused = run("nets.py:Parts", "t.npy", "--output", "logit", "-o", "out")
    assert refused.exit_code == 2
    assert "Did you mean 'logits'?" in refused.stderr


def test_one_sample_and_one_repeat(folder):
    np.save("one.npy", np.load("x.npy")[:1])
    checked("nets.py:net", "one.npy", "--repeats", 1, "--methods", "gradient")
    told = json.loads((folder / "out/verdicts.json").read_text())
    assert set(told["verdicts"]) == {"gradient", *CONTROLS}


def test_undefined_similarities_are_counted(folder):
    np.save("flat.npy", np.zeros((2, 6), np.float32))  # x * gradient is constant
    result = checked("nets.py:table", "flat.npy", "--methods", "input_x_gradient",
                     "--repeats", 1, "--target", 0)  # fmt: skip
    assert "similarities of input_x_gradient were undefined" in " ".join(result.stdout.split())
    told = json.loads((folder / "out/verdicts.json").read_text())["verdicts"]["input_x_gradient"]
    assert told["retention"] is None
    assert told["undefined"] > 0


MISTAKES = {
    "model": (["none.py:net", "x.npy"], "none.py, which is not there"),
    "data": (["nets.py:net", "none.npy"], "none.npy, which is not there"),
    "shape": (["nets.py:net", "t.npy"], "expected inputs that the network takes"),
    "method": (["nets.py:net", "x.npy", "--methods", "gradiant"], "Did you mean 'gradient'?"),
    "target": (["nets.py:net", "x.npy", "--target", "dog"], "expected a target: argmax"),
    "order": (["nets.py:net", "x.npy", "--order", "topdown"], "Did you mean 'top_down'?"),
    "repeats": (["nets.py:net", "x.npy", "--repeats", "0"], "at least one repeat"),
    "stages": (["nets.py:net", "x.npy", "--stages", "few"], "all or a number for --stages"),
    "many stages": (["nets.py:net", "x.npy", "--stages", "9"], "the network has 3"),
    "scores": (["nets.py:net", "x.npy", "--scores", "ssimm"], "Did you mean 'ssim'?"),
    "score": (["nets.py:net", "x.npy", "--score", "rank"], "expected a known score"),
    "score of small maps": (["nets.py:net", "x.npy", "--score", "hog"], "24 x 24 pixels for hog"),
    "init": (["nets.py:net", "x.npy", "--init", "Own"], "Did you mean 'own'?"),
    "batch norm": (["nets.py:net", "x.npy", "--batch-norm", "kep"], "Did you mean 'keep'?"),
    "format": (["nets.py:net", "x.npy", "--format", "csv"], "expected a known format (nc, zarr)"),
    "batch size": (["nets.py:net", "x.npy", "--batch-size", "0"], "batch size of at least 1"),
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
    tones = {"[red]method": ("method", "sensitive", 0.1), "input": ("negative control", "x", 1.0),
             "nan": ("method", "undefined", float("nan"))}  # fmt: skip
    judged = {
        name: salience.Verdict(name, role, verdict, kept, kept, kept, {}, 0, "")
        for name, (role, verdict, kept) in tones.items()
    }
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(results.verdict_table(judged))
    lines = console.export_text().splitlines()
    rows = [line for line in lines if line.startswith(("│", "├"))]
    assert [row.split()[1] for row in rows if row[0] == "│"] == ["[red]method", "nan", "input"]
    assert rows[2].startswith("├")
    assert "0.10" in rows[0] and "[0.10, 0.10]" in rows[0] and "sensitive" in rows[0]
    assert "negative control" in rows[3]


def test_similarity_has_a_line_per_method_and_control(study):
    figure = plot.similarity(study)
    (axes,) = figure.axes
    lines = {line.get_label().removesuffix(" (control)"): line for line in axes.get_lines()}
    assert set(lines) == {*salience.methods, *CONTROLS}
    for name, line in lines.items():
        means = study["spearman_abs"].sel({"method": name}).mean(("repeat", "sample"))
        np.testing.assert_allclose(line.get_ydata()[1:], means, 1e-12)
        control = name in CONTROLS
        assert (line.get_linestyle() == "--" and line.get_color() == "0.55") == control
        assert line.get_label().endswith("(control)") == control
    styles = {(lines[m].get_color(), lines[m].get_marker()) for m in salience.methods}
    assert len(styles) == len(salience.methods)
    assert len({lines[m].get_color() for m in SINGLE}) == len(SINGLE) == 8
    (legend,) = figure.legends
    shown = [text.get_text().removesuffix(" (control)") for text in legend.get_texts()]
    assert set(shown) == set(lines)
    assert set(shown[-3:]) == set(CONTROLS)


def test_similarity_bands_are_the_bootstrap_intervals(study):
    figure = plot.similarity(study, score="pearson", level=0.8)
    (axes,) = figure.axes
    bands = axes.collections[: len(salience.methods)]
    values = study["pearson"].sel({"method": "lrp_epsilon"}).values
    number = [str(m) for m in study["method"].values].index("lrp_epsilon")
    drawn = bands[number].get_paths()[0].vertices
    from salience.verdicts import interval

    for stage, held in enumerate(values, 1):
        place = axes.get_lines()[number].get_xdata()[stage]
        at = drawn[np.isclose(drawn[:, 0], place), 1]
        np.testing.assert_allclose((at.min(), at.max()), interval(held, level=0.8), atol=1e-12)
    assert "80% intervals" in figure.legends[0].get_title().get_text()


@pytest.mark.parametrize(
    ("score", "low"), [("spearman_abs", -0.02), ("spearman", -1.02)], ids=["absolute", "signed"]
)
def test_similarity_names_stages_in_the_order_of_the_cascade(study, score, low):
    study = study.copy(deep=True)
    study["spearman"][0, 0] = -0.9
    figure = plot.similarity(study, score=score)
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    names = [shortened(str(stage), 28) for stage in study["stage"].values]
    assert labels == ["trained", *names]
    assert figure.axes[0].get_ylim()[0] == low


def test_similarity_leaves_undefined_stages_out(study):
    study = study.copy(deep=True)
    study["spearman_abs"][0, 1] = np.nan
    line = plot.similarity(study).axes[0].get_lines()[0]
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), [False, False, True, False])


@pytest.mark.parametrize("stages", [1, 3, 45])
def test_texts_do_not_overlap(study, stages):
    held = study if stages == 3 else deep(stages, repeats=1)
    assert_readable(plot.similarity(held))
    assert_readable(plot.cascade(held, [0, 1]))


def test_cascade_shows_methods_by_stages(study):
    figure = plot.cascade(study, 1, clip=90)
    assert len(figure.axes) == 1 + len(salience.methods) * 4
    assert [text.get_text() for text in figure.texts[:-1]] == list(salience.methods)
    titles = [axes.get_title() for axes in figure.axes[1:5]]
    assert titles[0] == "trained"
    for title, stage in zip(titles[1:], study["stage"].values, strict=True):
        assert title.replace("\n", "") == shortened(str(stage), 26)
    row = list(salience.methods).index("lrp_epsilon")
    for column, axes in enumerate(figure.axes[1 + 4 * row : 5 + 4 * row]):
        summed = study["maps"].values[row, column, 1].astype(float).sum(0)
        (image,) = axes.get_images()
        np.testing.assert_allclose(image.get_array(), summed, 1e-6)
        limit = np.percentile(np.abs(summed), 90) or np.abs(summed).max() or 1.0
        np.testing.assert_allclose(image.get_clim(), (-limit, limit))
        kept = study["spearman_abs"].sel({"method": "lrp_epsilon"}).values[:, 0, 1]
        wanted = f"{kept[column - 1]:.2f}" if column else ""
        assert axes.get_xlabel() == wanted
    caption = figure.texts[-1].get_text().replace("\n", " ")
    assert "own scale up to percentile 90" in caption
    assert "summed over 2 channels" in caption


def test_cascade_shows_ten_columns_of_a_deep_network():
    data = deep(25, methods="gradient", repeats=1)
    figure = plot.cascade(data)
    titles = [axes.get_title().replace("\n", "") for axes in figure.axes]
    assert len(titles) == 1 + 10
    assert titles[-1] == shortened(str(data["stage"].values[-1]), 26)
    assert "9 of 25 scored stages" in figure.texts[-1].get_text().replace("\n", " ")


@pytest.mark.parametrize("shape", [(2, 6), (2, 100), (2, 1, 30), (2, 1, 4, 5, 6), (2, 3, 8, 8)])
def test_inputs_of_every_shape(shape):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1, 1, 1 + shape[1:].numel())[1:])

        def forward(self, x):
            return (x.flatten(1) * self.weight).sum(1, keepdim=True)

    shape = torch.Size(shape)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    data = salience.randomization_test(
        Weighted().eval(), x, ["gradient"], repeats=2, keep_maps=1, progress=False
    )
    assert_readable(plot.similarity(data))
    assert_readable(plot.cascade(data))


def test_names_are_literal_and_figures_their_own():
    strange = salience.Method(r"$\frac$", "", "")
    data = deep(1, methods=[strange], repeats=1)
    for figure in (plot.similarity(data), plot.cascade(data)):
        assert isinstance(figure, Figure)
        assert r"$\frac$" in [text.get_text() for text, _ in texts(figure)]
    code = (
        "import sys, torch, salience, salience.plot as p\n"
        "data = salience.randomization_test(torch.nn.Linear(6, 2).eval(), torch.rand(2, 6),\n"
        "    'gradient', repeats=1, keep_maps=1, progress=False)\n"
        "p.similarity(data), p.cascade(data)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: plot.similarity(d, score="rank"), "expected a known score of this dataset"),
        (lambda d: plot.similarity(d, score="maps"), "expected a known score of this dataset"),
        (lambda d: plot.similarity(d, level=95), "expected a level between 0 and 1; got 95"),
        (lambda d: plot.cascade(d, 2), "expected samples from 0 to 1; got 2"),
        (lambda d: plot.cascade(d, -1), "expected samples from 0 to 1; got -1"),
        (lambda d: plot.cascade(d, []), "expected at least one sample"),
        (lambda d: plot.cascade(d, clip=0), "expected a percentile above 0"),
        (lambda d: plot.cascade(d.drop_vars("maps")), r"with maps; got scores alone. .*keep_maps"),
    ],
)
def test_errors_of_figures(study, call, message):
    with pytest.raises(SalienceError, match=message):
        call(study)
