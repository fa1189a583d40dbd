"""The report in a real browser: headless Chromium, the file opened from disk, networking off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xarray
from PIL import Image
from report_chromium import (
    HOSTILE,
    INSENSITIVE,
    RANGES,
    SENSITIVE,
    alike,
    chromium,
    complaints,
    lensing_page,
    lensing_study,
    needs_browser,
    opened,
    panel_of,
    pixels,
    select,
    until,
)

from salience import Study
from salience.report._extras import Extras
from salience.report._serve import server

pytestmark = needs_browser
WIDTHS = (400, 1000, 1600)
# Where a dot of the curves lies in the window: stage number, similarity.
POINT_OF_A_DOT = """
document.getElementById("curves").scrollIntoView({block: "center"});
const plot = Bokeh.documents[Bokeh.documents.length - 1].get_model_by_name("curves");
const view = Bokeh.index.get_by_id(plot.id), box = view.el.getBoundingClientRect();
const along = ["x_scale", "y_scale"].map((scale, k) => view.frame[scale].compute(arguments[k]));
return [box.left + along[0], box.top + along[1]];
"""
# The text of all of Bokeh's tooltips that are shown, through its shadow roots.
TOOLTIPS = """(() => {
  const texts = [], walk = (node) => {
    for (const child of node.children ?? []) {
      if (child.classList?.contains("bk-Tooltip") && child.checkVisibility()) {
        texts.push(child.shadowRoot?.textContent ?? child.textContent);
      } else { walk(child); if (child.shadowRoot) walk(child.shadowRoot); }
    }
  };
  walk(document.body);
  return texts.join(" ");
})()"""


@pytest.fixture(scope="module")
def study() -> xarray.Dataset:
    return lensing_study()


@pytest.fixture(scope="module")
def address(study: xarray.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    return lensing_page(study, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


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


@pytest.mark.parametrize("width", WIDTHS)
def test_stages_change_what_is_sensitive(
    browser: Any, address: str, study: xarray.Dataset, width: int
) -> None:
    page = opened(browser, address, width)
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


@pytest.mark.parametrize("width", WIDTHS)
def test_another_input_has_other_maps(browser: Any, address: str, width: int) -> None:
    page = opened(browser, address, width)
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
    # 208 pixels of the screen show 128 of the map: a browser doubles some columns and not others,
    # so that 0.66 are left of a rough map, but no other place fits it
    assert alike(found, wanted) > 0.6
    for shift in (-2, -1, 1, 2):
        for axis in (0, 1):
            assert alike(np.roll(found, shift, axis), wanted) < 0.3
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


def test_the_mouse_zooms_and_moves_all_maps(browser: Any, address: str) -> None:
    page = opened(browser, address)
    x, y, width = page.execute_script(
        "const b = document.getElementById('panel-1').getBoundingClientRect();"
        "scrollTo(0, b.top - 300);"
        "return [b.left, 300, b.width]"
    )

    def mouse(kind: str, right: float, down: float, **more: Any) -> None:
        page.execute_cdp_cmd("Input.dispatchMouseEvent", {
            "type": kind, "x": x + right * width, "y": y + down * width, **more})  # fmt: skip

    assert page.execute_script(RANGES) == [0, 128, 128, 0]
    before = pixels(page, "panel-2")
    page.execute_script("scrollTo(0, document.getElementById('panel-1').getBoundingClientRect().top"
                        " + scrollY - 300)")  # fmt: skip
    mouse("mouseWheel", 0.25, 0.75, deltaX=0, deltaY=-100, modifiers=2)
    until(page, f"return (() => {{ {RANGES} }})()[1] < 127")
    left, right, bottom, top = page.execute_script(RANGES)
    share = (32 - left) / (right - left)  # what is under the cursor stays there
    assert share == pytest.approx(0.25, abs=0.02)
    assert (96 - top) / (bottom - top) == pytest.approx(0.75, abs=0.02)
    button = {"button": "left", "buttons": 1, "clickCount": 1}
    mouse("mousePressed", 0.5, 0.5, **button)
    mouse("mouseMoved", 0.6, 0.45, **button)
    mouse("mouseReleased", 0.6, 0.45, **button)
    moved = page.execute_script(RANGES)
    assert moved[0] == pytest.approx(max(0, left - 0.1 * (right - left)), abs=1)
    assert moved[3] == pytest.approx(top + 0.05 * (bottom - top), abs=1)
    mouse("mouseMoved", 0.2, 0.2)  # without a button nothing moves
    assert page.execute_script(RANGES) == moved
    assert abs(pixels(page, "panel-2") - before).max() > 20
    assert complaints(page) == []


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


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_sorts(browser: Any, address: str, study: xarray.Dataset, width: int) -> None:
    page = opened(browser, address, width)

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
    heads = page.find_elements("css selector", "#verdicts thead th")
    error = 1 + next(k for k, h in enumerate(heads) if h.text.startswith("conservation or"))
    assert column(error)[0] == "–"
    button = heads[error - 1].find_element("tag name", "button")
    page.execute_script("arguments[0].click()", button)
    assert column(error)[0] != "–" and column(error)[1:] == ["–"] * 4  # what has none comes last


def test_dots_of_the_curves_tell_their_numbers(
    browser: Any, address: str, study: xarray.Dataset
) -> None:
    page = opened(browser, address)
    method, stage = list(study.method.values).index(SENSITIVE), 0
    mean = float(study["spearman_abs"].values[method, stage].mean())
    place = page.execute_script(POINT_OF_A_DOT, stage + 1, mean)
    for _ in range(2):  # from elsewhere, so that it is a move
        for x, y in ((place[0] - 60, place[1] - 60), place):
            page.execute_cdp_cmd("Input.dispatchMouseEvent",
                                 {"type": "mouseMoved", "x": x, "y": y})  # fmt: skip
    until(page, f"return ({TOOLTIPS}).length > 0")
    told = " ".join(page.execute_script(f"return {TOOLTIPS}").split())
    low, high = (page.execute_script(
        f"return study_().test.similarity.spearman_abs.{end}[{method}][{stage}]"
        .replace("study_()", "JSON.parse(document.getElementById('study').textContent)"))
        for end in ("low", "high"))  # fmt: skip
    assert SENSITIVE in told and f"{mean:.2f}" in told and f"{low:.2f} to {high:.2f}" in told
    assert HOSTILE in told  # the stage's name, as text
    assert page.execute_script("return document.body.dataset.hit") is None
    assert complaints(page) == []


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
    serving = server(Study(study), Extras())
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
