"""Networks from Python: "file.py:factory" and "package.module:factory"."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from torch import nn

from salience._errors import expected

T = TypeVar("T")
SCHEMES = ("torchvision", "timm")


def from_factory(where: str, name: str) -> nn.Module:
    """What a function without arguments returns, if that is a module.

    where   "file.py" or "package.module"
    """
    _check_scheme(where, name)
    folder = Path(where).parent if where.endswith(".py") else Path()
    with _importable(folder):
        factory = _attribute(_module(where), name, where)
        model = guarded(factory, f"{name}() of {where} to return a model")
    if not isinstance(model, nn.Module):
        raise expected(
            f"a torch.nn.Module from {name}()",
            type(model).__name__,
            "The factory takes no arguments and returns the module.",
        )
    return model


def _check_scheme(where: str, name: str) -> None:
    """Raise for what looks like a misspelt 'torchvision:NAME'."""
    if where.isidentifier() and where not in sys.modules:
        near = get_close_matches(where.lower(), (*SCHEMES, "tv"), n=1, cutoff=0.7)
        if near and importlib.util.find_spec(where) is None:
            scheme = "torchvision" if near[0] == "tv" else near[0]
            raise expected(
                "torchvision:NAME, timm:NAME or package.module:factory",
                f"{where}:{name}",
                f"Did you mean {scheme}:{name}?",
            )


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
        return guarded(lambda: importlib.import_module(where), f"a module {where} to import")
    file = Path(where)
    if not file.is_file():
        raise expected("a Python file", f"{where}, which is not there", "Check the path.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)  # dataclasses and pickles look their module up
    guarded(lambda: spec.loader.exec_module(module), f"{where} to run")  # type: ignore[union-attr]
    return module


def guarded(call: Callable[[], T], what: str) -> T:
    """What the user's own code returns; what it raises becomes a message with its last line.

    An exit, too: it would end the command in silence, or with success.
    """
    try:
        return call()
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
        frames = [f for f in frames if not f.filename.startswith("<frozen")]
        line = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        told = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise expected(what, f"{told}{line}", "Correct the code or the name.") from error


def _attribute(module: ModuleType, name: str, where: str) -> Callable[[], object]:
    factory = getattr(module, name, None)
    if factory is None:
        public = [
            key
            for key, value in vars(module).items()
            if callable(value)
            and not key.startswith("_")
            and getattr(value, "__module__", None) == module.__name__
        ]
        cure = f"It defines: {', '.join(public[:8])}." if public else "It defines no functions."
        raise expected(f"a factory {name!r} in {where}", "no such name", cure)
    if not callable(factory) or isinstance(factory, nn.Module):
        raise expected(
            f"a function {name}() without arguments that returns a module",
            f"a {type(factory).__name__}",
            "Define a function, or give the class of the network.",
        )
    return factory
