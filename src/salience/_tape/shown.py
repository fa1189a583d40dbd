"""A tape in words: of what model and inputs it is, and where it has maps."""

from __future__ import annotations

from html import escape
from typing import Any

from torch import Tensor, nn

from salience._errors import printable
from salience._inputs import trees
from salience._inputs.targets import Part
from salience._recording.recording import Recording
from salience._study.verdicts import counted
from salience._tables import html_table, text_table

_HEAD = ("part", "shape", "type", "map")


def as_text(recording: Recording) -> str:
    """What a terminal shows."""
    return f"{_line(recording)}\n{text_table(_HEAD, _rows(recording))}"


def as_html(recording: Recording) -> str:
    """What a notebook shows."""
    return f"<p>{escape(_line(recording))}</p>{html_table(_HEAD, _rows(recording))}"


def _line(recording: Recording) -> str:
    model: Any = recording.model()
    named = type(model) if isinstance(model, nn.Module) else model
    name = getattr(named, "__name__", type(model).__name__)
    count = counted(len(recording.trace.operations), "recorded operation")
    return printable(f"Tape of {name}: {count}")


def _rows(recording: Recording) -> list[list[str]]:
    """A row for each input, with the shapes of its maps, and one for what is explained."""
    rows = []
    for key, part in trees.parts_of(recording.x).items():
        maps = [_shape(leaf.tensor) for leaf in recording.leaves if leaf.key == key]
        rows.append([_named("input", key), *_kind(part), ", ".join(maps) or "none"])
    output = [_named("output", recording.part), *_kind(recording.output), ""]
    return [[printable(cell) for cell in row] for row in [*rows, output]]


def _named(what: str, part: Part) -> str:
    """An input or an output, with its key, position or path where there are several."""
    path = part if isinstance(part, tuple) else () if part is None else (part,)
    return f"{what} {'.'.join(map(str, path))}".rstrip()


def _kind(part: object) -> tuple[str, str]:
    """Shape and type; flags and numbers that a model takes beside tensors have no shape."""
    if not isinstance(part, Tensor):
        return "", type(part).__name__
    return _shape(part), str(part.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
