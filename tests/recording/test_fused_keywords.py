"""Calls of several operations at once mean the same by position and by keyword."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from traps import RULED, as_module, close

import salience

aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(0)


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


X = _draw(2, 4, 4)
W = _draw(4, 4)
GATES, STATE = (
    {n: [_draw(n * 4, 4), _draw(n * 4, 4), _draw(n * 4), _draw(n * 4)] for n in (1, 3, 4)},
    _draw(2, 4),
)
ONES = torch.ones(4, dtype=torch.float64)
# name -> function, what its arguments are called, and the arguments for an input h (2, 4, 4)
CALLS: dict[str, tuple[Any, str, Any]] = {
    "addmm": (torch.addmm, "input mat1 mat2", lambda h: (h[0], h[0], h[1])),
    "addmm of a weight": (torch.addmm, "input mat1 mat2", lambda h: (W[0], h[0], W)),
    "addmv": (torch.addmv, "input mat vec", lambda h: (h[0, 0], h[0], h[1, 0])),
    "addbmm": (torch.addbmm, "input batch1 batch2", lambda h: (h[0], h, h.mT)),
    "baddbmm": (torch.baddbmm, "input batch1 batch2", lambda h: (h, h, h.mT)),
    "addcmul": (torch.addcmul, "input tensor1 tensor2", lambda h: (h, h, h.mT)),
    "addcdiv": (torch.addcdiv, "input tensor1 tensor2", lambda h: (h, h, h.mT.exp())),
    "lerp": (torch.lerp, "input end weight", lambda h: (h, h.mT, h.sigmoid())),
    "glu": (torch.nn.functional.glu, "input dim", lambda h: (h, -1)),
    "cosine_similarity": (torch.cosine_similarity, "x1 x2 dim", lambda h: (h, h.flip(1), -1)),
    "attention": (
        torch.nn.functional.scaled_dot_product_attention, "query key value",
        lambda h: (h, h.flip(1), h.mT)),
    "lstm_cell": (torch.lstm_cell, "input hx w_ih w_hh b_ih b_hh",
                  lambda h: (h[:, 0], (STATE, STATE), *GATES[4])),
    "gru_cell": (torch.gru_cell, "input hx w_ih w_hh b_ih b_hh",
                 lambda h: (h[:, 0], STATE, *GATES[3])),
    "rnn_tanh_cell": (torch.rnn_tanh_cell, "input hx w_ih w_hh b_ih b_hh",
                      lambda h: (h[:, 0], STATE, *GATES[1])),
    "lstm": (
        torch.lstm,
        "input hx params has_biases num_layers dropout train bidirectional batch_first",
        lambda h: (h, (STATE[None], STATE[None]), GATES[4], True, 1, 0.0, False, False, True)),
    "packed gru": (
        torch.gru, "data batch_sizes hx params has_biases num_layers dropout train bidirectional",
        lambda h: (h.flatten(0, 1)[:3], torch.tensor([2, 1]), STATE[None], GATES[3], True, 1, 0.0,
                   False, False)),
    "native_layer_norm": (
        torch.native_layer_norm, "input normalized_shape weight bias eps",
        lambda h: (h, [4], ONES, ONES, 1e-5)),
    "native_group_norm": (
        torch.native_group_norm, "input weight bias N C HxW group eps",
        lambda h: (h, ONES, ONES, 2, 4, 4, 2, 1e-5)),
    "batch_norm of aten": (
        aten._native_batch_norm_legit_no_training.default,
        "input weight bias running_mean running_var momentum eps",
        lambda h: (h, ONES, ONES, ONES, ONES, 0.1, 1e-5)),
    "baddbmm of aten": (aten.baddbmm.default, "self batch1 batch2", lambda h: (h, h, h.mT)),
}  # fmt: skip


def _net(name: str, by_keyword: int) -> Any:
    """The last `by_keyword` arguments by keyword."""
    function, names, arguments = CALLS[name]

    def run(x: Tensor) -> Tensor:
        given = arguments(x @ W)
        split = len(given) - by_keyword
        named = dict(zip(names.split()[split:], given[split:], strict=True))
        y = function(*given[:split], **named)
        y = y[0] if isinstance(y, tuple) else y
        return (x.sum((1, 2)) * y.square().sum())[:, None]

    return as_module(run)


@pytest.mark.parametrize("name", CALLS)
def test_keywords_change_nothing(name: str):
    plain = salience.record(_net(name, 0), X)
    for count in (1, len(CALLS[name][1].split())):
        tape = salience.record(_net(name, count), X)
        assert torch.equal(tape.output, plain.output)
        for method in ("gradient", *RULED):
            close(tape.explain(method, target=0), plain.explain(method, target=0))
            assert tape.coverage(method) == plain.coverage(method)
