"""What ONNX spells in several operators and torch in one: rules are about the whole.

A product with weights and the bias that follows are one linear map; SiLU and, before opset 20, GELU
come in pieces, whose product would be taken for a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

Whole = tuple[Callable[..., Tensor], tuple[str, ...]] | None  # None: part of another one


class _Pieces:
    """Who makes and who reads the values of a graph; the numbers among its constants."""

    def __init__(self, graph: Any, outputs: set[str]) -> None:
        from onnx import numpy_helper

        self.nodes = list(graph.node)
        self.sizes = {item.name: list(item.dims) for item in graph.initializer}
        self.makers = {name: i for i, node in enumerate(graph.node) for name in node.output}
        self.readers: dict[str, list[int]] = {name: [-1] for name in outputs}
        for i, node in enumerate(graph.node):
            for name in node.input:
                self.readers.setdefault(name, []).append(i)
        tensors = {item.name: item for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                tensors[node.output[0]] = node.attribute[0].t
        self._tensors, self._read = tensors, numpy_helper.to_array

    def number(self, name: str) -> float | None:
        """The value of a constant of one number."""
        if name not in self._tensors:
            return None
        array = self._read(self._tensors[name])
        return float(array.flat[0]) if array.size == 1 and array.dtype.kind == "f" else None

    def reader(self, name: str, kind: str) -> tuple[int, str] | None:
        """The one node that reads a value, if it is of this kind, and its other operand."""
        numbers = self.readers.get(name, [])
        if len(numbers) != 1 or numbers[0] < 0 or self.nodes[numbers[0]].op_type != kind:
            return None
        node = self.nodes[numbers[0]]
        others = [operand for operand in node.input if operand != name]
        return numbers[0], others[0] if others else ""

    def scaled(self, name: str) -> tuple[int, str, float] | None:
        """The product or quotient of a value and a number that makes another value."""
        number = self.makers.get(name, -1)
        node = self.nodes[number]
        if number < 0 or node.op_type not in ("Mul", "Div"):
            return None
        for x, other in (node.input, node.input[::-1]):
            factor = self.number(other)
            if factor and (node.op_type == "Mul" or x == node.input[0]):
                return number, x, factor if node.op_type == "Mul" else 1 / factor
        return None


def whole_operations(graph: Any, outputs: set[str]) -> dict[int, Whole]:
    """Number of the last node of each pattern -> function and operands; of the others -> None."""
    pieces = _Pieces(graph, outputs)
    found: dict[int, Whole] = {}
    for find in (_linear, _silu, _gelu):
        for last, whole, others in find(pieces):
            found |= {last: whole, **dict.fromkeys(others)}
    return found


def _linear(pieces: _Pieces) -> Iterator[tuple[int, Whole, list[int]]]:
    """MatMul(x, W) + b, the only spelling for inputs of more than two dimensions."""
    for number, node in enumerate(pieces.nodes):
        if node.op_type != "MatMul" or len(pieces.sizes.get(node.input[1], ())) != 2:
            continue
        add = pieces.reader(node.output[0], "Add")
        if add is not None and pieces.sizes.get(add[1]) == pieces.sizes[node.input[1]][1:]:
            yield add[0], (_affine, (*node.input, add[1])), [number]


def _silu(pieces: _Pieces) -> Iterator[tuple[int, Whole, list[int]]]:
    """x sigmoid(x)"""
    for number, node in enumerate(pieces.nodes):
        if node.op_type == "Sigmoid":
            product = pieces.reader(node.output[0], "Mul")
            if product is not None and product[1] == node.input[0]:
                yield product[0], (_one(F.silu), (node.input[0],)), [number]


def _gelu(pieces: _Pieces) -> Iterator[tuple[int, Whole, list[int]]]:
    """x (1 + erf(x / sqrt 2)) / 2, the half before or after the product"""
    for number, node in enumerate(pieces.nodes):
        inner = pieces.scaled(node.input[0]) if node.op_type == "Erf" else None
        if inner is None or abs(inner[2] - 0.5**0.5) > 1e-4:
            continue
        x = inner[1]
        plus = pieces.reader(node.output[0], "Add")
        if plus is None or pieces.number(plus[1]) != 1:
            continue
        product = pieces.reader(pieces.nodes[plus[0]].output[0], "Mul")
        if product is None or len(pieces.readers[node.input[0]]) != 1:
            continue
        whole, parts = (_one(F.gelu), (x,)), [inner[0], number, plus[0]]
        half = pieces.scaled(product[1])
        last = pieces.reader(pieces.nodes[product[0]].output[0], "Mul")
        if half is not None and half[1:] == (x, 0.5) and len(pieces.readers[product[1]]) == 1:
            yield product[0], whole, [*parts, half[0]]
        elif product[1] == x and last is not None and pieces.number(last[1]) == 0.5:
            yield last[0], whole, [*parts, product[0]]


def _affine(given: Any, attributes: Mapping[str, Any], opset: int) -> Tensor:
    x, weight, bias = given
    return F.linear(x, weight.T, bias)


def _one(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda given, attributes, opset: function(given[0])
