"""The figures of a randomisation test: similarity and maps down the cascade."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from chosen import chosen
from figures_read import assert_readable, texts
from matplotlib.figure import Figure
from randomized import study_of
from torch import nn

import salience
from salience import SalienceError, plot
from salience._scores.interval import interval
from salience.plot._pictures import shortened

SINGLE = [name for name, method in salience.methods.items() if method.single_pass]
CONTROLS = ["input", "edges", "random_map"]


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
    return study_of(network, x, target=0, **options)


@pytest.fixture(scope="module")
def study():
    few = {"smoothgrad": {"n": 2}, "integrated_gradients": {"max_steps": 4, "tol": 1.0}}
    return deep(3, methods=chosen(few))


def test_the_overlap_check_sees_overlaps():
    figure = Figure()
    figure.text(0.5, 0.5, "one word")
    figure.text(0.55, 0.5, "another")
    with pytest.raises(AssertionError, match="'one word' overlaps 'another'"):
        assert_readable(figure)


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
    assert len({lines[m].get_color() for m in SINGLE}) == min(8, len(SINGLE))  # of eight colours
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
    for stage, held in enumerate(values, 1):
        place = axes.get_lines()[number].get_xdata()[stage]
        at = drawn[np.isclose(drawn[:, 0], place), 1]
        np.testing.assert_allclose(
            (at.min(), at.max()), interval(held, bounds=(-1, 1), level=0.8), atol=1e-12
        )
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
        Weighted().eval(),
        x,
        ["gradient"],
        cascade=salience.Cascade(repeats=2),
        keep_maps=1,
        progress=False,
    ).data
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
        "    'gradient', keep_maps=1, progress=False)\n"
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
