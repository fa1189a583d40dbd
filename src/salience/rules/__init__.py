"""What backward means: rules for single operations, the methods they make, and their composites."""

from salience.rules._rules import (
    alpha_beta,
    deep_taylor_input,
    epsilon,
    flat,
    gamma,
    guided,
    proportional,
    rectified,
    shared,
    spread_held,
    unchanged,
    w_squared,
    z_bounded,
    z_plus,
)
from salience.rules._table import Method, methods

__all__ = [
    "Method",
    "alpha_beta",
    "deep_taylor_input",
    "epsilon",
    "flat",
    "gamma",
    "guided",
    "methods",
    "proportional",
    "rectified",
    "shared",
    "spread_held",
    "unchanged",
    "w_squared",
    "z_bounded",
    "z_plus",
]
