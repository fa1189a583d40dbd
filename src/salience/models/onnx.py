"""Files of ONNX, turned into calls of torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from salience.errors import SalienceError, expected
from salience.models.described import FileModel
from salience.models.onnx_branches import graphs_of, refuse_conditions_on_values
from salience.models.onnx_graph import DOMAINS, OnnxGraph
from salience.models.onnx_operators import OPERATORS
from salience.models.optional import need

_INSTALL = "pip install 'salience[onnx]'"


def load_onnx(file: Path) -> nn.Module:
    """The network of an ONNX file, for batches of any size where the file allows it.

    Errors: SalienceError where onnx is not installed, for a file that is broken, reads files
    outside of its folder or has operators that are not known here.
    """
    onnx = need("onnx", f"{file.name}", _INSTALL)
    from google.protobuf.message import DecodeError

    broken = (
        DecodeError, onnx.checker.ValidationError, OSError, ValueError, KeyError, TypeError,
        IndexError, RuntimeError, RecursionError, MemoryError, AttributeError,
    )  # fmt: skip
    try:
        model = onnx.load(str(file), load_external_data=False)
        _inline(onnx, model, file.parent)
        if model.ByteSize() < 2**31:  # a larger one cannot be checked as a whole
            onnx.checker.check_model(model)
        return _network(onnx, model)
    except SalienceError:
        raise
    except broken as error:
        why = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise expected("a file of ONNX", f"{file}, broken: {why}", "Save it again.") from None


def _network(onnx: Any, model: Any) -> nn.Module:
    graph = model.graph
    opset = next((o.version for o in model.opset_import if o.domain in DOMAINS), 0)
    _refuse_unknown(graph, opset)
    values = {
        item.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(item)))
        for item in graph.initializer
    }
    inputs = [item for item in graph.input if item.name not in values]
    if len(inputs) != 1:
        names = ", ".join(item.name for item in inputs)
        raise expected("a network of one input", f"one of {len(inputs)} ({names})",
                       "Export a module that takes the image alone.")  # fmt: skip
    refuse_conditions_on_values(graph, {inputs[0].name})
    network = OnnxGraph(graph, inputs[0].name, opset, values)
    held = inputs[0].type.tensor_type
    shape = None
    if held.HasField("shape"):
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in held.shape.dim]
        shape = [size if size and size > 0 else None for size in sizes]
    return FileModel(network.eval(), shape)


def _refuse_unknown(graph: Any, opset: int) -> None:
    known = OPERATORS.keys() | {"Constant", "If"}
    graphs = graphs_of(graph)
    nodes = [node for each in graphs for node in each.node]
    unknown = Counter(
        f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes
        if node.op_type not in known or node.domain not in DOMAINS
    )  # fmt: skip
    if unknown or any(each.sparse_initializer for each in graphs):
        names = ", ".join(str(name)[:80] for name in unknown) or "sparse weights"
        raise expected(
            "ONNX operators that torch has", names,
            "Save the network in another form, for example by torch.export.",
        )  # fmt: skip
    if not opset >= 7:
        raise expected("ONNX of opset 7 or later", f"opset {opset}",
                       "Convert it: onnx.version_converter.convert_version.")  # fmt: skip
    if any(
        node.op_type == "BatchNormalization" and a.name == "training_mode" and a.i
        for node in nodes for a in node.attribute
    ):  # fmt: skip
        raise expected("a network exported in eval mode", "BatchNormalization in training mode",
                       "Export it again after model.eval().")  # fmt: skip


def _inline(onnx: Any, model: Any, folder: Path) -> None:
    """Read what a model keeps in files beside it, from files inside its folder alone."""
    from onnx.external_data_helper import uses_external_data

    graphs = graphs_of(model.graph)
    tensors = [item for graph in graphs for item in graph.initializer]
    nodes = [node for graph in graphs for node in graph.node]
    tensors += [a.t for node in nodes for a in node.attribute if a.HasField("t")]
    for tensor in tensors:
        if uses_external_data(tensor):
            tensor.raw_data = _external(tensor, folder)
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT


def _external(tensor: Any, folder: Path) -> bytes:
    told = {entry.key: entry.value for entry in tensor.external_data}
    location = told.get("location", "")
    file, root = (folder / location).resolve(), folder.resolve()
    if not location or Path(location).is_absolute() or root not in file.parents:
        raise expected(
            "weights inside the model's folder", f"{tensor.name} in {location!r}",
            "Files are untrusted: a model may not read outside of its folder.",
        )  # fmt: skip
    if not file.is_file():
        raise expected(f"the weights of {tensor.name} in {file}", "no such file",
                       "Put the model's data files beside it.")  # fmt: skip
    with file.open("rb") as stream:
        stream.seek(int(told.get("offset", 0)))
        length = int(told["length"]) if "length" in told else -1
        if length > file.stat().st_size:
            raise ValueError(f"{tensor.name} is longer than {location}")
        return stream.read(length)
