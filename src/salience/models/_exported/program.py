"""The graph of a torch.export file as a module that runs it call by call.

torch.export.load would evaluate expressions, guards and names of the file as Python, and unpickle
parts of it. Here a file is data: it names operators of torch and tensors, and nothing else.
"""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from salience._errors import SalienceError, expected
from salience.models._exported.admitted import (
    SAFE_FORMS,
    Json,
    check_arguments,
    in_pieces,
    operator_of,
)

DTYPES = dict(
    enumerate(
        (
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.float16,
            torch.float32,
            torch.float64,
            None,
            torch.complex64,
            torch.complex128,
            torch.bool,
            torch.bfloat16,
        ),
        start=1,
    )
)
_MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d,
    4: torch.preserve_format,
}  # fmt: skip
_ON_NUMBERS = {  # of dynamic sizes
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in "add sub mul floordiv truediv mod neg eq ne lt le gt ge and_ or_".split()
    },
    **{f"math.{name}": getattr(math, name) for name in "ceil floor trunc".split()},
    "torch.sym_max": max, "torch.sym_min": min, "torch.sym_int": int, "torch.sym_float": float,
    "torch.sym_not": operator.not_,
}  # fmt: skip
_TRAINING = ("training", "train")


class Call(NamedTuple):
    """One call of the graph, as the file has it."""

    function: Callable[..., object]
    positional: list[Json]
    keywords: dict[str, Json]
    outputs: list[Json]
    done: list[str]  # values that no later call reads


class Program(nn.Module):
    """Runs the calls of a graph; parameters and buffers have their names in the model saved.

    graph    "nodes" and "outputs" of the file
    x_names  the graph's names of the inputs
    state    the graph's name -> name in the model
    tensors  name in the model -> parameter or buffer
    outputs  the graph's names of what is returned; with keys, in a dict of these names
    """

    def __init__(
        self,
        graph: Json,
        x_names: Sequence[str],
        state: Mapping[str, str],
        tensors: Mapping[str, Tensor],
        outputs: list[str],
        keys: list[str] | None = None,
    ) -> None:
        super().__init__()
        self._x_names, self._state = list(x_names), dict(state)
        self._outputs, self._keys = outputs, keys
        self._calls = calls_of(graph, outputs)
        for name, tensor in tensors.items():
            register(self, name, tensor)

    def forward(self, *x: Tensor) -> object:
        device = x[0].device
        values: dict[str, object] = {
            name: operator.attrgetter(path)(self) for name, path in self._state.items()
        }
        values |= zip(self._x_names, x, strict=True)
        for call in self._calls:
            args = [read(given, values, device) for given in call.positional]
            kwargs = {name: read(given, values, device) for name, given in call.keywords.items()}
            _assign(call.outputs, call.function(*args, **kwargs), values)
            for name in call.done:
                values.pop(name, None)
        outputs = [values[name] for name in self._outputs]
        if self._keys is not None:
            return dict(zip(self._keys, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def register(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Set a parameter or buffer by its dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(last, tensor)
    else:
        module.register_buffer(last, tensor)


def calls_of(graph: Json, outputs: list[str]) -> list[Call]:
    """The calls of a graph, in order.

    Calls that return nothing and write nothing are left out: they hold the dtypes and devices of
    the export against values that may have been moved since.

    Errors: SalienceError for operators that are not of torch's own library, that touch files, and
    for layers in training mode.
    """
    unknown = Counter(n["target"] for n in graph["nodes"] if _function(n["target"]) is None)
    if unknown:
        raise expected(
            "operators of torch (torch.ops.aten)",
            ", ".join(f"{str(n)[:80]}" for n in unknown),
            "Export the network without them: no custom operators, no grad-mode or autocast blocks "
            "in its forward, strict=False.",
        )
    calls: list[Call] = []
    alive = set(outputs)
    for node in reversed(graph["nodes"]):
        function = _function(node["target"]) or len
        if not node["outputs"] and not _writes(function):
            continue
        if _of_one(node, graph):
            function = _ALONE[node["target"]]
        else:
            _refuse_training(node)
        given = [(i.get("kind", 1), i["name"], i["arg"]) for i in node["inputs"]]
        names = {n for _, _, argument in given for n in names_of(argument)}
        positional, keywords = _bound(node["target"], given)
        if isinstance(function, torch._ops.OpOverload):
            check_arguments(function, positional, keywords)
            function = SAFE_FORMS.get(function, in_pieces(function, _named(node["outputs"])))
        call = Call(function, positional, keywords, node["outputs"], sorted(names - alive))
        alive |= names
        calls.append(call)
    return calls[::-1]


def _named(outputs: list[Json]) -> int:
    """How many tensors the lists that a call returns have names for."""
    return sum(len(output.get("as_tensors", ())) for output in outputs)


def _function(target: str) -> Callable[..., object] | None:
    """The operator that a file names, if it is one that computes and nothing else."""
    if target in _ON_NUMBERS:
        return _ON_NUMBERS[target]
    match = re.fullmatch(r"torch\.ops\.aten\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)", str(target))
    return operator_of(match[1], match[2]) if match else None


def _bound(target: str, given: list[tuple[int, str, Json]]) -> tuple[list[Json], dict[str, Json]]:
    """Arguments by position and by keyword."""
    if not target.startswith("torch.ops"):
        return [argument for _, _, argument in given], {}
    positional = [argument for kind, _, argument in given if kind == 1]
    return positional, {name: argument for kind, name, argument in given if kind != 1}


def _writes(function: Callable[..., object]) -> bool:
    return isinstance(function, torch._ops.OpOverload) and function._schema.is_mutable


def _of_one(node: Json, graph: Json) -> bool:
    """Whether a normalisation by statistics of the batch sees a batch of one: InstanceNorm is
    decomposed to one over (1, B C, ...), and weights (1, C, ...) are standardised by one."""
    held = {item["name"]: item["arg"] for item in node["inputs"]}
    if node["target"] not in _ALONE or "as_none" not in held.get("running_mean", {"as_none": True}):
        return False
    sizes = graph["tensor_values"][node["inputs"][0]["arg"]["as_tensor"]["name"]]["sizes"]
    return sizes[0].get("as_int") == 1


def _instance_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, *rest: float
) -> tuple[Tensor, None, None]:
    y = torch.instance_norm(x, weight, bias, None, None, True, *rest, cudnn_enabled=False)
    return y, None, None


def _standardized(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: None,
    variance: None,
    training: bool,
    *rest: float,
) -> Tensor:
    return _instance_norm(x, weight, bias, training, *rest[:2])[0]


_ALONE: dict[str, Callable[..., object]] = {
    "torch.ops.aten._native_batch_norm_legit.no_stats": _instance_norm,
    "torch.ops.aten.batch_norm.default": _standardized,
}


def _refuse_training(node: Json) -> None:
    held = {item["name"]: item["arg"] for item in node["inputs"]}
    updates = "as_none" not in held.get("running_mean", {"as_none": True})  # of its statistics
    for name, argument in held.items():
        on = argument.get("as_bool") is True
        if (
            (name in _TRAINING and on)
            or (name == "use_input_stats" and on and updates)
            or (name == "dropout_p" and argument.get("as_float", 0) > 0)
        ):
            raise expected(
                "a network exported in eval mode",
                f"{node['target'].removeprefix('torch.ops.')} in training mode",
                "Export it again after model.eval(): dropout and batch statistics have no fixed "
                "map.",
            )


def names_of(argument: object) -> set[str]:
    """The values that an argument names."""
    if isinstance(argument, list):
        return {name for item in argument for name in names_of(item)}
    if not isinstance(argument, dict):
        return set()
    own = {argument[key] for key in ("name", "as_name") if isinstance(argument.get(key), str)}
    return own.union(*(names_of(item) for item in argument.values()))


def read(argument: Json, values: Mapping[str, object], device: torch.device) -> object:
    """An argument of a call, its tensors looked up."""
    ((kind, held),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return _tensor(values[held["name"]])
        case "as_tensors":
            return [_tensor(values[item["name"]]) for item in held]
        case "as_optional_tensors":
            return [None if "as_none" in item else read(item, values, device) for item in held]
        case "as_int" | "as_float" | "as_bool" | "as_string":
            return float(held) if kind == "as_float" else held  # "Infinity" is text
        case "as_ints" | "as_floats" | "as_bools" | "as_strings":
            return [float(item) for item in held] if kind == "as_floats" else held
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _number(held, values)
        case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
            return [_number(item, values) for item in held]
        case "as_scalar_type":
            return DTYPES[held]
        case "as_memory_format":
            return _MEMORY_FORMATS[held]
        case "as_layout":
            return torch.strided
        case "as_device":
            return device  # where the network is now
    raise unsupported(kind.removeprefix("as_"))


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise unsupported("a number in a tensor's place")
    return value


def _number(held: Json, values: Mapping[str, object]) -> object:
    ((form, number),) = held.items()
    value = values[number] if form == "as_name" else number
    if not isinstance(value, int | float | torch.SymInt | torch.SymFloat | torch.SymBool):
        raise unsupported("a tensor in the place of a number")
    return value


def _assign(outputs: list[Json], result: Any, values: dict[str, object]) -> None:
    if len(outputs) == 1:
        result = (result,)
    for output, value in zip(outputs, result, strict=False):
        ((kind, held),) = output.items()
        if kind == "as_tensor":
            values[held["name"]] = value
        elif kind == "as_tensors":
            values.update(zip((item["name"] for item in held), value, strict=True))
        elif kind.startswith("as_sym") and "as_name" in held:
            values[held["as_name"]] = value


def unsupported(what: str) -> SalienceError:
    return expected(
        "a graph of tensors and numbers",
        f"one with {what}",
        "Give 'file.py:factory' as MODEL and a file of its state dict as --weights.",
    )
