"""The networks that are measured: torchvision's architectures with random weights.

No weights are downloaded. So that no rule is let off lightly, biases and affine parameters are
random too, and BatchNorm has the statistics of its own input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

_operators: list[torch.library.Library] = []  # declared as long as they are referenced


def _models() -> dict[str, Callable[..., nn.Module]]:
    """torchvision's architectures; they need none of its compiled operators."""
    if not hasattr(torch.ops.torchvision, "nms"):
        # torchvision's import asks for two of its own operators, which are not there where its
        # build is not that of torch
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.append(library)
    from torchvision.models import resnet18, vgg16  # type: ignore[import-not-found]

    return {"resnet18": resnet18, "vgg16": vgg16}


class Network(NamedTuple):
    """An architecture and the batch size at which a pass takes about a second."""

    name: str
    batch: int


NETWORKS = {"resnet18": Network("resnet18", 4), "vgg16": Network("vgg16", 1)}


def build(name: str, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32):
    """A network of NETWORKS in eval mode, parameters frozen; the global generator is left alone."""
    model = _initialised(name, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.momentum = None  # the statistics of one pass, not a running mean
            module.eps = 1e-12  # zennit 0.5.1 leaves eps out when it folds BatchNorm into conv
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            bias.data.normal_(0, 0.1, generator=generator)
    _calibrate(model, seed)
    return model.eval().requires_grad_(False).to(device, dtype)


def _initialised(name: str, seed: int) -> nn.Module:
    """The architecture with weights that keep the scale of activations."""
    constructor = _models()[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = constructor(weights=None, init_weights=False) if name == "vgg16" else constructor()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model


@torch.no_grad()
def _calibrate(model: nn.Module, seed: int) -> None:
    """Give BatchNorm its input's statistics, by one pass of the normalisations in training mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        model.eval()
        for norm in norms:
            norm.train()
        model(inputs(8, 64, seed + 1))


def inputs(
    batch: int,
    size: int,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(batch, 3, size, size) smooth random pictures of either sign, as after normalisation."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64)
    fine = torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth + 0.3 * fine).to(device, dtype)


@torch.no_grad()
def classes(model: nn.Module, x: Tensor) -> Tensor:
    """(batch,) the class that every method explains."""
    return model(x).argmax(1)
