"""The naive randomisation test: copies of the model, fresh passes, scores by scipy, scikit-image.

Stages are written down by hand beside each network: parameter names in execution order, which is
not the order of definition.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from skimage.metrics import structural_similarity
from torch import Tensor, nn

import salience
from salience._randomization.weights import random_weights, stages_of
from salience._recording.run import run_pass

RULES = ["gradient", "guided_backprop", "lrp_epsilon", "lrp_alpha_beta", "deep_taylor"]
GRADIENTS = ["gradient", "input_x_gradient"]


class Case(NamedTuple):
    """A network, its inputs, its stages by hand, and the methods that it can be explained by."""

    model: nn.Module
    x: Any
    stages: list[list[str]]
    methods: list[str]


def both(*layers: str) -> list[str]:
    """The weights and biases of layers."""
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


class Residual(nn.Module):
    """conv-BatchNorm pairs, ReLU in place, `h += x`; the head is defined first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.norm2, self.norm1 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(x))
        h += x
        return self.head(self.relu(h).mean((2, 3)))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(7 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.one(x).relu()
        both = torch.cat([first, self.two(first).relu()], 1)
        return self.head(nn.functional.adaptive_avg_pool2d(both, 2).flatten(1))


class Reused(nn.Module):
    """One convolution three times; the two dense layers share their weight, not their bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for _ in range(3):
            h = torch.relu(self.conv(h))
        h = nn.functional.max_pool2d(h, 3).flatten(1)
        return self.second(torch.relu(self.first(h)))


class ReadTwice(nn.Module):
    """A BatchNorm, and a sum, read the same convolution: it is not folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return self.head(torch.relu(self.norm(z) + z).mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.patches = nn.Conv2d(2, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.positions
        return self.head(self.block(h)[:, 0])


class WeightNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Rounded(torch.autograd.Function):
    """round(4 x), backward as if it were 4 x; numpy hides what it does from any recorder."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy((4 * x.detach()).numpy().round())

    @staticmethod
    def backward(ctx, gradient):
        return 4 * gradient


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(Rounded.apply(self.one(x)))


class Branching(nn.Module):
    """Randomised weights may take the other branch."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        return self.two(torch.relu(h) if h.mean() > 0.05 else torch.tanh(h))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def trained(kind: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """A network with the weights of one that was trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = kind().double().eval()
    with torch.no_grad():  # trained networks have neither zero biases nor unit statistics
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator).to(tensor))
    return model


def _made(kind, shape, stages, methods) -> Case:
    generator = torch.Generator().manual_seed(3)
    model = trained(kind, generator)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return Case(model, x, stages, methods)


def cases() -> dict[str, Case]:
    weight_norm = [f"conv.parametrizations.weight.original{k}" for k in (1, 0)] + ["conv.bias"]
    attention = ["block.self_attn.in_proj_weight", "block.self_attn.in_proj_bias"]
    return {
        "residual": _made(Residual, (3, 2, 12, 12), [
            ["conv1.weight", *both("norm1")], both("conv2", "norm2"), both("head")], RULES),
        "concat": _made(Concat, (3, 2, 8, 8), [both("one"), both("two"), both("head")], RULES),
        "reused": _made(Reused, (3, 3, 6, 6), [
            both("conv"), both("first"), ["second.bias"]], RULES),
        "read twice": _made(ReadTwice, (3, 2, 8, 8), [both("conv", "norm"), both("head")], RULES),
        "transformer": _made(Transformer, (3, 2, 8, 8), [
            both("patches"), ["token", "positions"], attention,
            # the norms read residual sums, and not a linear map alone
            both("block.self_attn.out_proj"), both("block.norm1"), both("block.linear1"),
            both("block.linear2"), both("block.norm2"), both("head")], GRADIENTS),
        "mlp": _made(_mlp, (4, 6), [both("0"), both("2"), both("4")], RULES),
        "weight norm": _made(WeightNormed, (3, 2, 8, 8), [weight_norm, both("head")], RULES),
        "opaque": _made(Opaque, (3, 6), [both("one"), both("two")], GRADIENTS),
        "branching": _made(Branching, (4, 6), [both("one"), both("two")], GRADIENTS),
    }  # fmt: skip


def first(x: Any, count: int = 1) -> Any:
    """The first samples of all inputs that have samples."""
    if isinstance(x, dict):
        return {key: first(part, count) for key, part in x.items()}
    if isinstance(x, tuple):
        return tuple(first(part, count) for part in x)
    return x[:count] if isinstance(x, Tensor) and x.ndim else x


def output(model: nn.Module, x: Any) -> Tensor:
    return model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)


def one_map(model: nn.Module, x: Any, method: str, target: Any) -> Tensor:
    """Maps as they are scored: of several inputs, or of ids, all entries in a row."""
    maps = salience.record(model, x).explain(method, target)
    if isinstance(x, Tensor) and x.is_floating_point():
        return maps
    parts = list(maps.values()) if isinstance(maps, dict) else maps
    parts = [parts] if isinstance(parts, Tensor) else [m for m in parts if m is not None]
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def draws(case: Case, seed: int, repeat: int, weights: str) -> list[dict[str, Tensor]]:
    """The random parameters of each stage, by name, in execution order."""
    trace = run_pass(case.model, first(case.x), keep=True).trace
    return [
        {
            trace.parameters[value]: drawn
            for value, drawn in random_weights(
                case.model, trace, stage, (seed, repeat, place), weights
            ).items()
        }
        for place, stage in enumerate(stages_of(trace))
    ]


def randomized_copies(
    model: nn.Module, drawn: Sequence[dict[str, Tensor]], order: str
) -> Iterator[nn.Module]:
    """A fresh copy for every step of the cascade."""
    places = list(range(len(drawn)))
    if order == "top_down":
        places.reverse()
    for step in range(len(places)):
        changed = copy.deepcopy(model)
        named = dict(changed.named_parameters())
        for place in places[step : step + 1] if order == "independent" else places[: step + 1]:
            with torch.no_grad():
                for name, value in drawn[place].items():
                    named[name].copy_(value)
        yield changed


def score(name: str, a: Tensor, b: Tensor) -> list[float]:
    """The scores of pairs of maps."""
    return [_score(name, p, q) for p, q in zip(a.numpy(), b.numpy(), strict=True)]


def _score(name: str, p: np.ndarray, q: np.ndarray) -> float:
    if name == "spearman_of_abs":
        p, q = abs(p), abs(q)
    if np.ptp(p) == 0 or np.ptp(q) == 0:
        return float("nan")
    if name == "ssim":
        p, q = ((m - m.min()) / (m.max() - m.min()) for m in (p, q))
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return structural_similarity(p, q, data_range=1.0, channel_axis=0, **window)
    if name == "pearson":
        return float(stats.pearsonr(p.ravel(), q.ravel()).statistic)
    rho = float(stats.spearmanr(p.ravel(), q.ravel()).statistic)
    return abs(rho) if name == "spearman_abs" else rho


def naive_test(
    case: Case, scores: Sequence[str], *, order: str, repeats: int, seed: int, weights: str
) -> dict[str, np.ndarray]:
    """Scores (method, stage, repeat, sample) as the definition says."""
    target = output(case.model, case.x).argmax(1).tolist()
    before = {m: one_map(case.model, case.x, m, target) for m in case.methods}
    shape = (len(case.methods), len(case.stages), repeats, len(target))
    results = {name: np.zeros(shape) for name in scores}
    for repeat in range(repeats):
        drawn = draws(case, seed, repeat, weights)
        for stage, copied in enumerate(randomized_copies(case.model, drawn, order)):
            for row, method in enumerate(case.methods):
                maps = one_map(copied, case.x, method, target)
                for name in scores:
                    results[name][row, stage, repeat] = score(name, before[method], maps)
    return results
