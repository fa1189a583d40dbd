"""What is needed to recognise and repeat a run."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def model_fingerprint(model: Callable[..., Any]) -> str:
    """SHA-256 of a module's parameters and buffers: names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()) if isinstance(model, nn.Module) else ():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def provenance(model: Callable[..., Any], x: Tensor) -> dict[str, str]:
    """Fingerprints of model and data, and the versions of what computed with them."""
    return {
        "model": type(model).__name__,
        "model_fingerprint": model_fingerprint(model),
        "data_fingerprint": hashlib.sha256(_bytes(x)).hexdigest(),
        "data_shape": str(tuple(x.shape)),
        "dtype": str(x.dtype),
        "device": str(x.device),
        "salience": version("salience"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def weights_file(path: Path | None) -> dict[str, str]:
    """SHA-256 of the file that the weights were read from."""
    if path is None:
        return {}
    with path.open("rb") as file:
        return {"weights_file_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
