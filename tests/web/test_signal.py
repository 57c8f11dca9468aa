"""The raw signal of the device that somebody watches, on the page as it comes."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from monitor.web.live_feed import WATCH_TIMEOUT
from monitor.web.live_signal import BYTES_PER_SECOND, KEPT, MAX_CHUNK, LiveSignal
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.browser import chromium
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Ward, as_json
from tests.harness.signals import heart
from tests.harness.waiting import WITHIN, wait_until

RATE = 250


def chunk(samples: list[float], seq: int | None = 0, **more: object) -> bytes:
    return json.dumps({"samples": samples, "rate": RATE, "seq": seq} | more).encode()


def test_what_came_is_given_from_any_sample_on() -> None:
    signal = LiveSignal(None, 1000)
    assert signal.since(0) is None
    signal.take(chunk([1000.0, 2000.0], 0), 0.0)
    signal.take(chunk([3000.0], 2), 1.0)
    shown = signal.since(1)
    assert shown is not None
    assert (shown.first, shown.rate, shown.leads) == (1, RATE, {"": [2.0, 3.0]})
    signal.take(chunk([5000.0], 4), 2.0)  # one is missing
    shown = signal.since(3)
    assert shown is not None and shown.leads == {"": [None, 5.0]}
    shown = signal.since(10**9)
    assert shown is not None and shown.leads == {"": []}


def test_another_rate_or_lead_begins_anew() -> None:
    signal = LiveSignal(None, 1)
    signal.take(chunk([1.0] * 10), 0.0)
    signal.take(json.dumps({"leads": {"II": [2.0]}, "rate": 720}).encode(), 0.0)
    shown = signal.since(0)
    assert shown is not None
    assert (shown.first, shown.rate, shown.leads) == (10, 360, {"II": [2.0]})


def test_no_device_takes_memory_or_time_without_bound() -> None:
    signal = LiveSignal(RATE, 1)
    for second in range(30):
        signal.take(chunk([0.5] * RATE, second * RATE), float(second))
    shown = signal.since(0)
    assert shown is not None
    assert (shown.first + len(shown.leads[""]), len(shown.leads[""])) == (30 * RATE, KEPT * RATE)
    for payload in (b"", b"nonsense", b"1" * (MAX_CHUNK + 1), chunk([1.0], rate=1e9)):
        signal.take(payload, 31.0)
    flood = chunk([0.25] * 20_000, None)
    for _ in range(100):
        signal.take(flood, 31.0)
    many = signal.since(0)
    assert many is not None
    taken = many.first + len(many.leads[""]) - 30 * RATE
    assert 0 < taken * len(flood) / 20_000 <= BYTES_PER_SECOND


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_it_is_heard_only_while_somebody_watches(browser: Browser, tmp_path: Path) -> None:
    samples, _ = heart(60, RATE)
    with (
        Mosquitto(tmp_path, ANYBODY + "log_type all\n") as broker,
        RunningDaemon(tmp_path, broker.url) as daemon,
        Ward(broker.port) as ward,
    ):
        ward.send(as_json("bed-7", np.zeros((1, 140), np.float32)))
        ward.flush()
        daemon.wait_until("ecg_monitor_beats_received_total", 1)
        page = browser.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://{daemon.address}/#device=bed-7")
        expect(page.locator("#device-title")).to_have_text("bed-7")
        line = page.locator("#paper .ecg")
        sent = 0

        def drawn() -> bool:
            nonlocal sent
            part = samples[sent % len(samples) :][:RATE].round(3).tolist()
            ward.publish("ecg/bed-7/samples", chunk(part, sent))
            ward.flush()
            sent += RATE
            time.sleep(0.3)
            return line.count() == 1 and len(line.get_attribute("d") or "") > 2000

        wait_until(drawn)
        before = line.get_attribute("d")
        wait_until(lambda: drawn() and line.get_attribute("d") != before)
        page.screenshot(path=tmp_path / "signal.png", full_page=True)
        assert complaints == []

        def hears() -> int:
            log = broker.log.read_text()  # which says who subscribes to what, and who no more
            began, ended = (f"test-alerts {each}ecg/bed-7/samples" for each in ("0 ", ""))
            return log.count(began) - log.count(ended)

        wait_until(lambda: hears() == 1)
        page.close()
        wait_until(lambda: hears() == 0, WATCH_TIMEOUT + WITHIN)
        assert daemon.healthy()


def test_nobody_watches_what_no_device_of_ours_sends(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path, ANYBODY + "log_type all\n") as broker,
        RunningDaemon(tmp_path, broker.url) as daemon,
    ):
        for name in ("#", "+", "bed/7", "bed-8"):
            watch = f"http://{daemon.address}/api/live?{urlencode({'device': name})}"
            urllib.request.urlopen(watch, timeout=WITHIN).close()
        time.sleep(1.5)  # in which it would be heard
        assert "/samples" not in broker.log.read_text()
        assert daemon.healthy()
