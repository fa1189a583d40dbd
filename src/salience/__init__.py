"""Saliency maps of trained networks by every established method, and which of them to believe."""

from salience.errors import SalienceError, SalienceWarning
from salience.explaining import explain
from salience.methods import Method, methods
from salience.tape import Coverage, Tape, record

__all__ = [
    "Coverage",
    "Method",
    "SalienceError",
    "SalienceWarning",
    "Tape",
    "explain",
    "methods",
    "record",
]
