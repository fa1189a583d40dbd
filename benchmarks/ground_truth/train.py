"""Networks trained on fresh samples at each step, kept in a cache of weights."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ground_truth import data, images, networks, relations, rows
from ground_truth.data import Generate
from ground_truth.networks import Make

CACHE = Path(__file__).parents[2] / "out" / "truth"
BATCH, RATE, FOR_TEST = 128, 3e-3, 1000
FEW = 512  # samples whose labels a dead network is shown, shuffled


@dataclass(frozen=True)
class Recipe:
    """How a network comes about.

    need      the accuracy, or R^2, that it has to reach on new samples
    steps     at most; training ends where `need` is passed by nine tenths of what is missing to 1
    shuffled  it is shown a few samples with labels that have nothing to do with them
    """

    name: str
    generate: Generate
    make: Make
    regression: bool = False
    need: float = 0.95
    steps: int = 600
    rate: float = RATE
    shuffled: bool = False


class Trained(NamedTuple):
    """A network, its accuracy or R^2 on new samples, and the seconds it took."""

    network: nn.Module
    accuracy: float
    seconds: float


def stream(recipe: str, purpose: str, number: int = 0) -> Generator:
    """An independent random stream for each use that a network makes of one."""
    digest = hashlib.sha256(f"{recipe} {purpose} {number}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def initial(recipe: Recipe, number: int = 0) -> nn.Module:
    """The network with weights of its own initialisers; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(recipe.name, "weights", number).initial_seed())
        return recipe.make()


def untrained(recipe: Recipe, number: int) -> nn.Module:
    """Another initial network, whose BatchNorm has the statistics of the data."""
    network = initial(recipe, 1 + number)
    x = recipe.generate(FOR_TEST, stream(recipe.name, "statistics", number)).x
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean of all passes, of which there is one
    with torch.no_grad():
        network.train()(x)
    return network.eval().requires_grad_(False)


def trained(recipe: Recipe) -> Trained:
    """The network, from the cache where its recipe is unchanged."""
    kept = CACHE / f"{recipe.name}-{fingerprint(recipe)}.pt"
    network = initial(recipe)
    if kept.exists():
        found = torch.load(kept, weights_only=True)
        network.load_state_dict(found["state"])
        return Trained(network.eval().requires_grad_(False), found["accuracy"], found["seconds"])
    begin = time.perf_counter()
    accuracy = _fit(network, recipe)
    seconds = time.perf_counter() - begin
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.save({"state": network.state_dict(), "accuracy": accuracy, "seconds": seconds}, kept)
    return Trained(network.eval().requires_grad_(False), accuracy, seconds)


def _fit(network: nn.Module, recipe: Recipe) -> float:
    """Train in place; returns the accuracy on new samples."""
    samples = stream(recipe.name, "training")
    few = recipe.generate(FEW, samples) if recipe.shuffled else None
    optimizer = torch.optim.Adam(network.parameters(), recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    for step in range(recipe.steps):
        if few is None:
            x, y = recipe.generate(BATCH, samples)[:2]
        else:
            chosen = torch.randint(FEW, (BATCH,), generator=samples)
            x, y = few.x[chosen], few.y.flip(0)[chosen]
        optimizer.zero_grad()
        loss(network.train()(x), y, recipe.regression).backward()
        optimizer.step()
        schedule.step()
        good = 1 - (1 - recipe.need) / 10
        if step % 50 == 49 and not recipe.shuffled and accuracy(network, recipe, 500) >= good:
            break
    return accuracy(network, recipe)


def loss(output: Tensor, y: Tensor, regression: bool) -> Tensor:
    if regression:
        return functional.mse_loss(output[:, 0], y)
    return functional.cross_entropy(output, y)


@torch.no_grad()
def accuracy(network: nn.Module, recipe: Recipe, count: int = FOR_TEST) -> float:
    """The share of right classes, or R^2, of new samples."""
    x, y = recipe.generate(count, stream(recipe.name, "test"))[:2]
    output = network.eval()(x)
    if recipe.regression:
        return float(1 - (output[:, 0] - y).var() / y.var())
    return float((output.argmax(1) == y).double().mean())


def fingerprint(recipe: Recipe) -> str:
    """Of the recipe, and of all code that the weights depend on."""
    modules: tuple[object, ...] = (data, images, rows, relations, networks)
    text = "".join(inspect.getsource(module) for module in modules)  # type: ignore[arg-type]
    told = (recipe.regression, recipe.need, recipe.steps, recipe.rate, recipe.shuffled)
    text += inspect.getsource(_fit) + repr((_told(recipe.generate), _told(recipe.make), told))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _told(function: Callable[..., object]) -> str:
    """A function's name and the arguments it has been given."""
    inner = getattr(function, "func", function)
    given = getattr(function, "args", ()), getattr(function, "keywords", {})
    return f"{inner.__name__} {given}"
