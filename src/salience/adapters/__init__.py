"""Methods in the calling conventions of captum and Quantus; neither package is imported."""

from salience.adapters.attribution import captum
from salience.adapters.explain_func import quantus

__all__ = ["captum", "quantus"]
