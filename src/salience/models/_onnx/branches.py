"""If of ONNX: the branch that a constant, or the shapes of the input, tell; and what may not depend
on the input's values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from salience._errors import expected
from salience.models._onnx.calls import Attributes, Operands, Read

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_SHAPES = ("Shape", "Size")


def branches_of(node: NodeProto) -> dict[str, GraphProto]:
    """The graphs among a node's attributes, by name."""
    return {a.name: a.g for a in node.attribute if a.HasField("g")}


def graphs_of(graph: GraphProto) -> list[GraphProto]:
    """A graph and all that lie in it."""
    below = [g for node in graph.node for g in branches_of(node).values()]
    return [graph, *(inner for g in below for inner in graphs_of(g))]


def captured(node: NodeProto) -> list[str]:
    """The values of the graph around it that the branches of a node read."""
    found: dict[str, None] = {}
    for graph in branches_of(node).values():
        own = {item.name for item in graph.initializer} | {""}
        for inner in graph.node:
            reads = [*inner.input, *captured(inner)]
            found |= dict.fromkeys(name for name in reads if name not in own)
            own |= set(inner.output)
        found |= dict.fromkeys(o.name for o in graph.output if o.name not in own)
    return list(found)


def refuse_modes_and_branches(graph: GraphProto, inputs: set[str]) -> None:
    """Raise for an If whose condition depends on more of the input than its shape, and for
    statistics of the batch; weights may be standardised by their own."""
    known = set(inputs)
    for node in graph.node:
        if node.op_type == "If" and node.input[0] in known:
            raise expected(
                "an If whose condition is constant or about shapes",
                f"{node.name or 'one'} on the input's values",
                "Export the network without branches on values.",
            )
        if node.input and node.input[0] in known and _is_training(node):
            raise expected(
                "a network exported in eval mode",
                "BatchNormalization in training mode",
                "Export it again after model.eval().",
            )
        if node.op_type not in _SHAPES and known & {*node.input, *captured(node)}:
            known |= set(node.output)
        for inner in branches_of(node).values():
            refuse_modes_and_branches(inner, known)


def _is_training(node: NodeProto) -> bool:
    modes = [a.i for a in node.attribute if a.name == "training_mode"]
    return node.op_type == "BatchNormalization" and any(modes)


def branch_runner(
    node: NodeProto,
    outer: list[str],
    nodes_of: Callable[[GraphProto, set[str], Read], Sequence[Any]],
    read: Read,
) -> Callable[..., tuple[Tensor, ...]]:
    """The operator that runs a branch: its operands are the condition and the outer values."""
    held = {}
    for name, graph in branches_of(node).items():
        outputs = [o.name for o in graph.output]
        constants = {item.name: read(item) for item in graph.initializer}
        held[name] = nodes_of(graph, {*outputs, *outer, *constants}, read), outputs, constants

    def run(given: Operands, attributes: Attributes, opset: int) -> tuple[Tensor, ...]:
        nodes, outputs, constants = held["then_branch" if bool(given[0]) else "else_branch"]
        place = given[0].device
        values: dict[str, Any] = {"": None, **dict(zip(outer, given[1:], strict=True))}
        values |= {name: tensor.to(place) for name, tensor in constants.items()}
        for inner in nodes:
            settings = {
                key: value.to(place) if isinstance(value, Tensor) else value
                for key, value in inner.attributes.items()
            }
            result = inner.run([values[name] for name in inner.inputs], settings, opset)
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(inner.outputs, results, strict=False))
        return tuple(values[name] for name in outputs)

    return run
