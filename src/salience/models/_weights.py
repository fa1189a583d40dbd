"""Files of weights, and torch files of tensors; nothing is unpickled."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salience._errors import SalienceError, cut, expected, reason
from salience._files.untrusted import MAX_BYTES, check_size, regular, unpacked
from salience.models._bounded import Bounded


def load_weights(model: nn.Module, file: str | Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Load a file of weights into a model; all names and shapes must fit.

    Errors: SalienceError for a file that is not there, holds more than tensors, takes more than
    `max_bytes` of memory or does not fit.
    """
    given = _state(Path(file), max_bytes)
    own = model.state_dict()
    same = {tensor.data_ptr() for name, tensor in own.items() if name in given}
    missing = [n for n, t in own.items() if n not in given and t.data_ptr() not in same]
    alien = [n for n in given if n not in own]
    shapes = [
        f"{n} {tuple(given[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    problems = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (("missing", missing), ("unexpected", alien), ("misshapen", shapes))
        if names
    ]
    if problems:
        raise expected(
            f"weights for the {len(own)} tensors of {type(model).__name__}",
            f"{file} with {'; '.join(problems)}",
            "Check that the file belongs to this network and its options.",
        )
    model.load_state_dict(given, strict=False)


def _some(names: list[str], count: int = 3) -> str:
    some = [cut(str(name), 120) for name in names[:count]]
    return ", ".join(some) + (", ..." if len(names) > count else "")


def _state(file: Path, max_bytes: int) -> dict[str, Tensor]:
    check_size(regular(file, "a file of weights"), f"{file}", max_bytes)
    if file.suffix == ".safetensors":
        state: Any = read_safetensors(file)
    elif file.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        state = read_torch(file, "torch.save(model.state_dict(), FILE)", max_bytes)
    else:
        raise expected("weights in .safetensors, .pt or .pth", f"{file}", "Convert the file.")
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = isinstance(state, Mapping) and all(isinstance(t, Tensor) for t in state.values())
    if not tensors or not state:
        kind = (
            f"{type(state).__name__} with {_some([str(k) for k in state])}"
            if isinstance(state, Mapping)
            else type(state).__name__
        )
        raise expected(
            "a state dict (name -> tensor), alone or below 'state_dict' or 'model'",
            f"{file} with a {kind}",
            "Save it by torch.save(model.state_dict(), FILE).",
        )
    return dict(state)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load_file

    with _said(file):
        return load_file(file)


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a safetensors file, from its header."""
    from safetensors import safe_open

    with _said(file), safe_open(file, framework="pt") as held:
        return {name: tuple(held.get_slice(name).get_shape()) for name in held.keys()}  # noqa: SIM118


@contextmanager
def _said(file: Path) -> Iterator[None]:
    """Raise for a safetensors file that is broken."""
    try:
        yield
    except Exception as error:  # reading alone: a damaged file raises anything
        got = f"{file}, broken: {reason(error)}"
        raise expected("a safetensors file", got, "Save it again.") from None


def read_torch(file: Path, save: str, max_bytes: int = MAX_BYTES) -> Any:
    """What a torch file holds, if that is tensors and plain containers alone.

    save       how such a file is written, for messages
    max_bytes  that it may take in memory
    """
    cure = f"Save it again by {save}."
    size = regular(file, "a torch file")
    check_size(size, f"{file}", max_bytes)
    try:
        records = _unpacked(file)
        check_size(records, f"{file}", max_bytes)
        with warnings.catch_warnings(), Bounded(max_bytes):
            warnings.simplefilter("ignore")  # about pickles, which are refused
            held = torch.load(file, map_location="cpu", weights_only=True)
        if _storages(held) > max(size, records):
            raise ValueError("its tensors are larger than their records")
        return held
    except SalienceError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        named = cut(found[1], 80) if found else ""
        got = f"pickled Python objects ({named})" if named else "something else or broken"
        raise expected(
            "a torch file of tensors alone",
            f"{file}, {got}; objects can run any code when they are read and are refused",
            cure,
        ) from None
    except Exception as error:  # reading alone: a damaged file raises anything
        raise expected("a torch file", f"{file}, broken: {_why(file, error)}", cure) from None


def _why(file: Path, error: Exception) -> str:
    """What torch says, unless that is to read the file without a guard."""
    if _is_torchscript(file):
        return "a TorchScript archive, which is a program and no weights"
    said = reason(error)
    return type(error).__name__ if "weights_only" in said else said


def _unpacked(file: Path) -> int:
    """The bytes that the records of a file declare; none of the format before archives."""
    with file.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":  # as torch tells them apart
            return 0
    with zipfile.ZipFile(file) as archive:
        return unpacked(archive.infolist())


def _storages(held: object) -> int:
    """The bytes of all tensors in plain containers; those that are shared count once."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    left = [held]
    while left:
        item = left.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor) and item.layout == torch.strided:
            storage = item.untyped_storage()
            found[storage._cdata] = storage.nbytes()
        elif isinstance(item, Mapping):
            left.extend(item.values())
        elif isinstance(item, list | tuple | set):
            left.extend(item)
    return sum(found.values())


def refuse_torch_model(file: Path, export: str) -> SalienceError:
    """Why a file of torch.save or torch.jit.save is no model here, and the way out."""
    cure = (
        f"Where the network's code is, save it by {export}, or give 'file.py:factory' as MODEL and "
        "a file of its state dict as --weights."
    )
    if _is_torchscript(file):
        return expected(
            "a model whose operations can be seen",
            f"{file}, a TorchScript archive: it runs outside of Python, where no rule can reach "
            "it, and torch has given TorchScript up",
            cure,
        )
    return expected(
        "a model",
        f"{file}, of torch.save: weights without their network, or a pickled network, "
        "which can run any code when it is read and is refused",
        cure,
    )


def _is_torchscript(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # of a damaged file
        return False
