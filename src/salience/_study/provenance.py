"""What is needed to recognise and repeat a run."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from salience._inputs import trees


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def model_fingerprint(model: Callable[..., object]) -> str:
    """SHA-256 of a module's parameters and buffers: names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()) if isinstance(model, nn.Module) else ():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def data_fingerprint(x: object) -> str:
    """SHA-256 of a tensor's values; of several inputs, of their names, shapes and values."""
    if isinstance(x, Tensor):
        return hashlib.sha256(_bytes(x)).hexdigest()
    digest = hashlib.sha256()
    for key, part in trees.parts_of(x).items():
        if isinstance(part, Tensor):
            digest.update(f"{key!r} {tuple(part.shape)} {part.dtype}".encode())
            digest.update(_bytes(part))
        else:
            digest.update(f"{key!r} {part!r}".encode())
    return digest.hexdigest()


def provenance(model: Callable[..., object], x: object) -> dict[str, str]:
    """Fingerprints of model and data, and the versions of what computed with them."""
    tensors = {key: part for key, part in trees.parts_of(x).items() if isinstance(part, Tensor)}
    shapes = {key: tuple(part.shape) for key, part in tensors.items()}
    dtypes = {key: str(part.dtype) for key, part in tensors.items()}
    single = isinstance(x, Tensor)
    return {
        "model": type(model).__name__,
        "model_fingerprint": model_fingerprint(model),
        "data_fingerprint": data_fingerprint(x),
        "data_shape": str(shapes[trees.ALONE] if single else shapes),
        "dtype": str(dtypes[trees.ALONE] if single else dtypes),
        "device": str(next(iter(tensors.values())).device),
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
