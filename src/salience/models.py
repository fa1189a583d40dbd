"""Networks by name: "file.py:factory" or "package.module:factory", with a file of weights."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from salience.errors import expected

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def load_model(
    spec: str, weights: str | Path | None = None, *, device: str = "cpu", seed: int = 0
) -> nn.Module:
    """The network that a factory makes, with its weights, in eval mode on a device.

    spec     "file.py:factory" or "package.module:factory"; factory() returns a module
    weights  .safetensors, or .pt/.pth with a state dict (read with weights_only=True), also one
             below "state_dict" or "model" of a checkpoint
    seed     of what the factory draws at random

    Errors: SalienceError for a file, a name or weights that are not there, do not load or do not
    fit, and for whatever the factory raises.

    >>> import salience.models
    >>> salience.models.load_model("torch.nn:Identity")
    Identity()
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise expected(
            "a model 'file.py:factory' or 'package.module:factory'", repr(spec),
            "factory() must return the torch module.",
        )  # fmt: skip
    folder = Path(where).parent if where.endswith(".py") else Path()
    with _importable(folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        factory = _attribute(_module(where), name, where)
        model = _guarded(factory, f"{name}() of {where} to return a model")
    if not isinstance(model, nn.Module):
        raise expected(
            f"a torch.nn.Module from {name}()", type(model).__name__,
            "The factory takes no arguments and returns the module.",
        )  # fmt: skip
    if weights is not None:
        load_weights(model, weights)
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise expected("a device that this machine has, like 'cpu'", f"{device!r} ({error})",
                       "Choose another --device.") from None  # fmt: skip


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the modules of a folder be found, as python does for the folder of a script."""
    before = list(sys.path)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        return _guarded(lambda: importlib.import_module(where), f"a module {where} to import")
    file = Path(where)
    if not file.is_file():
        raise expected("a Python file", f"{where}, which is not there", "Check the path.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)  # dataclasses and pickles look their module up
    _guarded(lambda: spec.loader.exec_module(module), f"{where} to run")  # type: ignore[union-attr]
    return module


def _guarded(call: Any, what: str) -> Any:
    """What the user's own code returns; what it raises becomes a message with its last line."""
    try:
        return call()
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
        frames = [f for f in frames if not f.filename.startswith("<frozen")]
        line = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise expected(
            what, f"{type(error).__name__}: {error}{line}", "Correct the code or the name."
        ) from error


def _attribute(module: ModuleType, name: str, where: str) -> Any:
    factory = getattr(module, name, None)
    if factory is None:
        public = [
            key for key, value in vars(module).items()
            if callable(value) and not key.startswith("_")
            and getattr(value, "__module__", None) == module.__name__
        ]  # fmt: skip
        cure = f"It defines: {', '.join(public[:8])}." if public else "It defines no functions."
        raise expected(f"a factory {name!r} in {where}", "no such name", cure)
    if not callable(factory) or isinstance(factory, nn.Module):
        raise expected(
            f"a function {name}() without arguments that returns a module",
            f"a {type(factory).__name__}", "Define a function, or give the class of the network.",
        )  # fmt: skip
    return factory


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Load a file of weights into a model; all names and shapes must fit.

    Errors: SalienceError for a file that is not there, holds more than tensors or does not fit.
    """
    given = _state(Path(file))
    own = model.state_dict()
    same = {tensor.data_ptr() for name, tensor in own.items() if name in given}
    missing = [n for n, t in own.items() if n not in given and t.data_ptr() not in same]
    alien = [n for n in given if n not in own]
    shapes = [
        f"{n} {tuple(given[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own if n in given and given[n].shape != own[n].shape
    ]  # fmt: skip
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
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _state(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise expected("a file of weights", f"{file}, which is not there", "Check the path.")
    if file.suffix == ".safetensors":
        state = _read_safetensors(file)
    elif file.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        state = read_torch(file, "torch.save(model.state_dict(), FILE)")
    else:
        raise expected("weights in .safetensors, .pt or .pth", f"{file}", "Convert the file.")
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = isinstance(state, Mapping) and all(isinstance(t, Tensor) for t in state.values())
    if not tensors or not state:
        kind = f"{type(state).__name__} with {_some([str(k) for k in state])}" if isinstance(
            state, Mapping) else type(state).__name__  # fmt: skip
        raise expected(
            "a state dict (name -> tensor), alone or below 'state_dict' or 'model'",
            f"{file} with a {kind}", "Save it by torch.save(model.state_dict(), FILE).",
        )  # fmt: skip
    return dict(state)


def _read_safetensors(file: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise expected("a safetensors file", f"{file}, broken: {error}", "Save it again.") from None


def read_torch(file: Path, save: str) -> Any:
    """What a torch file holds, if that is tensors and plain containers alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickles, which are refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        got = f"pickled Python objects ({found[1]})" if found else "something else or broken"
        raise expected(
            "a torch file of tensors alone",
            f"{file}, {got}; objects can run any code when they are read and are refused",
            f"Save it again by {save}.",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        cure = f"Save it again by {save}."
        raise expected("a torch file", f"{file}, broken: {why}", cure) from None


def first_convolution(model: nn.Module) -> nn.Conv1d | nn.Conv2d | nn.Conv3d | None:
    """The first convolution that a model declares, which says how its input must look."""
    return next((m for m in model.modules() if isinstance(m, _CONVOLUTIONS)), None)


def check_batch(model: nn.Module, x: Tensor) -> None:
    """Raise for a single sample without its batch dimension, where convolutions tell.

    A torch convolution accepts it in silence and takes its channels for samples.
    """
    layer = first_convolution(model)
    if layer is None:
        return
    ndim = layer.weight.ndim
    if x.ndim == ndim - 1 and x.shape[0] == layer.in_channels > 1:
        raise expected(
            f"a batch with {ndim} dimensions (B, C, ...)", f"one sample {tuple(x.shape)}",
            "Add a batch dimension, for example array[None], and save it again.",
        )  # fmt: skip
