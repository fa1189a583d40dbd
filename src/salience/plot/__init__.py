"""Figures: maps beside their inputs, scores and maps down the cascade, attribution by value."""

from salience.plot._by_value import attribution_by_value
from salience.plot._cascade import cascade
from salience.plot._maps import maps
from salience.plot._plane import plane
from salience.plot._similarity import similarity
from salience.plot._tokens import tokens

__all__ = ["attribution_by_value", "cascade", "maps", "plane", "similarity", "tokens"]
