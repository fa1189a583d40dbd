"""The architectures: small, of every kind that methods tell apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Make = Callable[[], nn.Module]


def cnn(
    outputs: int,
    channels: int = 1,
    widths: tuple[int, ...] = (8, 16, 32),
    norm: bool = False,
    activation: type[nn.Module] = nn.ReLU,
    head: int | None = None,
) -> nn.Module:
    """Convolutions of 3 x 3, halved by max-pooling after all but the last, then a mean.

    norm  BatchNorm after each convolution
    head  the pixels that are left, flattened into a hidden layer instead of the mean
    """
    layers: list[nn.Module] = []
    for place, width in enumerate(widths):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(width)] * norm + [activation()]
        if place < len(widths) - 1:
            layers.append(nn.MaxPool2d(2))
        channels = width
    if head is None:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs)]
    else:
        layers += [nn.Flatten(), nn.Linear(channels * head, 32), activation()]
        layers.append(nn.Linear(32, outputs))
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """x + two convolutions with BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(x + self.second_norm(self.second(y)))


def resnet(outputs: int, width: int = 12) -> nn.Module:
    stem = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    blocks = [Residual(width), nn.MaxPool2d(2), Residual(width), nn.MaxPool2d(2), Residual(width)]
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs)
    )


def series_cnn(outputs: int, norm: bool = False, width: int = 24) -> nn.Module:
    """Convolutions along one axis."""
    layers: list[nn.Module] = []
    for channels in (1, width, width):
        layers.append(nn.Conv1d(channels, width, 7, padding=3, bias=not norm))
        layers += [nn.BatchNorm1d(width)] * norm + [nn.ReLU(), nn.MaxPool1d(2)]
    layers += [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, outputs)]
    return nn.Sequential(*layers)


def mlp(inputs: int, outputs: int, hidden: tuple[int, ...] = (64, 64)) -> nn.Module:
    """Dense layers; hidden=(): a linear model."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Block(nn.Module):
    """One head of attention and a dense layer, each after LayerNorm and beside the way through."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.dense = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        attended = functional.scaled_dot_product_attention(
            self.query(y), self.key(y), self.value(y)
        )
        x = x + self.out(attended)
        return x + self.dense(self.between(x))


class Positions(nn.Module):
    """What tells places apart."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.empty(tokens, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.at, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.at


class Transformer(nn.Module):
    """x (N, features, places) as tokens, through blocks, to the mean and a linear layer."""

    def __init__(self, outputs: int, features: int, places: int, width: int, blocks: int) -> None:
        super().__init__()
        self.into = nn.Linear(features, width)
        self.positions = Positions(places, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm, self.classify = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.positions(self.into(x.transpose(1, 2)))  # (N, places, width)
        return self.classify(self.norm(self.blocks(tokens)).mean(1))


class Patches(nn.Module):
    """A picture (N, 1, H, W) as its patches (N, patch^2, places), for a transformer."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_unshuffle(x, self.side).flatten(2)


def vit(outputs: int, size: int = 32, side: int = 4, width: int = 32, blocks: int = 2) -> nn.Module:
    return nn.Sequential(
        Patches(side), Transformer(outputs, side**2, (size // side) ** 2, width, blocks)
    )


class Difference(nn.Module):
    """Each of two outputs less the other one."""

    signs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("signs", torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.signs)


# what is explained, as the last layer behind the network
HEADS: dict[str, Callable[[], nn.Module]] = {
    "logit": nn.Identity,
    "difference": Difference,
    "probability": lambda: nn.Softmax(1),
    "value": nn.Identity,
}
