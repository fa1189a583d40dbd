"""Damaged results: each gives a page or a sentence, and nothing else."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from fuzzing import SEEDS, endings, progress
from report_pages import small_net

from salience import Cascade, SalienceError, Study, explain, randomization_test
from salience._cli.report import report_command
from salience._cli.results import save_study

pytestmark = pytest.mark.slow
WEIRD: list[Any] = [
    None, True, -1, 0, 1, 3, 10**6, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "",
    "maps", "method", "stage", "float64", "string", "\ud800", "\0", "é" * 3, [], [1], [[]], {},
    {"a": 1}, ["method", "stage"],
]  # fmt: skip
DTYPES = (
    "f2",
    "f4",
    ">f4",
    "f8",
    "f16",
    "i1",
    "i8",
    "u8",
    "?",
    "c8",
    "U3",
    "S3",
    "M8[ns]",
    "m8[s]",
)
NUMBERS = (np.nan, np.inf, -np.inf, 1e308, -1e308, 3e38, 1e-320, -0.0, 1e30, 7.5)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    names, net = ["gradient", "lrp_epsilon", "guided_backprop"], small_net()
    study = randomization_test(
        net,
        x,
        names,
        cascade=Cascade(repeats=2),
        keep_maps=2,
        progress=False,
        scores=["spearman_abs", "ssim"],
    )
    folders = {name: tmp_path_factory.mktemp(name) for name in ("nc", "packed", "zarr", "maps")}
    for name in ("nc", "zarr"):
        save_study(folders[name], Study(study.data.assign_attrs(score="ssim")), name)
    packing = {n: {"zlib": True, "shuffle": True, "fletcher32": True} for n in study.data.data_vars}
    study.data.to_netcdf(folders["packed"] / "study.nc", encoding=packing)
    maps = explain(net, x, names)
    maps.save(folders["maps"] / "maps.nc")
    return folders


# -- damage: what lies there is changed in place ---------------------------------------------------


def some_file(folder: Path, draw: random.Random) -> Path:
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix != ".png"]
    return draw.choice(files)


def flip(folder: Path, draw: random.Random) -> None:
    file = some_file(folder, draw)
    held = bytearray(file.read_bytes())
    end = draw.choice([len(held), min(len(held), 4000)])  # headers, too
    for _ in range(draw.choice([1, 1, 4, 32])):
        held[draw.randrange(end)] ^= 1 << draw.randrange(8)
    file.write_bytes(held)


def overwrite(folder: Path, draw: random.Random) -> None:
    file = some_file(folder, draw)
    held = bytearray(file.read_bytes())
    at, size = draw.randrange(len(held)), draw.choice([1, 8, 64, 512])
    held[at : at + size] = draw.choice([bytes(size), b"\xff" * size, draw.randbytes(size)])
    file.write_bytes(held)


def cut(folder: Path, draw: random.Random) -> None:
    file = some_file(folder, draw)
    held = file.read_bytes()
    at, size = draw.randrange(len(held)), draw.choice([1, 8, 64, 512])
    file.write_bytes(draw.choice([held[:at], held[:at] + held[at + size :], held + held[:at]]))


def lose(folder: Path, draw: random.Random) -> None:
    some_file(folder, draw).unlink()


def mislead(folder: Path, draw: random.Random) -> None:
    """Another value somewhere in a file of JSON."""
    files = sorted(folder.rglob("*.json"))
    if not files:
        return reshape(folder, draw)
    file = draw.choice(files)
    told = json.loads(file.read_text())
    at = told
    while True:
        key = draw.choice(list(at) if isinstance(at, dict) else list(range(len(at))))
        if isinstance(at[key], dict | list) and at[key] and draw.random() < 0.8:
            at = at[key]
            continue
        if draw.random() < 0.2:
            del at[key]
        else:
            at[key] = draw.choice(WEIRD)
        break
    file.write_text(json.dumps(told))


def reshape(folder: Path, draw: random.Random) -> None:
    """A proper file whose arrays are others than a result's."""
    file = next(f for f in folder.iterdir() if f.suffix in (".nc", ".zarr"))
    with opened(file) as lazy:
        study = lazy.load()
    for _ in range(draw.choice([1, 1, 2, 3])):
        study = draw.choice(CHANGES)(study, draw)
    study = study.drop_encoding()
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    if file.suffix == ".nc":
        study.to_netcdf(file)
    else:
        study.to_zarr(file, consolidated=False)


def opened(file: Path) -> xarray.Dataset:
    return xarray.open_dataset(file) if file.suffix == ".nc" else xarray.open_zarr(
        file, consolidated=False)  # fmt: skip


def spoiled(values: Any, draw: random.Random) -> Any:
    """The array with other numbers, another type or another shape; None for none."""
    values = np.array(values)
    kind = draw.randrange(5)
    if kind == 0:
        return None
    if kind == 1 or not values.size:
        return values.astype(draw.choice(DTYPES))
    if kind == 2 and values.ndim:
        return draw.choice([values[:0], values[None], values[0], values.T, values[:1]])
    if values.dtype.kind == "f":
        places = draw.choice([1, 5, values.size])
        for _ in range(min(places, 2000)):
            values.flat[draw.randrange(values.size)] = draw.choice(NUMBERS)
        return values
    return np.array([str(draw.choice(WEIRD))] * values.size, dtype=object).reshape(values.shape)


def other_values(study: xarray.Dataset, draw: random.Random) -> xarray.Dataset:
    name = draw.choice(sorted(map(str, study.variables)))
    held = study[name].variable
    changed = spoiled(held.values, draw)
    if changed is None:
        return study.drop_vars(name)
    named = draw.choice([held.dims, [f"other_{i}" for i in range(changed.ndim)]])
    named = named if len(named) == changed.ndim else [f"other_{i}" for i in range(changed.ndim)]
    if any(study.sizes.get(d, n) != n for d, n in zip(named, changed.shape, strict=True)):
        named = [f"other_{i}" for i in range(changed.ndim)]
    return study.drop_vars(name).assign({name: (tuple(named), changed)})


def other_dims(study: xarray.Dataset, draw: random.Random) -> xarray.Dataset:
    a, b = draw.sample(sorted(map(str, study.dims)), 2)
    return draw.choice([
        lambda: study.isel({a: slice(0)}), lambda: study.isel({a: slice(1)}),
        lambda: study.isel({a: 0}), lambda: study.isel({a: [0, 0]}),
        lambda: study.drop_dims(a), lambda: study.transpose(a, ...),
        lambda: study.rename({a: "other"}), lambda: study.rename({a: b, b: a}),
    ])()  # fmt: skip


def other_names(study: xarray.Dataset, draw: random.Random) -> xarray.Dataset:
    a, b = draw.sample(sorted(map(str, study.data_vars)), 2)
    return study.rename_vars(draw.choice([{a: b, b: a}, {a: "other"}, {a: "spearman"}]))


def other_attributes(study: xarray.Dataset, draw: random.Random) -> xarray.Dataset:
    name = draw.choice([*study.attrs, "units", "kind", "scale_factor", "_FillValue", "dtype"])
    at = study if draw.random() < 0.6 else study[draw.choice(sorted(map(str, study.variables)))]
    at.attrs.pop(name, None)
    if draw.random() < 0.7:
        at.attrs[name] = draw.choice([*WEIRD[1:8], "efficient", "days since 2000-01-01", 0.5, "x"])
    return study


CHANGES = (other_values, other_values, other_dims, other_names, other_attributes)
DAMAGE: tuple[Callable[[Path, random.Random], None], ...] = (
    flip, overwrite, cut, lose, mislead, reshape, reshape, reshape)  # fmt: skip


def damaged(folder: Path, source: Path, seed: int) -> str:
    """A damaged copy of a result; what was done to it."""
    draw = random.Random(seed)
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        damage = draw.choice(DAMAGE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                damage(folder, draw)
        except Exception:  # no library writes this: another one
            continue
        return damage.__name__


@pytest.mark.parametrize("form", ["nc", "packed", "zarr", "maps"])
def test_a_damaged_result_gives_a_page_or_a_sentence(
    results: dict[str, Path], tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"

    def attempt(seed: int) -> str:
        page.unlink(missing_ok=True)
        done = damaged(tmp_path / "copy", results[form], seed)
        try:
            report_command(tmp_path / "copy", page, say=lambda _: None)
        except SalienceError as sentence:
            return f"{done}: {str(sentence).split()[0]}"
        assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
        return f"{done}: a page"

    ends = endings(form, attempt, progress(capsys))
    assert {end.split(": ")[1] for end in ends} <= {"a page", "expected"}
    assert len(SEEDS) < 100 or len({end.split(": ")[1] for end in ends}) == 2
