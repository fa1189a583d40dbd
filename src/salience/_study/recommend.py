"""Which maps to use on this network: gates that a method passes or not, never a weighted score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import printable
from salience._names import FLOOR, NEGATIVE
from salience._scores.interval import interval
from salience._study.faithful import (
    Array,
    Faithfulness,
    faithfulness_of,
    mean,
    score_of,
    values_of,
)
from salience._study.schema import DEPENDENCE
from salience._study.verdicts import number, span
from salience._tables import html_table, text_table

if TYPE_CHECKING:
    import xarray

DEPENDS, VALID, LEARNED, FAITHFUL, BEST = "depends", "valid", "learned", "faithful", "best"
GATES = {
    DEPENDS: "the network depends on these inputs more than untrained ones do",
    VALID: "every operation has a rule, maps are defined and differ between inputs",
    LEARNED: "the score is higher than that of the same method on untrained networks",
    FAITHFUL: "the score is higher than that of every control: input, edges, noise",
    BEST: "the score cannot be told from that of the best method",
}
ROUNDING = 1e-6  # of effects, over the target
UNKNOWN = "its gain is not known: no maps on untrained networks"
FEWEST = 8  # inputs, of which one half chooses and the other is reported
HEAD = ("map", "faithful", "95% interval", "gain", "95% interval", "stopped by")
USE = "use"


@dataclass(frozen=True)
class Passed:
    """How far a method came: the first gate that it did not pass, or "" for one to use."""

    method: str
    gate: str
    why: str


@dataclass(frozen=True, eq=False, repr=False)
class Recommendation:
    """The methods to use on a network, best first, and what stopped the others.

    methods   to use: those whose score cannot be told from the best one's; none where no method
              passes the gates
    passed    name -> the gate that stopped it, with the reason
    measured  the scores on the half of the inputs that did not choose
    sentence  all of it in words
    """

    methods: tuple[str, ...]
    passed: Mapping[str, Passed]
    measured: Faithfulness
    sentence: str

    def __repr__(self) -> str:
        table = text_table(HEAD, self.rows())
        return "\n".join([printable(self.sentence), table, *self.caption()])

    def _repr_html_(self) -> str:
        table = html_table(HEAD, self.rows(), "; ".join(self.caption()))
        return f"<p>{escape(printable(self.sentence))}</p>{table}"

    def caption(self) -> list[str]:
        """What the gates that stopped a method ask."""
        stopped = {passed.gate for passed in self.passed.values()}
        gates = [f"{gate}: {asks}" for gate, asks in GATES.items() if gate in stopped]
        return [f"faithful: {self.measured.caption()[0]}", *gates]

    def rows(self) -> list[list[str]]:
        """A row for each method, then one for each control, under HEAD."""
        told = {p.method: f"{p.gate}: {p.why}" if p.gate else USE for p in self.passed.values()}
        order = sorted(self.measured.values(), key=lambda f: f.role != "method")  # stable
        rows = [
            [
                f.name,
                number(f.score),
                span(f.low, f.high),
                number(f.gain),
                span(f.gain_low, f.gain_high),
                told.get(f.name, f.role),
            ]
            for f in order
        ]
        return [[printable(cell) for cell in row] for row in rows]


def recommend(data: xarray.Dataset, score: str | None = None) -> Recommendation:
    """The recommendation of a test of faithfulness.

    Every second input chooses, by the gates `valid`, `learned`, `faithful`, `best` in this order;
    the numbers reported are those of the other ones.

    Errors: SalienceError for a study without such a test.
    """
    score = score_of(data, score)
    samples = data.sizes["sample"]
    halves = samples >= FEWEST
    choosing = data.isel({"sample": slice(0, None, 2)}) if halves else data
    reported = data.isel({"sample": slice(1, None, 2)}) if halves else data
    passed = _gated(choosing, score)
    table = faithfulness_of(choosing, score)
    through = [name for name, found in passed.items() if not found.gate]
    through.sort(key=lambda name: -table[name].score)
    measured = faithfulness_of(reported, score)
    if sentence := _independent(choosing):
        passed = {name: Passed(name, DEPENDS, "the network does not, enough") for name in passed}
        return Recommendation((), passed, measured, sentence)
    sentence = _sentence(through, passed, halves, measured)
    return Recommendation(tuple(through), passed, measured, sentence)


def _names(data: xarray.Dataset) -> list[str]:
    return list(map(str, data["candidate"].values))


def _gated(data: xarray.Dataset, score: str) -> dict[str, Passed]:
    """The first gate that stops each method."""
    names, roles = _names(data), list(map(str, data["candidate_role"].values))
    trained, untrained = values_of(data, score)
    rows = {name: trained[row] for row, name in enumerate(names)}
    controls = {
        n: rows[n] for n, role in zip(names, roles, strict=True) if role in (NEGATIVE, FLOOR)
    }
    found: dict[str, Passed] = {}
    for row, (name, role) in enumerate(zip(names, roles, strict=True)):
        if role != "method":
            continue
        gate, why = VALID, _invalid(data, name, trained[row])
        if not why:
            gate, why = LEARNED, _not_learned(trained[row], untrained[row])
        if not why:
            gate, why = FAITHFUL, _not_faithful(trained[row], controls)
        known = untrained.size and not np.isnan(untrained[row]).all()
        found[name] = Passed(name, gate if why else "", why or ("" if known else UNKNOWN))
    return _best(found, rows)


def _invalid(data: xarray.Dataset, name: str, trained: Array) -> str:
    here = data.sel({"candidate": name})
    if uncovered := str(here["candidate_uncovered"].values):
        return f"no rule for {uncovered}"
    if int(here["candidate_constant"].values):
        return "the same map for every input"
    if np.isnan(trained).mean() > 0.5:
        return "no score for most inputs: constant maps, or no effects"
    return ""


def _not_learned(trained: Array, untrained: Array) -> str:
    if not untrained.size or np.isnan(untrained).all():
        return ""  # maps of others, or no untrained networks: not known
    low, high = interval(trained - untrained)
    return "" if low > 0 else f"gain [{low:.2f}, {high:.2f}] over its maps on untrained networks"


def _not_faithful(trained: Array, controls: Mapping[str, Array]) -> str:
    for name, control in controls.items():
        low, high = interval((trained - control)[None])
        if not low > 0 and not np.isnan(control).all():
            return f"not above {name}: [{low:.2f}, {high:.2f}]"
    return ""


def _best(found: Mapping[str, Passed], rows: Mapping[str, Array]) -> dict[str, Passed]:
    """Those that are through, less what is worse than the best of them."""
    through = [name for name, passed in found.items() if not passed.gate]
    if not through:
        return dict(found)
    best = max(through, key=lambda name: mean(rows[name]))
    result = dict(found)
    for name in through:
        low, high = interval((rows[best] - rows[name])[None])
        if name != best and low > 0:
            why = f"below {best} by [{low:.2f}, {high:.2f}]"
            result[name] = Passed(name, BEST, why)
    return result


def _sentence(
    through: list[str],
    passed: Mapping[str, Passed],
    halves: bool,
    measured: Faithfulness,
) -> str:
    if not through:
        gates = [found.gate for found in passed.values()]
        counts = ", ".join(f"{gates.count(g)} by {g!r}" for g in GATES if g in gates)
        return f"None: no method passes all gates (stopped: {counts})."
    names = through[0] if len(through) == 1 else f"{', '.join(through[:-1])} or {through[-1]}"
    first = measured[through[0]]
    where = "on the inputs that did not choose" if halves else "on the inputs that chose: too few"
    return (
        f"Use {names} ({through[0]}: {measured.score} {first.score:.2f} "
        f"[{first.low:.2f}, {first.high:.2f}] {where})."
    )


def _independent(data: xarray.Dataset) -> str:
    """Why this network does not depend enough on these inputs; empty where it does.

    What removing parts does must be more than rounding, and replacing everything must do more than
    it does on untrained networks: maps of a network that learned nothing explain nothing.
    """
    value, emptied = data["target_value"].values, data["target_emptied"].values
    effects = [data[n].values for n in ("deletion_effect", "subset_effect") if n in data]
    scale = max(float(np.abs(value).max()), 1e-30)
    begin = "No recommendation: this network does not depend enough on these inputs: "
    if effects and max(float(np.nanmax(np.abs(held))) for held in effects) <= ROUNDING * scale:
        return f"{begin}removing parts of them changes the target by no more than rounding does."
    if DEPENDENCE not in data or np.isnan(emptied).all():
        return ""
    own = mean(np.abs(value - emptied))
    others = [mean(np.abs(network)) for network in data[DEPENDENCE].values]
    largest = max((other for other in others if not np.isnan(other)), default=-np.inf)
    if own > largest:
        return ""
    return (
        f"{begin}replacing all of them changes the target by {own:.2g} on average, and by "
        f"{largest:.2g} on an untrained network."
    )
