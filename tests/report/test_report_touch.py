"""The report under fingers: Chromium that emulates a telephone with a touch screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_chromium import (
    RANGES,
    chromium,
    complaints,
    lensing_page,
    lensing_study,
    needs_browser,
    offline,
    pixels,
    until,
)

pytestmark = needs_browser
WHOLE = [0, 128, 128, 0]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    address = lensing_page(lensing_study(), Path(tmp_path_factory.mktemp("touch")))
    with chromium() as driver:
        offline(driver, True)
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True})  # fmt: skip
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled",
                               {"enabled": True, "maxTouchPoints": 5})  # fmt: skip
        driver.get(address)
        until(driver, "return document.body.dataset.ready === 'yes'")
        yield driver


def middle_of(page: Any, panel: str) -> tuple[float, float]:
    """Where the middle of a panel is in the window, once it is in the middle of that."""
    x, y = page.execute_script(
        "const p = document.getElementById(arguments[0]); p.scrollIntoView({block: 'center'});"
        "const b = p.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]",
        panel,
    )  # fmt: skip
    return x, y


def fingers(page: Any, kind: str, *places: tuple[float, float]) -> None:
    points = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(places)]
    page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def pinch(page: Any, panel: str, begin: float, end: float) -> None:
    """Two fingers on a panel, from one distance to another."""
    x, y = middle_of(page, panel)
    fingers(page, "touchStart", (x - begin / 2, y), (x + begin / 2, y))
    for step in range(1, 11):
        wide = begin + (end - begin) * step / 10
        fingers(page, "touchMove", (x - wide / 2, y), (x + wide / 2, y))
    fingers(page, "touchEnd")


def drag(page: Any, panel: str, right: float, down: float) -> None:
    x, y = middle_of(page, panel)
    fingers(page, "touchStart", (x, y))
    for step in range(1, 11):
        fingers(page, "touchMove", (x + right * step / 10, y + down * step / 10))
    fingers(page, "touchEnd")


def test_a_finger_scrolls_the_page_over_whole_maps(page: Any) -> None:
    page.find_element("id", "zoom-reset").click()
    middle_of(page, "panel-1")
    before = page.execute_script("return scrollY")
    drag(page, "panel-1", 0, -150)
    until(page, f"return scrollY > {before} + 50")
    assert page.execute_script(RANGES) == WHOLE


def test_two_fingers_zoom_all_maps_and_one_moves_them(page: Any) -> None:
    page.find_element("id", "zoom-reset").click()
    before = [pixels(page, f"panel-{k}") for k in (1, 2)]
    pinch(page, "panel-1", 40, 120)
    left, right, bottom, top = zoomed = page.execute_script(RANGES)
    assert 0 < right - left < 100 and 0 < bottom - top < 100, zoomed
    assert 0 <= left < 64 < right <= 128 and 0 <= top < 64 < bottom <= 128  # about the middle
    for k, whole in zip((1, 2), before, strict=True):  # linked
        assert abs(pixels(page, f"panel-{k}") - whole).max() > 20

    scrolled = (middle_of(page, "panel-2"), page.execute_script("return scrollY"))[1]
    drag(page, "panel-2", 40, 30)
    moved = page.execute_script(RANGES)
    assert moved[0] < left and moved[3] < top  # what lay to the left and above came in
    assert moved[1] - moved[0] == pytest.approx(right - left)
    assert page.execute_script("return scrollY") == scrolled

    for _ in range(3):
        pinch(page, "panel-0", 120, 30)
    assert page.execute_script(RANGES) == pytest.approx(WHOLE)
    assert complaints(page) == []


def test_a_finger_reads_values(page: Any) -> None:
    page.find_element("id", "zoom-reset").click()
    x, y = middle_of(page, "panel-2")
    fingers(page, "touchStart", (x, y))
    fingers(page, "touchEnd")
    until(page, "return document.getElementById('place').textContent.startsWith('column 6')")
    assert page.find_element("css selector", "[data-panel='2'] .value").text.startswith("here ")
