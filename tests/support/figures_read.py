"""What tests of figures share: all texts of one, and whether they can be read."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg


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
