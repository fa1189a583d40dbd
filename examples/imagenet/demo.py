"""All methods on a pretrained ImageNet network and real images, and what they are worth."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from network import efficientnet_lite0, images
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor, nn

import salience

COUNT = 4
TESTED, STAGES, REPEATS = 3, 6, 3  # of the randomisation test: images, scored stages, networks
OUT = Path("out/imagenet")
# of the methods with many passes: few, for the demo to take less than three minutes on two cores
PARAMETERS = {"smoothgrad": {"n": 10}, "integrated_gradients": {"max_steps": 64, "tol": 0.02}}


def timed(call: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """The median of the seconds that a call takes, and what it returns."""
    seconds, result = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def plain_gradient(network: nn.Module, x: Tensor, classes: Tensor) -> Callable[[], Tensor]:
    """The unit of cost: forward and input gradient by autograd alone, parameters frozen."""
    frozen = copy.deepcopy(network).requires_grad_(False)

    def run() -> Tensor:
        leaf = x.clone().requires_grad_()
        value = frozen(leaf).gather(1, classes[:, None]).sum()
        return torch.autograd.grad(value, leaf)[0]

    return run


def check(network: nn.Module, x: Tensor, console: Console) -> None:
    """The parameter-randomisation test on a few images and stages, with its figures."""
    console.print(
        f"Randomisation test of the single-pass methods, a subset: {TESTED} of {COUNT} images, "
        f"{STAGES} evenly spread stages scored (all are randomised), {REPEATS} random networks."
    )
    started = time.perf_counter()
    study = salience.randomization_test(
        network, x[:TESTED], cascade=salience.Cascade(stages=STAGES, repeats=REPEATS), keep_maps=1
    )
    console.print(f"{time.perf_counter() - started:.0f} s", style="dim")
    console.print(Text(str(study)))
    console.print("Hold this beside a test of faithfulness, never alone (Binder 2023).")
    figures = {"similarity": study.plot.similarity(), "cascade": study.plot.cascade()}
    for name, figure in figures.items():
        figure.savefig(OUT / f"{name}.png")
        console.print(f"{name.capitalize()}: {OUT / name}.png", soft_wrap=True)
    page = study.report(OUT / "report.html")
    console.print(f"Report to open in a browser: {page}", soft_wrap=True)


def main() -> None:
    console = Console(highlight=False)
    network = efficientnet_lite0()
    x, labels, files = images(COUNT)
    with torch.no_grad():
        probabilities = network(x).softmax(1)
    chance, classes = probabilities.max(1)
    verdicts = [
        f"class {k}, " + ("correct" if k == label else f"label {label}")
        for k, label in zip(classes.tolist(), labels, strict=True)
    ]
    for file, p, verdict in zip(files, chance.tolist(), verdicts, strict=True):
        console.print(f"{file.name}: {verdict}, probability {p:.2f}")

    gradient = plain_gradient(network, x, classes)
    unit, _ = timed(gradient)
    table = Table(
        Column("method", no_wrap=True), Column("seconds", justify="right"),
        Column("cost in gradients", justify="right"), "largest error of a map",
        title=f"EfficientNet-Lite0, {COUNT} images; one gradient takes {unit:.2f} s",
    )  # fmt: skip
    maps: dict[str, Tensor] = {}
    for name in salience.methods:
        method = salience.methods[name].having(**PARAMETERS.get(name, {}))
        count = 3 if method.single_pass else 1
        seconds, made = timed(partial(salience.explain, network, x, method), count)
        maps |= made
        cost = f"{seconds / unit:.1f}"
        table.add_row(name, f"{seconds:.2f}", cost, made.largest_error(name))
        console.print(f"{name}: {seconds:.1f} s", style="dim")
    console.print(table)
    single_pass = [name for name, method in salience.methods.items() if method.single_pass]
    together, _ = timed(partial(salience.explain, network, x, single_pass))
    console.print(
        f"The {len(single_pass)} single-pass methods together, on one recorded pass: "
        f"{together:.2f} s, {together / unit:.1f} gradients."
    )
    console.print(f"Fewer passes than by default, for the demo to be short: {PARAMETERS}")
    OUT.mkdir(parents=True, exist_ok=True)
    figure = salience.plot.maps(x, maps, titles=verdicts, clip=99)
    figure.savefig(OUT / "overview.png")
    console.print(f"Overview: {OUT / 'overview.png'}", soft_wrap=True)
    check(network, x, console)


if __name__ == "__main__":
    main()
