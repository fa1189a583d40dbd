"""Damaged folders of Hugging Face, of every family: they load and run, or are refused in words."""

from __future__ import annotations

import importlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import folder_nets
import pytest
import torch
from fuzzing import endings, progress
from test_fuzz_models import DAMAGES, MOST, RUN

from salience import SalienceError
from salience._cli.explain import outputs_of
from salience.models import load_model
from salience.models._optional import import_torchvision

pytestmark = pytest.mark.slow

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 5, 7, 16, 32, 100, 1000, 8192, 10**6, 2**63, 10**400, 0.5,
    -0.5, 1e308, float("nan"), float("inf"), "", "gelu", "same", "cls", [], [1], [3, 3], [8192] * 3,
    [[1]], {}, {"a": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family."""
    pytest.importorskip("transformers")
    import_torchvision("tests", "pip install torchvision")
    transformers = importlib.import_module("transformers")
    folders = {name: tmp_path_factory.mktemp("whole") for name in folder_nets.NETWORKS}
    for name, folder in folders.items():
        folder_nets.network(transformers, name).save_pretrained(folder)
        load_and_run(folder, name)
    return folders


def load_and_run(folder: Path, name: str) -> None:
    model = load_model(str(folder), max_bytes=MOST)
    outputs_of(model, torch.ones(1, 3, *2 * [folder_nets.side(name)]), RUN)


def told(held: dict[str, Any], draw: random.Random) -> None:
    """Another value for a field, or somewhere in its lists and fields."""
    fields: list[tuple[Any, Any]] = [(held, name) for name in sorted(held)]
    for at, name in fields:
        inner = at[name]
        if isinstance(inner, dict | list):
            fields.extend(
                (inner, key) for key in (inner if isinstance(inner, dict) else range(len(inner)))
            )
    at, name = draw.choice(fields)
    if isinstance(at[name], int) and draw.random() < 0.5:
        at[name] = draw.choice([2, 4, 1000, -1]) * at[name] + draw.choice([0, 1])
    elif draw.random() < 0.1:
        del at[name]
    else:
        at[name] = draw.choice(VALUES)


def damage(folder: Path, draw: random.Random) -> None:
    config = folder / "config.json"
    if draw.random() < 0.7:
        held = json.loads(config.read_text())
        for _ in range(draw.choice([1, 1, 2])):
            told(held, draw)
        config.write_text(json.dumps(held))
        return
    file = draw.choice([config, folder / "model.safetensors"])
    file.write_bytes(bytes(draw.choice(DAMAGES)(bytearray(file.read_bytes()), draw)))


def test_damaged_folders(
    saved: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def attempt(seed: int) -> str:
        draw = random.Random(f"folder {seed}")
        name = draw.choice(sorted(saved))
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(saved[name], tmp_path / "copy")
        damage(tmp_path / "copy", draw)
        try:
            load_and_run(tmp_path / "copy", name)
        except SalienceError as error:
            said = str(error)
            assert said.isprintable() and len(said) < 1000
            return "refused"
        return "loaded"

    endings("folder", attempt, progress(capsys))
