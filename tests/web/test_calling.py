"""How the page calls: sound, pause, notifications, title and icon, in a real Chromium."""

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from monitor.alarms import messages
from monitor.ecg.simulator import Simulator
from monitor.times import rfc3339
from tests.harness.brokers import Mosquitto
from tests.harness.browser import chromium
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Ward, as_json, in_turn
from tests.web.test_page import CONTRASTS, DESK, PHONE, TOKEN, Scene, complaints, named, opened

BURSTS = """
  window.bursts = [];
  const start = OscillatorNode.prototype.start;
  let scheduling = false;
  OscillatorNode.prototype.start = function (at) {
    if (!scheduling) {
      bursts.push({ pulses: 0, since: Date.now() });
      scheduling = true;
      queueMicrotask(() => { scheduling = false; });
    }
    bursts.at(-1).pulses += 1;
    start.call(this, at);
  };
"""
"""Keeps how many pulses are scheduled at once, and when, in milliseconds since 1970."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A daemon that takes requests from whoever has the token."""
    with Mosquitto(tmp_path) as broker:
        with RunningDaemon(tmp_path, broker.url, METRICS__TOKEN=TOKEN) as daemon:
            with Ward(broker.port) as ward:
                yield Scene(broker, daemon, ward)


@pytest.fixture(autouse=True)
def closed(browser: Browser) -> Iterator[None]:
    yield
    for context in browser.contexts:
        context.close()


def page_of(browser: Browser, scene: Scene, script: str = "", **how: Any) -> Page:
    """Return the page with its bursts kept, and a script run before its own."""
    return opened(browser, scene, script=BURSTS + script, **how)


def switch(page: Page, name: str) -> Locator:
    return page.get_by_role("switch", name=name)


def bursts(page: Page) -> list[int]:
    """Return how many pulses each burst has."""
    numbers: list[int] = page.evaluate("bursts.map(({ pulses }) => pulses)")
    return numbers


def next_burst(page: Page, scene: Scene, before: int) -> int:
    """Return how many pulses the first burst after `before` others has, once it is there."""
    scene.ward.wait(lambda: len(bursts(page)) > before)
    return bursts(page)[before]


# -- the pattern

SAMPLING_RATE = 16_000

RENDER = """async ([priority, rate]) => {
  const { burst, play } = await import("./sound.js");
  const last = burst(priority).at(-1);
  const length = Math.ceil((last.begins + last.lasts + 0.2) * rate);
  const context = new OfflineAudioContext(1, length, rate);
  play(context, priority, 0.1);
  const sound = await context.startRendering();
  return [...sound.getChannelData(0)].map((sample) => Math.round(sample * 1e4) / 1e4);
}"""


def heard(page: Page, priority: str) -> NDArray[np.float64]:
    """Return what a loudspeaker gets for a burst."""
    return np.array(page.evaluate(RENDER, [priority, SAMPLING_RATE]))


def sounding(sound: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return begin and end of each pulse in seconds: where it is not silent for 10 ms."""
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    breaks = np.flatnonzero(np.diff(loud) > SAMPLING_RATE / 100)
    begins, ends = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, len(loud) - 1]]
    return [(a / SAMPLING_RATE, b / SAMPLING_RATE) for a, b in zip(begins, ends, strict=True)]


def test_each_priority_sounds_as_the_standard_says(browser: Browser, scene: Scene) -> None:
    page = page_of(browser, scene)
    limits = {"high": (10, 0.075, 0.2), "medium": (3, 0.125, 0.25), "low": (2, 0.125, 0.25)}
    for priority, (number, shortest, longest) in limits.items():
        sound = heard(page, priority)
        found = sounding(sound)
        assert len(found) == number, priority
        assert np.abs(sound).max() < 1  # nothing is clipped
        gaps = [after[0] - before[1] for before, after in itertools.pairwise(found)]
        for begin, end in found:
            assert shortest <= end - begin <= longest
            pulse = sound[int(begin * SAMPLING_RATE) : int(end * SAMPLING_RATE)]
            spectrum = np.abs(np.fft.rfft(pulse * np.hanning(len(pulse)), SAMPLING_RATE))
            tone = spectrum[150:1000].argmax() + 150
            harmonics = [spectrum[n * tone - 9 : n * tone + 10].max() for n in range(1, 7)]
            carried = [
                level
                for n, level in enumerate(harmonics, start=1)
                if 300 <= n * tone <= 4000 and level > harmonics[0] * 10 ** (-15 / 20)
            ]
            assert len(carried) >= 4
        if priority == "high":
            x = [gaps[i] for i in (0, 1, 3, 5, 6, 8)]
            assert all(0.05 <= gap <= 0.125 for gap in x)
            assert 0.35 <= gaps[4] <= 1.3
            lasts = found[0][1] - found[0][0]
            for i in (2, 7):
                assert gaps[i] == pytest.approx(2 * x[0] + lasts, rel=0.1)
        else:
            assert all(0.125 <= gap <= 0.25 for gap in gaps)
    rest = page.evaluate("import('./sound.js').then(({ REST }) => REST)")
    assert 2.5 <= rest["high"] <= 15 < rest["low"]
    assert rest["high"] < rest["medium"] <= 30


# -- sound, and its pause


def test_sound_follows_the_most_serious_alarm_and_what_people_do(
    browser: Browser, scene: Scene
) -> None:
    page = page_of(browser, scene)
    named(page, "Anna")
    sound, pause = switch(page, "Sound"), page.get_by_role("button", name="Pause audio")
    expect(sound).to_have_attribute("aria-checked", "false")
    expect(sound).to_contain_text("off")
    scene.flat("bed-1")
    expect(page.locator("#alarm-list li")).to_have_count(1)
    expect(sound).to_have_class(re.compile("unheard"))
    expect(pause).to_be_hidden()
    assert bursts(page) == []

    sound.press("Space")
    expect(sound).to_contain_text("on")
    expect(sound).not_to_have_class(re.compile("unheard"))
    assert next_burst(page, scene, 0) == 2
    scene.ectopic("bed-2", 1)
    scene.ward.wait(lambda: bursts(page)[-1] == 3)

    pause.press("Enter")
    expect(page.locator("#paused")).to_have_text(re.compile(r"Audio paused, 1:\d\d"))
    before = bursts(page)
    expect(page.locator("#state")).to_have_text("2 of 2 devices in alarm")
    scene.ectopic("bed-3", 1)
    expect(page.locator("#alarm-list li")).to_have_count(3)
    expect(page.locator("#paused")).to_be_visible()  # it is as serious as what was paused
    assert bursts(page) == before
    scene.ectopic("bed-4", 6)
    expect(page.locator("#paused")).to_be_hidden()
    expect(page.locator("#paused-news")).to_contain_text("more serious")
    assert next_burst(page, scene, len(before)) == 10

    page.get_by_role("button", name="Acknowledge: bed-4").click()
    expect(page.locator("#alarm-list li").last).to_contain_text("acknowledged by Anna")
    before = bursts(page)
    assert next_burst(page, scene, len(before)) == 3  # what is left is of medium priority
    sound.click()
    expect(sound).to_contain_text("off")
    assert complaints(page) == []


def test_a_pause_ends_after_two_minutes_and_when_a_person_ends_it(
    browser: Browser, scene: Scene
) -> None:
    scene.ectopic("bed-1", 6)
    page = page_of(browser, scene)
    page.clock.install()
    expect(page.locator("#alarm-list li")).to_have_count(1)
    switch(page, "Sound").click()
    page.get_by_role("button", name="Pause audio").click()
    left = page.get_by_role("timer")
    expect(left).to_have_text(re.compile(r"1:\d\d"))
    page.clock.fast_forward(100_000)
    expect(left).to_have_text(re.compile(r"0:[01]\d"))
    before = bursts(page)
    page.clock.fast_forward(21_000)
    expect(page.locator("#paused")).to_be_hidden()
    expect(page.locator("#paused-news")).to_have_text("The pause is over.")
    assert next_burst(page, scene, len(before)) == 10
    page.get_by_role("button", name="Pause audio").click()
    page.get_by_role("button", name="End pause").click()
    expect(page.locator("#paused")).to_be_hidden()
    expect(page.get_by_role("button", name="Pause audio")).to_be_focused()


def test_sound_that_the_browser_blocks_says_so_until_somebody_touches_the_page(
    browser: Browser, scene: Scene
) -> None:
    scene.ectopic("bed-1", 6)
    page = page_of(browser, scene, "localStorage.sound = 'on';")
    expect(switch(page, "Sound")).to_contain_text("blocked")
    expect(switch(page, "Sound")).to_have_class(re.compile("unheard"))
    expect(page.locator("#blocked")).to_contain_text("until you click or press a key")
    assert bursts(page) == []
    page.keyboard.press("Tab")
    expect(switch(page, "Sound")).to_contain_text("on")
    expect(page.locator("#blocked")).to_be_hidden()
    assert next_burst(page, scene, 0) == 10


def test_a_browser_without_sound_says_so(browser: Browser, scene: Scene) -> None:
    page = page_of(browser, scene, "delete window.AudioContext;")
    expect(switch(page, "Sound")).to_contain_text("not possible")
    expect(switch(page, "Sound")).to_be_disabled()
    assert complaints(page) == []


# -- the connection


def test_a_lost_connection_is_loud(browser: Browser, scene: Scene) -> None:
    scene.normal("bed-1")
    page = page_of(browser, scene, NOTIFICATIONS + "localStorage.notifications = 'on';")
    calm = page.locator("#icon").get_attribute("href")
    switch(page, "Sound").click()
    assert next_burst(page, scene, 0) == 2  # this is what it is like
    page.evaluate(
        """new MutationObserver(() => { window.lost ??= Date.now(); })
             .observe(document.querySelector("#trouble"), { attributes: true })"""
    )
    scene.daemon.process.kill()
    scene.daemon.process.wait()
    expect(page.locator("#trouble")).to_contain_text("has been unreachable since")
    expect(page).to_have_title("⚠ unreachable – ECG monitor")
    assert page.locator("#icon").get_attribute("href") != calm
    assert next_burst(page, scene, 1) == 10
    assert page.evaluate("bursts[1].since - lost") > 3000  # within which a standby may take over
    assert page.evaluate("notes[0].title") == "No connection to the monitor"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(page.locator("#trouble")).to_be_in_viewport()
    scene.daemon.start()
    expect(page.locator("#trouble")).to_be_hidden()
    expect(page).to_have_title("ECG monitor")
    expect(page.locator("#icon")).to_have_attribute("href", calm or "")
    assert page.evaluate("notes[0].closed")


# -- notifications, title and icon

NOTIFICATIONS = """
  window.notes = [];
  window.Notification = class extends EventTarget {
    static permission = "granted";
    static requestPermission = async () => (Notification.permission = Notification.answer);
    constructor(title, how) {
      super();
      Object.assign(this, { title, ...how });
      notes.push(this);
    }
    close() { this.closed = true; }
  };
"""
"""Notifications that are kept instead of shown: Chromium has no desktop here to show them on."""


def test_devices_that_are_lost_together_call_with_high_priority(
    browser: Browser, tmp_path: Path
) -> None:
    own = {"METRICS__TOKEN": TOKEN, "ALARM__SILENT_AFTER": "6"}
    with Mosquitto(tmp_path) as broker, RunningDaemon(tmp_path, broker.url, **own) as daemon:
        with Ward(broker.port) as ward:
            scene = Scene(broker, daemon, ward)
            page = page_of(browser, scene)
            switch(page, "Sound").click()
            ward.wait(lambda: bursts(page))  # the trial
            before = bursts(page)
            simulator = Simulator(7)
            ward.send(in_turn([as_json(f"bed-{i}", simulator.normal(2)) for i in range(6)]))
            expect(page.locator("#connection")).to_contain_text("Connection lost, 6 devices")
            assert next_burst(page, scene, len(before)) == 10


def test_notifications_are_asked_for_on_a_click_and_tell_what_is_new(
    browser: Browser, scene: Scene
) -> None:
    ask = "Notification.permission = 'default'; Notification.answer = 'granted';"
    scene.ectopic("bed-1", 1)
    page = page_of(browser, scene, NOTIFICATIONS + ask)
    expect(page.locator("#alarm-list li")).to_have_count(1)
    notify = switch(page, "Notifications")
    expect(notify).to_contain_text("off")
    assert page.evaluate("Notification.permission") == "default"
    notify.press("Enter")
    expect(notify).to_contain_text("on")
    assert page.evaluate("notes") == []
    scene.ectopic("bed-2", 6)
    scene.ward.wait(lambda: page.evaluate("notes.some((each) => each.requireInteraction)"))
    assert re.match(r"bed-2: Anomaly, (high|medium)", page.evaluate("notes[0].title"))
    page.evaluate("notes.at(-1).dispatchEvent(new Event('click'))")
    expect(page.locator("#device-title")).to_have_text("bed-2")
    notify.click()
    expect(notify).to_contain_text("off")


def test_why_there_are_no_notifications_is_shown(browser: Browser, scene: Scene) -> None:
    page = page_of(browser, scene, NOTIFICATIONS + "Notification.permission = 'denied';")
    expect(switch(page, "Notifications")).to_contain_text("blocked by the browser")
    expect(switch(page, "Notifications")).to_be_disabled()
    # A phone has the class, and allows it to service workers alone.
    phone = "const all = Notification; window.Notification = class { static permission = 'granted';"
    phone += "constructor() { throw new TypeError(); } }; localStorage.notifications = 'on';"
    page = page_of(browser, scene, NOTIFICATIONS + phone)
    expect(switch(page, "Notifications")).to_contain_text("on")
    scene.ectopic("bed-1")
    expect(switch(page, "Notifications")).to_contain_text("not possible")
    assert complaints(page) == []


def icon(page: Page) -> str:
    return unquote(page.locator("#icon").get_attribute("href") or "")


def test_title_and_icon_have_the_colour_of_the_most_serious_alarm_though_hidden(
    browser: Browser, scene: Scene
) -> None:
    hidden = "Object.defineProperty(document, 'hidden', { get: () => window.away });"
    scene.normal("bed-1")
    page = page_of(browser, scene, hidden)
    named(page, "Anna")
    expect(page).to_have_title("ECG monitor")
    expect(page.locator("#device-list li")).to_have_count(1)
    scene.ward.wait(lambda: page.evaluate("1") and page.workers)
    assert [worker.url.rpartition("/")[2] for worker in page.workers] == ["ticks.js"]
    page.evaluate("window.away = true")
    scene.flat("bed-1")
    expect(page).to_have_title("🔵 (1) ECG monitor")
    expect(page.locator("#lesser-news")).to_contain_text("bed-1: Signal quality, low priority")
    scene.ectopic("bed-2", 6)
    expect(page).to_have_title("🔴 (2) ECG monitor")
    assert 'fill="#d81b2d"' in icon(page)
    expect(page.locator("#news")).to_contain_text("bed-2: Anomaly, high priority")
    page.evaluate("window.away = false")
    for bed in ("bed-1", "bed-2"):
        page.get_by_role("button", name=f"Acknowledge: {bed}").click()
    expect(page).to_have_title("(2) ECG monitor")
    assert 'fill="none" stroke="#d81b2d"' in icon(page)
    assert complaints(page) == []


# -- a ward

KINDS: list[tuple[messages.Kind, messages.Priority]] = [
    ("ventricular-fibrillation", "high"),
    ("anomaly", "medium"),
    ("signal-quality", "low"),
    ("asystole", "high"),
    ("tachycardia", "medium"),
]


@pytest.fixture
def full_ward(tmp_path: Path) -> Iterator[Scene]:
    """Forty beds, ten of them in alarm."""
    begun = time.time()
    with Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        for bed in range(1, 11):
            name, (kind, priority) = f"bed-{bed}", KINDS[bed % 5]
            since = rfc3339(begun - 60 * bed)
            same: Any = {"anomalous": "", "poor": "", "seq": None, "counted": [], "changes": 0}
            same |= {"device": name, "state": "alarm", "time": since, "priority": priority}
            alarm = messages.OpenAlarm(f"{bed:032x}", kind, priority, since)
            stands = messages.RetainedAlarm(alarms=[alarm], shelved=None, **same)
            ward.publish(f"ecg/{name}/alarm", messages.encode(stands), retain=True)
        with RunningDaemon(tmp_path, broker.url, METRICS__TOKEN=TOKEN) as daemon:
            scene = Scene(broker, daemon, ward)
            for bed in range(11, 41):
                scene.normal(f"bed-{bed}")
            yield scene


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_ten_of_forty_beds_in_alarm_are_seen_heard_and_answered_by_keyboard(
    browser: Browser, full_ward: Scene, size: ViewportSize
) -> None:
    dark = {"color_scheme": "dark", "reduced_motion": "reduce"} if size is PHONE else {}
    page = page_of(browser, full_ward, size=size, **dark)
    named(page, "Anna")
    cards = page.locator("#alarm-list li")
    expect(cards).to_have_count(10)
    expect(page.locator("#device-list li")).to_have_count(40)
    ranks = [text.split()[0] for text in page.locator("#alarm-list .priority").all_inner_texts()]
    assert ranks == ["high"] * 4 + ["medium"] * 4 + ["low"] * 2
    for name in ("Skip to the selected device", "Sound", "Pause audio", "Notifications"):
        if name == "Pause audio":
            page.keyboard.press("Enter")  # sound on
            expect(page.get_by_role("button", name=name)).to_be_enabled()
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        expect(focused).to_contain_text(name)
        assert float(focused.evaluate("e => parseFloat(getComputedStyle(e).outlineWidth)")) >= 2
    full_ward.ward.wait(lambda: 10 in bursts(page))
    named_roles = page.locator("button, input, select, [role]").all()
    for control in named_roles:
        if control.is_visible():
            assert control.evaluate(
                "e => e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || e.role === 'status'"
            ), control.evaluate("e => e.outerHTML")
    contrasts = page.evaluate(CONTRASTS)
    assert [each for each in contrasts if each["contrast"] < each["least"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    beyond = page.evaluate(
        """[...document.querySelectorAll("header *, main *")].filter(e => !e.closest("svg")
            && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""
    )
    assert beyond == []

    first, second = cards.nth(0), cards.nth(1)
    name, then = first.locator(".name").inner_text(), second.locator(".name").inner_text()
    page.get_by_role("button", name=f"Acknowledge: {name}", exact=True).press("Enter")
    expect(cards.last).to_contain_text("acknowledged by Anna")
    focused = page.locator(":focus")
    expect(focused).to_have_text(then)
    page.keyboard.press("Tab")
    expect(focused).to_have_accessible_name(f"Acknowledge: {then}")
    assert complaints(page) == []
