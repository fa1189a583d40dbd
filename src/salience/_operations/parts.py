"""Calls that do several things at once, as the smaller calls that rules treat.

A recorded pass runs these in the place of torch's own functions where the input reaches them, so
that attention, recurrent cells and fused sums of products need no rule of their own. The forward
values are torch's to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from salience._operations.operands import is_packed


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T scale + mask) v; a query that may look nowhere gets 0."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        shape = scores.shape[-2:]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.ops.aten._safe_softmax(scores, -1)
    return torch.dropout(weights, dropout_p, dropout_p > 0) @ value


# One step of a recurrent layer: W x of the step, the state, W_hh, b_hh -> the new state; the first
# tensor of a state is what the layer puts out.
State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor, Tensor | None], State]


def _lstm_step(drive: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    h, c = state
    gates = drive + F.linear(h, weight, bias)
    enter, forget, new, out = gates.chunk(4, -1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(c), c


def _gru_step(drive: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    (h,) = state
    reset, update, new = drive.chunk(3, -1)
    reset_h, update_h, new_h = F.linear(h, weight, bias).chunk(3, -1)
    new = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
    gate = torch.sigmoid(update + update_h)
    return (new - gate * new + gate * h,)


def _rnn_step(
    activation: Callable[[Tensor], Tensor], drive: Tensor, state: State, weight: Tensor,
    bias: Tensor | None,
) -> State:  # fmt: skip
    return (activation(drive + F.linear(state[0], weight, bias)),)


_STEPS: dict[str, Step] = {
    "lstm": _lstm_step, "gru": _gru_step,
    "rnn_tanh": partial(_rnn_step, torch.tanh), "rnn_relu": partial(_rnn_step, torch.relu),
}  # fmt: skip


def recurrent(
    name: str,
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
    """LSTM, GRU and RNN layers, step by step; W x of all steps is one linear map."""
    if batch_first:
        x = x.transpose(0, 1)  # (T, B, features)
    given = (parameters, has_biases, num_layers, dropout, training, bidirectional)
    flat, *ends = packed(name, x.flatten(0, 1), [x.shape[1]] * len(x), start, *given)
    x = flat.unflatten(0, (len(x), -1))
    return (x.transpose(0, 1) if batch_first else x, *ends)


def packed(
    name: str,
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
    """The same of sequences of several lengths, the longest first.

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
            step = _STEPS[name]
            outputs, end = _run_layer(step, x, sizes, begin, own, has_biases, bool(reverse))
            directions.append(outputs)
            last.append(end)
        x = torch.cat(directions, -1) if bidirectional else directions[0]
        if layer + 1 < num_layers and dropout > 0:
            x = torch.dropout(x, dropout, training)
    ends = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    return (x, *ends)


def _run_layer(
    step: Step, x: Tensor, sizes: Sequence[int], begin: State, own: Sequence[Tensor],
    has_biases: bool, reverse: bool,
) -> tuple[Tensor, State]:  # fmt: skip
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
    name: str, x: Tensor, state: Tensor | Sequence[Tensor], w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None = None, b_hh: Tensor | None = None,
) -> Any:  # fmt: skip
    """LSTMCell, GRUCell and RNNCell."""
    before = (state,) if isinstance(state, Tensor) else tuple(state)
    after = _STEPS[name](F.linear(x, w_ih, b_ih), before, w_hh, b_hh)
    return after if name == "lstm" else after[0]


def _add_product(
    product: Callable[[Tensor, Tensor], Tensor], input: Tensor, a: Tensor, b: Tensor,
    *, beta: float = 1, alpha: float = 1,
) -> Tensor:  # fmt: skip
    total = product(a, b) if alpha == 1 else product(a, b) * alpha
    return total + (input if beta == 1 else input * beta)


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b).sum(0)


def _add_scaled(
    combine: Callable[[Tensor, Tensor], Tensor], input: Tensor, a: Tensor, b: Tensor,
    *, value: float = 1,
) -> Tensor:  # fmt: skip
    return input + combine(a, b) * value


def _lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    return input + weight * (end - input)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * torch.sigmoid(gate)


def _cosine_similarity(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    norms = [t.norm(dim=dim, keepdim=True).clamp_min(eps) for t in (a, b)]
    return (a / norms[0] * (b / norms[1])).sum(dim)


def _with_mean(spread: Callable[..., Tensor], input: Tensor, *args: Any, **options: Any) -> Any:
    """var_mean and std_mean."""
    dim = args[0] if args and not isinstance(args[0], bool) else options.get("dim")
    keepdim = options.get("keepdim", args[2] if len(args) > 2 else False)
    mean = input.mean() if dim is None else input.mean(dim, keepdim=keepdim)
    return spread(input, *args, **options), mean


def _grouped_product(a: Tensor, b: Tensor, offs: Tensor, *_: Any, **__: Any) -> Tensor:
    """Rows [offs[g - 1], offs[g]) of a (N, I) times b[g] (I, J); 0 after the last group."""
    begins = [0, *offs.tolist()]
    spans = enumerate(pairwise(begins))
    parts = [a[begin:end] @ b[g] for g, (begin, end) in spans if end > begin]
    rest = a.new_zeros(len(a) - begins[-1], b.shape[-1])
    return torch.cat([*parts, rest]) if len(rest) else torch.cat(parts)


def _native_layer_norm(
    input: Tensor, shape: Any, weight: Any, bias: Any, eps: float
) -> tuple[Any, ...]:
    return torch.layer_norm(input, shape, weight, bias, eps), None, None


def _native_group_norm(
    input: Tensor, weight: Any, bias: Any, N: int, C: int, HxW: int, group: int, eps: float
) -> tuple[Any, ...]:
    return torch.group_norm(input, group, weight, bias, eps), None, None


def _native_batch_norm(
    input: Tensor, weight: Any, bias: Any, mean: Tensor, variance: Tensor, momentum: float,
    eps: float,
) -> tuple[Any, ...]:  # fmt: skip
    out = torch.batch_norm(input, weight, bias, mean, variance, False, momentum, eps, False)
    return out, None, None


FUSED: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    **{name: partial(recurrent, name) for name in _STEPS},
    "lstm_cell": partial(cell, "lstm"),
    "gru_cell": partial(cell, "gru"),
    "rnn_tanh_cell": partial(cell, "rnn_tanh"),
    "rnn_relu_cell": partial(cell, "rnn_relu"),
    "addmm": partial(_add_product, torch.mm),
    "addmv": partial(_add_product, torch.mv),
    "addbmm": partial(_add_product, _sum_of_products),
    "baddbmm": partial(_add_product, torch.bmm),
    "_grouped_mm": _grouped_product,
    "grouped_mm_fallback": _grouped_product,
    "addcmul": partial(_add_scaled, torch.mul),
    "addcdiv": partial(_add_scaled, torch.div),
    "lerp": _lerp,
    "glu": _glu,
    "cosine_similarity": _cosine_similarity,
    "var_mean": partial(_with_mean, torch.var),
    "std_mean": partial(_with_mean, torch.std),
    "native_layer_norm": _native_layer_norm,
    "native_group_norm": _native_group_norm,
    "_native_batch_norm_legit_no_training": _native_batch_norm,
}


def _scaled_addmm(
    input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    return torch.addmm(input * beta, a * alpha, b)


def parts_of(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], is_linear: bool
) -> Callable[..., Any] | None:
    """The function to record in the place of a call, if it is one of known form.

    is_linear  the call is a linear map, which needs no parts but for factors that rules do not see
    """
    if is_linear:
        scaled = name == "addmm" and any(kwargs.get(key, 1) != 1 for key in ("alpha", "beta"))
        return _scaled_addmm if scaled else None
    if name in _STEPS and is_packed(args, kwargs):
        return partial(packed, name)
    if name in ("_grouped_mm", "grouped_mm_fallback") and _has_no_groups(*args[:3], **kwargs):
        return None
    return FUSED.get(name)


def _has_no_groups(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Any = None, **_: Any
) -> bool:
    """Whether a grouped product has another form than rows of a by a matrix for each group."""
    return offs is None or bias is not None or (a.ndim, b.ndim) != (2, 3)
