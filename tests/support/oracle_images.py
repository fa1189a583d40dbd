"""Operations on images between a convolution and a linear head, as in `oracle_operations`."""

from __future__ import annotations

import oracle_lrp as lrp
import torch
import torch.nn.functional as F
from oracle_elements import sigmoid
from oracle_lrp import Value
from oracle_operations import Body, Prelu, group_norm, own, plain, structural, times, weights
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 3, 1), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        s = F.relu(self.down(F.adaptive_avg_pool2d(x, 1))).flatten(1)
        return x * torch.sigmoid(self.up(s))[:, :, None, None]

    def oracle(self, v: Value) -> Value:
        s = lrp.linear_map(lrp.reorder(v, lambda t: t.mean((2, 3), keepdim=True)), self.down)
        s = lrp.linear(
            lrp.reorder(lrp.relu(s), lambda t: t.flatten(1)), self.up.weight, self.up.bias
        )
        return lrp.product(lambda x, g: x * g[..., None, None], v, lrp.elementwise(s, sigmoid))


IMAGES: dict[str, Body] = {
    "squeeze_excite": own(SqueezeExcite),
    "prelu_channels": own(lambda: Prelu(4)),
    "group_norm": (lambda _: nn.GroupNorm(2, 4), group_norm),
    "group_norm_plain": (lambda _: nn.GroupNorm(2, 4, affine=False), group_norm),
    "instance_norm": (lambda _: nn.InstanceNorm2d(4), group_norm),
    "instance_norm_affine": (lambda _: nn.InstanceNorm2d(4, affine=True), group_norm),
    "conv_transpose2d": weights(lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1)),
    "conv_transpose2d_groups": weights(lambda: nn.ConvTranspose2d(4, 6, 2, groups=2, dilation=2)),
    "conv_transpose1d": (
        lambda _: nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(4, 3, 3, stride=2)),
        lambda module, v: lrp.linear_map(v, module),
    ),
    "conv_transpose3d": (
        lambda _: nn.Sequential(nn.Unflatten(2, (2, 2)), nn.ConvTranspose3d(4, 2, 2, padding=1)),
        lambda module, v: lrp.linear_map(v, module),
    ),
    "pixel_shuffle": structural(lambda x: F.pixel_shuffle(x, 2)),
    "nearest": structural(lambda x: F.interpolate(x, scale_factor=2)),
    "bilinear_up": structural(lambda x: F.interpolate(x, size=(7, 5), mode="bilinear")),
    "upsample": (
        lambda _: nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=True),
        lambda module, v: lrp.reorder(v, module),
    ),
    "avg_pool": structural(lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "spatial_attention": plain(
        lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
        lambda v: lrp.product(
            times,
            v,
            lrp.elementwise(lrp.reorder(v, lambda t: t.mean(1, keepdim=True)), sigmoid),
        ),
    ),
}
