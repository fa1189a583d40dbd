"""Libraries that read one format each: imported when asked for, never before."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

from salience.errors import expected

_OPERATORS: list[torch.library.Library] = []  # declared as long as they are referenced


def need(package: str, what: str, install: str) -> Any:
    """A package that a format needs, imported.

    Errors: SalienceError, with the command that installs it, where it is not there or broken.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package.split(".")[0]
        got = "not installed" if missing else f"broken: {error}"
        raise expected(f"{package}, which reads {what}", got, f"Run: {install}.") from None


def import_torchvision(what: str, install: str) -> Any:
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
