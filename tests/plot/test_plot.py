"""Figures of maps: scales, colours and shapes."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from salience import SalienceError, plot


def example(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def column(figure, name, rows):
    """The axes of one column."""
    titles = [axes.get_title().replace("\n", " ").split(",")[0] for axes in figure.axes]
    at = titles.index(name)
    return figure.axes[at : at + rows]


def image_of(axes):
    (image,) = axes.get_images()
    return image


def test_one_symmetric_scale_per_column_of_signed_maps():
    x, maps = torch.rand(3, 3, 8, 8), example(3, 3, 8, 8)
    maps[1] *= 100  # rows of different size share the scale
    figure = plot.maps(x, {"a": maps, "b": 1e-3 * maps}, clip=90)
    summed = maps.double().sum(1).numpy()
    limit = np.percentile(np.abs(summed), 90)
    for name, factor in (("a", 1), ("b", 1e-3)):
        images = [image_of(axes) for axes in column(figure, name, 3)]
        assert {image.get_cmap().name for image in images} == {"RdBu_r"}
        for image, row in zip(images, summed, strict=True):
            np.testing.assert_allclose(image.get_clim(), (-limit * factor, limit * factor), 1e-6)
            np.testing.assert_allclose(image.get_array(), row * factor, 1e-5)  # float32 maps


def test_maps_without_negative_values_are_sequential_from_0():
    maps = example(2, 1, 8, 8).abs()
    figure = plot.maps(torch.rand(2, 1, 8, 8), {"a": maps}, clip=100)
    for axes in column(figure, "a", 2):
        assert image_of(axes).get_cmap().name == "magma"
        np.testing.assert_allclose(image_of(axes).get_clim(), (0, float(maps.max())))


def test_channels_abs():
    maps = example(1, 2, 4, 4)
    figure = plot.maps(torch.rand(1, 2, 4, 4), {"a": maps}, channels="abs")
    (axes,) = column(figure, "a", 1)
    np.testing.assert_allclose(image_of(axes).get_array(), maps.abs().sum(1)[0], 1e-6)


def test_one_color_bar_per_column_whose_label_tells_the_clipping():
    figure = plot.maps(torch.rand(4, 3, 8, 8), {"a": example(4, 3, 8, 8)}, clip=99)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels.count("clipped at 99 %") == 1
    assert len(figure.axes) == 4 * 2 + 1  # an RGB input has no scale


def test_rgb_inputs_are_scaled_by_their_own_range():
    x = torch.stack([torch.rand(3, 8, 8), 50 * torch.rand(3, 8, 8) - 10])
    figure = plot.maps(x, {"a": example(2, 3, 8, 8)})
    for axes in column(figure, "input", 2):
        picture = image_of(axes).get_array()
        assert picture.shape == (8, 8, 3)
        assert (picture.min(), picture.max()) == (0, 1)


@pytest.mark.parametrize(
    "shape",
    [(2, 5), (2, 200), (2, 2, 50), (2, 20, 30), (2, 1, 6, 9), (2, 3, 5, 6, 7), (1, 3, 8, 8)],
)
def test_every_shape_is_a_valid_picture_without_overlapping_text(shape):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    names = ["gradient", "integrated_gradients", "excitation_backprop"]
    maps = {name: 1e-5 * example(*shape, seed=i) for i, name in enumerate(names)}
    figure = plot.maps(
        example(*shape), maps, titles=["a_long_file_name_of_it.png class 123"] * shape[0]
    )
    buffer = io.BytesIO()
    figure.savefig(buffer)
    assert Image.open(buffer).size[0] > 300
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [axes.title.get_window_extent(renderer) for axes in figure.axes if axes.get_title()]
    boxes += [
        axes.yaxis.label.get_window_extent(renderer) for axes in column(figure, "input", shape[0])
    ]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    for axes in figure.axes:
        if axes.get_xlabel():
            boxes.append(axes.xaxis.label.get_window_extent(renderer))
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_volumes_show_the_central_slice_and_say_so():
    x = example(1, 1, 5, 6, 7)
    figure = plot.maps(x, {"a": x})
    (axes,) = column(figure, "a", 1)
    np.testing.assert_allclose(image_of(axes).get_array(), x[0, 0, 2], 1e-6)
    assert figure.axes[0].get_title() == "input, slice 3 of 5"


def test_lines_share_their_limits_within_a_column():
    maps = example(2, 1, 30)
    maps[0] *= 10
    first, second = column(plot.maps(example(2, 1, 30), {"a": maps}), "a", 2)
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] == -first.get_ylim()[1]


def test_maps_that_are_zero_or_not_finite_everywhere():
    x = torch.rand(1, 1, 4, 4)
    figure = plot.maps(x, {"zero": 0 * x, "nan": x * torch.nan})
    figure.savefig(io.BytesIO())


def test_text_is_literal():
    figure = plot.maps(
        torch.rand(1, 1, 4, 4), {r"$\frac$": torch.rand(1, 1, 4, 4)}, titles=[r"$[red]\frac$"]
    )
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_ylabel() == r"$[red]\frac$"


def test_a_figure_of_its_own_without_pyplot():
    code = (
        "import sys, torch, salience.plot as p\n"
        "p.maps(torch.rand(1, 1, 4, 4), {'a': torch.rand(1, 1, 4, 4)})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import matplotlib.pyplot as plt

    figure = plot.maps(torch.rand(1, 1, 4, 4), {"a": torch.rand(1, 1, 4, 4)})
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.rand(4)}, r"expected inputs \(B, F\)"),
        ({"maps": {"a": torch.rand(1, 1, 4, 5)}}, r"maps shaped like the inputs .* a of"),
        ({"titles": ["a", "b"]}, "expected 1 titles, one for each input; got 2"),
        ({"clip": 0}, "expected a percentile above 0"),
        ({"channels": "max"}, "expected channels='sum' or 'abs'"),
    ],
)
def test_errors(change, message):
    given = {"inputs": torch.rand(1, 1, 4, 4), "maps": {"a": torch.rand(1, 1, 4, 4)}} | change
    with pytest.raises(SalienceError, match=message):
        plot.maps(given.pop("inputs"), given.pop("maps"), **given)
