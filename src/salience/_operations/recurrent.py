"""Recurrent layers and cells, step by step, of linear maps and the gates between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from salience._operations.calls import Arguments, Keywords

# One step of a recurrent layer: W x of the step, the state, W_hh, b_hh -> the new state; the first
# tensor of a state is what the layer puts out.
State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor, Tensor | None], State]


def lstm(drive: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    h, c = state
    gates = drive + F.linear(h, weight, bias)
    enter, forget, new, out = gates.chunk(4, -1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(c), c


def gru(drive: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    (h,) = state
    reset, update, new = drive.chunk(3, -1)
    reset_h, update_h, new_h = F.linear(h, weight, bias).chunk(3, -1)
    new = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
    gate = torch.sigmoid(update + update_h)
    return (new - gate * new + gate * h,)


def _rnn_step(
    activation: Callable[[Tensor], Tensor],
    drive: Tensor,
    state: State,
    weight: Tensor,
    bias: Tensor | None,
) -> State:
    return (activation(drive + F.linear(state[0], weight, bias)),)


rnn_tanh: Step = partial(_rnn_step, torch.tanh)
rnn_relu: Step = partial(_rnn_step, torch.relu)


def layers(step: Step, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """LSTM, GRU and RNN layers, step by step; W x of all steps is one linear map."""
    return (_packed if is_packed(args, kwargs) else _padded)(step, *args, **kwargs)


def is_packed(args: Arguments, kwargs: Keywords) -> bool:
    """Whether layers are given (data, batch_sizes, ...) of a packed sequence."""
    second = args[1] if len(args) > 1 else kwargs.get("batch_sizes")
    return isinstance(second, Tensor) and not second.is_floating_point()


def _padded(
    step: Step,
    x: Tensor,
    start: Tensor | Sequence[Tensor],
    parameters: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    if batch_first:
        x = x.transpose(0, 1)  # (T, B, features)
    given = (parameters, has_biases, num_layers, dropout, training, bidirectional)
    flat, *ends = _packed(step, x.flatten(0, 1), [x.shape[1]] * len(x), start, *given)
    x = flat.unflatten(0, (len(x), -1))
    return (x.transpose(0, 1) if batch_first else x, *ends)


def _packed(
    step: Step,
    x: Tensor,
    sizes: Tensor | Sequence[int],
    start: Tensor | Sequence[Tensor],
    parameters: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
) -> tuple[Tensor, ...]:
    """Of sequences of several lengths, the longest first.

    x      (sum of sizes, features) all first steps, all second steps, ...
    sizes  how many sequences have a first step, a second step, ...
    """
    sizes = sizes.tolist() if isinstance(sizes, Tensor) else list(sizes)
    states = [start] if isinstance(start, Tensor) else list(start)
    per_layer = len(parameters) // (num_layers * (1 + bidirectional))
    last: list[State] = []
    for layer in range(num_layers):
        directions = []
        for reverse in range(1 + bidirectional):
            number = layer * (1 + bidirectional) + reverse
            own = parameters[number * per_layer : (number + 1) * per_layer]
            begin = tuple(state[number] for state in states)
            outputs, end = _run_layer(step, x, sizes, begin, own, has_biases, bool(reverse))
            directions.append(outputs)
            last.append(end)
        x = torch.cat(directions, -1) if bidirectional else directions[0]
        if layer + 1 < num_layers and dropout > 0:
            x = torch.dropout(x, dropout, training)
    ends = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    return (x, *ends)


def _run_layer(
    step: Step,
    x: Tensor,
    sizes: Sequence[int],
    begin: State,
    own: Sequence[Tensor],
    has_biases: bool,
    reverse: bool,
) -> tuple[Tensor, State]:
    biases = own[2:4] if has_biases else (None, None)
    projection = own[-1] if len(own) > 2 + 2 * has_biases else None

    def after(drive: Tensor, state: State) -> State:
        state = step(drive, state, own[1], biases[1])
        return state if projection is None else (F.linear(state[0], projection), *state[1:])

    drives = F.linear(x, own[0], biases[0]).split(list(sizes))
    outputs, ended = [], []  # the states of sequences that have ended
    state = _rows(begin, 0, len(drives[-1 if reverse else 0]))
    for drive in reversed(drives) if reverse else drives:
        running, now = len(state[0]), len(drive)
        if now > running:  # backwards, shorter sequences begin later, from a constant state
            late = after(drive[running:], _rows(begin, running, now))
            state = _joined([after(drive[:running], state), late])
        else:
            if now < running:
                ended.append(_rows(state, now, running))
                state = _rows(state, 0, now)
            state = after(drive, state)
        outputs.append(state[0])
    return torch.cat(outputs[::-1] if reverse else outputs), _joined([state, *ended[::-1]])


def _rows(state: State, begin: int, end: int) -> State:
    return tuple(part[begin:end] for part in state)


def _joined(states: Sequence[State]) -> State:
    return tuple(torch.cat(parts) for parts in zip(*states, strict=True))


def cell(
    step: Step,
    x: Tensor,
    state: Tensor | Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor | State:
    """LSTMCell, GRUCell and RNNCell."""
    before = (state,) if isinstance(state, Tensor) else tuple(state)
    after = step(F.linear(x, w_ih, b_ih), before, w_hh, b_hh)
    return after[0] if len(after) == 1 else after
