"""Files of torch.export.save (.pt2), read as data."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from salience._errors import SalienceError, expected, reason
from salience._files.untrusted import MAX_BYTES, unpacked
from salience.models._described import FileModel
from salience.models._exported.admitted import Json
from salience.models._exported.program import DTYPES, Program, calls_of, unsupported

_SCHEMA = 8  # torch 2.8 and later
_MOST = 2**25  # bytes of a description


def load_exported(file: Path, max_bytes: int = MAX_BYTES) -> nn.Module:
    """The network of a torch.export file, whose layers have their names in the model saved.

    Errors: SalienceError for a file that is broken, of another format, with pickled parts that the
    network needs, exported in training mode or with operators that are not torch's own.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _network(_Archive(archive, file), max_bytes)
    except SalienceError:
        raise
    except Exception as error:  # reading alone: a damaged file raises anything
        got = f"{file}, broken: {reason(error)}"
        raise expected("a file of torch.export.save", got, "Save it again.") from None


class _Archive:
    """The records of a file, which together are not larger than the file."""

    def __init__(self, archive: zipfile.ZipFile, file: Path) -> None:
        items = archive.infolist()
        self._archive = archive
        names = [item.filename for item in items]
        models = [name for name in names if "/models/" in f"/{name}" and name.endswith(".json")]
        if not models:
            raise ValueError(_why_no_model(names))
        chosen = [name for name in models if name.endswith("models/model.json")] or models
        if unpacked(items) > file.stat().st_size:  # torch compresses nothing
            raise ValueError("its records unpack to more than the file")
        if len(chosen) > 1:
            raise ValueError("it holds several networks; save one of them alone")
        self.root, _, self.model = chosen[0].rpartition("models/")
        self.names = set(names)

    def read(self, name: str) -> bytes:
        return self._archive.read(self.root + name)

    def describe(self, name: str) -> Json:
        if self._archive.getinfo(self.root + name).file_size > _MOST:
            raise ValueError(f"{name} is too large")
        return json.loads(self.read(name))

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Name -> tensor, from the folder of the weights or of the constants."""
        stem = self.model.removesuffix(".json")
        config = self.describe(f"data/{kind}/{stem}_{kind}_config.json")["config"]
        flat: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        for name, item in config.items():
            if item["use_pickle"]:
                raise expected(
                    "a file of tensors and operators",
                    f"a pickled object for {name}, which can "
                    "run any code when it is read and is refused",
                    "Export the network without objects other than tensors.",
                )
            path = f"data/{kind}/{item['path_name']}"
            if path not in flat:
                flat[path] = _flat(self.read(path), item["tensor_meta"])
            tensor = _strided(flat[path], item["tensor_meta"])
            found[name] = nn.Parameter(tensor) if item["is_param"] else tensor
        return found


def _why_no_model(names: list[str]) -> str:
    if any(name.endswith("serialized_exported_program.json") for name in names):
        return "it was saved by a torch before 2.8; load and save it by a newer one"
    if any(name.endswith("/constants.pkl") for name in names):
        return "it is a TorchScript archive, which runs outside of Python"
    if any("/aotinductor/" in name for name in names):
        return "it holds compiled code (AOTInductor) and no graph"
    return "it holds no exported program"


def _flat(data: bytes, meta: Json) -> Tensor:
    dtype = DTYPES[meta["dtype"]]
    if dtype is None or len(data) % dtype.itemsize:
        raise ValueError("a tensor of another type than it tells")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _strided(flat: Tensor, meta: Json) -> Tensor:
    sizes, strides = ([int(i["as_int"]) for i in meta[key]] for key in ("sizes", "strides"))
    if math.prod(sizes) > flat.numel() or min(sizes, default=0) < 0:
        raise ValueError("a tensor is larger than its record")
    return torch.as_strided(flat, sizes, strides, int(meta["storage_offset"]["as_int"]))


def _network(archive: _Archive, max_bytes: int) -> nn.Module:
    if f"{archive.root}byteorder" in archive.names and archive.read("byteorder") != b"little":
        raise ValueError("its numbers are big-endian")
    program = archive.describe(f"models/{archive.model}")
    if program["schema_version"]["major"] != _SCHEMA:
        raise ValueError(f"its schema is {program['schema_version']['major']}, not {_SCHEMA}")
    module = program["graph_module"]
    graph, signature = module["graph"], module["signature"]
    calls_of(graph, [])  # refuse what would not run, before weights are read
    tensors = archive.tensors("weights") | archive.tensors("constants")
    x_names, state = _inputs(signature["input_specs"])
    outputs = _outputs(signature["output_specs"])
    missing = [name for name in state.values() if name not in tensors]
    if missing:
        raise ValueError(f"{missing[0]} has no values")
    own = {name: tensors[name] for name in dict.fromkeys(state.values())}
    keys = _keys(module["module_call_graph"], len(outputs))
    network = Program(graph, x_names, state, own, outputs, keys)
    shapes = {name: _shape(graph["tensor_values"][name]) for name in x_names}
    return FileModel(network.eval(), shapes, max_bytes=max_bytes)


def _inputs(specs: list[Json]) -> tuple[list[str], dict[str, str]]:
    """The graph's names of the inputs; the graph's names of parameters and buffers."""
    x_names: list[str] = []
    state: dict[str, str] = {}
    for spec in specs:
        ((kind, held),) = spec.items()
        if kind == "user_input":
            if "as_tensor" not in held["arg"]:
                raise unsupported("an input that is no tensor")
            x_names.append(held["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            name = held[f"{kind}_name"]
            state[held["arg"]["name"]] = str(name)
        elif kind != "constant_input":
            raise unsupported(kind)
    if not x_names:
        raise unsupported("no tensor among its inputs")
    return x_names, state


def _outputs(specs: list[Json]) -> list[str]:
    """The graph's names of what the network returns, writes into buffers left out."""
    found = [spec["user_output"]["arg"] for spec in specs if "user_output" in spec]
    names = [arg["as_tensor"]["name"] for arg in found if "as_tensor" in arg]
    if not names:
        raise unsupported("no tensor among its outputs")
    return names


def _keys(calls: list[Json], count: int) -> list[str] | None:
    """The names of the outputs, if the network returns a plain dict of tensors."""
    top = next((call["signature"] for call in calls if call["fqn"] == ""), None)
    spec = json.loads(top["out_spec"])[1] if top else {}
    if spec.get("type") != "builtins.dict" or any(c["type"] for c in spec["children_spec"]):
        return None
    keys = json.loads(spec["context"])
    return [str(key) for key in keys] if len(keys) == count else None


def _shape(meta: Json) -> tuple[int | None, ...]:
    """An input's shape; None where any size will do."""
    return tuple(size.get("as_int") for size in meta["sizes"])
