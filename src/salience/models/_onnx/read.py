"""Files of ONNX, turned into calls of torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from salience._errors import SalienceError, expected, reason
from salience._files.untrusted import MAX_BYTES
from salience.models._described import FileModel
from salience.models._onnx.branches import graphs_of, refuse_modes_and_branches
from salience.models._onnx.calls import Read
from salience.models._onnx.graph import DOMAINS, OnnxGraph
from salience.models._onnx.operators import OPERATORS
from salience.models._onnx.tensors import check_tensors, reader, without_external
from salience.models._optional import need

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TypeProto

_INSTALL = "pip install 'salience[onnx]'"


def load_onnx(file: Path, max_bytes: int = MAX_BYTES) -> nn.Module:
    """The network of an ONNX file, for batches of any size where the file allows it.

    Errors: SalienceError where onnx is not installed, for a file that is broken, reads files
    outside of its folder, has operators that are not known here or takes more than `max_bytes`.
    """
    onnx = need("onnx", f"{file.name}", _INSTALL)
    try:
        model = onnx.load(str(file), load_external_data=False)
        check_tensors(model.graph, file.parent, max_bytes)
        onnx.checker.check_model(without_external(onnx, model))
        return _network(model, reader(file.parent), max_bytes)
    except SalienceError:
        raise
    except Exception as error:  # reading alone: a damaged file raises anything
        got = f"{file}, broken: {reason(error)}"
        raise expected("a file of ONNX", got, "Save it again.") from None


def _network(model: ModelProto, read: Read, max_bytes: int) -> nn.Module:
    graph = model.graph
    opset = next((o.version for o in model.opset_import if o.domain in DOMAINS), 0)
    _refuse_unknown(graph, opset)
    values = {item.name: read(item) for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in values]
    if not inputs:
        raise expected(
            "a network of an input",
            "one without inputs",
            "Export the network with the image as its input.",
        )
    shapes = {item.name: _shape(item.type.tensor_type) for item in inputs}
    refuse_modes_and_branches(graph, set(shapes))
    network = OnnxGraph(graph, list(shapes), opset, values, read)
    return FileModel(network.eval(), shapes, max_bytes=max_bytes)


def _shape(held: TypeProto.Tensor) -> list[int | None] | None:
    """An input's shape; None where any size will do, or None for unknown."""
    if not held.HasField("shape"):
        return None
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in held.shape.dim]
    return [size if size and size > 0 else None for size in sizes]


def _refuse_unknown(graph: GraphProto, opset: int) -> None:
    known = OPERATORS.keys() | {"Constant", "If"}
    graphs = graphs_of(graph)
    nodes = [node for each in graphs for node in each.node]
    unknown = Counter(
        f"{node.domain}.{node.op_type}".lstrip(".")
        for node in nodes
        if node.op_type not in known or node.domain not in DOMAINS
    )
    if unknown or any(each.sparse_initializer for each in graphs):
        names = ", ".join(str(name)[:80] for name in unknown) or "sparse weights"
        raise expected(
            "ONNX operators that torch has",
            names,
            "Save the network in another form, for example by torch.export.",
        )
    if not opset >= 7:
        raise expected(
            "ONNX of opset 7 or later",
            f"opset {opset}",
            "Convert it: onnx.version_converter.convert_version.",
        )
