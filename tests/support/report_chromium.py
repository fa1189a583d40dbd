"""The report in headless Chromium, opened from disk, networking off: what its tests share."""

from __future__ import annotations

import base64
import io
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from PIL import Image

from salience import Cascade, attribution_by_value, randomization_test
from salience.report import build

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome")
                 if (found := shutil.which(name))), None)  # fmt: skip
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs a browser: apt-get install chromium chromium-driver",
)
HOSTILE = '</script><img src=x onerror="document.body.dataset.hit=1">$$x$$'
LENSING = Path(__file__).parents[2] / "examples" / "weak_lensing"
# The ends of the ranges that all maps share: x, then y.
RANGES = """
const found = Bokeh.documents[Bokeh.documents.length - 1];
const ends = (name) => { const r = found.get_model_by_name(name); return [r.start, r.end]; };
return [...ends("x-range"), ...ends("y-range")];
"""
SENSITIVE, INSENSITIVE = "gradient", "excitation_backprop"


def lensing_study() -> xarray.Dataset:
    """Two methods on the trained lensing network, one of each kind, with markup in a stage's name.

    Its inputs are smooth noise, which needs no simulation.
    """
    sys.path.insert(0, str(LENSING))
    try:
        from network import load_network  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(LENSING))
    noise = torch.randn(3, 1, 128, 128, generator=torch.Generator().manual_seed(2))
    x = 0.02 * torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    data = randomization_test(
        load_network(LENSING / "weights" / "noiseless.safetensors"),
        x,
        [SENSITIVE, INSENSITIVE],
        0,
        cascade=Cascade(repeats=2),
        keep_maps=2,
        progress=False,
    ).data
    stages = [HOSTILE, *data["stage"].values[1:]]
    return data.assign_coords({
        "stage": np.array(stages, dtype=object),
        "map_stage": np.array(["trained", *stages], dtype=object),
    }).assign_attrs(model=HOSTILE)  # fmt: skip


def lensing_page(study: xarray.Dataset, folder: Path) -> str:
    """The address of the study's page."""
    maps = {str(name): study["maps"].values[k, 0] for k, name in enumerate(study.map_method.values)}
    shares = attribution_by_value(maps, study["inputs"].values, [0, 2])
    path = folder / "a report.html"
    return build(study, path, attribution=shares, coverage={HOSTILE: [HOSTILE]}).as_uri()


@contextmanager
def chromium() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def offline(browser: Any, off: bool) -> None:
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {
        "offline": off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
    })  # fmt: skip


def opened(browser: Any, address: str, width: int = 1200, dark: bool = False) -> Any:
    offline(browser, address.startswith("file:"))
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})  # fmt: skip
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})  # fmt: skip
    browser.get_log("browser")
    browser.get(address)
    until(browser, "return document.body.dataset.ready === 'yes'")
    return browser


def until(browser: Any, script: str, *arguments: Any) -> None:
    for _ in range(200):
        if browser.execute_script(script, *arguments):
            return
        time.sleep(0.05)
    told = browser.get_log("browser")
    raise AssertionError(f"{script} did not come true; the console says {told}")


def complaints(browser: Any) -> list[Any]:
    return [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]


def select(browser: Any, sample: int, stage: int) -> None:
    browser.execute_script(
        "for (const [id, value, kind] of arguments[0]) { const c = document.getElementById(id);"
        "c.value = value; c.dispatchEvent(new Event(kind)); }",
        [["input-picker", str(sample), "change"], ["stage", str(stage), "input"]],
    )
    script = "return document.getElementById('panels').dataset.shown === arguments[0]"
    until(browser, script, f"{sample}/{stage}")


def pixels(browser: Any, panel: str) -> Any:
    """What Bokeh drew in a panel, (height, width), as the panel looks in a screenshot."""
    browser.execute_script("scrollTo(0, 0)")  # elsewhere the controls stick over the panels
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    )
    time.sleep(0.2)
    box = browser.execute_script(
        "const b = document.getElementById(arguments[0]).getBoundingClientRect();"
        "return [b.left + scrollX, b.top + scrollY, b.width, b.height]", panel,
    )  # fmt: skip
    x, y, width, height = box
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {
        "clip": {"x": x, "y": y, "width": width, "height": height, "scale": 1},
        "captureBeyondViewport": True,
    })  # fmt: skip
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    red, green, blue = np.moveaxis(np.asarray(image, dtype=float)[2:-2, 2:-2], -1, 0)
    return red - blue + 0.01 * green  # red against blue: the sign of a map


def alike(a: Any, b: Any) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def panel_of(study: xarray.Dataset, name: str) -> str:
    return f"panel-{1 + list(study.map_method.values).index(name)}"
