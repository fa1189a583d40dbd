"""Mixtures of experts: however tokens and weights are gathered, experts are linear maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from traps import SINGLE, close

import salience
from salience._recording.linear_maps import Weights
from salience._recording.replay import can_replay, replay
from salience._recording.run import run_pass
from salience._tape.tape import Tape

EXPERTS, WIDTH, HIDDEN, TOP = 4, 6, 5, 2


class Experts(nn.Module):
    """Tokens (B, T, WIDTH), each through the two experts that its router likes most."""

    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

        self.begin, self.router = weights(WIDTH, WIDTH), weights(EXPERTS, WIDTH)
        self.head = weights(3, WIDTH)
        self.up, self.down = weights(EXPERTS, HIDDEN, WIDTH), weights(EXPERTS, WIDTH, HIDDEN)
        self.run = run
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.linear(x, self.begin).reshape(-1, WIDTH)
        scores = F.linear(tokens, self.router).softmax(-1)
        share, chosen = torch.topk(scores, TOP, -1)  # (N, TOP)
        share = share / share.sum(-1, keepdim=True)
        mixed = tokens + self.run(self, tokens, share, chosen)
        return F.linear(mixed.view_as(x).mean(1), self.head)


def naive(net: Experts, tokens: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
    """One token and one expert at a time; experts are numbers of Python."""
    rows = []
    for t, experts in enumerate(chosen.tolist()):
        terms = []
        for k, expert in enumerate(experts):
            up, down = net.up.data[expert].clone(), net.down.data[expert].clone()
            y = F.linear(F.relu(F.linear(tokens[t : t + 1], up)), down)
            terms.append(y * share[t : t + 1, k : k + 1])
        rows.append(terms[0] + terms[1])
    return torch.cat(rows)


def looped(net: Experts, tokens: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
    out = torch.zeros_like(tokens)
    with torch.no_grad():
        mask = F.one_hot(chosen, EXPERTS).permute(2, 1, 0)
        hit = torch.greater(mask.sum((-1, -2)), 0).nonzero()
    for expert in hit:
        expert = expert[0]
        place, token = torch.where(mask[expert])
        y = F.linear(F.relu(F.linear(tokens[token], net.up[expert])), net.down[expert])
        out.index_add_(0, token, y * share[token, place, None])
    return out


def batched(net: Experts, tokens: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
    chosen = chosen.reshape(-1)
    rows = tokens.repeat_interleave(TOP, 0)
    hidden = F.relu(torch.bmm(net.up[chosen], rows.unsqueeze(-1)).squeeze(-1))
    down = net.down.index_select(0, chosen).transpose(1, 2)
    y = torch.bmm(hidden.unsqueeze(1), down).squeeze(1) * share.reshape(-1, 1)
    return y.view(-1, TOP, WIDTH).sum(1)


def gathered(net: Experts, tokens: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
    """By einsum, and tokens scattered back."""
    hidden = F.relu(torch.einsum("ni,nkji->nkj", tokens, net.up[chosen]))
    y = torch.einsum("nkj,nkij->nki", hidden, net.down[chosen]) * share[..., None]
    index = torch.arange(len(tokens)).repeat_interleave(TOP)[:, None].expand(-1, WIDTH)
    return torch.zeros_like(tokens).scatter_add(0, index, y.flatten(0, 1))


def grouped(product: Callable[..., Tensor], dtype: torch.dtype = torch.float64) -> Any:
    def run(net: Experts, tokens: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
        chosen = chosen.reshape(-1)
        order = torch.argsort(chosen)
        ends = torch.bincount(chosen, minlength=EXPERTS).cumsum(0).to(torch.int32)
        rows = tokens[order // TOP]
        hidden = F.relu(product(rows, net.up.transpose(-2, -1), offs=ends))
        y = product(hidden, net.down.transpose(-2, -1), offs=ends)
        y = y * share.reshape(-1)[order][:, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return y[back].view(-1, TOP, WIDTH).sum(1)

    return run


FORMS = {"looped": looped, "batched": batched, "gathered": gathered}
X = torch.randn(2, 3, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", SINGLE)
@pytest.mark.parametrize("name", FORMS)
def test_experts_are_linear_maps(name: str, method: str):
    tape = salience.record(Experts(FORMS[name]), X)
    facts = salience.record(Experts(naive), X)
    torch.testing.assert_close(tape.output, facts.output)
    assert not tape.coverage(method).uncovered
    close(tape.explain(method, target=1), facts.explain(method, target=1))


@pytest.mark.parametrize("method", SINGLE)
def test_grouped_products_are_linear_maps(method: str):
    """torch has them in float32 at best, on widths that are multiples of 16 bytes."""
    global WIDTH, HIDDEN
    WIDTH, HIDDEN = 8, 4
    try:
        x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
        tape = salience.record(Experts(grouped(torch._grouped_mm)).float(), x)
        facts = salience.record(Experts(naive).float(), x)
        torch.testing.assert_close(tape.output, facts.output)
        ours, fact = tape.explain(method, target=1), facts.explain(method, target=1)
    finally:
        WIDTH, HIDDEN = 6, 5
    # float32
    torch.testing.assert_close(ours, fact, rtol=1e-4, atol=1e-5 * float(fact.abs().max()))
    assert not tape.coverage(method).uncovered


def test_experts_can_be_randomized():
    """A replay chooses again, and among other weights."""
    net = Experts(batched)
    weights = Weights()
    tape = Tape(run_pass(net, X, weights=weights, keep=True))
    assert can_replay(tape.recording.trace)
    names = {name: value for value, name in tape.recording.trace.parameters.items()}
    other = {name: getattr(net, name).detach().flip(0) for name in ("router", "up")}
    replayed = Tape(
        replay(tape.recording, {names[n]: t for n, t in other.items()}, weights, lambda: None)
    )
    with torch.no_grad():
        for name, value in other.items():
            getattr(net, name).copy_(value)
    fresh = salience.record(net, X)
    for method in SINGLE:
        close(replayed.explain(method, target=1), fresh.explain(method, target=1))


@pytest.mark.parametrize("method", ["guided_backprop", "lrp_epsilon"])
def test_what_a_router_scales_by_chosen_numbers_is_not_covered(method: str):
    def scaled(net: Experts, tokens: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
        return naive(net, tokens, share, chosen) * net.up[chosen[:, 0], 0]

    assert "mul" in salience.record(Experts(scaled), X).coverage(method).uncovered
