"""What the operators of ONNX are given, and what reads the tensors of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from onnx import TensorProto

Operands = Sequence[Any]  # tensors, None where one is left out
Attributes = Mapping[str, Any]  # numbers, texts, lists of them, and tensors
Operator = Callable[[Operands, Attributes, int], object]  # the last is the opset
Read = Callable[["TensorProto"], Tensor]
