"""Strips and trends on the page, in a real Chromium, from the history of a real daemon."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.harness.brokers import Mosquitto
from tests.harness.browser import chromium
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Ward, as_json
from tests.harness.histories import day


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("night")
    day(folder / "history.db", time.time())
    with Mosquitto(folder) as broker, RunningDaemon(folder, broker.url) as daemon:
        with Ward(broker.port) as ward:
            ward.send(as_json("bed-7", np.zeros((1, 140), np.float32)))
            ward.flush()
            daemon.wait_until("ecg_monitor_beats_received_total", 1)
            yield daemon


def opened(browser: Browser, daemon: RunningDaemon, width: int, **how: str) -> Page:
    page = browser.new_page(
        viewport=ViewportSize(width=width, height=900),
        **how,  # type: ignore[arg-type]
    )
    page.add_init_script(
        "window.complaints = [];"
        "addEventListener('securitypolicyviolation', e => complaints.push(e.violatedDirective));"
        "addEventListener('error', e => complaints.push(e.message));"
        "addEventListener('unhandledrejection', e => complaints.push(String(e.reason)))"
    )
    page.goto(f"http://{daemon.address}/#device=bed-7")
    expect(page.locator("#device-title")).to_have_text("bed-7")
    return page


def fits(page: Page) -> bool:
    """Whether nothing is wider than the page."""
    return bool(
        page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
    )


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1440, "dark")])
def test_a_strip_is_drawn_on_paper(
    browser: Browser, daemon: RunningDaemon, width: int, scheme: str, tmp_path: Path
) -> None:
    page = opened(browser, daemon, width, color_scheme=scheme)
    page.locator("#past summary", has_text="Asystole").click()
    paper = page.locator("#past .paper")
    expect(paper.locator("svg")).to_have_count(4)  # two rows of ten seconds, two leads
    row = paper.locator("svg").first
    # 25 mm a second and 10 mm a millivolt, as CSS has millimetres.
    assert row.bounding_box() is not None
    wide, high, told = page.evaluate(
        """() => {
          const [first, , third] = document.querySelectorAll("#past .paper svg");
          const ecg = first.querySelector(".ecg").getBBox();
          const wide = first.getBoundingClientRect().width;
          return [wide, ecg.height, third.querySelector(".told") !== null];
        }"""
    )
    assert wide == pytest.approx(10 * 25 * 96 / 25.4, abs=1)
    assert high == pytest.approx(10 * 1.5, rel=0.15)  # of a heart of 1.5 mV
    assert told
    assert paper.locator("text.V").count() == 1
    assert paper.locator("text.N").count() > 10
    expect(row).to_have_attribute("aria-label", "II from second 0; beats: N, N, N, V" + 7 * ", N")
    assert fits(page)
    paper.focus()  # its rows are scrolled by keys, too
    page.screenshot(path=tmp_path / "strip.png", full_page=True)
    assert page.evaluate("complaints") == []
    page.close()


STOPPED = """() => {
  const { fetch } = window;
  window.fetch = (what, how) =>
    what.startsWith("api/trend") ? new Promise(() => {}) : fetch(what, how);
}"""
"""Lets the day stay as it was read first: with a new minute it begins and ends otherwise."""


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_a_day_is_drawn_and_zoomed_by_keys_wheel_and_buttons(
    browser: Browser, daemon: RunningDaemon, width: int, scheme: str, tmp_path: Path
) -> None:
    page = opened(browser, daemon, width, color_scheme=scheme)
    trend = page.locator("#trend")
    expect(trend.locator(".mean")).to_have_count(1)
    assert trend.locator("rect.high").count() == 1
    said = trend.get_attribute("aria-label")
    assert said is not None
    assert "500 ventricular beats" in said
    assert "1 alarm" in said
    page.screenshot(path=tmp_path / "trend.png", full_page=True)
    page.evaluate(STOPPED)

    def shown() -> str:
        return page.locator("#trend-span").inner_text()

    whole = shown()
    assert whole.endswith("24 h")
    trend.focus()
    page.keyboard.press("+")
    assert shown().endswith("16 h")
    page.keyboard.press("ArrowLeft")
    moved = shown()
    page.keyboard.press("End")
    assert shown() != moved
    page.keyboard.press("0")
    assert shown() == whole
    trend.hover()
    page.mouse.wheel(0, -100)
    expect(page.locator("#trend-span")).to_contain_text("16 h")
    page.get_by_role("button", name="All", exact=True).click()
    assert shown() == whole
    for _ in range(20):
        if page.get_by_role("button", name="Zoom in").is_enabled():
            page.get_by_role("button", name="Zoom in").click()
    assert shown().endswith("15 min")
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_text("Show the trend as a table").click()
    expect(page.locator("#trend-table tr").nth(23)).to_be_visible()
    assert page.locator("#trend-table tr").count() <= 25
    assert fits(page)
    assert page.evaluate("complaints") == []
    page.close()
