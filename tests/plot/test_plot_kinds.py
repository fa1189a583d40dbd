"""Figures of tokens, signals and volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from figures_read import assert_readable
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor, nn

import salience
from salience import SalienceError, plot


def example(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def strip(axes):
    (image,) = axes.get_images()
    return image


def column(figure, title, rows):
    at = next(i for i, axes in enumerate(figure.axes) if axes.get_title() == title)
    return figure.axes[at : at + rows]


# -- tokens ----------------------------------------------------------------------------------------

IDS = torch.tensor([[5, 1, 30, 2], [7, 0, 0, 0], [1, 2, 3, 4]])


def test_a_strip_is_a_method_on_one_scale_for_all_samples():
    one, two = example(3, 4), 1e-4 * example(3, 4, seed=1)
    one[1] *= 50
    figure = plot.tokens(IDS, {"one": one, "two": two}, titles=["a", "b", "c"], clip=90)
    for i, axes in enumerate(figure.axes[:3]):
        picture = strip(axes).get_array()
        for row, values in zip(picture, (one, two), strict=True):
            limit = np.percentile(values.double().abs(), 90)
            np.testing.assert_allclose(row, values[i] / limit, rtol=1e-6)
        assert strip(axes).get_clim() == (-1, 1)
        assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
        assert [label.get_text() for label in axes.get_xticklabels()] == [
            str(int(number)) for number in IDS[i]
        ]
        assert axes.get_title(loc="left") == "abc"[i]
    assert "percentile 90 of |relevance|" in " ".join(figure.texts[0].get_text().split())


@pytest.mark.parametrize("length", [1, 6, 64, 65, 300])
def test_tokens_of_any_length_are_readable(length):
    ids = torch.arange(2 * length).view(2, length) + 28_000
    names = ["gradient", "integrated_gradients", "excitation_backprop"]
    figure = plot.tokens(ids, {name: example(2, length) for name in names},
                         titles=["a_long_file_name_of_it.txt class 123", "$x_1"])  # fmt: skip
    numbers = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ("28000" in numbers) == (length <= 64)
    for axes in figure.axes[:2]:
        axes.set_xticks([])  # numbers on end stand close together
    assert_readable(figure)


def test_maps_of_nothing_are_drawn():
    figure = plot.tokens(IDS, {"zero": torch.zeros(3, 4)})
    assert not np.asarray(strip(figure.axes[0]).get_array()).any()
    assert figure.axes[2].get_title(loc="left") == "sample 2"


TOKENS = {
    "maps": ({"relevance": {"a": example(3, 4, 8)}}, r"\(3, 4\); got a of \(3, 4, 8\). Sum maps"),
    "ids": ({"ids": IDS[0]}, r"expected ids \(B, T\).*got \(4,\)"),
    "none": ({"relevance": {}}, r"at least one method; got \(3, 4\) and 0"),
    "titles": ({"titles": ["a"]}, "expected 3 titles, one for each sample; got 1"),
    "clip": ({"clip": 101}, "expected a percentile above 0, up to 100; got clip=101"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_tokens_that_cannot_be_drawn(case):
    change, message = TOKENS[case]
    given = {"ids": IDS, "relevance": {"a": example(3, 4)}} | change
    with pytest.raises(SalienceError, match=message):
        plot.tokens(given.pop("ids"), given.pop("relevance"), **given)


# -- signals and volumes ---------------------------------------------------------------------------


def behind(axes) -> np.ndarray:
    """The grey line behind a map."""
    (line,) = (line for line in axes.get_lines() if line.get_color() == "0.7")
    return np.asarray(line.get_ydata())


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_of_signals_lie_over_the_signal(channels):
    x, maps = 7 + example(2, channels, 30), example(2, channels, 30, seed=1)
    figure = plot.maps(x, {"a": maps}, clip=100)
    limit = float(maps.double().sum(1).abs().max())
    for i, axes in enumerate(column(figure, "a", 2)):
        signal = x[i].double().mean(0).numpy()
        unit = (signal - signal.min()) / np.ptp(signal)
        np.testing.assert_allclose(behind(axes), (2 * unit - 1) * limit, atol=1e-9)
        assert axes.get_lines()[0].get_zorder() < min(c.get_zorder() for c in axes.collections)
        assert len(axes.collections) == 2  # what is above 0, and below
    assert "behind maps in grey the input" in " ".join(figure.texts[0].get_text().split())
    for axes in column(figure, "input", 2):
        assert not [line for line in axes.get_lines() if line.get_color() == "0.7"]


def test_constant_signals_and_vectors_have_nothing_behind_their_maps():
    for x in (torch.ones(1, 1, 30), example(1, 30)):
        figure = plot.maps(x, {"a": example(*x.shape)})
        (axes,) = column(figure, "a", 1)
        assert not [line for line in axes.get_lines() if line.get_color() == "0.7"]


def study(net: nn.Module, x: Tensor):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in net:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return salience.randomization_test(
        net.eval(),
        x,
        "lrp_epsilon",
        0,
        cascade=salience.Cascade(repeats=1),
        keep_maps=2,
        progress=False,
    ).data


def test_the_cascade_of_a_signal():
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(84, 2))
    x = example(2, 2, 30)
    figure = plot.cascade(study(net, x), 1)
    signal = x[1].double().mean(0).numpy()
    for axes in figure.axes[1:]:  # after the input
        assert np.corrcoef(behind(axes), signal)[0, 1] == pytest.approx(1)
        low, high = axes.get_ylim()
        assert low < behind(axes).min() < 0 < behind(axes).max() < high
    assert "behind maps in grey the input" in " ".join(figure.texts[-1].get_text().split())
    assert_readable(figure)


def test_the_cascade_of_a_volume_names_its_slice():
    net = nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 3 * 4 * 5, 2))
    x = example(2, 1, 5, 6, 7)
    data = study(net, x)
    figure = plot.cascade(data, [0, 1])
    assert [axes.get_title() for axes in figure.axes if "input" in axes.get_title()] == [
        "input 0, slice 3 of 5", "input 1, slice 3 of 5"
    ]  # fmt: skip
    np.testing.assert_allclose(strip(figure.axes[0]).get_array(), x[0, 0, 2], rtol=1e-6)
    trained = figure.axes[1]
    np.testing.assert_allclose(strip(trained).get_array(), data["maps"].values[0, 0, 0, 0, 2])
    assert_readable(figure)


@pytest.mark.parametrize("count", [3, 200])
def test_the_cascade_of_ids_has_them_in_words(count):
    net = nn.Sequential(nn.Embedding(99, 3), nn.Flatten(), nn.Linear(3 * count, 2))
    ids = torch.arange(2 * count).view(2, count) % 99
    figure = plot.cascade(study(net, ids))
    (text,) = figure.axes[0].texts
    words = text.get_text().split()
    assert words[:3] == ["0", "1", "2"] and (words[-1] == "...") == (count == 200)
    assert not figure.axes[0].patches and not figure.axes[0].get_images()
    renderer = FigureCanvasAgg(figure).get_renderer()
    room, box = figure.axes[0].get_window_extent(renderer), text.get_window_extent(renderer)
    assert room.x0 <= box.x0 < box.x1 <= room.x1 and room.y0 <= box.y0 < box.y1 <= room.y1
    text.remove()
    assert_readable(figure)
