"""Libraries that read one format each: imported when asked for, never before."""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType

import torch

from salience._errors import expected

# The first version that is safe. Older ones unpickle the file that an argument of a network names.
_FLOORS = {"timm": (1, 0, 16)}
_OPERATORS: list[torch.library.Library] = []  # declared as long as they are referenced


def need(package: str, what: str, install: str) -> ModuleType:
    """A package that a format needs, imported.

    Errors: SalienceError, with the command that installs it, where it is not there or broken, and
    for a version that does harm.
    """
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package.split(".")[0]
        got = "not installed" if missing else f"broken: {error}"
        raise expected(f"{package}, which reads {what}", got, f"Run: {install}.") from None
    _check_version(package, module, install)
    return module


def _check_version(package: str, module: ModuleType, install: str) -> None:
    """Refuse a version of a package that does harm with files of others."""
    floor = _FLOORS.get(package)
    version = getattr(module, "__version__", "0")
    if floor and tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < floor:
        wanted = f"{package} {'.'.join(map(str, floor))} or newer"
        got = f"{version}, which unpickles files, and pickles can run any code"
        raise expected(wanted, got, f"Run: {install.replace('install', 'install -U', 1)}.")


def import_torchvision(what: str, install: str) -> ModuleType:
    """torchvision, also where its build is not that of torch.

    Its import asks for two of its own compiled operators, which no classifier calls.
    """
    try:
        return need("torchvision", what, install)
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half loaded
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _OPERATORS.append(library)
    return need("torchvision", what, install)
