"""Verdicts: what a randomisation test concludes about each method, as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from salience._errors import printable
from salience._names import RISE
from salience._tables import html_table, text_table

if TYPE_CHECKING:
    import pandas as pd

THRESHOLDS = (0.2, 0.4)  # of the retention: sensitive below, insensitive above
SCORE = "spearman_abs"  # that verdicts are about, where none is named
STAGES = {
    "second_half": "the second half of the stages",
    "all": "all stages",
    "last": "the last stage",
}


@dataclass(frozen=True)
class Verdict:
    """A method's verdict: how much of its maps is left when the network has forgotten everything.

    retention   mean similarity over the chosen stages, samples and repeats
    low, high   its 95% bootstrap interval
    last        mean of every score at the last stage
    undefined   how many of the retention's scores were undefined (NaN) and left out
    """

    method: str
    role: str
    verdict: str
    retention: float
    low: float
    high: float
    last: dict[str, float]
    undefined: int
    sentence: str


@dataclass(frozen=True, eq=False, repr=False)
class Verdicts(Mapping[str, Verdict]):
    """Verdicts by the names of methods and controls, shown as a table.

    score       that they are about
    stages      over which its mean is the retention: "second_half" of the cascade, "all", "last"
    thresholds  of the retention: sensitive below the first, insensitive above the second
    samples     inputs of the test
    repeats     random networks
    """

    found: Mapping[str, Verdict]
    score: str = SCORE
    stages: str = "second_half"
    thresholds: tuple[float, float] = THRESHOLDS
    samples: int = 0
    repeats: int = 0

    def __getitem__(self, name: str) -> Verdict:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each method and control, a column for each field; `last_SCORE` for each score.

        >>> one = Verdict("mine", "method", "sensitive", 0.1, 0.05, 0.15, {"ssim": 0.2}, 0, "")
        >>> float(Verdicts({"mine": one}).to_dataframe().loc["mine", "last_ssim"])
        0.2
        """
        import pandas as pd

        rows = []
        for verdict in self.values():
            row = asdict(verdict)
            last = {f"last_{name}": value for name, value in row.pop("last").items()}
            rows.append({**row, **last})
        return pd.DataFrame(rows).set_index("method") if rows else pd.DataFrame()

    def __repr__(self) -> str:
        return "\n".join([text_table(self._head(), self._rows()), *self._caption()])

    def _repr_html_(self) -> str:
        return html_table(self._head(), self._rows(), "; ".join(self._caption()))

    def _measure(self) -> str:
        return "rise" if self.score == RISE else "retention"

    def _head(self) -> Sequence[str]:
        return ("method", self._measure(), "95% interval", "last", "verdict")

    def _rows(self) -> list[list[str]]:
        return [
            [
                printable(name),
                number(v.retention),
                span(v.low, v.high),
                number(v.last.get(self.score, math.nan)),
                v.verdict if v.role == "method" else printable(v.role),
            ]
            for name, v in self.items()
        ]

    def _caption(self) -> list[str]:
        """What the numbers of the table are."""
        low, high = self.thresholds
        where = f"mean {printable(self.score)} over {STAGES.get(self.stages, self.stages)}"
        if self.score == RISE:
            where, low, high = f"mean {self.score}, all stages random", 0, 0
        counts = f"{counted(self.samples, 'input')}, {counted(self.repeats, 'random network')}"
        limits = [f"interval below {low:g}", f"interval above {high:g}"]
        sensitive, insensitive = limits[::-1] if self.score == RISE else limits
        return [
            f"{self._measure()}: {where} ({counts})",
            f"sensitive: {sensitive}; insensitive: {insensitive}",
        ]


def number(value: float) -> str:
    """Two digits, for a table; NaN is a dash."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def span(low: float, high: float) -> str:
    """The ends of an interval, for a table; a dash for none."""
    return "-" if math.isnan(low) else f"[{low:.2f}, {high:.2f}]"


def counted(count: int, word: str) -> str:
    """A number of things.

    >>> counted(1, "input"), counted(3, "input")
    ('1 input', '3 inputs')
    """
    return f"{count} {word}{'s' * (count != 1)}"
