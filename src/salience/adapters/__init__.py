"""Methods in the calling conventions of captum and Quantus; neither package is imported."""

from salience.adapters._captum import captum
from salience.adapters._quantus import quantus

__all__ = ["captum", "quantus"]
