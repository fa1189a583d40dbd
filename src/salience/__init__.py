"""Saliency maps of trained networks by every established method, and what they are worth."""

from salience._interrupts import end_quietly

end_quietly()  # before torch, which takes seconds to load

# ruff: noqa: E402
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from salience._errors import SalienceError, SalienceWarning
from salience._faithfulness.options import Removal
from salience._faithfulness.run import faithfulness, recommend
from salience._faithfulness.scores import SCORES as faithfulness_scores
from salience._faithfulness.sweep import Sweep, sweep
from salience._randomization.options import Cascade
from salience._randomization.run import randomization_test
from salience._scores.by_value import attribution_by_value
from salience._scores.similarity import Similarity, similarities
from salience._study.agreement import Agreement, agreement
from salience._study.files import open
from salience._study.judge import verdicts
from salience._study.ledger import Ledger
from salience._study.maps import Maps
from salience._study.recommend import Recommendation
from salience._study.study import Study
from salience._study.verdicts import Verdict, Verdicts
from salience._tape.cost import cost
from salience._tape.coverage import Coverage
from salience._tape.explain import explain
from salience._tape.tape import Tape, record
from salience.rules._method import Method
from salience.rules._table import methods

if TYPE_CHECKING:
    from salience import adapters, models, plot, report, rules

__all__ = [
    "Agreement",
    "Cascade",
    "Coverage",
    "Ledger",
    "Maps",
    "Method",
    "Recommendation",
    "Removal",
    "SalienceError",
    "SalienceWarning",
    "Similarity",
    "Study",
    "Sweep",
    "Tape",
    "Verdict",
    "Verdicts",
    "__version__",
    "adapters",
    "agreement",
    "attribution_by_value",
    "cost",
    "explain",
    "faithfulness",
    "faithfulness_scores",
    "methods",
    "models",
    "open",
    "plot",
    "randomization_test",
    "recommend",
    "record",
    "report",
    "rules",
    "similarities",
    "sweep",
    "verdicts",
]

__version__ = version("salience")

if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these

    def __getattr__(name):
        """Rooms that load more than most need: when they are asked for."""
        if name in ("adapters", "models", "plot", "report", "rules"):
            return import_module(f"salience.{name}")
        raise AttributeError(f"module 'salience' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
