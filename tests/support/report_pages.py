"""What the tests of the report share: studies, pages, and how a page is read."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import torch
import xarray
from torch import nn

from salience import Cascade, randomization_test

HOSTILE = '</script><img src=x onerror="document.body.dataset.hit=1"><script>alert(1)</script>'


def small_net(channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 64, 3)).eval()


def small_study() -> xarray.Dataset:
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    return randomization_test(
        small_net(), x, cascade=Cascade(repeats=2), keep_maps=3, progress=False
    ).data


def block_of(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


class Reader(HTMLParser):
    """Every element with its attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in ("script", "style"):
            self.words.append(data)


def large(methods: int = 10, stages: int = 20, samples: int = 16, side: int = 128) -> Any:
    """A study of noise: the least compressible maps, and scores of the right shape."""
    random = np.random.default_rng(0)
    names = np.array([f"method_{i}" for i in range(methods)], dtype=object)
    steps = np.array([f"layer{i}.weight" for i in range(stages)], dtype=object)
    scores = random.uniform(0, 1, (methods, stages, 5, samples))
    dims = ("method", "stage", "repeat", "sample")
    maps = random.standard_normal((methods, stages + 1, samples, 1, side, side), dtype=np.float32)
    space = ("axis_1", "axis_2", "axis_3")
    return xarray.Dataset(
        {
            **dict.fromkeys(("spearman_abs", "spearman", "ssim"), (dims, scores)),
            "other_inputs": (("method", "sample"), scores[:, 0, 0]),
            "maps": (("map_method", "map_stage", "map_sample", *space), maps),
            "inputs": (("map_sample", *space), maps[0, 0]),
        },
        {
            "method": names, "stage": steps, "role": ("method", ["method"] * methods),
            "constant_over_inputs": ("method", [0] * methods),
            "number": ("stage", np.arange(stages)), "map_method": names,
            "map_stage": np.array(["trained", *steps], dtype=object),
        },
        {"stage_count": stages, "model": "Large"},
    )  # fmt: skip


def hostile(study: xarray.Dataset) -> xarray.Dataset:
    """The study with markup in every name that a user can choose."""
    names = [f"{name}{HOSTILE}" if k == 0 else name for k, name in enumerate(study.method.values)]
    stages = [f"{HOSTILE}{name}" for name in study.stage.values]
    seen = [f"{name}{HOSTILE}" if name == study.method.values[0] else name
            for name in study.map_method.values]  # fmt: skip
    made = study.assign_coords({
        "method": np.array(names, dtype=object), "stage": np.array(stages, dtype=object),
        "map_method": np.array(seen, dtype=object),
        "map_stage": np.array(["trained", *stages], dtype=object),
        "map_sample": np.array([f"{k}{HOSTILE}" for k in range(3)], dtype=object),
    })  # fmt: skip
    return made.assign_attrs({"model": HOSTILE, "command": HOSTILE, HOSTILE: f"$$x$$ {HOSTILE}"})


def policy_of(page: str) -> str:
    held = [given for _, given in Reader(page).elements if "http-equiv" in given]
    assert [given["http-equiv"] for given in held] == ["Content-Security-Policy"]
    return str(held[0]["content"])
