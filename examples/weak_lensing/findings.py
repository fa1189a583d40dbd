"""The findings of Zorrilla Matilla et al. 2020 (arXiv:2007.06529), tested on another network.

Each finding is data: a claim, the criterion that decides it, the numbers, and the margin, which is
positive where the claim holds. The criteria are the same for all networks and outputs. Here are
those that verdicts and attribution decide (1 and 4); 2 and 3 are in `comparisons.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import xarray
from measure import METHODS

import salience

STRICT = ("gradient", "input_x_gradient", "lrp_epsilon")
PROPAGATION = ("guided_backprop", "deconvnet", "deep_taylor", "excitation_backprop")
LOST, STRONG = 0.2, 0.4  # retention of maps that do and do not depend on the weights
RANGES = {"noiseless": ("< 0", 0.69, 0.86), "ngal30": (">= 3", 0.36, 0.68)}  # the paper's F


@dataclass(frozen=True)
class Finding:
    """One claim on one network and output; it holds if `margin` > 0."""

    part: str
    claim: str
    criterion: str
    margin: float
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return self.margin > 0


def parameters(verdicts: Mapping[str, salience.Verdict]) -> list[Finding]:
    """Finding 1: whose maps depend on the network's parameters."""
    strict = {name: verdicts[name].high for name in STRICT}
    kept = {name: verdicts[name].retention for name in PROPAGATION}
    half = verdicts["lrp_alpha_beta"]
    return [
        Finding(
            "1a", "gradient, input x gradient, LRP-epsilon depend on the parameters",
            f"upper end of the retention's 95% interval < {LOST}",
            LOST - max(strict.values()), strict,
        ),
        Finding(
            "1b", "guided backprop, deconvnet, deep Taylor, alpha1-beta0 keep strong correlations",
            f"retention > {STRONG}", min(kept.values()) - STRONG, kept,
        ),
        Finding(
            "1c", "so does alpha2-beta1", f"retention > {STRONG}", half.retention - STRONG,
            {"lrp_alpha_beta": half.retention},
        ),
    ]  # fmt: skip


def attribution(
    name: str, shares: xarray.Dataset, verdicts: Mapping[str, salience.Verdict]
) -> Finding:
    """Finding 4: F of one output, over the methods that the randomisation test calls sensitive.

    shares  mean (method, class) of the attribution of one output
    """
    cell, low, high = RANGES[name]
    row = shares["mean"].sel({"class": cell})
    sensitive = [m for m in METHODS if verdicts[m].verdict == "sensitive"]
    numbers = {m: float(row.sel({"method": m})) for m in sensitive}
    chance = float(shares["chance"].sel({"class": cell}).isel(method=0))
    enough = sorted(numbers.values(), reverse=True)[len(numbers) // 2] if numbers else 0.0
    where = "kappa < 0" if cell == "< 0" else "kappa > 3 sigma"
    return Finding(
        "4a" if name == "noiseless" else "4b",
        f"{where} holds {low:.0%} to {high:.0%} of the attribution",
        f"F > {low} for more than half of the sensitive methods",
        enough - low, {**numbers, "chance": chance},
    )  # fmt: skip
