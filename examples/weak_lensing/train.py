"""Train the three networks of the weak-lensing study: `python examples/weak_lensing/train.py`.

A training that was stopped goes on from its last epoch; one that is finished is not repeated unless
its recipe or its code has changed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cosmology import cosmologies
from network import WEIGHTS, build_network
from safetensors.torch import save_file
from simulate import CACHE, simulate
from store import digest
from torch import Tensor, nn
from training import BATCH, LEARNING_RATE, WEIGHT_DECAY, fit, observed

RECIPES: dict[str, dict[str, Any]] = {
    "noiseless": {"pool": "max", "n_gal_per_arcmin2": None},
    "ngal30": {"pool": "max", "n_gal_per_arcmin2": 30.0},
    "average_pool": {"pool": "average", "n_gal_per_arcmin2": None},
}
TRAIN_COSMOLOGIES, UNSEEN_COSMOLOGIES, MAPS = 100, 50, 20
TRAIN_SEED, UNSEEN_SEED = 1, 2  # of the cosmologies and of their maps
EPOCHS = 8
ROOMS = ("cosmology", "simulate", "network", "training")  # what weights depend on
CODE = [Path(__file__).with_name(f"{room}.py") for room in ROOMS]


def data(count: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """Noiseless maps (count * MAPS, 128, 128) and their (Omega_m, sigma_8) (count * MAPS, 2)."""
    parameters = cosmologies(count, seed)
    kappa = simulate(parameters, MAPS, seed)
    targets = torch.from_numpy(parameters).float().repeat_interleave(MAPS, dim=0)
    return kappa.reshape(-1, *kappa.shape[2:]), targets


def r_squared(network: nn.Module, maps: Tensor, targets: Tensor) -> list[float]:
    """1 - residual / total sum of squares, of each standardised target (N, 2)."""
    network.eval()
    with torch.no_grad():
        outputs = torch.cat([network(part) for part in maps.split(100)])
    residual = (outputs - targets).square().sum(0)
    return (1 - residual / (targets - targets.mean(0)).square().sum(0)).tolist()


def protocol(name: str, seed: int, epochs: int) -> dict[str, Any]:
    """Everything that fixes the weights of a training."""
    return {
        **RECIPES[name], "seed": seed, "epochs": epochs, "batch": BATCH,
        "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY,
        "train_cosmologies": TRAIN_COSMOLOGIES, "unseen_cosmologies": UNSEEN_COSMOLOGIES,
        "maps_per_cosmology": MAPS, "cosmology_seeds": [TRAIN_SEED, UNSEEN_SEED],
    }  # fmt: skip


def train(name: str, seed: int, epochs: int, folder: Path) -> None:
    """Train recipe `name` into `folder/<name>.safetensors`; print R^2 on unseen cosmologies."""
    recipe = protocol(name, seed, epochs)
    kappa, raw = data(TRAIN_COSMOLOGIES, TRAIN_SEED)
    mean, std = raw.mean(0), raw.std(0)
    network = build_network(recipe["pool"], seed)
    code = [file.read_bytes() for file in CODE]
    checkpoint = CACHE / f"{name}-{digest([json.dumps(recipe).encode(), *code])[:16]}.pt"
    losses = fit(network, recipe, kappa, (raw - mean) / std, checkpoint)

    kappa, raw = data(UNSEEN_COSMOLOGIES, UNSEEN_SEED)
    unseen = observed(kappa, recipe["n_gal_per_arcmin2"], [seed, epochs])
    r2 = r_squared(network, unseen, (raw - mean) / std)
    scores = dict(zip(("omega_m", "sigma_8"), r2, strict=True))
    print(f"{name}: R^2 on unseen cosmologies {scores}")
    metadata = {
        "name": name, "pool": recipe["pool"], "seed": seed, "recipe": recipe, "losses": losses,
        "r2_unseen": scores, "targets": ["omega_m", "sigma_8"],
        "target_mean": mean.tolist(), "target_std": std.tolist(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path, {k: json.dumps(v) for k, v in metadata.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RECIPES)}; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and noise")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weight files")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.names) - set(RECIPES):
        parser.error(f"expected names of {', '.join(RECIPES)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    for name in options.names or RECIPES:
        train(name, options.seed, options.epochs, options.out)


if __name__ == "__main__":
    main()
