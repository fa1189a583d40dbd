"""One method over a grid of its parameters: what they change, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from salience._errors import expected, printable, unknown
from salience._faithfulness.options import Removal
from salience._faithfulness.run import faithfulness
from salience._inputs.batches import whole
from salience._inputs.targets import Part, Target
from salience._inputs.trees import rows
from salience._inputs.validation import checked_model
from salience._scores.grain import grain
from salience._scores.interval import interval
from salience._scores.similarity import similarities
from salience._study.faithful import bounds_of, score_of
from salience._study.study import Study
from salience._study.verdicts import number, span
from salience._tables import html_table, text_table
from salience._tape.explain import explain
from salience.rules._method import Method
from salience.rules._table import find

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = ("parameters", "like default", "95% interval", "error", "faithful", "95% interval", "grain")
MOST = 200  # points of a grid


@dataclass(frozen=True)
class Point:
    """A method at some values of its parameters; all per sample (N,).

    values      of the parameters that the sweep is over
    similarity  Spearman of its map and the default's
    error       of the sum of its map; NaN for a method that has none
    score       of faithfulness
    grain       how rough its map is: 1 for noise, towards 0 for smooth maps
    """

    name: str
    values: Mapping[str, Any]
    similarity: np.ndarray
    error: np.ndarray
    score: np.ndarray
    grain: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """A method over a grid of its parameters; printed, it is the table.

    method  with its defaults
    points  in the order of the grid
    score   the name of the score of faithfulness
    study   of the faithfulness of every point, beside its controls
    """

    method: Method
    points: Sequence[Point]
    score: str
    study: Study

    def plot(self) -> Figure:
        """A panel for each number, over the values of the parameters."""
        from salience.plot._sweep import sweep_figure

        return sweep_figure(self.method.name, self.points, self.score)

    def __repr__(self) -> str:
        return f"Sweep of {self.method}\n{text_table(HEAD, self.rows())}\n{self.caption()}"

    def _repr_html_(self) -> str:
        return html_table(HEAD, self.rows(), f"Sweep of {self.method}; {self.caption()}")

    def rows(self) -> list[list[str]]:
        """A row of the table for each point."""
        return [
            [
                printable(point.name),
                number(_mean(point.similarity)),
                span(*interval(point.similarity[None], bounds=(-1, 1))),
                "-" if math.isnan(error := _mean(point.error)) else f"{error:.2g}",
                number(_mean(point.score)),
                span(*interval(point.score[None], bounds=bounds_of(self.score))),
                number(_mean(point.grain)),
            ]
            for point in self.points
        ]

    def caption(self) -> str:
        """What the numbers of the table are."""
        return (
            "like default: Spearman of the maps; error: mean of the samples'; "
            f"faithful: {self.score}; grain: 1 for noise, towards 0 for smooth maps "
            f"({len(self.points[0].score)} inputs)"
        )


def sweep(
    model: Callable[..., object],
    x: object,
    method: str | Method,
    grid: Mapping[str, Sequence[Any]],
    target: Target = "argmax",
    removal: Removal = Removal(),  # noqa: B008  (frozen)
    *,
    score: str | None = None,
    progress: bool = True,
    batch_size: int | None = None,
    output: Part = None,
) -> Sweep:
    """One method over a grid of its parameters, all maps of a batch from one recorded pass.

    model, x, target, removal, output
             as for `salience.faithfulness`, with one floating-point input
    method   a name in `salience.methods`, or a method whose other parameters stay as they are
    grid     parameter -> values; several parameters: every combination of their values
    score    a name in `salience.faithfulness_scores`

    Returns a `Sweep`: per point of the grid the similarity to the default's map (Spearman), the
    error of the maps' sum, faithfulness, and grain.

    Errors: SalienceError for parameters that the method does not take, and as for
    `salience.faithfulness`.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> found = salience.sweep(net.eval(), torch.randn(20, 6), "lrp_epsilon",
    ...     {"eps_relative": [0, 0.1, 1]}, 0, progress=False)
    >>> [point.name for point in found.points]
    ['eps_relative=0', 'eps_relative=0.1', 'eps_relative=1']
    """
    base = find(method)
    points = _points(base, grid)
    x = whole(checked_model(model), x)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = type(x).__name__ if not isinstance(x, Tensor) else f"{x.dtype}"
        raise expected("one floating-point input", got, "Sweep with salience.explain.")
    chosen = {"default": base} | {name: base.having(**values) for name, values in points.items()}
    run: dict[str, Any] = {"batch_size": batch_size, "output": output, "progress": progress}
    maps = explain(model, x, chosen, target, **run)
    wanted = None if score is None else [score]
    study = faithfulness(model, x, dict(maps), target, removal, scores=wanted, cascade=None, **run)
    name_of_score = score_of(study.data, score)
    scores = study.data[f"faithful_{name_of_score}"]
    return Sweep(
        base,
        tuple(
            Point(
                name,
                values,
                similarities["spearman"](rows(maps[name]), rows(maps["default"])).cpu().numpy(),
                _error(maps.error.get(name), len(x)),
                scores.sel({"candidate": name}).values,
                grain(maps[name]).cpu().numpy(),
            )
            for name, values in points.items()
        ),
        name_of_score,
        study,
    )


def _points(method: Method, grid: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """name -> values, of every combination."""
    if not isinstance(grid, Mapping) or not grid:
        raise expected("a grid of parameters", repr(grid), 'Such as {"eps": [1e-6, 1e-3, 0.1]}.')
    for name, values in grid.items():
        if name not in method.parameters:
            raise unknown(f"parameter of {method.name}", name, method.parameters)
        if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
            raise expected(f"values of {name}", repr(values), "Such as [1e-6, 1e-3, 0.1].")
    found: dict[str, dict[str, Any]] = {}
    for values in product(*grid.values()):
        named = dict(zip(grid, values, strict=True))
        found[", ".join(f"{key}={_short(value)}" for key, value in named.items())] = named
    if len(found) > MOST:
        raise expected(f"a grid of at most {MOST} points", f"{len(found)}", "Give fewer values.")
    return found


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _error(error: Tensor | None, count: int) -> np.ndarray:
    return np.full(count, np.nan) if error is None else error.double().cpu().numpy()


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan
