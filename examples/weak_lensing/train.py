"""Train the three networks of the weak-lensing study: `python examples/weak_lensing/train.py`.

AdamW, one-cycle learning rate, mean squared error on standardised targets; flips, transposes and
fresh shape noise in each epoch. Everything an epoch draws depends on (seed, epoch) alone, so that a
training that was stopped goes on from its last epoch to the weights of an uninterrupted one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import WEIGHTS, build_network
from safetensors.torch import save_file
from simulate import CACHE, cosmologies, observe, simulate
from torch import Tensor, nn
from tqdm import tqdm

RECIPES: dict[str, dict[str, Any]] = {
    "noiseless": {"pool": "max", "n_gal_per_arcmin2": None},
    "ngal30": {"pool": "max", "n_gal_per_arcmin2": 30.0},
    "average_pool": {"pool": "average", "n_gal_per_arcmin2": None},
}
TRAIN_COSMOLOGIES, UNSEEN_COSMOLOGIES, MAPS = 100, 50, 20
TRAIN_SEED, UNSEEN_SEED = 1, 2  # of the cosmologies and of their maps
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 8, 32, 5e-3, 0.01


def data(count: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """Noiseless maps (count * MAPS, 128, 128) and their (Omega_m, sigma_8) (count * MAPS, 2)."""
    parameters = cosmologies(count, seed)
    kappa = simulate(parameters, MAPS, seed)
    targets = torch.from_numpy(parameters).float().repeat_interleave(MAPS, dim=0)
    return kappa.reshape(-1, *kappa.shape[2:]), targets


def augment(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Each map (B, 1, H, W) in one of the eight orientations of a square."""
    up, left, turn = torch.rand(3, len(maps), 1, 1, 1, generator=generator) < 0.5
    maps = torch.where(up, maps.flip(-2), maps)
    maps = torch.where(left, maps.flip(-1), maps)
    return torch.where(turn, maps.transpose(-2, -1), maps)


def observed(kappa: np.ndarray, n_gal: float | None, seed: list[int]) -> Tensor:
    """Network inputs (N, 1, 128, 128): noisy, smoothed maps."""
    rng = np.random.default_rng(seed)
    parts = [observe(part, n_gal, rng) for part in np.array_split(kappa, -(-len(kappa) // 100))]
    return torch.from_numpy(np.concatenate(parts))[:, None]


def one_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    maps: Tensor,
    targets: Tensor,
    generator: torch.Generator,
) -> float:
    """One pass over shuffled, augmented maps; returns its mean loss."""
    network.train()
    total = 0.0
    batches = torch.randperm(len(maps), generator=generator).split(BATCH)
    for rows in tqdm(batches, desc="train", leave=False):
        outputs = network(augment(maps[rows], generator))
        loss = nn.functional.mse_loss(outputs, targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(rows)
    return total / len(maps)


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


def fit(
    network: nn.Module, recipe: dict[str, Any], kappa: np.ndarray, targets: Tensor, checkpoint: Path
) -> list[float]:
    """Train on standardised targets, going on from `checkpoint` if there is one; loss per epoch."""
    seed, epochs = recipe["seed"], recipe["epochs"]
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(kappa) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    stateful = {"network": network, "optimizer": optimizer, "schedule": schedule}
    losses: list[float] = []
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        losses = saved["losses"]
        for part, value in stateful.items():
            value.load_state_dict(saved[part])
    for epoch in tqdm(range(len(losses), epochs), "epochs", initial=len(losses), total=epochs):
        maps = observed(kappa, recipe["n_gal_per_arcmin2"], [seed, epoch])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        losses.append(one_epoch(network, optimizer, schedule, maps, targets, generator))
        tqdm.write(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]:.4f}")
        partial = checkpoint.with_suffix(".partial")
        state = {part: value.state_dict() for part, value in stateful.items()}
        torch.save({**state, "losses": losses}, partial)
        partial.replace(checkpoint)
    return losses


def train(name: str, seed: int, epochs: int, folder: Path = WEIGHTS) -> Path:
    """Train recipe `name` into `folder/<name>.safetensors`; print R^2 on unseen cosmologies."""
    recipe = protocol(name, seed, epochs)
    kappa, raw = data(TRAIN_COSMOLOGIES, TRAIN_SEED)
    mean, std = raw.mean(0), raw.std(0)
    network = build_network(recipe["pool"], seed)
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    checkpoint = CACHE / f"{name}-{digest}.pt"
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
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path, {key: json.dumps(v) for key, v in metadata.items()})
    checkpoint.unlink()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RECIPES)}; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and noise")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.names) - set(RECIPES):
        parser.error(f"expected names of {', '.join(RECIPES)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    for name in options.names or RECIPES:
        train(name, options.seed, options.epochs)


if __name__ == "__main__":
    main()
