"""Training that can be stopped: AdamW, one-cycle learning rate, mean squared error.

Flips, transposes and fresh shape noise in each epoch. Everything an epoch draws depends on (seed,
epoch) alone, so that a training that was stopped goes on from its last epoch to the weights of an
uninterrupted one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from simulate import observe
from torch import Tensor, nn
from tqdm import tqdm

BATCH, LEARNING_RATE, WEIGHT_DECAY = 32, 5e-3, 0.01


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
