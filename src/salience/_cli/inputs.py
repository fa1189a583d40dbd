"""Inputs by path: arrays (.npy, .npz, .pt) and images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salience._cli.options import Options
from salience._cli.parse import parse_numbers
from salience._errors import SalienceError, expected, printable, reason
from salience._files.untrusted import MAX_BYTES, check_size, parse_bytes, regular, unpacked
from salience._inputs import trees
from salience._inputs.batches import FLOATS, in_dtype_of
from salience._inputs.images import image_files, read_images
from salience._inputs.trees import Inputs
from salience._inputs.validation import check_samples
from salience.models import read_torch

_ARRAYS = (".npy", ".npz", ".pt", ".pth")
_ID = 8  # bytes of an integer, once it is an id
_MOST_OF_IDS = 3  # dimensions; integers with more are images that were not scaled


def load_inputs(
    paths: Sequence[str | Path],
    *,
    channels: int = 3,
    channels_last: bool = False,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    max_bytes: int = MAX_BYTES,
) -> tuple[Inputs, list[str]]:
    """Inputs (B, ...) from one array file, or (B, channels, H, W) from images, and their names.

    paths      one of FILE.npy, FILE.npz, FILE.npz:key, FILE.pt; or images and folders of images.
               A file of several arrays, no key given, is a dict of inputs by name, for model(**x);
               integers are ids and become int64
    channels   of images: 3 (RGB) or 1 (grey), second or, with channels_last, last
    size       images: shorter side resized to it, then the central square, in pixels
    mean, std  images: pixel values, scaled to [0, 1], become (value - mean) / std; one number or
               one for each channel
    max_bytes  that a file, or all images together, may take in memory

    Errors: SalienceError for files that are not there, broken, pickled, too large or without
    numbers, for inputs with different numbers of samples, and for images of different sizes.
    """
    if not paths:
        raise expected("a file of inputs", "none", "Give .npy, .npz, .pt or images.")
    if len(paths) == 1 and (array := _array_file(str(paths[0]))) is not None:
        if size is not None or mean is not None or std is not None:
            raise expected(
                "images for --size, --mean and --std",
                f"{paths[0]}",
                "Arrays are used as they are: leave these options out.",
            )
        held, file = _read_array(*array, max_bytes), array[0]
        parts = held.values() if isinstance(held, Mapping) else [held]
        check_size(sum(map(_bytes_of, parts)), f"{file}", max_bytes)
        if not isinstance(held, Mapping):
            x: object = _alone(held, file)
        else:
            x = {str(name): _tensor(part, f"{file}:{name}") for name, part in held.items()}
            check_samples(x)
        return x, [str(i) for i in range(trees.samples_of(x))]
    files = [file for path in paths for file in image_files(Path(path))]
    x = read_images(files, channels, size, mean, std, max_bytes)
    x = x.permute(0, 2, 3, 1).contiguous() if channels_last else x
    return x, [printable(file.name) for file in files]


def _array_file(path: str) -> tuple[Path, str | None] | None:
    """The array file and the key in it that a path names; None for anything else."""
    file, colon, key = path.rpartition(":")
    if colon and not Path(path).exists() and Path(file).suffix in _ARRAYS:
        return Path(file), key
    return (Path(path), None) if Path(path).suffix in _ARRAYS and not Path(path).is_dir() else None


def _read_array(file: Path, key: str | None, max_bytes: int) -> object:
    size = regular(file, "a file of inputs")
    if file.suffix in (".pt", ".pth"):
        held = read_torch(file, "torch.save(x, FILE), x a tensor", max_bytes)
        return _pick(held, key, file) if isinstance(held, Mapping) else held
    check_size(size, f"{file}", max_bytes)
    try:
        with file.open("rb") as stream:
            held = np.load(stream, allow_pickle=False)
            if isinstance(held, np.ndarray):
                return held
            names = None if key is None else (key, f"{key}.npy")
            items = [i for i in held.zip.infolist() if names is None or i.filename in names]
            check_size(unpacked(items), f"{file}", max_bytes)
            return _pick(held, key, file)
    except SalienceError:
        raise
    except Exception as error:  # reading alone: a damaged file raises anything
        if "pickle" in str(error).lower() or "object arrays" in str(error).lower():
            raise expected(
                "an array of numbers",
                f"{file} with no plain array or with pickled Python "
                "objects, which can run any code when they are read and are refused",
                "Save it again by np.save(FILE, x), x of dtype float32.",
            ) from None
        got = f"{file}, broken: {reason(error)}"
        raise expected("a numpy file", got, "Save it again.") from None


def _pick(held: Mapping[str, object], key: str | None, file: Path) -> object:
    """The array that a key names, the only one of a file, or all of them."""
    names = [str(name) for name in held]
    if key is None and len(names) == 1:
        key = names[0]
    if not names or (key is not None and key not in names):
        got = f"no {key!r} in {names}" if names else "none"
        raise expected(
            f"an array in {file}",
            got,
            f"Name one, for example {file}:{names[0]}." if names else "Save it again.",
        )
    return dict(held) if key is None else held[key]


def _bytes_of(array: object) -> int:
    """The bytes that inputs will have: ids more than the integers of the file, views their own."""
    if not isinstance(array, np.ndarray | Tensor):
        return 0
    name = str(array.dtype).removeprefix("torch.").lstrip("<>")
    whole = name.startswith(("i", "u"))  # int32, uint8, i4, u2
    return math.prod(array.shape) * max(array.itemsize, _ID if whole else 0)


def _tensor(array: object, where: str) -> Tensor:
    """Floating-point numbers as they are, integers as int64, masks as bool."""
    if not isinstance(array, np.ndarray | Tensor):
        raise expected(
            "a tensor of inputs",
            f"{where} with a {type(array).__name__}",
            "Save the inputs alone by torch.save(x, FILE).",
        )
    number = not isinstance(array, np.ndarray) or array.dtype.kind in "fiub"
    if not number or (isinstance(array, Tensor) and array.is_complex()):
        raise expected(
            "floating-point inputs, or integer ids",
            f"{where} of {array.dtype}",
            "Save them as float32, complex ones as real and imaginary parts.",
        )
    read = trees.tensor_of(array).detach()
    return read if read.is_floating_point() or read.dtype == torch.bool else read.long()


def _alone(array: Any, file: Path) -> Tensor:
    """The only input: a batch of numbers, or of ids (B, T)."""
    x = _tensor(array, str(file))
    ids = not x.is_floating_point()
    if x.dtype == torch.bool or (ids and x.ndim > _MOST_OF_IDS):
        raise expected(
            "floating-point inputs",
            f"{file} of {array.dtype}",
            "Scale them as the network was trained with and save them as float32.",
        )
    if x.ndim < 2 or len(x) == 0:
        raise expected(
            "a batch of inputs (B, ...)",
            f"{file} of shape {tuple(x.shape)}",
            "Add a batch dimension, for example array[None], and save it again.",
        )
    return x


def load_study(given: Options) -> tuple[nn.Module, Inputs, list[str]]:
    """The network that the options of a command name, its inputs, in its dtype, and their names."""
    from salience.models import FileModel, channels_first, check_batch, image_layout, load_model

    max_bytes = parse_bytes(given["max_bytes"])
    network = load_model(
        given["model"],
        given.get("weights"),
        device=given["device"],
        seed=given["seed"],
        max_bytes=max_bytes,
    )
    channels, channels_last = image_layout(network)
    x, names = load_inputs(
        given["data"],
        channels=channels,
        channels_last=channels_last,
        size=given.get("size"),
        mean=parse_numbers("mean", given.get("mean")),
        std=parse_numbers("std", given.get("std")),
        max_bytes=max_bytes,
    )
    if isinstance(x, Tensor):
        check_batch(network, x)
    if channels_last and isinstance(network, FileModel):  # as figures have them
        network, x = channels_first(network), trees.each(_first, x)
    return network, in_dtype_of(network, x, FLOATS), names


def _first(x: Tensor) -> Tensor:
    """(B, H, W, C) as (B, C, H, W)"""
    return x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x
