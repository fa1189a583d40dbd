"""`Ledger`: where the relevance of a method's maps went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

import torch
from torch import Tensor

from salience._errors import printable
from salience._names import BIASES, EPS, INPUT, NO_NEGATIVE, NO_POSITIVE, OTHER
from salience._tables import html_table, text_table

ENTRIES = (INPUT, BIASES, EPS, NO_POSITIVE, NO_NEGATIVE, OTHER)
_HEAD = ("entry", "share of the target")
_SHOWN = 0.005  # of the target: what is less is 0%
# of a share above 0, and of one below
_WORDS = {
    INPUT: ("reached the input",) * 2,
    BIASES: ("stayed with biases", "came from biases"),
    EPS: ("was absorbed by eps", "was added by eps"),
    NO_POSITIVE: ("was lost at units without positive terms",
                  "was gained at units without positive terms"),
    NO_NEGATIVE: ("was lost at units without negative terms",
                  "was gained at units without negative terms"),
    OTHER: ("was lost in other operations", "came from other operations"),
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Ledger(Mapping[str, Tensor]):
    """Where relevance went, by name; of each sample (B,), the entries add up to the target.

    input              the sum of all maps
    biases             taken by biases, BatchNorm's shifts and all else that is added and constant
    eps                absorbed by the eps of LRP-epsilon
    no positive terms  lost at units that have none to share it out by
    no negative terms  of rules that share out negative terms, too: below 0, as it is gained there
    other operations   what plain autograd does not conserve (softmax), f(0) of element-wise
                       functions, divisors that are held constant; `others` has it by operation

    target  (B,) what the walk starts from
    others  kind of operation -> (B,), which add up to "other operations"

    >>> import torch, salience
    >>> tape = salience.record(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> ledger = tape.ledger("lrp_epsilon", target=1)
    >>> bool(torch.allclose(sum(ledger.values()), ledger.target))
    True
    """

    name: str
    entries: Mapping[str, Tensor]
    target: Tensor
    others: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Tensor:
        return self.entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def each(self, function: Callable[[Tensor], Tensor]) -> Ledger:
        """With function(values) of every (B,)."""
        entries, others = (
            {name: function(held) for name, held in own.items()}
            for own in (self.entries, self.others)
        )
        return replace(self, entries=entries, target=function(self.target), others=others)

    def share(self, values: Tensor) -> float:
        """The part of the target, over all samples, that is in (B,) values; NaN of none."""
        total = float(self.target.abs().sum())
        return float((values * self.target.sign()).sum()) / total if total else float("nan")

    def sentence(self) -> str:
        """Where relevance went, in words: shares of the target over all samples."""
        if not bool(self.target.any()):
            return f"{self.name}: its target is 0, so that no relevance flows"
        shares = {entry: self.share(values) for entry, values in self.entries.items()}
        told = [
            f"{abs(share) if entry != INPUT else share:.0%} {self._words(entry, share)}"
            for entry, share in shares.items()
            if entry == INPUT or abs(share) >= _SHOWN
        ]
        return f"{self.name}: {', '.join(told)}"

    def _words(self, entry: str, share: float) -> str:
        words = _WORDS[entry][share < 0]
        named = [name for name, held in self.others.items() if abs(self.share(held)) >= _SHOWN]
        return f"{words} ({', '.join(named)})" if entry == OTHER and named else words

    def __repr__(self) -> str:
        return f"{printable(self._line())}\n{text_table(_HEAD, self._rows())}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(printable(self._line()))}</p>{html_table(_HEAD, self._rows())}"

    def _line(self) -> str:
        count = len(self.target)
        return f"Ledger of {self.name}, {count} {'sample' if count == 1 else 'samples'}"

    def _rows(self) -> list[Sequence[str]]:
        """The entries that are not 0, each of the other operations beneath them."""
        shown = {name: own for name, own in self.entries.items() if name == INPUT or own.any()}
        within = {f"  {name}": held for name, held in self.others.items() if held.any()}
        rows = (shown | (within if OTHER in shown else {})).items()
        return [[printable(name), self._told(held)] for name, held in rows]

    def _told(self, held: Tensor) -> str:
        return f"{self.share(held):.2%}" if bool(self.target.any()) else "-"


def as_array(ledgers: Mapping[str, Ledger], names: Sequence[str]) -> tuple[list[str], Tensor]:
    """Rows of a table (methods, rows, B), NaN where a method has none: the target, the entries,
    each of the other operations."""
    within = dict.fromkeys(name for own in ledgers.values() for name in own.others)
    rows = [_TARGET, *ENTRIES, *(_WITHIN + name for name in within)]
    like = next(iter(ledgers.values())).target
    none = torch.full_like(like, torch.nan)
    held = [_rows_of(ledgers[name]) if name in ledgers else {} for name in names]
    return rows, torch.stack([torch.stack([own.get(row, none) for row in rows]) for own in held])


def from_array(rows: Sequence[str], names: Sequence[str], table: Tensor) -> dict[str, Ledger]:
    """What `as_array` was given.

    Errors: ValueError for another table.
    """
    if table.shape[:2] != (len(names), len(rows)) or {_TARGET, *ENTRIES} - set(rows):
        raise ValueError("a ledger without all of its entries")
    found = {}
    for name, columns in zip(names, table, strict=True):
        own = {row: held for row, held in zip(rows, columns, strict=True) if not held.isnan().all()}
        if _TARGET in own:
            entries = {entry: own[entry] for entry in ENTRIES}
            others = {r.removeprefix(_WITHIN): v for r, v in own.items() if r.startswith(_WITHIN)}
            found[name] = Ledger(name, entries, own[_TARGET], others)
    return found


_TARGET, _WITHIN = "target", f"{OTHER}: "


def _rows_of(ledger: Ledger) -> dict[str, Tensor]:
    within = {_WITHIN + name: held for name, held in ledger.others.items()}
    return {_TARGET: ledger.target, **ledger.entries, **within}


def joined(parts: Sequence[Ledger]) -> Ledger:
    """The ledgers of consecutive batches as one; what a batch has no entry for is 0 there."""
    first = parts[0]

    def column(of: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
        pairs = zip(of, parts, strict=True)
        return torch.cat([own.get(name, torch.zeros_like(part.target)) for own, part in pairs])

    entries = [part.entries for part in parts]
    others = [part.others for part in parts]
    return Ledger(
        first.name,
        {name: column(entries, name) for name in first.entries},
        torch.cat([part.target for part in parts]),
        {name: column(others, name) for name in dict.fromkeys(n for own in others for n in own)},
    )
