"""Small real files, damaged at random: they load, or salience says in its own words why not.

As many of each format as SALIENCE_FUZZ says; `make fuzz` takes minutes to hours.
"""

from __future__ import annotations

import io
import os
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_nets import export, export_onnx, images, make
from fuzzing import endings, progress
from PIL import Image
from safetensors.torch import save_file

from salience import SalienceError
from salience._cli.explain import outputs_of
from salience._cli.inputs import load_inputs
from salience.models import FileModel, load_model

pytestmark = pytest.mark.slow
MOST = 10**8  # bytes that a file may take
RUN = {"batch_size": None, "output": None, "target": "argmax"}


def torch_file(file: Path, legacy: bool = False) -> None:
    torch.save(make().state_dict(), file, _use_new_zipfile_serialization=not legacy)


def keras_file(file: Path) -> None:
    pytest.importorskip("h5py")
    os.environ["KERAS_BACKEND"] = "torch"
    keras = pytest.importorskip("keras")
    layers = keras.layers
    net = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(),
        layers.Flatten(), layers.Dense(5),
    ])  # fmt: skip
    net.save(file)


def onnx_file(file: Path) -> None:
    pytest.importorskip("onnx")
    export_onnx(make(), file, "old", images())


def image_file(file: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(file)


def load_weights(file: Path) -> None:
    load_model("file_nets:Residual", file, max_bytes=MOST)


def load_and_run(file: Path) -> None:
    """The outputs too: what a damaged network computes is no map, but must come to an end."""
    model = load_model(str(file), max_bytes=MOST)
    assert isinstance(model, FileModel)
    outputs_of(model, images().permute(0, 2, 3, 1) if model.channels_last else images(), RUN)


def load_data(file: Path) -> None:
    load_inputs([file], max_bytes=MOST)


ARRAYS = {"a": np.ones((3, 4), "f4"), "b": np.arange(6).reshape(3, 2)}
FORMATS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Path], None]]] = {
    "weights.pt": (".pt", torch_file, load_weights),
    "weights.pt before archives": (".pt", lambda f: torch_file(f, legacy=True), load_weights),
    "weights.safetensors": (".safetensors", lambda f: save_file(make().state_dict(), f),
                            load_weights),
    "net.pt2": (".pt2", lambda f: export(make(), f, "dynamic", images()), load_and_run),
    "net.onnx": (".onnx", onnx_file, load_and_run),
    "net.keras": (".keras", keras_file, load_and_run),
    "data.npy": (".npy", lambda f: np.save(f, ARRAYS["a"]), load_data),
    "data.npz": (".npz", lambda f: np.savez(f, **ARRAYS), load_data),
    "packed data.npz": (".npz", lambda f: np.savez_compressed(f, **ARRAYS), load_data),
    "data.pt": (".pt", lambda f: torch.save({"x": torch.ones(3, 4)}, f), load_data),
    "image.png": (".png", image_file, load_data),
    "image.jpg": (".jpg", image_file, load_data),
}  # fmt: skip


def flipped(data: bytearray, draw: random.Random) -> bytearray:
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def replaced(data: bytearray, draw: random.Random) -> bytearray:
    start = draw.randrange(len(data))
    length = min(draw.choice([1, 2, 4, 8]), len(data) - start)
    data[start : start + length] = draw.choice([b"\xff", b"\x7f", b"\x80", b"0"]) * length
    return data


def cut(data: bytearray, draw: random.Random) -> bytearray:
    return data[: draw.randrange(len(data))]


def zeroed(data: bytearray, draw: random.Random) -> bytearray:
    start = draw.randrange(len(data))
    length = min(draw.choice([4, 16, 100, 1000]), len(data) - start)
    data[start : start + length] = bytes(length)
    return data


def swapped(data: bytearray, draw: random.Random) -> bytearray:
    size = min(draw.choice([1, 8, 64, 512]), len(data) // 2)
    one, two = sorted(draw.randrange(len(data) - size + 1) for _ in range(2))
    block = bytes(data[one : one + size])
    data[one : one + size] = data[two : two + size]
    data[two : two + size] = block
    return data


DAMAGES = (flipped, replaced, cut, zeroed, swapped)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A file with damage, or an archive with right checksums and damage in one of its records."""
    stream = io.BytesIO(data)
    if not zipfile.is_zipfile(stream) or draw.random() < 0.3:
        return bytes(draw.choice(DAMAGES)(bytearray(data), draw))
    result = io.BytesIO()
    with zipfile.ZipFile(stream) as archive, zipfile.ZipFile(result, "w") as written:
        chosen = draw.choice([item for item in archive.infolist() if item.file_size])
        for item in archive.infolist():
            content = archive.read(item)
            if item is chosen:
                content = bytes(draw.choice(DAMAGES)(bytearray(content), draw))
            written.writestr(item.filename, content, item.compress_type)
    return result.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    suffix, write, load = FORMATS[form]
    whole, file = tmp_path / f"whole{suffix}", tmp_path / f"damaged{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the writers
        write(whole)
        load(whole)
        content = whole.read_bytes()

        def attempt(seed: int) -> str:
            file.write_bytes(damaged(content, random.Random(f"{form} {seed}")))
            try:
                load(file)
            except SalienceError as error:
                said = str(error)
                assert said.isprintable() and len(said) < 1000 and "weights_only" not in said
                return "refused"
            return "loaded"

        endings(form, attempt, progress(capsys))
