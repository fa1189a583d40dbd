"""The graph of an ONNX file as a module that runs it call by call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from salience._errors import expected
from salience.models._exported.program import register
from salience.models._onnx.branches import branch_runner, captured
from salience.models._onnx.calls import Attributes, Operands, Operator, Read
from salience.models._onnx.operators import OPERATORS

if TYPE_CHECKING:
    from onnx import GraphProto

DOMAINS = ("", "ai.onnx")
_NO_WEIGHTS = ("Resize", "Upsample", "Pad", "Clip", "Cast")  # their operands are settings


class Node(NamedTuple):
    """One call of the graph."""

    name: str
    run: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes
    done: tuple[str, ...]  # values that no later call reads


class OnnxGraph(nn.Module):
    """Runs the calls of an ONNX graph; weights are parameters under their names in the file."""

    def __init__(
        self,
        graph: GraphProto,
        x_names: Sequence[str],
        opset: int,
        values: Mapping[str, Tensor],
        read: Read,
    ) -> None:
        super().__init__()
        self._x_names, self._opset = list(x_names), opset
        self._outputs = [output.name for output in graph.output]
        self._nodes = _nodes(graph, set(self._outputs), read)
        self._places = {}  # name in the file -> name here
        weights = _weights(graph, values)
        for number, (name, value) in enumerate(values.items()):
            tensor = nn.Parameter(value) if name in weights else value
            self._places[name] = _add(self, name, number, tensor)

    def forward(self, *x: Tensor) -> object:
        device = x[0].device
        values: dict[str, object] = {"": None, **dict(zip(self._x_names, x, strict=True))}
        for name, place in self._places.items():
            path, _, last = place.rpartition(".")
            values[name] = getattr(self.get_submodule(path), last)
        for node in self._nodes:
            given = [values[name] for name in node.inputs]
            attributes = {
                key: value.to(device) if isinstance(value, Tensor) else value
                for key, value in node.attributes.items()
            }
            try:
                result = node.run(given, attributes, self._opset)
            except NotImplementedError as error:
                raise expected(
                    "ONNX operators that torch has",
                    f"{error} ({node.name})",
                    "Save the network in another form, for example by torch.export.",
                ) from None
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(node.outputs, results, strict=False))
            for name in node.done:
                del values[name]
        if len(self._outputs) == 1:
            return values[self._outputs[0]]
        return {name: values[name] for name in self._outputs}


def _nodes(graph: GraphProto, alive: set[str], read: Read) -> list[Node]:
    """The calls in order, constants among them."""
    from onnx import helper

    nodes: list[Node] = []
    alive = {*alive, ""}
    for number, node in reversed(list(enumerate(graph.node))):
        attributes: dict[str, object] = {}
        for item in node.attribute:
            if item.HasField("g"):  # run by the branch runner below
                continue
            held = helper.get_attribute_value(item)
            if hasattr(held, "raw_data"):
                held = read(held)
            attributes[item.name] = held.decode() if isinstance(held, bytes) else held
        run = OPERATORS.get(node.op_type, _constant)
        inputs = tuple(node.input)
        if node.op_type == "If":
            outer = captured(node)
            run, inputs = branch_runner(node, outer, _nodes, read), (*inputs, *outer)
        done = tuple(sorted(set(inputs) - alive))
        alive |= set(inputs)
        if node.op_type == "Split":
            attributes["count"] = len(node.output)
        name = node.name or f"{node.op_type} {number}"
        nodes.append(Node(name, run, inputs, tuple(node.output), attributes, done))
    return nodes[::-1]


def _constant(given: Operands, attributes: Attributes, opset: int) -> Tensor:
    ((name, value),) = attributes.items()
    if name not in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        raise NotImplementedError(f"Constant with {name}")
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def _weights(graph: GraphProto, values: Mapping[str, Tensor]) -> set[str]:
    """The initializers that were learned: floating-point, and no settings or statistics."""
    fixed = {
        name
        for node in graph.node
        for place, name in enumerate(node.input)
        if node.op_type in _NO_WEIGHTS or (node.op_type == "BatchNormalization" and place > 2)
    }
    return {
        name
        for name, value in values.items()
        if value.is_floating_point() and value.numel() > 1 and name not in fixed
    }


def _add(network: nn.Module, name: str, number: int, tensor: Tensor) -> str:
    """Register a tensor under a name like its own; returns that name."""
    parts = [re.sub(r"\W", "_", p, flags=re.ASCII) for p in re.split(r"[./]", name)]
    place = ".".join(part for part in parts if part) or f"tensor_{number}"
    try:
        register(network, place, tensor)
    except (KeyError, AttributeError, TypeError):  # taken, or a name that modules need
        place = f"tensor_{number}"
        register(network, place, tensor)
    return place
