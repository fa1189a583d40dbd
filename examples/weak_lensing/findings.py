"""The findings of Zorrilla Matilla et al. 2020 (arXiv:2007.06529), tested on another network.

Each finding is data: a claim, the criterion that decides it, the numbers, and the margin, which is
positive where the claim holds. The criteria are the same for all networks and outputs. Here are
those that verdicts, faithfulness and attribution decide (1 and 4), and what the paper did not ask
(1d, 1e); 2 and 3 are in `comparisons.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import xarray
from measure import METHODS

import salience

STRICT = ("gradient", "input_x_gradient", "lrp_epsilon")
PROPAGATION = ("guided_backprop", "deconvnet", "deep_taylor", "excitation_backprop")
LOST, STRONG = 0.2, 0.4  # retention of maps that do and do not depend on the weights
LEFT = 0.05  # of what lies above the floor: under it maps change completely
RANGES = {"noiseless": ("< 0", 0.69, 0.86), "ngal30": (">= 3", 0.36, 0.68)}  # the paper's F


@dataclass(frozen=True)
class Finding:
    """One claim on one network and output; it holds if `margin` > 0.

    where  under which treatment of BatchNorm, where there are several
    """

    part: str
    claim: str
    criterion: str
    margin: float
    numbers: dict[str, float] = field(default_factory=dict)
    where: str = ""

    @property
    def holds(self) -> bool:
        return self.margin > 0


def parameters(verdicts: Mapping[str, salience.Verdict], batch_norm: str = "keep") -> list[Finding]:
    """Finding 1: whose maps depend on the network's parameters, by their retention."""
    strict = {name: verdicts[name].high for name in STRICT}
    kept = {name: verdicts[name].retention for name in PROPAGATION}
    half = verdicts["lrp_alpha_beta"]
    return [
        Finding(
            "1a", "gradient, input x gradient, LRP-epsilon depend on the parameters",
            f"upper end of the retention's 95% interval < {LOST}",
            LOST - max(strict.values()), strict, batch_norm,
        ),
        Finding(
            "1b", "guided backprop, deconvnet, deep Taylor, alpha1-beta0 keep strong correlations",
            f"retention > {STRONG}", min(kept.values()) - STRONG, kept, batch_norm,
        ),
        Finding(
            "1c", "so does alpha2-beta1", f"retention > {STRONG}", half.retention - STRONG,
            {"lrp_alpha_beta": half.retention}, batch_norm,
        ),
    ]  # fmt: skip


def beyond_floors(
    verdicts: Mapping[str, salience.Verdict], scores: salience.Study, factor: Mapping[str, float]
) -> list[Finding]:
    """What 1b asks next: does more stay than maps share anyway, and was any of it learned?

    verdicts  of what is left once all weights are random
    scores    the test of faithfulness
    factor    what a factor x, or |x| in maps of one sign, makes alike by itself
    """
    left = {name: verdicts[name].share.low for name in PROPAGATION}
    table = scores.faithfulness()
    gains = {name: table[name].gain_low for name in PROPAGATION}
    return [
        Finding(
            "1d", "these four keep more than maps of other inputs share, with all weights random",
            f"lower end of the share left above the floor > {LEFT}", least(left) - LEFT,
            {**left, **factor},
        ),
        Finding(
            "1e", "these four tell what the network uses better than on untrained networks",
            "lower end of the gain in faithfulness > 0", least(gains), gains,
        ),
    ]  # fmt: skip


def least(numbers: Mapping[str, float]) -> float:
    """The least of them; NaN, which no criterion holds for, where one is not known."""
    return math.nan if any(map(math.isnan, numbers.values())) else min(numbers.values())


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
