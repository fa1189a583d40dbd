"""One tape in two threads: a walk that another thread enters keeps its own rules."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import salience
from salience import rules
from salience._randomization.weights import random_weights, stages_of

METHODS = ["gradient", "lrp_epsilon", "guided_backprop", "lrp_alpha_beta", "deep_taylor"]


def tape() -> salience.Tape:
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(4, 6, generator=generator)
    return salience.record(net.double().eval(), x.double())


@pytest.mark.parametrize("other", METHODS)
def test_a_walk_that_another_thread_meets_in_its_middle(other):
    """The first rule of one walk lets another thread explain before it goes on itself."""
    inside, met = threading.Event(), threading.Event()
    alone = {name: tape().explain(name, target=1) for name in ("lrp_epsilon", other)}
    recorded = tape()

    def waits(map: Any, m: Tensor) -> Tensor:
        inside.set()
        met.wait(0.5)  # in vain where walks wait for each other
        return rules.epsilon(map, m, 1e-3)

    slow = salience.methods["lrp_epsilon"]
    slow = replace(slow, name="slow", rules={**slow.rules, "linear": waits})
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(recorded.explain, slow, 1)

        def second() -> Tensor:
            assert inside.wait(10)
            try:
                return recorded.explain(other, 1)
            finally:
                met.set()

        found = pool.submit(second)
        assert torch.equal(first.result(20), alone["lrp_epsilon"])
        assert torch.equal(found.result(20), alone[other])


@contextmanager
def impatient() -> Iterator[None]:
    """Threads that change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_many_walks_of_many_targets_at_once():
    recorded = tape()
    work = [(name, target) for name in METHODS for target in range(3)] * 8
    alone = {job: recorded.explain(*job) for job in work}
    start = threading.Barrier(6)

    def run(mine: list[tuple[str, int]]) -> list[Tensor]:
        start.wait(10)
        return [recorded.explain(*job) for job in mine]

    parts = [work[i::6] for i in range(6)]
    with impatient(), ThreadPoolExecutor(6) as pool:
        found = list(pool.map(run, parts))
    wrong = [
        job for mine, maps in zip(parts, found, strict=True)
        for job, map in zip(mine, maps, strict=True) if not torch.equal(map, alone[job])
    ]  # fmt: skip
    assert not wrong


def test_a_rule_that_explains_the_same_tape_leaves_its_own_walk_as_it_was():
    recorded = tape()
    alone = recorded.explain("lrp_epsilon", 1)

    def nested(map: Any, m: Tensor) -> Tensor:
        recorded.explain("gradient", 2)
        recorded.explain("guided_backprop", 2)
        return rules.epsilon(map, m, 1e-3)

    outer = salience.methods["lrp_epsilon"]
    outer = replace(outer, name="outer", rules={**outer.rules, "linear": nested})
    assert torch.equal(recorded.explain(outer, 1), alone)


begun, ended = threading.Event(), threading.Event()


class Slow(nn.Linear):
    """Another thread comes in while it draws."""

    def reset_parameters(self) -> None:
        begun.set()
        ended.wait(0.3)
        super().reset_parameters()


def test_weights_that_are_drawn_while_another_thread_ends_its_pass():
    """It puts the generators back, which initialisers draw from."""
    nets = [nn.Sequential(Slow(6, 2)).eval() for _ in range(2)]
    x = torch.ones(1, 6)

    def other(x: Tensor) -> Tensor:
        begun.wait(5)
        return nets[1](x)

    def drawn() -> Tensor:
        tape = salience.record(nets[0], x)
        (stage,) = stages_of(tape.recording.trace)
        return next(iter(random_weights(nets[0], tape.recording.trace, stage, (0, 0)).values()))

    ended.set()
    alone = drawn()
    begun.clear()
    ended.clear()

    def passes() -> None:
        salience.record(other, x)
        ended.set()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(passes)
        among = drawn()
        done.result()
    assert torch.equal(alone, among)
