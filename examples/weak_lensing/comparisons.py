"""Findings 2 and 3: maps of one network by different methods and settings, compared.

And what a factor x makes alike by itself.
"""

from __future__ import annotations

import copy

import torch
from findings import Finding
from torch import Tensor, nn

import salience
from salience._scores.grain import grain

LARGER_EPS = (1e-1, 1.0, 10.0)  # as it is, and in units of each layer's mean |z|
SAME, NOISE = 0.9, 0.2  # rank correlations


def equivalences(network: nn.Module, x: Tensor, target: int) -> list[Finding]:
    """Finding 2: LRP-0 = input x gradient, alpha1-beta0 = excitation backprop up to the seed."""
    tape, bare = salience.record(network, x), salience.record(without_biases(network), x)
    product = tape.explain("input_x_gradient", target)
    error = relative(tape.explain("lrp_epsilon", target, eps=0.0), product)
    exact = relative(one_zero(bare, target), bare.explain("excitation_backprop", target))
    rho = spearman(one_zero(tape, target), tape.explain("excitation_backprop", target))
    return [
        Finding(
            "2a", "LRP with eps = 0 equals input x gradient",
            "largest difference < 1e-4 of a map's maximum", 1e-4 - error, {"difference": error},
        ),
        Finding(
            "2b", "alpha1-beta0 equals excitation backprop (exactly without biases)",
            f"rank correlation > {SAME}; difference < 1e-4 with all biases set to 0",
            rho - SAME if exact < 1e-4 else 1e-4 - exact,
            {"correlation": rho, "difference without biases": exact},
        ),
    ]  # fmt: skip


def one_zero(tape: salience.Tape, target: int) -> Tensor:
    """alpha1-beta0, started from 1 at the target as excitation backprop is."""
    return tape.explain("lrp_alpha_beta", target, alpha=1.0, beta=0.0, start=1.0)


def without_biases(network: nn.Module) -> nn.Module:
    """A copy of the network whose linear maps, BatchNorm folded in, have no bias."""
    bare = copy.deepcopy(network)
    for module in bare.modules():
        for name in ("bias", "running_mean"):
            if getattr(module, name, None) is not None:
                getattr(module, name).data.zero_()
    return bare


def settings(network: nn.Module, x: Tensor, target: int) -> list[Finding]:
    """Finding 3: what eps, alpha and beta change."""
    tape = salience.record(network, x)
    usual = tape.explain("lrp_epsilon", target)
    larger = {
        f"eps {eps:g}{unit}": tape.explain("lrp_epsilon", target, **{name: eps})
        for name, unit in {"eps": "", "eps_relative": " |z|"}.items()
        for eps in LARGER_EPS
    }
    rho = {name: spearman(usual, maps) for name, maps in larger.items()}
    grains = {f"grain at {name}": float(grain(maps).mean()) for name, maps in larger.items()}
    shown = {"grain at eps 0.001": float(grain(usual).mean()),
             **{name: value for name, value in grains.items() if " 10" in name}}  # fmt: skip
    usual = tape.explain("lrp_alpha_beta", target)
    near = {
        f"alpha {alpha:g}": spearman(
            usual, tape.explain("lrp_alpha_beta", target, alpha=alpha, beta=alpha - 1)
        )
        for alpha in (1.5, 1.9, 2.1, 2.5)
    }
    return [
        Finding(
            "3a", "eps larger than 1e-3 gives maps that look like noise",
            f"rank correlation with the map of 1e-3 falls below {NOISE} for an eps up to 10, "
            "as it is or in units of each layer's mean |z|",
            NOISE - min(rho.values()), {**rho, **shown},
        ),
        Finding(
            "3b", "small changes of alpha and beta (2 +- 0.1, 1 +- 0.1) change nothing",
            f"rank correlation > {SAME}", min(near["alpha 1.9"], near["alpha 2.1"]) - SAME, near,
        ),
    ]  # fmt: skip


def spearman(a: Tensor, b: Tensor) -> float:
    """Mean rank correlation of maps."""
    return float(salience.similarities["spearman"](a, b).nanmean())


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the largest value of each map in b."""
    scale = b.flatten(1).abs().amax(1)
    return float(((a - b).flatten(1).abs().amax(1) / scale).max())


def factor_alone(x: Tensor, seed: int = 0) -> dict[str, float]:
    """Mean |rank correlation| of a factor times one positive noise and times another."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.rand(x.shape, generator=generator) for _ in range(2))
    similar = salience.similarities["spearman_abs"]
    return {
        f"{name} times positive noise": float(similar(factor * one, factor * other).nanmean())
        for name, factor in {"x": x, "|x|": x.abs()}.items()
    }
