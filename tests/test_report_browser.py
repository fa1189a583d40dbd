"""The report in a real browser: headless Chromium, the file opened from disk, networking off."""

from __future__ import annotations

import base64
import io
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from PIL import Image

from salience import attribution_by_value, randomization_test
from salience.report import build
from salience.report.page import Extras
from salience.report.serve import server

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome")
                 if (found := shutil.which(name))), None)  # fmt: skip
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs a browser: apt-get install chromium chromium-driver",
)
HOSTILE = '</script><img src=x onerror="document.body.dataset.hit=1">$$x$$'
LENSING = Path(__file__).parents[1] / "examples" / "weak_lensing"
SENSITIVE, INSENSITIVE = "gradient", "excitation_backprop"


@pytest.fixture(scope="module")
def study() -> xarray.Dataset:
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
        load_network(LENSING / "weights" / "noiseless.safetensors"), x, [SENSITIVE, INSENSITIVE],
        0, repeats=2, keep_maps=2, progress=False,
    )  # fmt: skip
    stages = [HOSTILE, *data["stage"].values[1:]]
    return data.assign_coords({
        "stage": np.array(stages, dtype=object),
        "map_stage": np.array(["trained", *stages], dtype=object),
    }).assign_attrs(model=HOSTILE)  # fmt: skip


@pytest.fixture(scope="module")
def address(study: xarray.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    maps = {str(name): study["maps"].values[k, 0] for k, name in enumerate(study.map_method.values)}
    shares = attribution_by_value(maps, study["inputs"].values, [0, 2])
    path = tmp_path_factory.mktemp("report") / "a report.html"
    return build(study, path, attribution=shares, coverage={HOSTILE: [HOSTILE]}).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
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


@pytest.mark.parametrize(("width", "dark"), [(400, False), (1000, True), (1600, False)])
def test_the_file_opens_without_complaint_at_any_width(
    browser: Any, address: str, width: int, dark: bool
) -> None:
    page = opened(browser, address, width, dark)
    assert complaints(page) == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script("return document.body.dataset.hit") is None
    assert page.execute_script("return document.images.length") == 0
    assert page.execute_script(
        "return performance.getEntriesByType('resource').map(r => r.name)"
        ".filter(name => !name.startsWith('data:'))"
    ) == []  # fmt: skip
    for panel in ("panel-0", "panel-1", "panel-2"):
        assert pixels(page, panel).std() > (0.02 if panel == "panel-0" else 2)  # drawn
    assert HOSTILE in page.find_element("tag name", "h1").text


def test_stages_change_what_is_sensitive(browser: Any, address: str, study: xarray.Dataset) -> None:
    page = opened(browser, address)
    names = (SENSITIVE, INSENSITIVE)
    trained = {name: pixels(page, panel_of(study, name)) for name in names}
    stage = study.sizes["stage"] - 2
    select(page, 0, stage)
    random = {name: pixels(page, panel_of(study, name)) for name in names}
    kept = {name: alike(trained[name], random[name]) for name in names}
    assert abs(kept[SENSITIVE]) < 0.3
    assert kept[INSENSITIVE] > 0.6
    select(page, 0, 0)
    for name in names:
        assert alike(trained[name], pixels(page, panel_of(study, name))) > 0.999
    select(page, 1, stage)
    label = page.find_element("id", panel_of(study, INSENSITIVE)).get_attribute("aria-label")
    score = float(study["spearman_abs"].sel({"method": INSENSITIVE}).values[stage - 1, 0, 1])
    assert label.startswith(f"Map of {INSENSITIVE} for input 1") and label.endswith(f"{score:.2f}")
    assert complaints(page) == []


def test_another_input_has_other_maps(browser: Any, address: str) -> None:
    page = opened(browser, address)
    before = [pixels(page, f"panel-{k}") for k in range(3)]
    select(page, 1, 0)
    after = [pixels(page, f"panel-{k}") for k in range(3)]
    assert all(abs(alike(a, b)) < 0.5 for a, b in zip(before[1:], after[1:], strict=True))
    assert np.abs(before[0] - after[0]).max() > 0.1


def test_the_map_lies_as_the_array_does(browser: Any, address: str, study: xarray.Dataset) -> None:
    page = opened(browser, address)
    shown = Image.fromarray(pixels(page, panel_of(study, SENSITIVE)).astype(np.float32))
    found = np.asarray(shown.resize((32, 32), Image.Resampling.BOX))
    values = study["maps"].values[list(study.map_method.values).index(SENSITIVE), 0, 0, 0]
    limit = np.percentile(np.abs(values), 99.5)
    wanted = values.clip(-limit, limit).reshape(32, 4, 32, 4).mean((1, 3))
    assert alike(found, wanted) > 0.7
    assert abs(alike(found, wanted[::-1])) < 0.2 and abs(alike(found, wanted[:, ::-1])) < 0.2


def test_keys_read_values_and_zoom(browser: Any, address: str, study: xarray.Dataset) -> None:
    from selenium.webdriver.common.keys import Keys

    page = opened(browser, address)
    panels = page.find_element("id", "panels")
    panels.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.find_element("id", "place").text == "column 65, row 66"
    row = list(study.map_method.values).index(INSENSITIVE)
    value = float(study["maps"].values[row, 0, 0, 0, 66, 65])
    cells = page.find_elements("css selector", "#panels .panel .value")
    shown = float(cells[1 + row].text.removeprefix("here "))
    peak = float(np.abs(study["maps"].values[row, 0, 0, 0]).max())
    assert shown == pytest.approx(value, abs=0.06 * abs(value) + 2e-5 * peak)
    assert float(cells[0].text) == pytest.approx(
        float(study["inputs"].values[0, 0, 66, 65]), abs=1e-3
    )
    before = [pixels(page, f"panel-{k}") for k in (1, 2)]
    panels.send_keys("+")
    after = [pixels(page, f"panel-{k}") for k in (1, 2)]
    assert all(abs(alike(a, b)) < 0.5 for a, b in zip(before, after, strict=True))  # linked
    panels.send_keys("0", Keys.PAGE_DOWN)
    until(page, "return document.getElementById('panels').dataset.shown === '0/1'")
    assert page.find_element("id", "stage").get_attribute("value") == "1"


def test_switches(browser: Any, address: str) -> None:
    page = opened(browser, address)
    before = pixels(page, "panel-1")
    page.find_element("id", "robust").click()
    assert pixels(page, "panel-1").std() < 0.9 * before.std()  # the peak sets the colours
    page.execute_script(
        "const c = document.getElementById('opacity'); c.value = 0;"
        "c.dispatchEvent(new Event('input'))"
    )
    assert alike(pixels(page, "panel-1"), pixels(page, "panel-0")) > 0.9  # the input alone
    page.execute_script("document.querySelector('fieldset').closest('details').open = true")
    page.find_element("css selector", "input[name=method]").click()
    assert not page.find_element("id", "panel-1").is_displayed()
    page.find_element("css selector", "#curve-legend button").click()
    assert complaints(page) == []


def test_the_table_sorts(browser: Any, address: str, study: xarray.Dataset) -> None:
    page = opened(browser, address)

    def column(number: int) -> list[str]:
        cells = page.find_elements("css selector", f"#verdicts tbody tr > :nth-child({number})")
        return [cell.get_attribute("data-value") or cell.text for cell in cells]

    button = page.find_element("css selector", "#verdicts th:nth-child(3) button")
    for ascending in (True, False):
        page.execute_script("arguments[0].click()", button)
        values = [float(value) for value in column(3)]
        assert values == sorted(values, reverse=not ascending) and len(set(values)) > 2
    assert sorted(column(1)) == sorted(map(str, study["method"].values))
    head = page.find_element("css selector", "#verdicts th:nth-child(3)")
    assert head.get_attribute("aria-sort") == "descending"


def test_every_score_fills_the_table(browser: Any, address: str, study: xarray.Dataset) -> None:
    page = opened(browser, address)
    page.execute_script("document.querySelector('#similarity details').open = true")
    for score in ("spearman_abs", "ssim"):
        page.execute_script(
            "const c = document.getElementById('score-picker'); c.value = arguments[0];"
            "c.dispatchEvent(new Event('change'))", score,
        )  # fmt: skip
        cells = page.find_elements("css selector", "#similarity-table tbody tr:nth-child(3) td")
        shown = [float(cell.text.split()[0]) for cell in cells]
        mean = study[score].values[:, 2].mean((1, 2))
        np.testing.assert_allclose(shown, mean, atol=0.00501)
    assert complaints(page) == []


def test_the_view_is_the_same_page(browser: Any, study: xarray.Dataset) -> None:
    serving = server(study, Extras())
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        page = opened(browser, f"http://127.0.0.1:{serving.server_port}/")
        before = pixels(page, "panel-1")
        select(page, 1, 3)
        assert abs(alike(before, pixels(page, "panel-1"))) < 0.5
        assert complaints(page) == []
        asked = page.execute_script(
            "return performance.getEntriesByType('resource').map(r => new URL(r.name))"
            ".filter(u => u.protocol.startsWith('http')).map(u => u.pathname)"
        )
        assert sorted(set(asked)) == ["/inputs/0", "/inputs/1", "/maps/0/0", "/maps/1/0",
                                      "/maps/1/3"]  # fmt: skip
    finally:
        page.get("about:blank")
        serving.shutdown()
        thread.join()
        serving.server_close()
