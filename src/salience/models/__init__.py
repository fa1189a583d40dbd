"""Networks by name: files of networks, architectures of libraries, factories in Python.

    net.pt2, net.onnx, net.keras           a file that holds the network with its weights
    folder/                                an image classifier of Hugging Face, downloaded
    torchvision:NAME, timm:NAME            an architecture; its weights in a file of their own
    file.py:factory, package.mod:factory   any torch module; its weights in a file of their own

Files are untrusted: nothing in them is unpickled or run.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from salience._errors import expected
from salience._files.untrusted import MAX_BYTES, check_size, regular
from salience.models._described import (
    FileModel,
    channels_first,
    check_batch,
    first_convolution,
    image_layout,
)
from salience.models._factory import SCHEMES, from_factory
from salience.models._weights import load_weights, read_torch, refuse_torch_model

__all__ = [
    "FileModel", "channels_first", "check_batch", "first_convolution", "image_layout",
    "load_model", "load_weights", "read_torch",
]  # fmt: skip

_FORMS = (
    "'file.py:factory' or 'package.module:factory', 'torchvision:NAME', 'timm:NAME', "
    "a file .pt2, .onnx or .keras, or a folder of Hugging Face"
)
_EXPORT = "torch.export.save(torch.export.export(model.eval(), (x,)), 'net.pt2')"
_READ = (".pt2", ".onnx", ".keras")
_FOREIGN = {  # suffix -> what to do instead
    ".safetensors": "Weights alone: give 'file.py:factory' as MODEL and this file as --weights.",
    ".h5": "Save it again by Keras 3: model.save('net.keras').",
    ".hdf5": "Save it again by Keras 3: model.save('net.keras').",
    ".pb": "Convert it to .onnx (tf2onnx).",
    ".tflite": "Convert it to .onnx (tf2onnx).",
    ".pkl": f"Pickles can run any code and are refused: {_EXPORT}.",
    ".pickle": f"Pickles can run any code and are refused: {_EXPORT}.",
    ".py": "Name the function too: 'file.py:factory'.",
}


def load_model(
    spec: str,
    weights: str | Path | None = None,
    *,
    device: str = "cpu",
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
) -> nn.Module:
    """The network that a name stands for, with its weights, in eval mode on a device.

    spec       "file.py:factory" or "package.module:factory", factory() returning a module;
               "torchvision:NAME" or "timm:NAME", an architecture, which needs weights;
               a file .pt2 (torch.export), .onnx or .keras (Keras 3);
               a folder with config.json and model.safetensors (Hugging Face image classifier)
    weights    .safetensors, or .pt/.pth with a state dict (read with weights_only=True), also one
               below "state_dict" or "model" of a checkpoint
    seed       of what is drawn at random
    max_bytes  that a file, or any tensor of the network in it, may take in memory

    Errors: SalienceError for a file, a name or weights that are not there, do not load or do not
    fit, for files with anything that would run or that would take more memory than `max_bytes`,
    and for whatever a factory raises.

    >>> import salience.models
    >>> salience.models.load_model("torch.nn:Identity")
    Identity()
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _from_spec(spec, weights is not None, max_bytes)
    if weights is not None:
        load_weights(model, weights, max_bytes=max_bytes)
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise expected(
            "a device that this machine has, like 'cpu'",
            f"{device!r} ({error})",
            "Choose another --device.",
        ) from None


def _from_spec(spec: str, has_weights: bool, max_bytes: int) -> nn.Module:
    file = Path(spec)
    suffix = file.suffix.lower()
    if file.is_dir():
        from salience.models._huggingface import load_folder

        return load_folder(file, max_bytes)
    if suffix in _READ or suffix in _FOREIGN or file.is_file():
        return _from_file(file, suffix, max_bytes)
    if suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return _from_file(file, suffix, max_bytes)
    scheme, _, architecture = spec.partition(":")
    if scheme in SCHEMES and architecture:
        from salience.models._architectures import build

        return build(scheme, architecture, has_weights)
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        cure = "A factory is a function without arguments that returns the torch module."
        raise expected(f"a model {_FORMS}", repr(spec), cure)
    return from_factory(where, name)


def _from_file(file: Path, suffix: str, max_bytes: int) -> nn.Module:
    if suffix != ".py":
        size = regular(file, "a model file")
        check_size(size if suffix in _READ else 0, f"{file}", max_bytes)
    if suffix == ".pt2":
        from salience.models._exported.read import load_exported

        return load_exported(file, max_bytes)
    if suffix == ".onnx":
        from salience.models._onnx.read import load_onnx

        return load_onnx(file, max_bytes)
    if suffix == ".keras":
        from salience.models._keras.read import load_keras

        return load_keras(file, max_bytes)
    if suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise refuse_torch_model(file, _EXPORT)
    cure = _FOREIGN.get(suffix, f"Save the network as {_EXPORT}.")
    raise expected(f"a model {_FORMS}", f"{file}", cure)
