"""A small CNN that regresses (Omega_m, sigma_8) from one convergence map, and its weight files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

WIDTHS = (8, 16, 32, 32, 32)
WEIGHTS = Path(__file__).parent / "weights"
POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


def build_network(pool: str = "max", seed: int = 0) -> nn.Sequential:
    """Untrained network: maps (B, 1, 128, 128) to standardised (Omega_m, sigma_8) (B, 2).

    Five times [3x3 convolution, BatchNorm, ReLU, 2x2 `pool`ing], global average, two dense layers.
    """
    if pool not in POOLS:
        raise ValueError(f"expected pool 'max' or 'average', got {pool!r}")
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for before, after in zip((1, *WIDTHS), WIDTHS, strict=False):
            convolution = nn.Conv2d(before, after, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(), POOLS[pool](2)]
        head = [nn.Linear(WIDTHS[-1], 64), nn.ReLU(), nn.Linear(64, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def load_network(path: str | Path) -> nn.Module:
    """Trained network, in eval mode, from a weight file that `train.py` wrote.

    Channels come last in memory, in which order pooling takes a CPU a fraction of its time.
    """
    network = build_network(load_metadata(path)["pool"])
    with safe_open(path, "pt") as file:
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return network.eval().to(memory_format=torch.channels_last)


def load_metadata(path: str | Path) -> dict[str, Any]:
    """What the weight file says about its training: recipe, seed, loss per epoch, R^2, targets."""
    with safe_open(path, "pt") as file:
        return {name: json.loads(text) for name, text in (file.metadata() or {}).items()}


def predict(network: nn.Module, maps: Tensor, metadata: dict[str, Any]) -> Tensor:
    """(Omega_m, sigma_8) (B, 2) of maps (B, 1, 128, 128): the outputs, unstandardised."""
    mean, std = maps.new_tensor(metadata["target_mean"]), maps.new_tensor(metadata["target_std"])
    with torch.no_grad():
        return network(maps) * std + mean
