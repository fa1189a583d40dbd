"""Saliency maps of trained networks by every established method, and which of them to believe."""

from salience._interrupts import end_quietly

end_quietly()  # before torch, which takes seconds to load

# ruff: noqa: E402
from salience import adapters
from salience._errors import SalienceError, SalienceWarning
from salience._randomization.run import randomization_test
from salience._scores.by_value import attribution_by_value
from salience._scores.similarity import Similarity, similarities
from salience._study.verdicts import Verdict, Verdicts, verdicts
from salience._tape.coverage import Coverage
from salience._tape.explain import explain
from salience._tape.tape import Tape, record
from salience.rules._table import Method, methods

__all__ = [
    "Coverage",
    "Method",
    "SalienceError",
    "SalienceWarning",
    "Similarity",
    "Tape",
    "Verdict",
    "Verdicts",
    "adapters",
    "attribution_by_value",
    "explain",
    "methods",
    "randomization_test",
    "record",
    "similarities",
    "verdicts",
]
