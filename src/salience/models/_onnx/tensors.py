"""The tensors of an ONNX file, those that it keeps in files beside it among them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from salience._errors import expected
from salience._files.untrusted import check_size, regular
from salience.models._onnx.branches import graphs_of
from salience.models._onnx.calls import Read

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto


def reader(folder: Path) -> Read:
    """A function that makes tensors of what an ONNX file calls so.

    folder  of the model, outside of which nothing is read
    """
    from onnx import TensorProto, numpy_helper

    def read(item: TensorProto) -> Tensor:
        if item.data_location != TensorProto.EXTERNAL:
            return torch.from_numpy(np.array(numpy_helper.to_array(item)))
        return torch.from_numpy(_external(item, folder))

    return read


def check_tensors(graph: GraphProto, folder: Path, max_bytes: int) -> None:
    """Raise where the tensors of a graph together are more than a limit, or lie elsewhere."""
    from onnx import TensorProto

    total = 0
    for item in tensors_of(graph):
        if item.data_location == TensorProto.EXTERNAL:
            total += _declared(item)[1]
            _place(item, folder)
    check_size(total, "weights beside the model", max_bytes)


def without_external(onnx: ModuleType, model: ModelProto) -> ModelProto:
    """A copy of a model, for the checker, whose tensors in other files are empty.

    What a file itself holds is below the 2 GiB that protobuf can measure; with the others it may
    be above.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for item in tensors_of(copy.graph):
        if item.data_location == onnx.TensorProto.EXTERNAL:
            item.ClearField("external_data")
            item.data_location = onnx.TensorProto.DEFAULT
            item.dims[:] = [0]
    return copy


def tensors_of(graph: GraphProto) -> Iterable[TensorProto]:
    """Every tensor of a graph and of those in it: weights, and attributes of nodes."""
    for each in graphs_of(graph):
        yield from each.initializer
        for node in each.node:
            yield from (a.t for a in node.attribute if a.HasField("t"))


def _declared(item: TensorProto) -> tuple[np.dtype[np.generic], int]:
    """The type of a tensor's numbers, and how many bytes they are."""
    from onnx import helper

    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(item.data_type))
    if dtype.kind not in "fiubc" or min(item.dims, default=0) < 0:
        raise ValueError(f"{item.name} has the type {dtype} and the shape {list(item.dims)}")
    return dtype, math.prod(item.dims) * dtype.itemsize


def _external(item: TensorProto, folder: Path) -> np.ndarray:
    file = _place(item, folder)
    told = {entry.key: entry.value for entry in item.external_data}
    dtype, size = _declared(item)
    offset, length = int(told.get("offset", 0)), int(told.get("length", size))
    if offset < 0 or length != size or offset + size > file.stat().st_size:
        raise ValueError(f"{item.name} is not the {size} bytes of {file.name} that it tells")
    numbers = np.fromfile(file, dtype, math.prod(item.dims), offset=offset)
    return numbers.reshape(tuple(item.dims))


def _place(item: TensorProto, folder: Path) -> Path:
    """The file beside the model that holds a tensor."""
    told = {entry.key: entry.value for entry in item.external_data}
    location = told.get("location", "")
    file, root = (folder / location).resolve(), folder.resolve()
    if not location or Path(location).is_absolute() or root not in file.parents:
        raise expected(
            "weights inside the model's folder",
            f"{item.name} in {location!r}",
            "Files are untrusted: a model may not read outside of its folder.",
        )
    regular(file, f"the weights of {item.name}", "Put the model's data files beside it.")
    return file
