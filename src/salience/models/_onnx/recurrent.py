"""The recurrent layers of ONNX, as calls of torch that run a whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from salience.models._onnx.calls import Attributes, Operands

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}  # torch's order among ONNX's: iofc, zrh
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}


def _lstm(given: Operands, a: Attributes, opset: int) -> tuple[Tensor, Tensor, Tensor]:
    x, start, weights, both, back = _prepared("LSTM", given, a)
    cell = given[6] if len(given) > 6 and given[6] is not None else torch.zeros_like(start)
    y, hidden, cell = torch.lstm(x, (start, cell), weights, True, 1, 0.0, False, both, False)
    return _split(y, both, back), hidden, cell


def _gru(given: Operands, a: Attributes, opset: int) -> tuple[Tensor, Tensor]:
    if not a.get("linear_before_reset"):
        raise NotImplementedError("GRU whose reset comes before its product")
    x, start, weights, both, back = _prepared("GRU", given, a)
    y, hidden = torch.gru(x, start, weights, True, 1, 0.0, False, both, False)
    return _split(y, both, back), hidden


def _prepared(
    kind: str, given: Operands, a: Attributes
) -> tuple[Tensor, Tensor, list[Tensor], bool, bool]:
    """x: (T, B, I), the first hidden state, torch's weights, whether both ways, whether back."""
    _refuse(kind, given, a)
    x, inner, outer = given[:3]  # inner: (D, gates H, I), outer: (D, gates H, H)
    bias = given[3] if len(given) > 3 else None  # (D, 2 gates H)
    start = given[5] if len(given) > 5 else None
    size, ways = outer.shape[-1], len(outer)
    bias = x.new_zeros(ways, 2 * outer.shape[1]) if bias is None else bias
    start = x.new_zeros(ways, x.shape[1], size) if start is None else start
    weights: list[Tensor] = []
    for way in range(ways):
        parts = (inner[way], outer[way], *bias[way].chunk(2))
        weights += [_reordered(part, kind, size) for part in parts]
    direction = a.get("direction", "forward")
    back = direction == "reverse"
    return x.flip(0) if back else x, start, weights, direction == "bidirectional", back


def _refuse(kind: str, given: Operands, a: Attributes) -> None:
    own = _ACTIVATIONS[kind] * len(given[1])
    named = [n.decode() if isinstance(n, bytes) else n for n in a.get("activations", own)]
    lengths = given[4] if len(given) > 4 else None
    unequal = lengths is not None and bool((lengths != len(given[0])).any())
    rare = {
        "other activations": named != own,
        "clip": a.get("clip", 0) != 0,
        "the batch first": a.get("layout", 0) != 0,
        "coupled gates": a.get("input_forget", 0) != 0,
        "peepholes": len(given) > 7 and given[7] is not None,
        "sequences of unequal length": unequal,
    }
    for what, found in rare.items():
        if found:
            raise NotImplementedError(f"{kind} with {what}")


def _reordered(part: Tensor, kind: str, size: int) -> Tensor:
    blocks = part.split(size)
    return torch.cat([blocks[gate] for gate in _GATES[kind]])


def _split(y: Tensor, both: bool, back: bool) -> Tensor:
    """(T, B, D H) -> (T, D, B, H)"""
    y = y.flip(0) if back else y
    return y.unflatten(-1, (2 if both else 1, -1)).transpose(1, 2)


RECURRENT = {"LSTM": _lstm, "GRU": _gru}
