"""What the tests of the randomisation test share: a short run, its values, inputs and a network."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
import xarray
from torch import Tensor, nn

import salience

CASCADE = [field.name for field in fields(salience.Cascade)]
ORDERS = ["top_down", "bottom_up", "independent"]
SCORES = ["spearman", "spearman_abs", "spearman_of_abs", "pearson"]


def study_of(model, x, methods=None, **options) -> xarray.Dataset:
    """The test, with the options of its cascade beside its own."""
    own = {name: options.pop(name) for name in CASCADE if name in options}
    cascade = salience.Cascade(**own)
    return salience.randomization_test(model, x, methods, cascade=cascade, **options).data


def run(model, x, methods="gradient", **options) -> xarray.Dataset:
    options = {"repeats": 2, "target": 0, "progress": False, "scores": SCORES, **options}
    return study_of(model, x, methods, **options)


def values(data: xarray.Dataset, name: str, method: str) -> np.ndarray:
    return data[name].sel({"method": method}).values


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv_net(depth: int = 2, **options) -> nn.Module:
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Conv2d(4 if k else 1, 4, 3, padding=1, **options), nn.ReLU()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        for layer in net:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
    return net.eval()
