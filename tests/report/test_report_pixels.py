"""The maps in the report: what the bytes hold, and how much of a study fits."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path

import numpy as np
import pytest
import xarray
from report_pages import (
    Reader,
    block_of,
    large,
    small_study,
)

from salience import Study
from salience.report import build
from salience.report._pixels import (
    LEVELS,
    MISSING,
    fitted,
    input_block,
    map_block,
    quantized,
    signed_methods,
    whole,
)


@pytest.fixture(scope="module")
def study() -> xarray.Dataset:
    return small_study()


@pytest.fixture(scope="module")
def page(study: xarray.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = build(study, tmp_path_factory.mktemp("report") / "report.html")
    return path.read_text(encoding="utf-8")


def test_pixels_give_back_the_maps(study: xarray.Dataset, page: str) -> None:
    held = block_of(page, "study")["maps"]
    blocks = re.findall(r'<script type="text/plain" class="block">(.*?)</script>', page)
    assert len(blocks) == 3 and held["size"] == [32, 32] and not held["notes"]
    count, pixels = len(held["methods"]), 32 * 32
    for sample, text in enumerate(blocks):
        raw = base64.b64decode(text)
        low, high = np.frombuffer(raw[:8], "<f4")
        gray = low + np.frombuffer(raw[8 : 8 + pixels], np.uint8) / 255 * (high - low)
        x = study["inputs"].values[sample, 0]
        np.testing.assert_allclose(gray.reshape(32, 32), x, atol=0.51 * (high - low) / 255)
        at = 8 + pixels
        for stage in range(study.sizes["map_stage"]):
            peaks = np.frombuffer(raw[at : at + 4 * count], "<f4")
            at += 8 * count
            codes = np.frombuffer(raw[at : at + count * pixels], np.int8).astype(float)
            at += count * pixels
            ratio = np.sign(codes) * (codes / LEVELS) ** 2
            maps = study["maps"].values[:, stage, sample, 0]
            shown = ratio.reshape(maps.shape) * peaks[:, None, None]
            # codes are rounded roots: half a code is 1 / 254 of the root of the peak
            tolerance = 2 * np.sqrt(np.abs(maps) * peaks[:, None, None]) * 0.51 / LEVELS
            assert (np.abs(shown - maps) <= tolerance + peaks[:, None, None] * 2e-5).all()
        assert at == len(raw)


def test_codes_of_undefined_and_empty_maps() -> None:
    pictures = np.array([[[np.nan, 1.0], [-2.0, np.inf]], [[0.0, 0.0], [0.0, 0.0]]])
    peaks, limits, codes = quantized(pictures)
    assert peaks.tolist() == [2.0, 0.0] and limits[1] == 0
    assert codes[0].ravel().tolist() == [-128, round(127 * 0.5**0.5), -127, -128]
    assert not codes[1].any()


def test_what_float32_does_not_hold_is_missing_without_a_warning() -> None:
    values = np.ones((1, 1, 1, 2, 2, 3))
    values[..., 0, :, 0, 0], values[..., 0, 0, 0, 1], values[..., 1, 0, 2] = 1.7e308, 3e38, np.inf
    values[..., 1, 0, 1] = 3e38  # each fits, and their sum does not
    dims = ("map_method", "map_stage", "map_sample", "axis_1", "axis_2", "axis_3")
    data = xarray.Dataset({"maps": (dims, values)})
    codes = np.frombuffer(map_block(Study(data), 0, 0, (2, 3))[8:], np.int8).tolist()
    assert codes == [MISSING, MISSING, MISSING, LEVELS, LEVELS, LEVELS]
    assert signed_methods(Study(data)) == [False]
    odd = np.frombuffer(b"\1\0\xa0\x7f" * 12, "<f4").reshape(values.shape)  # a signalling NaN
    data = data.assign(maps=(dims, odd))
    codes = np.frombuffer(map_block(Study(data), 0, 0, (2, 3))[8:], np.int8)
    assert (codes == MISSING).all()
    assert signed_methods(Study(data)) == [False]


def test_a_large_study_fits_into_15_megabytes_and_says_what_it_left_out(tmp_path: Path) -> None:
    path = build(large(), tmp_path / "large.html")
    assert path.stat().st_size <= 15_000_000
    page = path.read_text(encoding="utf-8")
    held = block_of(page, "study")["maps"]
    assert len(held["samples"]) == 16 and len(held["methods"]) == 10 and len(held["stages"]) == 21
    assert min(held["size"]) >= 48
    words = " ".join(Reader(page).words)
    assert f"Maps of 128 x 128 pixels were averaged to {held['size'][0]} x" in words
    assert "salience view" in words


@pytest.mark.bench
def test_a_large_study_is_built_in_half_a_minute(tmp_path: Path) -> None:
    """Processor seconds, 4 to 6 when this was written; run by make bench alone."""
    data = large()
    start = time.process_time()
    build(data, tmp_path / "large.html")
    assert time.process_time() - start < 30


@pytest.mark.parametrize("budget", [50_000, 150_000, 300_000, 10_000_000])
def test_plans_keep_to_their_budget(budget: int) -> None:
    study = Study(large(3, 8, 4, 64))
    plan = fitted(study, budget)
    maps = sum(
        len(map_block(study, sample, stage, plan.size))
        for sample in plan.samples for stage in plan.stages
    )  # fmt: skip
    inputs = sum(len(input_block(study, sample, plan.inputs)) for sample in plan.samples)
    heads = 8 * (1 + 3 * len(plan.stages)) * len(plan.samples)
    assert maps + inputs - heads <= budget
    assert plan.stages[0] == 0 and plan.stages[-1] == 8  # trained, and wholly random
    assert (plan == whole(study)) == (budget == 10_000_000)


def test_averages_keep_the_mean() -> None:
    dataset = large(2, 1, 1, 60)
    raw = map_block(Study(dataset), 0, 0, (20, 20))
    peaks = np.frombuffer(raw[:8], "<f4")
    codes = np.frombuffer(raw[16:], np.int8).reshape(2, 20, 20) / LEVELS
    blocks = dataset["maps"].values[:, 0, 0, 0].reshape(2, 20, 3, 20, 3).mean((2, 4))
    shown = np.sign(codes) * codes**2 * peaks[:, None, None]
    np.testing.assert_allclose(shown, blocks, atol=0.01 * peaks.max())
