"""`study.plot`: the figures of `salience.plot`, which is loaded when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from salience._study.study import Study


@dataclass(frozen=True)
class Figures:
    """The figures of a study: `salience.plot` with the study as its first argument."""

    study: Study

    def similarity(self, *, score: str | None = None, level: float = 0.95) -> Figure:
        """Similarity to the trained network's maps at every stage (`salience.plot.similarity`)."""
        from salience import plot

        return plot.similarity(self.study, score=score, level=level)

    def plane(self, *, score: str | None = None) -> Figure:
        """Faithfulness over gain, a point per method (`salience.plot.plane`)."""
        from salience import plot

        return plot.plane(self.study, score=score)

    def cascade(self, sample: int | Sequence[int] = 0, *, clip: float = 99.5) -> Figure:
        """Maps down the cascade (`salience.plot.cascade`)."""
        from salience import plot

        return plot.cascade(self.study, sample, clip=clip)
