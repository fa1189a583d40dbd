"""Verdicts: what a randomisation test concludes about each method, as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from salience._errors import printable
from salience._tables import html_table, text_table

if TYPE_CHECKING:
    import pandas as pd

THRESHOLDS = (0.2, 0.4)  # of the retention: sensitive below, insensitive above
SCORE = "spearman_abs"  # that verdicts are about, where none is named
CRITERION = "full"
CRITERIA = {
    "full": "similarity to the trained network's map",
    "retention": "retention",
}
SMALL, HALF = 0.05, 0.5  # shares that are left, of what lies between a floor and 1
FEWEST = 3  # inputs that have floors of their own, which pairs of them make
NEAR_1 = 0.9  # a floor above which a similarity cannot tell
STAGES = {
    "second_half": "the second half of the stages",
    "all": "all stages",
    "last": "the last stage",
}


class Mean(NamedTuple):
    """A mean with its 95% interval, which is NaN where there is none."""

    mean: float
    low: float
    high: float


NOTHING = Mean(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Verdict:
    """What a randomisation test says of a method; of a control its role.

    value       what the verdict is about: the similarity to the trained network's maps once all
                stages are random, the retention, or the rise of complexity
    low, high   its 95% interval over networks and samples; NaN for one network
    floor       the largest of the floors that count; NaN for none
    floors      name -> the same similarity for maps that share less, with its interval
    share       (value - floor) / (1 - floor), with its interval: what is left of what chance does
                not give
    half        how many stages are random when less than half of that is left; None: never, or
                before the first stage that was scored
    retention   mean similarity over the chosen stages, samples and repeats
    last        mean of every score at the last stage
    undefined   how many of the value's scores were undefined (NaN) and left out
    """

    method: str
    role: str
    verdict: str
    value: float
    low: float
    high: float
    floor: float = math.nan
    floors: Mapping[str, Mean] = field(default_factory=dict)
    share: Mean = NOTHING
    half: int | None = None
    retention: float = math.nan
    last: Mapping[str, float] = field(default_factory=dict)
    undefined: int = 0
    sentence: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Verdicts(Mapping[str, Verdict]):
    """Verdicts by the names of methods and controls, shown as a table.

    score       that they are about
    criterion   "full" (once all stages are random), "retention" (down the cascade), or "rise"
    stages      over which the retention is a mean: "second_half" of the cascade, "all", "last"
    thresholds  of the retention: sensitive below the first, insensitive above the second
    samples     inputs of the test
    repeats     random networks
    randomized  which stages are random in the end, in words; "" where some are not
    total       stages of the cascade
    """

    found: Mapping[str, Verdict]
    score: str = SCORE
    criterion: str = CRITERION
    stages: str = "second_half"
    thresholds: tuple[float, float] = THRESHOLDS
    samples: int = 0
    repeats: int = 0
    randomized: str = ""
    total: int = 0

    def __getitem__(self, name: str) -> Verdict:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each method and control, a column for each field; `last_SCORE` for each score,
        `floor_NAME` for each floor, `share`, `share_low` and `share_high`.

        >>> one = Verdict("mine", "method", "in part", 0.3, 0.2, 0.4, last={"ssim": 0.2})
        >>> float(Verdicts({"mine": one}).to_dataframe().loc["mine", "last_ssim"])
        0.2
        """
        import pandas as pd

        rows = []
        for verdict in self.values():
            row = asdict(verdict)
            last = {f"last_{name}": value for name, value in row.pop("last").items()}
            floors = {f"floor_{name}": held[0] for name, held in row.pop("floors").items()}
            share = dict(zip(("share", "share_low", "share_high"), row.pop("share"), strict=True))
            rows.append({**row, **share, **floors, **last})
        return pd.DataFrame(rows).set_index("method") if rows else pd.DataFrame()

    def __repr__(self) -> str:
        return "\n".join([text_table(self.head, self.rows()), *self.caption()])

    def _repr_html_(self) -> str:
        return html_table(self.head, self.rows(), "; ".join(self.caption()))

    @property
    def measure(self) -> str:
        """What the verdicts are about, in a word."""
        return {"full": "similarity", "rise": "rise"}.get(self.criterion, "retention")

    @property
    def head(self) -> Sequence[str]:
        """Of the table."""
        own = ("floor", "half") if self.criterion == "full" else ("last",)
        return ("method", self.measure, "95% interval", *own, "verdict")

    def rows(self) -> list[list[str]]:
        """Of the table: a row for each method and control."""
        return [
            [
                printable(name),
                number(v.value),
                span(v.low, v.high),
                *self._own(v),
                printable(v.verdict),
            ]
            for name, v in self.items()
        ]

    def _own(self, v: Verdict) -> list[str]:
        """The cells that belong to the criterion."""
        if self.criterion != "full":
            return [number(v.last.get(self.score, math.nan))]
        if v.role != "method":
            return ["", ""]
        half = f"{v.half}/{self.total}" if v.half else "-"
        return [number(v.floor), half]

    def caption(self) -> list[str]:
        """What the numbers of the table are."""
        counts = f"{counted(self.samples, 'input')}, {counted(self.repeats, 'random network')}"
        what = f"mean {printable(self.score)}"
        if self.criterion == "retention":
            what = f"{what} over {STAGES.get(self.stages, self.stages)}"
        told = [f"{self.measure}: {what} ({counts})"]
        if self.criterion != "retention":
            told.append(printable(self.randomized) or "no network is random as a whole: no verdict")
        if self.repeats == 1:
            told.append("one random network says nothing about others: no verdict")
        return [*told, *self._words()]

    def _words(self) -> list[str]:
        """What the words stand for."""
        low, high = self.thresholds
        if self.criterion == "retention":
            return [f"sensitive: interval below {low:g}; insensitive: interval above {high:g}"]
        if self.criterion == "rise":
            return ["rises: interval above 0; does not rise: interval below 0"]
        return [
            "floor: the same for maps that share less (noise, two inputs, x times another m)",
            "half: stages that are random when half of what lies above the floor is gone",
            f"changes completely: under {SMALL:.0%} of that is left; hardly: over {HALF:.0%}",
        ]


def number(value: float) -> str:
    """Two digits, for a table; NaN is a dash."""
    return "-" if math.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00")


def span(low: float, high: float) -> str:
    """The ends of an interval, for a table; a dash for none."""
    return "-" if math.isnan(low) else f"[{number(low)}, {number(high)}]"


def counted(count: int, word: str) -> str:
    """A number of things.

    >>> counted(1, "input"), counted(3, "input")
    ('1 input', '3 inputs')
    """
    return f"{count} {word}{'s' * (count != 1)}"
