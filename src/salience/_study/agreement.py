"""How many treatments give a method the same word: scores, and those that several studies have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from salience._errors import expected, printable
from salience._study.judge import verdicts
from salience._study.sentences import SCORES, UNDEFINED, UNINFORMATIVE
from salience._study.study import Study, study_of
from salience._study.verdicts import CRITERION, STAGES
from salience._tables import html_table, text_table

if TYPE_CHECKING:
    import xarray

_TREATMENTS = ("order", "batch_norm", "weights", "kind", "retarget", "target", "seed")
_SHOWN = 3  # names of treatments in a cell
_HEAD = ("method", "verdict", "agrees", "elsewhere")


class Agreed(NamedTuple):
    """What treatments say of a method.

    verdict  the word that most of them give; the first of those, where several do
    agrees   how many give it
    of       how many have a verdict
    words    treatment -> its word
    """

    verdict: str
    agrees: int
    of: int
    words: Mapping[str, str]


@dataclass(frozen=True, eq=False, repr=False)
class Agreement(Mapping[str, Agreed]):
    """What treatments say of each method, shown as a table."""

    found: Mapping[str, Agreed]

    def __getitem__(self, name: str) -> Agreed:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __repr__(self) -> str:
        return text_table(_HEAD, self._rows())

    def _repr_html_(self) -> str:
        return html_table(_HEAD, self._rows(), "")

    def _rows(self) -> list[list[str]]:
        rows = []
        for name, one in self.items():
            others: dict[str, list[str]] = {}
            for by, word in one.words.items():
                others.setdefault(word, []).append(by)
            told = [f"{word}: {_few(by)}" for word, by in others.items() if word != one.verdict]
            row = [name, one.verdict, f"{one.agrees} of {one.of}", "; ".join(told)]
            rows.append([printable(cell) for cell in row])
        return rows


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def agreement(
    studies: Study | xarray.Dataset | Sequence[Study | xarray.Dataset],
    *,
    criterion: str = CRITERION,
) -> Agreement:
    """How many treatments give each method the same verdict.

    Treatments are the scores of a study, with criterion="retention" the choices of stages, too,
    and what several studies differ in: order, batch_norm, weights, kind, retarget, target, seed.
    What has no verdict by one of them (`undefined`, `uninformative`) is not counted there.

    studies    from `randomization_test`, one or several
    criterion  as in `verdicts`

    Returns a mapping from each method of all studies to (verdict, agrees, of, words).
    Errors: SalienceError for what is no such study, and for none.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> x, orders = torch.randn(3, 6), ("top_down", "bottom_up")
    >>> studies = [salience.randomization_test(
    ...     net.eval(), x, "gradient", progress=False, cascade=salience.Cascade(order, repeats=2))
    ...     for order in orders]
    >>> list(salience.agreement(studies)["gradient"].words)[:2]
    ['top_down, |Spearman|', 'top_down, Spearman']
    """
    given = studies if isinstance(studies, Sequence) else [studies]
    held = [study_of(study) for study in given]
    if not held:
        raise expected("at least one study", "none", "Give those of randomization_test.")
    words: dict[str, dict[str, str]] = {}
    for study, name in zip(held, _names(held), strict=True):
        scores = sorted(study.scores, key=lambda score: score != study.score)
        choices = list(STAGES) if criterion == "retention" else [""]
        for score, stages in product(scores, choices):
            treatment = [name, SCORES.get(score, score), STAGES.get(stages, "")]
            label = ", ".join(part for part in treatment if part)
            own = verdicts(study, criterion=criterion, score=score, stages=stages or "last")
            words[label] = {method: v.verdict for method, v in own.items()}
    common = [m for m in held[0].methods if all(m in study.methods for study in held)]
    return Agreement({m: _agreed({by: own[m] for by, own in words.items()}) for m in common})


def _agreed(words: Mapping[str, str]) -> Agreed:
    told = Counter(word for word in words.values() if word not in (UNDEFINED, UNINFORMATIVE))
    verdict, count = told.most_common(1)[0] if told else (next(iter(words.values())), 0)
    return Agreed(verdict, count, told.total(), words)


def _names(studies: Sequence[Study]) -> list[str]:
    """What each study is that others are not."""
    attributes = [{key: str(s.data.attrs.get(key)) for key in _TREATMENTS} for s in studies]
    varying = [key for key in _TREATMENTS if len({held[key] for held in attributes}) > 1]
    names = [", ".join(held[key] for key in varying) for held in attributes]
    return [
        name if names.count(name) == 1 else f"study {number}, {name}".removesuffix(", ")
        for number, name in enumerate(names, 1)
    ]
