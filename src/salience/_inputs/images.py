"""Images by path, as one batch of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from salience._errors import SalienceError, expected, reason
from salience._files.untrusted import check_size, regular

if TYPE_CHECKING:
    from PIL import Image

_IMAGES = (".png", ".jpg", ".jpeg")
_EIGHT_BIT = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_FLOAT = 4  # bytes


def image_files(path: Path) -> list[Path]:
    """The image at a path, or all in a folder, by name."""
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in _IMAGES)
        if not files:
            raise expected(f"images ({', '.join(_IMAGES)}) in {path}", "none", "Check the folder.")
        return files
    regular(path, "inputs")
    if path.suffix.lower() not in _IMAGES:
        raise expected(
            f"inputs as one of .npy, .npz, .pt, or images ({', '.join(_IMAGES)})",
            f"{path}",
            "Convert the file; arrays one at a time.",
        )
    return [path]


def read_images(
    files: Sequence[Path],
    channels: int,
    size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    max_bytes: int,
) -> Tensor:
    """Images (B, channels, H, W), scaled to 0 ... 1 and then by mean and std."""
    if size is not None and size < 1:
        raise expected("a size of at least 1 pixel", f"{size}", "The network's own, such as 224.")
    images: list[np.ndarray] = []  # (H, W, C) each
    for file in files:
        images.append(_read_image(file, channels, size))
        if images[-1].shape != images[0].shape:
            raise expected(
                f"images of one size, {images[0].shape[:2]} as {files[0].name}",
                f"{file.name} of {images[-1].shape[:2]}",
                "Give --size.",
            )
        declared = len(files) * images[0].size * _FLOAT
        check_size(declared, f"{len(files)} images like {file.name}", max_bytes)
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255  # (B, C, H, W)
    center, spread = _per_channel(mean, 0.0, channels), _per_channel(std, 1.0, channels)
    if not bool((spread > 0).all()):
        raise expected("--std above 0", f"{std}", "In units of pixel values scaled to [0, 1].")
    return ((x - center) / spread).contiguous()


def _per_channel(values: Sequence[float] | None, default: float, channels: int) -> Tensor:
    values = [default] if values is None else values
    if len(values) not in (1, channels):
        raise expected(
            f"one number or {channels}, one for each channel",
            f"{list(values)}",
            "Separate them by commas.",
        )
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def _read_image(file: Path, channels: int, size: int | None) -> np.ndarray:
    from PIL import Image

    regular(file, "an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG")) as image:  # others run programs
                if image.mode not in _EIGHT_BIT:
                    raise expected(
                        "8-bit images",
                        f"{file} of mode {image.mode}",
                        "Scale it yourself and save it as a float .npy.",
                    )
                picture = image.convert("RGB" if channels == 3 else "L")
    except SalienceError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise expected(
            f"an image of at most {Image.MAX_IMAGE_PIXELS:,} pixels",
            f"{file}: {error}",
            "Scale it down, or cut it and save the parts as a float .npy.",
        ) from None
    except Exception as error:  # reading alone: a damaged file raises anything
        raise expected("an image", f"{file}, broken: {reason(error)}", "Save it again.") from None
    if size is not None:
        picture = _resized(picture, size)
    array = np.array(picture)
    return array if array.ndim == 3 else array[:, :, None]


def _resized(picture: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size`, then the central square."""
    from PIL import Image

    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.crop((left, top, left + size, top + size))
