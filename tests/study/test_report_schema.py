"""Results that are proper files with other contents than a result's: sentences, not tracebacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray
from report_pages import block_of, small_study
from typer.testing import CliRunner

from salience._cli.app import app
from salience._study.store import write
from salience.report import build

Change = Callable[[xarray.Dataset], xarray.Dataset]


@pytest.fixture(scope="module")
def study() -> xarray.Dataset:
    return small_study().isel({"sample": slice(3)})


def reported(folder: Path) -> str:
    """What `salience report` says of a folder that it can make no page of."""
    done = CliRunner().invoke(app, ["report", str(folder), "-o", str(folder / "page.html")])
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stderr.startswith("Error: expected ") and done.stderr.count("\n") == 1
    assert not (folder / "page.html").exists()
    return done.stderr


def without(*names: str) -> Change:
    return lambda data: data.drop_vars(names)


def as_type(name: str, kind: str) -> Change:
    return lambda data: data.assign({name: data[name].astype(kind)})


def told(**attributes: object) -> Change:
    return lambda data: data.assign_attrs(attributes)


def value(name: str, held: object) -> Change:
    def change(data: xarray.Dataset) -> xarray.Dataset:
        values = data[name].values.copy()
        values.flat[0] = held
        return data.assign({name: (data[name].dims, values)})

    return change


CHANGES: dict[str, tuple[Change, str]] = {
    "no role": (without("role"), "there is no role"),
    "no inputs": (without("inputs"), "there is no inputs"),
    "no names": (without("method"), "there is no method"),
    "no names of maps": (without("map_method"), "there is no map_method"),
    "no stage_count": (lambda d: d.drop_attrs(), "stage_count is None, which is no number"),
    "turned": (lambda d: d.transpose("stage", ...), "hog has the dimensions ('stage', 'me"),
    "no repeats": (lambda d: d.isel({"repeat": 0}), "has the dimensions ('method', 'stage', 's"),
    "empty": (lambda d: d.isel({"sample": slice(0)}), "there is nothing along sample"),
    "no pixels": (lambda d: d.isel({"axis_2": slice(0)}), "has the shape (10, 3, 3, 1, 0, 32)"),
    "whole scores": (as_type("ssim", "i4"), "ssim holds int32, which is not numbers"),
    "scores as text": (
        lambda d: d.assign(ssim=d["ssim"].astype(str).astype(object)), "which is not numbers"
    ),
    "numbers for names": (
        lambda d: d.assign_coords(role=("method", np.arange(13))), "role holds int64, which is not"
    ),
    "infinite": (value("pearson", np.inf), "pearson holds infinities or numbers beyond 1e+30"),
    "huge": (value("other_inputs", -1e31), "other_inputs holds infinities or numbers beyond"),
    "NaN among inputs": (value("inputs", np.nan), "inputs holds NaN, infinities or numbers"),
    "one name twice": (value("method", "lrp_epsilon"), "method holds the same name more than on"),
    "one map twice": (value("map_method", "lrp_epsilon"), "map_method holds the same name more"),
    "an unknown role": (value("role", "judge"), "role holds 'judge'"),
    "score of no stage": (
        lambda d: d.assign(spearman_abs=d["spearman_abs"].isel({"stage": 0})),
        "expected a test with 'spearman_abs'",
    ),
    "stages in disorder": (value("number", 1), "number holds [1, 1], of 2 stages"),
    "stages beyond": (told(stage_count=1), "number holds [0, 1], of 1 stages"),
    "half a stage": (told(stage_count=1.5), "stage_count is 1.5, which is no number of stages"),
    "kind": (told(kind=3), "the attribute kind is"),
    "score": (told(score=3), "the attribute score is"),
    "an unknown score": (told(score="maps"), "the attribute score is 'maps', and the scores hog"),
    "errors of others": (
        lambda d: d.assign(conservation_error=("stage", [0.0, 0.0])), "conservation_error has the"
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ["study.nc", "study.zarr"])
@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_other_contents_are_told(
    study: xarray.Dataset, tmp_path: Path, change: Change, message: str, form: str
) -> None:
    write(change(study), tmp_path / form, Path(form).suffix)
    assert message in reported(tmp_path)


def test_what_is_undefined_or_missing_is_no_damage(study: xarray.Dataset, tmp_path: Path) -> None:
    study = value("spearman_abs", np.nan)(study)
    maps = study["maps"].astype(np.float64).copy(deep=True)
    maps.values.flat[:4] = np.nan, np.inf, 1e308, -1e39
    study = study.assign({"maps": maps}).drop_vars(["uncovered", "conservation_error"])
    write(study, tmp_path / "study.nc", ".nc")
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(tmp_path), "-o", str(page)])
    assert done.exit_code == 0 and done.stderr == ""
    rows = block_of(page.read_text(encoding="utf-8"), "study")["test"]["rows"]
    assert rows[0]["undefined"] == 0 and len(rows) == 13  # the first stage does not count


@pytest.mark.parametrize("form", ["study.nc", "study.zarr"])
def test_a_cut_file_is_told(study: xarray.Dataset, tmp_path: Path, form: str) -> None:
    write(study, tmp_path / form, Path(form).suffix)
    shutil.copytree(tmp_path, tmp_path / "whole")
    large = max((f for f in tmp_path.glob(f"{form}*/**/*") if f.is_file()), default=tmp_path / form,
                key=lambda f: f.stat().st_size)  # fmt: skip
    large.write_bytes(large.read_bytes()[:-1000])
    assert form in reported(tmp_path)
    assert build(study, tmp_path / "whole.html").exists()
