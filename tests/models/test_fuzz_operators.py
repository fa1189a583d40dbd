"""Files whose network calls an operator with arguments drawn at random: none ends the process."""

from __future__ import annotations

import json
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from file_nets import export
from fuzzing import endings, progress
from test_fuzz_models import MOST, RUN
from torch import Tensor, nn

from salience import SalienceError
from salience._cli.explain import outputs_of
from salience.models import load_model
from salience.models._exported.admitted import operator_of

pytestmark = pytest.mark.slow
INTEGERS = [0, 0, 1, 1, 1, 2, 2, 3, 4, -1, -1, -2, 5, 7, 16, 100, 10**5, 2**31, 2**62, -(2**63)]
FLOATS: list[Any] = [0.0, 0.5, 1.0, 2.0, -1.0, 1e30, "Infinity", "NaN"]
TEXTS = ["none", "tanh", "reflect", "constant", "sum", "mean", "prod", "ij", "xy", "ab,bc->ac", ""]
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


class Values(nn.Module):
    """Tensors of many shapes and types, for an operator to be given."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        shapes = [(), (3,), (4,), (3, 4), (4, 4), (2, 3, 4), (3, 3, 2, 2), (1, 3, 4, 4), (0, 3)]
        for number, shape in enumerate(shapes):
            self.register_buffer(f"f{number}", torch.randn(shape, generator=draw))
        for number, values in enumerate([[0, 1, 2], [3, -1, 5], [10**9, -(2**40), 0], [[0, 1]]]):
            self.register_buffer(f"i{number}", torch.tensor(values))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("wide", torch.randn(3, 4, generator=draw).double())
        self.register_buffer("both", torch.randn(3, 4, dtype=torch.complex64, generator=draw))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [torch.relu(x), *self.buffers()]


def operators() -> list[torch._ops.OpOverload]:
    """All that a file may call, by name."""
    names = {
        name.removeprefix("aten::").partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::")
    }
    return [
        found
        for name in sorted(names)
        for overload in sorted(getattr(torch.ops.aten, name).overloads())
        if (found := operator_of(name, overload)) is not None
    ]


def argument(kind: str, draw: random.Random, tensors: list[str]) -> dict[str, Any]:
    """A value of a schema's type, as files have it."""

    def some(values: list[Any]) -> list[Any]:
        return [draw.choice(values) for _ in range(draw.choice([0, 1, 1, 2, 2, 3, 4, 6]))]

    def tensor() -> dict[str, str]:
        return {"name": draw.choice(["x", "x", *tensors])}

    number = draw.choice([{"as_int": draw.choice(INTEGERS)}, {"as_float": draw.choice(FLOATS)}])
    given: dict[str, dict[str, Any]] = {
        "Tensor": {"as_tensor": tensor()}, "number": number,
        "int": {"as_int": draw.choice(INTEGERS)}, "float": {"as_float": draw.choice(FLOATS)},
        "bool": {"as_bool": draw.random() < 0.5}, "str": {"as_string": draw.choice(TEXTS)},
        "ScalarType": {"as_scalar_type": draw.randrange(1, 30)}, "Layout": {"as_layout": 7},
        "Device": {"as_device": {"type": "cpu", "index": None}},
        "MemoryFormat": {"as_memory_format": draw.randrange(1, 5)},
        "List[Tensor]": {"as_tensors": some([tensor() for _ in range(4)])},
        "List[Optional[Tensor]]": {"as_tensors": some([tensor() for _ in range(4)])},
        "List[int]": {"as_ints": some(INTEGERS)}, "List[float]": {"as_floats": some(FLOATS)},
        "List[bool]": {"as_bools": some([True, False])},
    }  # fmt: skip
    return given[kind]


def call(
    operator: torch._ops.OpOverload, draw: random.Random, tensors: list[str]
) -> dict[str, Any]:
    """The node of a call, whose first result is named as that of the node it replaces."""
    inputs = []
    for place, taken in enumerate(operator._schema.arguments):
        kind = str(taken.real_type)
        optional = kind.startswith("Optional[") or taken.has_default_value()
        kind = kind.removeprefix("Optional[").removesuffix("]" * kind.startswith("Optional["))
        if kind == "Generator" or (optional and draw.random() < 0.4):
            if place and not taken.kwarg_only and draw.random() < 0.5:
                break
            continue
        held = argument(kind, draw, tensors)
        inputs.append({"name": taken.name, "arg": held, "kind": 2 if taken.kwarg_only else 1})
    names = iter(["relu", *(f"more{number}" for number in range(20))])
    outputs = [
        {"as_tensors": [{"name": next(names)} for _ in range(draw.choice([1, 2, 3]))]}
        if str(result.real_type) == "List[Tensor]" else {"as_tensor": {"name": next(names)}}
        for result in operator._schema.returns
    ]  # fmt: skip
    target = f"torch.ops.{operator}"
    return {"target": target, "inputs": inputs, "outputs": outputs, "metadata": {}}


def test_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = export(Values(), tmp_path / "whole.pt2", "dynamic", X)
    with zipfile.ZipFile(whole) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    place = next(name for name in records if name.endswith("models/model.json"))
    known = operators()

    def attempt(seed: int) -> str:
        draw = random.Random(f"operator {seed}")
        held = json.loads(records[place])
        graph, signature = held["graph_module"]["graph"], held["graph_module"]["signature"]
        tensors = [item["as_tensor"]["name"] for item in graph["inputs"]]
        operator = draw.choice(known)
        graph["nodes"] = [call(operator, draw, tensors)]
        graph["outputs"], signature["output_specs"] = (
            graph["outputs"][:1], signature["output_specs"][:1],
        )  # fmt: skip
        file = tmp_path / "net.pt2"
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in {**records, place: json.dumps(held)}.items():
                archive.writestr(name, data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about odd arguments
                outputs_of(load_model(str(file), max_bytes=MOST), X, RUN)
        except SalienceError as error:
            return " ".join(str(error).split()[:3])
        return "ran"

    endings("operator", attempt, progress(capsys))
