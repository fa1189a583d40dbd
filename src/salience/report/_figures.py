"""The page's Bokeh figures, one document: map panels with shared ranges, curves, attribution.

Names of the user reach Bokeh as plain text only; the page's own script fills in pixels and numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.document import Document
from bokeh.models import (
    BoxAnnotation,
    ColumnDataSource,
    FixedTicker,
    GlyphRenderer,
    HoverTool,
    LinearColorMapper,
    PlainText,
    Range1d,
)
from bokeh.plotting import figure

# after Okabe & Ito 2008, whose yellow is too faint for a line; the first is light in the dark
COLORS = "#7f7f7f #0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #8C6D1F".split()
DASHES = ("solid", "dashed", "dotdash")
HOVER = ("method", "stage", "similarity", "95% interval")  # of a dot, in words
_TICKS = 30


def panels(count: int, height: int, width: int, color: bool) -> list[figure]:
    """The input's panel and one for each method: pixels come later, ranges are shared."""
    x_range = Range1d(start=0, end=width, bounds=(0, width), name="x-range")
    y_range = Range1d(start=height, end=0, bounds=(0, height), name="y-range")
    below = _source("input", "image")
    cursor = _source("cursor", "x", "y")
    gray = LinearColorMapper(palette="Greys256", low=0, high=1, name="input-colours")
    place: dict[str, Any] = {"x": 0, "y": 0, "dw": width, "dh": height}
    made = []
    for number in range(count + 1):
        plot = _panel(number, x_range, y_range, height / width)
        if color:
            plot.image_rgba("image", source=below, **place)
        else:
            shown: dict[str, Any] = {"color_mapper": gray, **place}
            plot.image("image", source=below, **shown)
        if number:
            _add_map(plot, f"map-{number - 1}", place)
        cross: dict[str, Any] = {
            "marker": "cross",
            "size": 13,
            "line_width": 1.5,
            "line_color": "#0a8f3c",
        }
        plot.scatter("x", "y", source=cursor, fill_color=None, **cross)
        made.append(plot)
    return made


def _add_map(plot: figure, name: str, place: Mapping[str, Any]) -> None:
    """A map over the input; the script fills in pixels, colours and limits."""
    mapper = LinearColorMapper(
        palette=["#ffffff"], low=0, high=1, nan_color="#00000000", name=f"{name}-colours"
    )
    shown: dict[str, Any] = {"color_mapper": mapper, "name": f"{name}-image", **place}
    plot.image("image", source=_source(name, "image"), **shown)


def _source(name: str, *columns: str) -> ColumnDataSource:
    return ColumnDataSource(data={column: [] for column in columns}, name=name)


def _panel(number: int, x_range: Range1d, y_range: Range1d, ratio: float) -> figure:
    plot = figure(
        x_range=x_range,
        y_range=y_range,
        width=220,
        height=max(24, round(220 * ratio)),
        sizing_mode="scale_width",
        toolbar_location=None,
        min_border=0,
        outline_line_color=None,
        tools="",
        name=f"panel-{number}",  # gestures.js moves the ranges
    )
    plot.axis.visible = False
    plot.grid.visible = False
    plot.background_fill_color = None
    plot.border_fill_color = None
    return plot


def curves(roles: Sequence[str], stages: Sequence[str], height: int = 340) -> figure:
    """Similarity along the cascade, a line and a band per method, and behind the last stage their
    floors; the script fills the sources."""
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_range=Range1d(start=-0.3, end=len(stages) + 1.3),
        y_range=Range1d(start=-0.03, end=1.03, name="curve-range"),
        name="curves",
    )
    shade: dict[str, Any] = {"fill_color": "#888888", "fill_alpha": 0.1, "line_color": None}
    plot.add_layout(BoxAnnotation(left=len(stages) + 0.6, level="underlay", **shade))
    colored, targets = 0, []
    for number, role in enumerate(roles):
        style = {"line_color": "#888888", "line_dash": "dashed", "line_width": 1.2}
        if role == "method":
            color, dash = curve_style(colored)
            style = {"line_color": color, "line_dash": dash, "line_width": 2.0}
            colored += 1
        targets.append(_curve(plot, number, style, role == "method"))
    plot.add_tools(
        HoverTool(
            renderers=targets,
            name="curve-hover",
            point_policy="snap_to_data",
            tooltips=[(title, f"@{{{title}}}") for title in HOVER],
        )
    )
    _label(plot, ["trained", *stages], "floor")
    return _quiet(plot)


def _curve(plot: figure, number: int, style: dict[str, Any], band: bool) -> GlyphRenderer:
    """Line, band and dots of one method; hands back what the cursor hits, larger than a dot."""
    color, name = style["line_color"], f"curve-{number}"
    source = _source(name, "x", "mean", "low", "high", *HOVER)
    area = plot.varea(
        "x", "low", "high", source=source, fill_color=color, fill_alpha=0.12, name=f"{name}-band"
    )
    area.visible = band
    floors = _source(f"{name}-floors", "x", "mean", "size")
    drop: dict[str, Any] = {"source": floors, "line_color": color}
    plot.line("x", "mean", name=f"{name}-drop", line_dash="dotted", line_width=1.2, **drop)
    dash: dict[str, Any] = {"marker": "dash", "size": "size", "line_width": 2.5, **drop}
    plot.scatter("x", "mean", name=f"{name}-floor", **dash)
    plot.line("x", "mean", source=source, name=f"{name}-line", **style)
    dots: dict[str, Any] = {"size": 5, "line_color": color, "fill_color": color}
    plot.scatter("x", "mean", source=source, name=f"{name}-dots", **dots)
    unseen: dict[str, Any] = {"size": 16, "fill_alpha": 0, "line_alpha": 0}
    return plot.scatter("x", "mean", source=source, name=f"{name}-target", **unseen)


def curve_style(number: int) -> tuple[str, str]:
    """Colour and dash of the line of a method; dashed grey ones are controls."""
    if number < len(COLORS):
        return COLORS[number], DASHES[0]
    turn, place = divmod(number - len(COLORS), len(COLORS) - 1)
    return COLORS[1 + place], DASHES[1 + turn % (len(DASHES) - 1)]


def _label(plot: figure, names: Sequence[str], end: str) -> None:
    step = -(-len(names) // _TICKS)
    shown = {**{place: names[place] for place in range(0, len(names), step)}, len(names): end}
    plot.xaxis.ticker = FixedTicker(ticks=list(shown))
    plot.xaxis.major_label_overrides = {
        place: PlainText(text=name) for place, name in shown.items()
    }
    plot.xaxis.major_label_orientation = 0.9
    plot.xgrid.visible = False


def shares(rows: dict[str, Any], output: int) -> figure:
    """Fraction of attribution per class of input value, methods from top to bottom."""
    count = len(rows["methods"])
    plot = figure(
        height=70 + 24 * count,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_range=Range1d(start=-0.02, end=1.02),
        y_range=Range1d(start=count - 0.5, end=-0.5),
        name=f"shares-{output}",
    )
    classes = len(rows["classes"])
    for k in range(classes):
        color, marker = COLORS[1 + k % 7], ("circle", "square", "triangle", "diamond")[k % 4]
        places = [i + 0.16 * (k - (classes - 1) / 2) for i in range(count)]
        mean, low, high = (
            [row[k] for row in rows[name][output]] for name in ("mean", "low", "high")
        )
        chance = rows["chance"][k]
        plot.line(
            [chance, chance],
            [-0.5, count - 0.5],
            line_color=color,
            line_dash="dotted",
            line_width=1.5,
        )
        plot.segment(low, places, high, places, line_color=color, line_width=1.5)
        plot.scatter(mean, places, marker=marker, size=8, line_color=color, fill_color=color)
    plot.yaxis.ticker = FixedTicker(ticks=list(range(count)))
    plot.yaxis.major_label_overrides = {
        place: PlainText(text=name) for place, name in enumerate(rows["methods"])
    }
    plot.ygrid.visible = False
    return _quiet(plot)


def _quiet(plot: figure) -> figure:
    plot.background_fill_color = None
    plot.border_fill_color = None
    plot.outline_line_color = None
    plot.grid.grid_line_alpha = 0.35
    plot.axis.minor_tick_line_color = None
    return plot


def as_json(roots: Sequence[figure]) -> dict[str, Any]:
    """The figures as one document: its JSON, and the id of each root by its name."""
    from bokeh.embed.util import standalone_docs_json_and_render_items

    if not roots:
        return {"documents": {}, "document": "", "roots": {}}
    document = Document()
    for root in roots:
        document.add_root(root)
    documents, items = standalone_docs_json_and_render_items(list(roots))
    return {
        "documents": documents,
        "document": items[0].docid,
        "roots": {root.name: root.id for root in roots},
    }
