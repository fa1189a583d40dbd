"""The figure of attribution by input value."""

import numpy as np
import pytest
import torch
from figures_read import assert_readable

import salience
from salience import SalienceError, plot


def shares(maps=None, edges=(0, 1)):
    x = torch.randn(5, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    several = {"the input itself": x, "its_square": x.square(), r"$\frac$": x.exp()}
    maps = several if maps is None else maps(x)
    return salience.attribution_by_value(maps, x, edges)


def test_dots_intervals_and_chance():
    data = shares()
    figure = plot.attribution_by_value(data)
    (axes,) = figure.axes
    for k, container in enumerate(axes.containers):
        dots, _, (bars,) = container
        np.testing.assert_allclose(dots.get_xdata(), data["mean"].values[:, k])
        ends = np.array([segment[:, 0] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends[:, 0], data["low"].values[:, k], atol=1e-12)
        np.testing.assert_allclose(ends[:, 1], data["high"].values[:, k], atol=1e-12)
    dotted = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == ":"]
    np.testing.assert_allclose(dotted, data["chance"].values)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(data["class"].values)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(data["method"].values)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first method is on top


@pytest.mark.parametrize("edges", [(0,), (-1, 0, 1, 2, 3)])
@pytest.mark.parametrize("nested", [False, True])
def test_texts_do_not_overlap(edges, nested):
    names = [f"a_rather_long_method_{i}" for i in range(8)]
    flat = lambda x: {name: x + i for i, name in enumerate(names)}  # noqa: E731
    data = shares((lambda x: {"omega_m": flat(x), "sigma_8": flat(x)}) if nested else flat, edges)
    figure = plot.attribution_by_value(data)
    assert len(figure.axes) == 1 + nested
    if nested:
        assert [axes.get_title() for axes in figure.axes] == ["omega_m", "sigma_8"]
    assert_readable(figure)


def test_one_map_without_a_name():
    assert len(plot.attribution_by_value(shares(lambda x: x)).axes) == 1


def test_other_datasets_are_refused():
    with pytest.raises(SalienceError, match="attribution_by_value; got one without low"):
        plot.attribution_by_value(shares().drop_vars("low"))
