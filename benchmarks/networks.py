"""The networks that are measured: torchvision's architectures with random weights.

No weights are downloaded. So that no rule is let off lightly, biases and affine parameters are
random too, and BatchNorm has the statistics of its own input.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_operators: list[torch.library.Library] = []  # declared as long as they are referenced


def import_torchvision() -> Any:
    """torchvision; its architectures need none of its compiled operators."""
    if not hasattr(torch.ops.torchvision, "nms"):
        # torchvision's import asks for two of its own operators, which are not there where its
        # build is not that of torch
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.append(library)
    import torchvision  # type: ignore[import-not-found]

    return torchvision


class Network(NamedTuple):
    """An architecture and the batch size at which a pass takes about a second."""

    name: str
    batch: int


NETWORKS = {"resnet18": Network("resnet18", 4), "vgg16": Network("vgg16", 1)}


def build(name: str, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32):
    """A network of NETWORKS in eval mode, parameters frozen; the global generator is left alone."""
    model = _initialized(name, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.eps = 1e-12  # zennit 0.5.1 leaves eps out when it folds BatchNorm into conv
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            bias.data.normal_(0, 0.1, generator=generator)
    calibrate(model, inputs(8, 64, seed + 1))
    return model.eval().requires_grad_(False).to(device, dtype)


def _initialized(name: str, seed: int) -> nn.Module:
    """The architecture with weights that keep the scale of activations."""
    constructor = getattr(import_torchvision().models, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = constructor(weights=None, init_weights=False) if name == "vgg16" else constructor()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model


@torch.no_grad()
def calibrate(model: nn.Module, x: Tensor) -> None:
    """Give BatchNorm its input's statistics, by one pass of the normalisations in training mode."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # the statistics of one pass, not a running mean
    if norms:
        model(x)
    model.eval()


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
