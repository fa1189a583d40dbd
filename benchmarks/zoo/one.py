"""Everything that is measured of one network."""

from __future__ import annotations

import time
from typing import Any

import networks as shared
import torch

from zoo import laws, networks, peers

LARGE = 100e6  # parameters: float32 from here on
# Not 1: in eval mode, torch 2.13's own gradient of BatchNorm is wrong for a batch of one whose
# incoming gradient is transposed (a flatten and a transpose follow), on the CPU.
BATCH = 2
FEW = (  # explained by SmoothGrad and integrated gradients too
    "torchvision/resnet18 torchvision/vgg11_bn torchvision/mobilenet_v2 torchvision/convnext_tiny "
    "torchvision/vit_b_32 timm/regnety_002 timm/swin_tiny_patch4_window7_224 timm/mixer_s32_224"
).split()


def measure(name: str, with_peers: bool = True) -> dict[str, Any]:
    """One row of the table, as JSON."""
    begin = time.perf_counter()
    model, size = networks.build(name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    large = parameters > LARGE
    x = networks.inputs(BATCH, size)
    classes = shared.classes(model, x)
    target = classes.tolist()
    row: dict[str, Any] = {"name": name, "parameters": parameters, "size": size}
    row |= laws.maps(model, x, target)
    if name in FEW:
        row["passes"] = laws.several_passes(model, x, target)
    if not large:
        model, x = model.double(), x.double()
    row["precision"] = str(x.dtype).removeprefix("torch.")
    row["tolerance"] = laws.TOLERANCE[x.dtype]
    classes = shared.classes(model, x)
    row["laws"] = laws.laws(model, x, classes)
    if with_peers:
        row["peers"] = peers.compare(model, x, classes, row["relu_only"])
    if row["relu_only"]:
        laws.remove_biases(model)
        row["conserved"] = laws.conserved(model, x)
    return row | {"total_seconds": time.perf_counter() - begin}


def limited(gibibytes: float) -> None:
    """Fail with an error where the machine would run out of memory."""
    import resource

    size = int(gibibytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    torch.set_num_threads(1)
