"""A trained network with the maps it is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cosmology import cosmologies
from network import WEIGHTS, load_metadata, load_network
from simulate import CACHE, observe, simulate
from store import digest
from torch import Tensor, nn
from train import RECIPES, r_squared

import salience

NETWORKS, OUTPUTS = tuple(RECIPES), ("omega_m", "sigma_8")
KEYS = [(name, output) for name in NETWORKS[:2] for output in OUTPUTS]  # what findings are about
COSMOLOGIES, MAPS = 24, 4  # unseen cosmologies, maps of each
ROOMS = ("cosmology", "simulate", "network", "subject", "measure")  # what measurements depend on
CODE = [
    *(Path(__file__).with_name(f"{room}.py") for room in ROOMS),
    *sorted(Path(salience.__file__).parent.rglob("*.py")),
]


def unseen_maps(
    seed: int, progress: bool = False, cache: Path = CACHE
) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless maps (MAPS * COSMOLOGIES, 128, 128) and their (Omega_m, sigma_8).

    The first COSMOLOGIES maps have one cosmology each, and so on.
    """
    parameters = cosmologies(COSMOLOGIES, seed)
    kappa = simulate(parameters, MAPS, seed, progress, cache)  # (COSMOLOGIES, MAPS, 128, 128)
    one_each_first = kappa.swapaxes(0, 1).reshape(-1, *kappa.shape[2:])
    return one_each_first, np.tile(parameters, (MAPS, 1))


@dataclass(frozen=True)
class Subject:
    """A trained network and the maps it is asked about."""

    network: nn.Module
    x: Tensor  # (MAPS * COSMOLOGIES, 1, 128, 128) noisy, smoothed; one map of each cosmology first
    targets: Tensor  # (MAPS * COSMOLOGIES, 2) standardised
    settings: dict[str, Any]  # what a stored part depends on


def load(name: str, seed: int, cache: Path = CACHE) -> Subject:
    """A network of `weights/` with freshly simulated maps of unseen cosmologies."""
    path = WEIGHTS / f"{name}.safetensors"
    kappa, parameters = unseen_maps(seed, cache=cache)
    rng = np.random.default_rng([seed, 1])
    x = torch.from_numpy(observe(kappa, RECIPES[name]["n_gal_per_arcmin2"], rng))[:, None]
    about = load_metadata(path)
    mean, std = (torch.tensor(about[f"target_{part}"]) for part in ("mean", "std"))
    network = load_network(path)
    settings = {
        "seed": seed,
        # not of the file: safetensors writes its metadata in a random order
        "weights": digest(value.numpy().tobytes() for value in network.state_dict().values()),
        "code": digest(file.read_bytes() for file in CODE),
    }
    targets = (torch.from_numpy(parameters).float() - mean) / std
    return Subject(network, x, targets, settings)


def accuracy(subject: Subject) -> list[float]:
    """R^2 of each output over all maps."""
    return r_squared(subject.network, subject.x, subject.targets)
