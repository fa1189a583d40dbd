"""Recurrent networks against the oracle.

A recurrent layer is its formula, step by step: a linear map of the input, one of the state, their
sum, gates by the element-wise rule, products (half each). A constant first state is no path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle_lrp as lrp
import pytest
import torch
from oracle_elements import sigmoid
from oracle_lrp import Value
from relevance_cases import check
from torch import Tensor, nn
from transformer_nets import drawn, randn

import salience

F_IN, STATE, STEPS = 3, 4, 4


def times(a: Tensor, b: Tensor) -> Tensor:
    return a * b


def affine(read: Value | Tensor, weight: Tensor, bias: Tensor | None) -> Value | Tensor:
    if isinstance(read, Value):
        return lrp.linear(read, weight, bias)
    return torch.nn.functional.linear(read, weight, bias)


def multiply(a: Value, b: Value | Tensor) -> Value:
    return lrp.product(times, a, b) if isinstance(b, Value) else lrp.reorder(a, lambda t: t * b)


def gate(v: Value, k: int, formula: Callable[[Tensor], Tensor]) -> Value:
    return lrp.elementwise(lrp.reorder(v, lambda t: t[..., k * STATE : (k + 1) * STATE]), formula)


Weights = dict[str, Any]  # w_ih, w_hh, b_ih, b_hh and, with a projection, w_hr


def lstm_step(x: Value, h: Any, c: Any, p: Weights) -> tuple[Value, Value]:
    gates = lrp.plus(affine(x, p["w_ih"], p["b_ih"]), affine(h, p["w_hh"], p["b_hh"]))
    i, f, o = (gate(gates, k, sigmoid) for k in (0, 1, 3))
    c = lrp.plus(multiply(f, c), lrp.product(times, i, gate(gates, 2, torch.tanh)))
    h = lrp.product(times, o, lrp.elementwise(c, torch.tanh))
    return (lrp.linear(h, p["w_hr"]) if "w_hr" in p else h), c


def gru_step(x: Value, h: Any, p: Weights) -> Value:
    """h' = n - z n + z h: (1 - z) n + z h without a constant 1 that would keep a share."""
    from_x = affine(x, p["w_ih"], p["b_ih"])
    from_h = affine(h, p["w_hh"], p["b_hh"])
    sums = lrp.plus(from_x, from_h)
    r, z = gate(sums, 0, sigmoid), gate(sums, 1, sigmoid)
    last = slice(2 * STATE, 3 * STATE)
    n_h = lrp.reorder(from_h, lambda t: t[..., last]) if isinstance(h, Value) else from_h[last]
    n_x = lrp.reorder(from_x, lambda t: t[..., last])
    n = lrp.elementwise(lrp.plus(n_x, multiply(r, n_h)), torch.tanh)
    return lrp.plus(n, lrp.product(lambda a, b: -a * b, z, n), multiply(z, h))


def rnn_step(x: Value, h: Any, p: Weights, act: str = "tanh") -> Value:
    total = lrp.plus(affine(x, p["w_ih"], p["b_ih"]), affine(h, p["w_hh"], p["b_hh"]))
    return lrp.elementwise(total, torch.tanh) if act == "tanh" else lrp.relu(total)


def weights_of(module: Any, suffix: str = "") -> Weights:
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    keys = ["w_ih", "w_hh", "b_ih", "b_hh"]
    found = {k: getattr(module, n + suffix, None) for k, n in zip(keys, names, strict=True)}
    if hasattr(module, "weight_hr" + suffix):
        found["w_hr"] = getattr(module, "weight_hr" + suffix)
    return {k: None if p is None else p.detach() for k, p in found.items()}


def one_way(module: Any, steps: list[Value], suffix: str, start: list[Tensor]) -> list[Value]:
    """The hidden states of one layer in one direction."""
    p, states = weights_of(module, suffix), []
    h, c = start[0], start[-1]
    for x in steps:
        if isinstance(module, nn.LSTM):
            h, c = lstm_step(x, h, c, p)
        elif isinstance(module, nn.GRU):
            h = gru_step(x, h, p)
        else:
            h = rnn_step(x, h, p, module.nonlinearity)
        states.append(h)
    return states


def recurrent(module: Any, x: Value, start: list[Tensor] | None = None) -> Value:
    """(T, F) -> (T, directions * H) by every layer; `start` (layers * directions, H) of h and c."""
    steps = [lrp.reorder(x, lambda t, k=k: t[:, k]) for k in range(STEPS)]
    width = module.proj_size or STATE
    ways = 2 if module.bidirectional else 1
    zeros = [torch.zeros(module.num_layers * ways, w).double() for w in (width, STATE)]
    for layer in range(module.num_layers):
        first = [[t[layer * ways + way] for t in start or zeros] for way in range(ways)]
        states = one_way(module, steps, f"_l{layer}", first[0])
        if ways == 2:
            back = one_way(module, steps[::-1], f"_l{layer}_reverse", first[1])[::-1]
            states = [lrp.cat(list(pair)) for pair in zip(states, back, strict=True)]
        steps = states
    return lrp.stack(steps)


class Sequence(nn.Module):
    """A recurrent layer on (B, T, F), read by a linear head of all its states."""

    def __init__(self, layer: nn.Module, read=None) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.LazyLinear(2)
        self.read = read or (lambda layer, x: layer(x)[0])
        self.double()(randn(1, STEPS, F_IN))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.layer, x).flatten(1))

    def oracle(self, run=recurrent):
        def walk(x: Value) -> Value:
            flat = lrp.reorder(run(self.layer, x), lambda t: t.flatten(1))
            return lrp.linear(flat, self.head.weight, self.head.bias)

        return walk


def time_first(layer: Any, x: Tensor) -> Tensor:
    return layer(x.transpose(0, 1))[0].transpose(0, 1)


H0, C0 = randn(1, STATE, seed=31), randn(1, STATE, seed=32)


def states_given(layer: Any, x: Tensor) -> Tensor:
    h, c = (t[:, None].expand(-1, len(x), -1).contiguous() for t in (H0, C0))
    return layer(x, (h, c) if isinstance(layer, nn.LSTM) else h)[0]


def last_states(layer: Any, x: Tensor) -> Tensor:
    return torch.cat([t.transpose(0, 1).flatten(1) for t in layer(x)[1]], 1)


def last_states_oracle(layer: Any, x: Value) -> Value:
    p, h, c = weights_of(layer, "_l0"), torch.zeros(STATE).double(), torch.zeros(STATE).double()
    for k in range(STEPS):
        h, c = lstm_step(lrp.reorder(x, lambda t, k=k: t[:, k]), h, c, p)
    return lrp.cat([h, c])  # type: ignore[list-item]


def cells(layer: Any, x: Tensor) -> Tensor:
    """A loop over an LSTMCell, GRUCell or RNNCell, from its own zeros."""
    state, states = None, []
    for step in x.unbind(1):
        state = layer(step, state)
        states.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(states, 1)


def cells_oracle(layer: Any, x: Value) -> Value:
    p, states = weights_of(layer), []
    h: Any = torch.zeros(STATE).double()
    c: Any = torch.zeros(STATE).double()
    for k in range(STEPS):
        step = lrp.reorder(x, lambda t, k=k: t[:, k])
        if isinstance(layer, nn.LSTMCell):
            h, c = lstm_step(step, h, c, p)
        else:
            h = gru_step(step, h, p) if isinstance(layer, nn.GRUCell) else rnn_step(step, h, p)
        states.append(h)
    return lrp.stack(states)


def given_states(layer: Any, x: Value) -> Value:
    return recurrent(layer, x, [H0, C0] if isinstance(layer, nn.LSTM) else [H0])


def packed(layer: Any, x: Tensor) -> Tensor:
    """Sequences of two lengths, the first one shorter, in one call."""
    lengths = torch.tensor([STEPS - 1, STEPS][: len(x)])
    rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(layer(rows)[0], True, total_length=STEPS)[0]


def packed_last(layer: Any, x: Tensor) -> Tensor:
    lengths = torch.tensor([STEPS - 1, STEPS][: len(x)])
    rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    last = layer(rows)[1]
    last = torch.cat(last, -1) if isinstance(last, tuple) else last
    return last.transpose(0, 1).flatten(1)


BATCH = {"batch_first": True}
DEEP = {"num_layers": 2, **BATCH}
NETS: dict[str, tuple[Callable[[], nn.Module], Any, Any]] = {
    "lstm": (lambda: nn.LSTM(F_IN, STATE, **BATCH), None, recurrent),
    "lstm_no_bias": (lambda: nn.LSTM(F_IN, STATE, bias=False, **BATCH), None, recurrent),
    "lstm_deep": (lambda: nn.LSTM(F_IN, STATE, dropout=0.2, **DEEP), None, recurrent),
    "lstm_both_ways": (lambda: nn.LSTM(F_IN, STATE, bidirectional=True, **DEEP), None, recurrent),
    "lstm_time_first": (lambda: nn.LSTM(F_IN, STATE), time_first, recurrent),
    "lstm_projected": (lambda: nn.LSTM(F_IN, STATE, proj_size=2, **DEEP), None, recurrent),
    "lstm_states": (lambda: nn.LSTM(F_IN, STATE, **BATCH), states_given, given_states),
    "lstm_last": (lambda: nn.LSTM(F_IN, STATE, **BATCH), last_states, last_states_oracle),
    "gru": (lambda: nn.GRU(F_IN, STATE, **BATCH), None, recurrent),
    "gru_both_ways": (lambda: nn.GRU(F_IN, STATE, bidirectional=True, **DEEP), None, recurrent),
    "gru_states": (lambda: nn.GRU(F_IN, STATE, **BATCH), states_given, given_states),
    "gru_time_first": (lambda: nn.GRU(F_IN, STATE), time_first, recurrent),
    "rnn": (lambda: nn.RNN(F_IN, STATE, **DEEP), None, recurrent),
    "rnn_relu": (lambda: nn.RNN(F_IN, STATE, nonlinearity="relu", **BATCH), None, recurrent),
    "lstm_cell": (lambda: nn.LSTMCell(F_IN, STATE), cells, cells_oracle),
    "gru_cell": (lambda: nn.GRUCell(F_IN, STATE), cells, cells_oracle),
    "rnn_cell": (lambda: nn.RNNCell(F_IN, STATE), cells, cells_oracle),
}


@pytest.mark.parametrize("name", NETS)
def test_recurrent_layers(name):
    make, read, oracle = NETS[name]
    net = drawn(Sequence(make(), read), seed=41)
    assert isinstance(net, Sequence)
    check(net, net.oracle(oracle), randn(2, STEPS, F_IN, seed=42))


@pytest.mark.parametrize("name", ["lstm_both_ways", "gru", "rnn_relu", "lstm_cell"])
def test_gradients_and_batches_of_recurrent_layers(name):
    make, read, _ = NETS[name]
    net, x = drawn(Sequence(make(), read), seed=41), randn(3, STEPS, F_IN, seed=43)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    tape = salience.record(net, x)
    torch.testing.assert_close(tape.explain("gradient", target=1), expected)
    torch.testing.assert_close(tape.explain("input_x_gradient", target=1), x * expected)
    for method in ("lrp_epsilon", "lrp_alpha_beta"):
        maps = tape.explain(method, target=1)
        singles = [salience.record(net, one[None]).explain(method, target=1) for one in x]
        torch.testing.assert_close(maps, torch.cat(singles), rtol=1e-9, atol=1e-11)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(F_IN, STATE, **BATCH),
    "lstm_both_ways": lambda: nn.LSTM(F_IN, STATE, bidirectional=True, **DEEP),
    "lstm_projected": lambda: nn.LSTM(F_IN, STATE, proj_size=2, **DEEP),
    "gru_both_ways": lambda: nn.GRU(F_IN, STATE, bidirectional=True, **DEEP),
    "rnn": lambda: nn.RNN(F_IN, STATE, nonlinearity="relu", **BATCH),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_packed_sequences_are_each_sequence_alone(name: str, last: bool):
    """Against the same layer on each sequence, cut to its length; padding gets no relevance."""
    layer = drawn(LAYERS[name](), seed=41).double().eval()
    x = randn(2, STEPS, F_IN, seed=42)
    run = packed_last if last else packed
    tape = salience.record(Read(layer, run), x)
    with torch.no_grad():
        torch.testing.assert_close(tape.output, Read(layer, run)(x))
    for method, rule in salience.methods.items():
        if not rule.single_pass:
            continue
        maps = tape.explain(method, target=1)
        assert (
            tape.coverage(method).uncovered
            == salience.record(Read(layer, cut(STEPS, last)), x).coverage(method).uncovered
        )
        for k, length in enumerate((STEPS - 1, STEPS)):
            alone = salience.record(Read(layer, cut(length, last)), x[k : k + 1, :length])
            fact = alone.explain(method, target=1)[0]
            torch.testing.assert_close(maps[k, :length], fact, rtol=1e-9, atol=1e-11)
            assert not maps[k, length:].any()


class Read(nn.Module):
    """A layer and fixed weights of what it puts out."""

    def __init__(self, layer: nn.Module, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.run = layer, run
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.run(self.layer, x).flatten(1)
        weight = torch.linspace(-1, 2, 2 * 400, dtype=torch.float64).view(400, 2)
        return y @ weight[: y.shape[1]]


def cut(length: int, last: bool) -> Callable[[Any, Tensor], Tensor]:
    def run(layer: Any, x: Tensor) -> Tensor:
        y, ends = layer(x[:, :length])
        ends = torch.cat(ends, -1) if isinstance(ends, tuple) else ends
        return ends.transpose(0, 1).flatten(1) if last else y

    return run
