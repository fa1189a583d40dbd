"""Inputs by path: arrays (.npy, .npz, .pt) and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from salience import inputs
from salience.checks import check_samples
from salience.errors import SalienceError, expected
from salience.models import read_torch
from salience.options import parse_numbers

_ARRAYS = (".npy", ".npz", ".pt", ".pth")
_IMAGES = (".png", ".jpg", ".jpeg")
_MOST_OF_IDS = 3  # dimensions; integers with more are images that were not scaled
_EIGHT_BIT = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def load_inputs(
    paths: Sequence[str | Path],
    *,
    channels: int = 3,
    channels_last: bool = False,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Any, list[str]]:
    """Inputs (B, ...) from one array file, or (B, channels, H, W) from images, and their names.

    paths      one of FILE.npy, FILE.npz, FILE.npz:key, FILE.pt; or images and folders of images.
               A file of several arrays, no key given, is a dict of inputs by name, for model(**x);
               integers are ids and become int64
    channels   of images: 3 (RGB) or 1 (grey), second or, with channels_last, last
    size       images: shorter side resized to it, then the central square, in pixels
    mean, std  images: pixel values, scaled to [0, 1], become (value - mean) / std; one number or
               one for each channel

    Errors: SalienceError for files that are not there, broken, pickled or without numbers, for
    inputs with different numbers of samples, and for images of different sizes.
    """
    if not paths:
        raise expected("a file of inputs", "none", "Give .npy, .npz, .pt or images.")
    if len(paths) == 1 and (array := _array_file(str(paths[0]))) is not None:
        if size is not None or mean is not None or std is not None:
            raise expected(
                "images for --size, --mean and --std", f"{paths[0]}",
                "Arrays are used as they are: leave these options out.",
            )  # fmt: skip
        held, file = _read_array(*array), array[0]
        if not isinstance(held, Mapping):
            x: Any = _alone(held, file)
        else:
            x = {str(name): _tensor(part, f"{file}:{name}") for name, part in held.items()}
            check_samples(x)
        return x, [str(i) for i in range(inputs.samples_of(x))]
    files = [file for path in paths for file in _image_files(Path(path))]
    x = _read_images(files, channels, size, mean, std)
    x = x.permute(0, 2, 3, 1).contiguous() if channels_last else x
    return x, [file.name for file in files]


def _array_file(path: str) -> tuple[Path, str | None] | None:
    """The array file and the key in it that a path names; None for anything else."""
    file, colon, key = path.rpartition(":")
    if colon and not Path(path).exists() and Path(file).suffix in _ARRAYS:
        return Path(file), key
    return (Path(path), None) if Path(path).suffix in _ARRAYS and not Path(path).is_dir() else None


def _read_array(file: Path, key: str | None) -> Any:
    if not file.is_file():
        raise expected("a file of inputs", f"{file}, which is not there", "Check the path.")
    if file.suffix in (".pt", ".pth"):
        held = read_torch(file, "torch.save(x, FILE), x a tensor")
        return _pick(held, key, file) if isinstance(held, Mapping) else held
    try:
        with file.open("rb") as stream:
            held = np.load(stream, allow_pickle=False)
            return held if isinstance(held, np.ndarray) else _pick(held, key, file)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        if isinstance(error, SalienceError):
            raise
        if "pickle" in str(error).lower() or "object arrays" in str(error).lower():
            raise expected(
                "an array of numbers", f"{file} with no plain array or with pickled Python "
                "objects, which can run any code when they are read and are refused",
                "Save it again by np.save(FILE, x), x of dtype float32.",
            ) from None  # fmt: skip
        raise expected("a numpy file", f"{file}, broken: {error}", "Save it again.") from None


def _pick(held: Mapping[str, Any], key: str | None, file: Path) -> Any:
    """The array that a key names, the only one of a file, or all of them."""
    names = [str(name) for name in held]
    if key is None and len(names) == 1:
        key = names[0]
    if not names or (key is not None and key not in names):
        got = f"no {key!r} in {names}" if names else "none"
        raise expected(f"an array in {file}", got, f"Name one, for example {file}:{names[0]}."
                       if names else "Save it again.")  # fmt: skip
    return dict(held) if key is None else held[key]


def _tensor(array: Any, where: str) -> Tensor:
    """Floating-point numbers as they are, integers as int64, masks as bool."""
    if not isinstance(array, np.ndarray | Tensor):
        raise expected("a tensor of inputs", f"{where} with a {type(array).__name__}",
                       "Save the inputs alone by torch.save(x, FILE).")  # fmt: skip
    number = not isinstance(array, np.ndarray) or array.dtype.kind in "fiub"
    if not number or (isinstance(array, Tensor) and array.is_complex()):
        raise expected(
            "floating-point inputs, or integer ids", f"{where} of {array.dtype}",
            "Save them as float32, complex ones as real and imaginary parts.",
        )  # fmt: skip
    read = inputs.tensor_of(array).detach()
    return read if read.is_floating_point() or read.dtype == torch.bool else read.long()


def _alone(array: Any, file: Path) -> Tensor:
    """The only input: a batch of numbers, or of ids (B, T)."""
    x = _tensor(array, str(file))
    ids = not x.is_floating_point()
    if x.dtype == torch.bool or (ids and x.ndim > _MOST_OF_IDS):
        raise expected(
            "floating-point inputs", f"{file} of {array.dtype}",
            "Scale them as the network was trained with and save them as float32.",
        )  # fmt: skip
    if x.ndim < 2 or len(x) == 0:
        raise expected(
            "a batch of inputs (B, ...)", f"{file} of shape {tuple(x.shape)}",
            "Add a batch dimension, for example array[None], and save it again.",
        )  # fmt: skip
    return x


def load_study(given: Mapping[str, Any]) -> tuple[nn.Module, Any, list[str]]:
    """The network that the options of a command name, its inputs, in its dtype, and their names."""
    from salience.models import FileModel, channels_first, check_batch, image_layout, load_model

    network = load_model(
        given["model"], given.get("weights"), device=given["device"], seed=given["seed"]
    )
    channels, channels_last = image_layout(network)
    x, names = load_inputs(
        given["data"],
        channels=channels,
        channels_last=channels_last,
        size=given.get("size"),
        mean=parse_numbers("mean", given.get("mean")),
        std=parse_numbers("std", given.get("std")),
    )
    if isinstance(x, Tensor):
        check_batch(network, x)
        if channels_last and x.ndim == 4 and isinstance(network, FileModel):  # as figures have them
            network, x = channels_first(network), x.permute(0, 3, 1, 2).contiguous()
    dtypes = [p.dtype for p in network.parameters() if p.is_floating_point()]
    return network, inputs.each(partial(_as_type, dtypes[0]), x) if dtypes else x, names


def _as_type(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def _image_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in _IMAGES)
        if not files:
            raise expected(f"images ({', '.join(_IMAGES)}) in {path}", "none", "Check the folder.")
        return files
    if not path.is_file():
        raise expected("inputs", f"{path}, which is not there", "Check the path.")
    if path.suffix.lower() not in _IMAGES:
        raise expected(
            f"inputs as one of {', '.join(_ARRAYS[:3])}, or images ({', '.join(_IMAGES)})",
            f"{path}", "Convert the file; arrays one at a time.",
        )  # fmt: skip
    return [path]


def _read_images(
    files: Sequence[Path], channels: int, size: int | None, mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Tensor:  # fmt: skip
    if size is not None and size < 1:
        raise expected("a size of at least 1 pixel", f"{size}", "The network's own, such as 224.")
    images = [_read_image(file, channels, size) for file in files]  # (H, W, C) each
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise expected(
                f"images of one size, {images[0].shape[:2]} as {files[0].name}",
                f"{file.name} of {image.shape[:2]}", "Give --size.",
            )  # fmt: skip
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255  # (B, C, H, W)
    centre, spread = _per_channel(mean, 0.0, channels), _per_channel(std, 1.0, channels)
    if not bool((spread > 0).all()):
        raise expected("--std above 0", f"{std}", "In units of pixel values scaled to [0, 1].")
    return ((x - centre) / spread).contiguous()


def _per_channel(values: Sequence[float] | None, default: float, channels: int) -> Tensor:
    values = [default] if values is None else values
    if len(values) not in (1, channels):
        raise expected(f"one number or {channels}, one for each channel", f"{list(values)}",
                       "Separate them by commas.")  # fmt: skip
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def _read_image(file: Path, channels: int, size: int | None) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode not in _EIGHT_BIT:
                raise expected("8-bit images", f"{file} of mode {image.mode}",
                               "Scale it yourself and save it as a float .npy.")  # fmt: skip
            picture = image.convert("RGB" if channels == 3 else "L")
    except SalienceError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise expected("an image", f"{file}, broken: {error}", "Save it again.") from None
    if size is not None:
        picture = _resized(picture, size)
    array = np.array(picture)
    return array if array.ndim == 3 else array[:, :, None]


def _resized(picture: Any, size: int) -> Any:
    """Shorter side to `size`, then the central square."""
    from PIL import Image

    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.crop((left, top, left + size, top + size))
