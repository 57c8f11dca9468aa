"""The page in a real Chromium, fed by a real daemon behind a real broker."""

import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from monitor.alarms import messages
from monitor.detector.folder import in_use, on_trial
from monitor.ecg.simulator import Simulator
from monitor.times import rfc3339
from tests.detector.test_per_device import model
from tests.harness.brokers import Mosquitto
from tests.harness.browser import chromium
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Sent, Ward, as_json, in_turn
from tests.harness.receivers import Webhook

PHONE = ViewportSize(width=360, height=740)
DESK = ViewportSize(width=1440, height=900)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Scene:
    """A broker, a daemon, devices, and whoever opens the page."""

    def __init__(self, broker: Mosquitto, daemon: RunningDaemon, ward: Ward) -> None:
        self.broker, self.daemon, self.ward = broker, daemon, ward
        self.url = f"http://{daemon.address}/"
        self._simulator = Simulator(seed=1)
        self._next = 0

    def normal(self, device: str, n: int = 1) -> None:
        self._send(device, self._simulator.normal(n))

    def ectopic(self, device: str, n: int = 3) -> None:
        self._send(device, self._simulator.ectopic(4 * n)[: 4 * n])

    def flat(self, device: str, n: int = 4) -> None:
        self._send(device, np.zeros((n, 140), np.float32))

    def _send(self, device: str, beats: Any) -> None:
        self.ward.send(as_json(device, beats, self._next))
        self._next += len(beats)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Mosquitto(tmp_path) as broker, RunningDaemon(tmp_path, broker.url) as daemon:
        with Ward(broker.port) as ward:
            yield Scene(broker, daemon, ward)


@pytest.fixture(autouse=True)
def closed(browser: Browser) -> Iterator[None]:
    """Close the pages of a test behind it: they would go on asking."""
    yield
    for context in browser.contexts:
        context.close()


def opened(
    browser: Browser,
    scene: Scene,
    size: ViewportSize = DESK,
    hash_: str = "",
    script: str = "",
    **how: Any,
) -> Page:
    """The page, with a script run before its own; every complaint of the browser's is kept."""
    page = browser.new_page(viewport=size, **how)
    page.add_init_script(
        "window.complaints = [];"
        "addEventListener('securitypolicyviolation', e => complaints.push(e.violatedDirective));"
        "addEventListener('error', e => complaints.push(e.message));"
        "addEventListener('unhandledrejection', e => complaints.push(String(e.reason)));" + script
    )
    page.goto(scene.url + hash_)
    expect(page.locator("#state")).not_to_be_empty()
    return page


def watches(page: Page, device: str) -> None:
    """Wait until the page waits for the beats of a device."""
    expect(page.locator("#device-title")).to_have_text(device)
    expect(page.locator("#no-beats")).to_contain_text(
        re.compile("Waiting|No beat from|No beat since")
    )


def complaints(page: Page) -> list[str]:
    found: list[str] = page.evaluate("complaints")
    return found


def test_an_alarm_is_on_the_page_within_a_second(browser: Browser, scene: Scene) -> None:
    """Most of five are: the machine may stand still for a while."""
    scene.normal("bed-1")
    page = opened(browser, scene)
    page.evaluate(
        """window.shown = {};
           new MutationObserver(() => {
             for (const name of document.querySelectorAll("#alarm-list li .name"))
               shown[name.textContent] ??= Date.now();
           }).observe(document.body, { childList: true, subtree: true })"""
    )
    delays = []
    for bed in ("bed-2", "bed-3", "bed-4", "bed-5", "bed-6"):
        scene.ectopic(bed)
        expect(page.locator("#alarm-list li", has_text=bed)).to_be_visible()
        scene.ward.wait(lambda bed=bed: scene.ward.alerts(bed))
        raised = next(at for at, topic, *_ in scene.ward.seen if topic == f"ecg/{bed}/alerts")
        wall = time.time() - (time.monotonic() - raised)
        delays.append(page.evaluate("bed => shown[bed]", bed) / 1000 - wall)
    assert median(delays) < 1.0


def test_an_alarm_is_shown_until_it_is_over(browser: Browser, scene: Scene) -> None:
    scene.normal("bed-1", 10)
    scene.normal("bed-2", 10)
    page = opened(browser, scene)
    expect(page.locator("#device-list li")).to_have_count(2)
    expect(page.locator("#no-alarms")).to_be_visible()
    expect(page.locator("#state")).to_contain_text("no alarm")
    scene.ectopic("bed-2")
    card = page.locator("#alarm-list li")
    expect(card).to_have_count(1)
    expect(card).to_contain_text("bed-2")
    expect(card).to_contain_text("Anomaly")
    expect(page.locator("#news, #lesser-news").first).to_contain_text("bed-2: Anomaly")
    expect(page.locator("#state")).to_contain_text("1 of 2 devices in alarm")
    expect(page).to_have_title(re.compile(r"\(1\) ECG monitor"))
    expect(page.locator("#device-list li", has_text="bed-2")).to_contain_text("alarm")
    scene.normal("bed-2", 12)
    expect(card).to_have_count(0)
    assert complaints(page) == []


def test_the_beats_of_the_chosen_device_are_drawn_as_they_come(
    browser: Browser, scene: Scene
) -> None:
    scene.normal("bed-1")
    scene.normal("bed-2")
    page = opened(browser, scene)
    page.get_by_role("link", name="bed-2").click()
    expect(page.get_by_role("heading", name="bed-2")).to_be_focused()
    expect(page.locator("#no-beats")).to_contain_text("Waiting")
    scene.normal("bed-2", 3)
    columns = page.locator("#strip .column")
    expect(columns).to_have_count(3)
    for part in ("beat", "reconstruction", "error"):
        assert len(page.locator(f"#chart path.{part}").get_attribute("d") or "") > 1000
    expect(page.locator("#verdict")).to_contain_text("normal")
    expect(page.locator("#score")).to_contain_text("× threshold")
    scene.ectopic("bed-2")
    expect(page.locator("#strip .bar.anomalous path").first).to_be_visible()
    scene.flat("bed-2", 1)
    expect(page.locator("#verdict")).to_contain_text("poor signal")
    expect(page.locator("#score")).to_have_text("none")
    page.get_by_role("button", name="Hold").click()
    held = page.locator("#verdict").inner_text()
    scene.normal("bed-2", 2)
    page.wait_for_timeout(1000)
    assert page.locator("#verdict").inner_text() == held
    page.get_by_role("button", name="Hold").click()
    expect(page.locator("#verdict")).to_contain_text("normal")
    assert complaints(page) == []


MARKUP = (
    "<img src=x onerror=window.hit=1>",
    "<svg onload=window.hit=1>",
    '"><iframe srcdoc=x>',
    "&lt;b&gt;${hit}'`",
    "<style>*{display:none}<",
)


def test_markup_in_a_name_is_text(browser: Browser, scene: Scene) -> None:
    for name in MARKUP:
        scene.normal(name)
        scene.ectopic(name)
    page = opened(browser, scene)
    expect(page.locator("#alarm-list li")).to_have_count(len(MARKUP))
    listed = page.locator("#device-list .name").all_inner_texts()
    assert sorted(listed) == sorted(MARKUP)
    for name in MARKUP:
        page.locator("#device-list a").nth(listed.index(name)).click()
        watches(page, name)
        scene.normal(name)
        expect(page.locator("#chart path.beat")).to_be_visible()
    page.get_by_label("Find a device").fill("<img src=x onerror=window.hit=1>x")
    expect(page.locator("#no-devices a")).to_contain_text("<img")
    assert page.evaluate("window.hit") is None
    assert page.locator("img, iframe, script:not([src]), style, b").count() == 0
    assert complaints(page) == []


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, scene: Scene, size: ViewportSize
) -> None:
    long = "a-name-that-is-as-long-as-no-bed-was-ever-called-" * 3
    for name in ("bed-1", long):
        scene.ectopic(name)
    page = opened(browser, scene, size)
    expect(page.locator("#alarm-list li")).to_have_count(2)
    page.goto(f"{scene.url}#device={long}")
    watches(page, long)
    scene.ectopic(long)
    expect(page.locator("#strip .column").first).to_be_visible()
    page.get_by_text("Show as a table").click()
    expect(page.locator("#table tr").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    beyond = page.evaluate(
        """[...document.querySelectorAll("main *")].filter(e => !e.closest("svg .mark, details")
            && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""
    )
    assert beyond == []


def test_the_keyboard_is_enough(browser: Browser, scene: Scene) -> None:
    for bed in range(1, 4):
        scene.normal(f"bed-{bed}")
    page = opened(browser, scene)
    expect(page.locator("#device-list li")).to_have_count(3)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the selected device")).to_be_focused()
    for name in ("Sound", "Notifications"):
        page.keyboard.press("Tab")
        expect(page.get_by_role("switch", name=name)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Find a device")).to_be_focused()
    page.keyboard.type("bed-3")
    expect(page.locator("#device-list li")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="bed-3")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2
    page.keyboard.press("Enter")
    expect(page.locator("#device-title")).to_have_text("bed-3")
    expect(page.locator("#device-title")).to_be_focused()
    watches(page, "bed-3")
    scene.normal("bed-3", 3)
    expect(page.locator("#strip .column")).to_have_count(3)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Earlier")).to_be_focused()
    newest = page.locator("#verdict").inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).not_to_have_text(newest)
    expect(page.get_by_role("button", name="Hold")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#verdict")).to_have_text(newest)


def test_who_cannot_see_it_is_told(browser: Browser, scene: Scene) -> None:
    scene.ectopic("bed-1")
    page = opened(browser, scene)
    expect(page.locator("#alarm-list li")).to_have_count(1)
    watches(page, "bed-1")
    scene.ectopic("bed-1")
    expect(page.locator("#strip .column").first).to_be_visible()
    assert page.locator("h1").count() == 1
    for landmark in ("banner", "main", "navigation", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1, landmark
    assert page.locator("html").get_attribute("lang") == "en"
    for control in page.locator("a, button, input, summary").all():
        assert control.evaluate("e => e.labels?.[0]?.innerText || e.innerText"), control
    for drawing in page.locator("svg").all():
        hidden = drawing.get_attribute("aria-hidden") == "true"
        assert hidden or drawing.get_attribute("aria-label")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])")
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("#news").get_attribute("aria-live") == "assertive"
    assert page.locator("#lesser-news").get_attribute("aria-live") == "polite"
    expect(page.locator("#chart")).to_have_attribute(
        "aria-label", re.compile(r"score [\d.e-]+, threshold")
    )


CONTRASTS = (Path(__file__).parent / "contrasts.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(browser: Browser, scene: Scene, scheme: str) -> None:
    scene.ectopic("bed-1", 4)
    scene.flat("bed-2")
    scene.normal("bed-3")
    page = opened(browser, scene, color_scheme=scheme, hash_="#device=bed-1")
    watches(page, "bed-1")
    scene.ectopic("bed-1", 1)
    expect(page.locator("#strip .column").first).to_be_visible()
    expect(page.locator("#alarm-list li")).to_have_count(2)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(f"[{ground[4:-1]}]")) < 200) == (scheme == "dark")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 40
    assert [each for each in contrasts if each["contrast"] < each["least"]] == []


def test_whoever_wants_no_motion_has_none(browser: Browser, scene: Scene) -> None:
    scene.ectopic("bed-1")
    moving = "document.getAnimations().length + [...document.querySelectorAll('*')].filter("
    moving += "e => getComputedStyle(e).animationName !== 'none').length"
    page = opened(browser, scene, reduced_motion="reduce")
    expect(page.locator("#alarm-list li")).to_have_count(1)
    assert page.evaluate(moving) == 0
    page = opened(browser, scene, reduced_motion="no-preference")
    expect(page.locator("#alarm-list li")).to_have_count(1)
    assert page.evaluate(moving) > 0


def test_no_request_leaves_the_daemon(browser: Browser, scene: Scene) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(scene.url)
    scene.ectopic("bed-1")
    expect(page.locator("#alarm-list li")).to_have_count(1)
    assert asked
    assert [url for url in asked if not url.startswith((scene.url, "data:"))] == []
    assert context.cookies() == []


def test_a_daemon_that_is_gone_is_missed_and_found_again(browser: Browser, scene: Scene) -> None:
    scene.normal("bed-1")
    page = opened(browser, scene)
    trouble = page.locator("#trouble")
    expect(trouble).to_be_hidden()
    scene.broker.stop()
    expect(trouble).to_contain_text("The monitor has no connection to its broker (")
    scene.broker.start()
    expect(trouble).to_be_hidden()
    scene.daemon.stop()
    expect(trouble).to_contain_text("has been unreachable since")
    expect(page.locator("#state")).to_have_text("unreachable")
    scene.daemon.start()
    expect(trouble).to_be_hidden()
    scene.ward.wait(lambda: scene.ward.connected)
    scene.ectopic("bed-1")
    expect(page.locator("#alarm-list li")).to_have_count(1)


def test_it_shows_who_cannot_be_called(browser: Browser, tmp_path: Path) -> None:
    with Webhook(500) as webhook, Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        people = {"NOTIFY__PEOPLE__NURSE__URL": webhook.url}
        with RunningDaemon(tmp_path, broker.url, **people) as daemon:
            scene = Scene(broker, daemon, ward)
            page = opened(browser, scene, PHONE)
            uncalled = page.locator("#uncalled")
            expect(uncalled).to_be_hidden()
            scene.ectopic("bed-1")
            expect(uncalled).to_have_text("Cannot be called: nurse.")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate("complaints") == []
            webhook.status = 200
            expect(uncalled).to_be_hidden()


def test_without_beats_it_says_what_to_do(browser: Browser, scene: Scene) -> None:
    page = opened(browser, scene)
    expect(page.locator("#no-devices")).to_contain_text("publish some on ecg/{device}/beats")
    expect(page.locator("#no-devices")).to_contain_text("ecg-monitor replay")
    expect(page.locator("#state")).to_have_text("no devices yet")
    page.goto(f"{scene.url}#device=bed-9")
    expect(page.locator("#no-beats")).to_contain_text("No beat from bed-9 yet")
    scene.ward.send([Sent("bed-9", np.zeros(140, "<f4").tobytes())])
    expect(page.locator("#verdict")).to_contain_text("poor signal")
    expect(page.get_by_text("Not a medical device")).to_be_visible()


# -- what people do

TOKEN = "a-token-that-nobody-guesses"  # noqa: S105


@pytest.fixture
def attended(tmp_path: Path) -> Iterator[Scene]:
    """A daemon that takes requests from whoever has the token."""
    with Mosquitto(tmp_path) as broker:
        with RunningDaemon(tmp_path, broker.url, METRICS__TOKEN=TOKEN) as daemon:
            with Ward(broker.port) as ward:
                yield Scene(broker, daemon, ward)


def test_alarms_of_the_rhythm_are_shown_with_what_they_are_about_after_a_restart(
    browser: Browser, tmp_path: Path
) -> None:
    since = rfc3339(time.time())
    shelf = messages.Shelved("Anna", since, rfc3339(time.time() + 600))
    same: Any = {"state": "alarm", "time": since, "anomalous": "", "poor": "", "seq": None}
    same |= {"counted": [], "changes": 0}
    asystole = messages.OpenAlarm("1" * 32, "asystole", "high", since, pause_s=5.2)
    fast = messages.OpenAlarm("2" * 32, "tachycardia", "medium", since, heart_rate=151.6)
    with Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        for name, alarm, shelved in (("bed-1", asystole, shelf), ("bed-2", fast, None)):
            state: Any = {"device": name, "alarms": [alarm], "priority": alarm.priority}
            stands = messages.RetainedAlarm(**same, **state, shelved=shelved)
            ward.publish(f"ecg/{name}/alarm", messages.encode(stands), retain=True)
        with RunningDaemon(tmp_path, broker.url) as daemon:
            page = opened(browser, Scene(broker, daemon, ward), hash_="#device=bed-1")
            cards = page.locator("#alarm-list li")
            expect(cards.first).to_contain_text(re.compile("bed-1.*Asystole.*pause 5.2 s, for"))
            expect(cards.last).to_contain_text(re.compile("bed-2.*Tachycardia.*152/min, for"))
            # The shelf does not withhold the rhythm, and its device is not shown as if it did.
            expect(page.locator("#state")).to_have_text("2 of 2 devices in alarm")
            expect(cards.first).not_to_contain_text("shelved")
            expect(page.locator("#device-state")).to_have_class("high")
            expect(page.locator("#shelved")).to_contain_text(
                "no alerts are published, except for the rhythm"
            )
            daemon.wait_until('ecg_monitor_alarms{kind="asystole",priority="high"}', 1)
            assert complaints(page) == []


def test_an_alarm_is_acknowledged_and_a_device_shelved(browser: Browser, attended: Scene) -> None:
    attended.ectopic("bed-1")
    page = opened(browser, attended, hash_=f"#device=bed-1&token={TOKEN}")
    assert TOKEN not in page.url
    assert page.url.endswith("#device=bed-1")
    page.get_by_role("button", name="Acknowledge: bed-1").click()
    page.get_by_label("Name", exact=True).fill("<b>Anna</b>")
    page.get_by_role("button", name="Continue").click()
    card = page.locator("#alarm-list li")
    expect(card).to_contain_text("acknowledged by <b>Anna</b>")
    expect(card.get_by_text("Acknowledge", exact=True)).to_be_hidden()
    attended.ward.wait(lambda: attended.ward.on("alarm")[-1][1]["alarms"][0]["acknowledged"])
    (standing,) = attended.ward.on("alarm")[-1][1]["alarms"]
    assert standing["acknowledged"]["by"] == "<b>Anna</b>"
    page.get_by_label("Shelve for").select_option("60")
    page.get_by_role("button", name="Shelve", exact=True).click()
    expect(page.locator("#shelved")).to_contain_text("Shelved by <b>Anna</b> until")
    expect(page.locator("#device-list li")).to_contain_text("shelved")
    page.get_by_role("button", name="End shelving").click()
    expect(page.locator("#done")).to_contain_text("no longer shelved")
    expect(page.locator("#shelved")).to_be_hidden()
    expect(page.locator("#past li")).to_contain_text("acknowledged by <b>Anna</b>")
    assert complaints(page) == []


def test_what_is_latched_is_seen_with_a_note_and_kinds_are_shelved(
    browser: Browser, tmp_path: Path
) -> None:
    since, over = rfc3339(time.time() - 60), rfc3339(time.time() - 48)
    alarm = messages.OpenAlarm(
        "1" * 32, "asystole", "high", since, pause_s=5.2, latched=True, over_since=over
    )
    stands = messages.RetainedAlarm(
        device="bed-1",
        state="alarm",
        priority="high",
        time=since,
        alarms=[alarm],
        anomalous="",
        poor="",
        seq=None,
        counted=[],
        changes=0,
    )
    with Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        ward.publish("ecg/bed-1/alarm", messages.encode(stands), retain=True)
        with RunningDaemon(tmp_path, broker.url, METRICS__TOKEN=TOKEN) as daemon:
            page = opened(browser, Scene(broker, daemon, ward), PHONE, hash_="#device=bed-1")
            named(page, "Anna")
            card = page.locator("#alarm-list li")
            expect(card).to_have_class("high latched")
            expect(card).to_contain_text("pause 5.2 s, for 12 s")
            expect(card).to_contain_text("latched: over since")
            page.get_by_text("All but the rhythm").click()
            page.get_by_label("Tachycardia", exact=True).check()
            page.get_by_label("Asystole", exact=True).check()
            expect(page.locator("#which summary")).to_have_text("Asystole, Tachycardia")
            page.get_by_role("button", name="Shelve", exact=True).click()
            expect(page.locator("#shelved")).to_contain_text("published of asystole, tachycardia.")
            expect(page.locator("#which summary")).to_have_text("All but the rhythm")
            expect(card).to_have_class("high latched shelved")
            card.get_by_role("button", name="Acknowledge with a note: bed-1").click()
            expect(page.locator("#acknowledge-what")).to_have_text("bed-1: Asystole")
            contrasts = page.evaluate(CONTRASTS)
            assert [each for each in contrasts if each["contrast"] < each["least"]] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            page.get_by_role("button", name="Physician called").click()
            expect(page.locator("#done")).to_have_text("bed-1: acknowledged by Anna.")
            expect(card).to_have_count(0)
            ward.catch_up()
            (cleared,) = ward.alerts()
            assert (cleared["event"], cleared["over_since"]) == ("cleared", over)
            assert ward.on("alarm")[-1][1]["shelved"]["kinds"] == ["asystole", "tachycardia"]
            assert complaints(page) == []


def test_a_lost_connection_is_told_once_and_a_note_stays_with_the_alarm(
    browser: Browser, tmp_path: Path
) -> None:
    simulator = Simulator(7)
    own = {"METRICS__TOKEN": TOKEN, "ALARM__SILENT_AFTER": "6", "ALARM__SILENT_TOGETHER": "8"}
    with Mosquitto(tmp_path) as broker, RunningDaemon(tmp_path, broker.url, **own) as daemon:
        with Ward(broker.port) as ward:
            scene = Scene(broker, daemon, ward)
            page = opened(browser, scene, hash_="#device=bed-1")
            named(page, "Anna")
            beds, sent = [f"bed-{i}" for i in range(6)], 0

            def send() -> None:
                nonlocal sent
                ward.send(in_turn([as_json(bed, simulator.normal(2), sent) for bed in beds]))
                sent += 2

            send()
            lost = page.locator("#connection")
            text = "Connection lost, 6 devices of 6: not heard since .*"
            text += "bed-4, and 1 more. Each is reported as silent if it"
            expect(lost).to_contain_text(re.compile(text))
            cards = page.locator("#alarm-list li")
            expect(cards).to_have_count(6)  # it lasts
            expect(lost).to_contain_text("Each is reported as silent.")
            page.get_by_role("button", name="Acknowledge with a note: bed-1").click()
            page.get_by_label("Or in your own words").fill("<i>access point</i>")
            page.keyboard.press("Enter")
            seen = re.compile("acknowledged by Anna, .*: <i>access point</i>")
            expect(cards.filter(has_text="bed-1")).to_contain_text(seen)
            expect(page.locator("#past li").filter(has_text="bed-1")).to_contain_text(seen)

            def all_are_heard() -> bool:  # again and again, lest they fall silent anew
                send()
                page.wait_for_timeout(500)
                return lost.is_hidden() and cards.count() == 0

            ward.wait(all_are_heard)
            assert complaints(page) == []


def test_a_patient_is_admitted_tried_and_discharged_by_keyboard(
    browser: Browser, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    own = model(in_use(models.parent, "written"), "<i>anna</i>", 1e9)
    settings = {"METRICS__TOKEN": TOKEN, "MODEL__FOLDER": str(models)}
    with (
        Mosquitto(tmp_path) as broker,
        RunningDaemon(tmp_path, broker.url, **settings) as daemon,
        Ward(broker.port) as ward,
    ):
        scene = Scene(broker, daemon, ward)
        learning = {"since": rfc3339(time.time()), "beats": 120, "needed": 375}

        def report(**fields: Any) -> None:
            payload = msgspec.json.encode(learning | fields)
            ward.publish("ecg/bed-1/learning", payload, retain=True)

        scene.normal("bed-1", 3)
        page = opened(browser, scene, hash_="#device=bed-1")
        named(page, "Anna")
        patient = page.get_by_role("group", name="Patient")
        expect(patient).to_contain_text("Watched by the shared model, ecg.")
        page.get_by_role("button", name="Admit").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#done")).to_have_text("bed-1: admitted by Anna.")
        expect(patient).to_contain_text("Problem: ecg-train learn is not running (not seen)")
        ward.publish("ecg-monitor/test-learn/status", b"online", retain=True)
        report(state="collecting", problem=None)
        expect(patient).to_contain_text("the shape of beats is not")
        expect(patient).to_contain_text("Learning: 120 of 375 beats.")
        report(state="waiting", place=7)
        expect(patient).to_contain_text("number 7 in line")
        report(state="failed", problem="<b>too noisy</b>")
        expect(patient).to_contain_text("Problem: <b>too noisy</b>.")

        in_use(models, "bed-1").write_bytes(own.read_bytes())
        on_trial(models, "bed-1").parent.mkdir()
        on_trial(models, "bed-1").write_bytes(own.read_bytes())
        report(state="trial")
        expect(patient).to_contain_text("Watched by the patient's own model, <i>anna</i>, since")
        scene.normal("bed-1")
        expect(patient).to_contain_text("A new model, <i>anna</i>, is tried on 1 beat since")
        page.get_by_role("button", name="Use the new model").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#done")).to_have_text("bed-1: new model chosen by Anna.")

        page.get_by_role("button", name="Discharge …").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text("Discharge the patient at bed-1?")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.keyboard.press("Enter")
        page.get_by_label("keep the model").press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#done")).to_have_text("bed-1: discharged by Anna.")
        ward.wait(lambda: ward.on("patient")[-1] == ("bed-1", None))
        expect(patient).to_be_hidden()
        assert complaints(page) == []


def test_a_wrong_token_changes_nothing_and_is_asked_for_again(
    browser: Browser, attended: Scene
) -> None:
    attended.ectopic("bed-1")
    page = opened(browser, attended, hash_="#token=this-is-not-the-right-one")
    page.get_by_role("button", name="Acknowledge: bed-1").click()
    page.get_by_label("Name", exact=True).fill("Anna")
    page.keyboard.press("Enter")
    expect(page.locator("#wrong")).to_contain_text("wrong")
    page.get_by_label("Token of this monitor").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#alarm-list li")).to_contain_text("acknowledged by Anna")
    assert TOKEN not in page.content()


def test_without_a_token_it_says_what_allows_it(browser: Browser, scene: Scene) -> None:
    scene.ectopic("bed-1")
    page = opened(browser, scene)
    expect(page.locator("#alarm-list li")).to_have_count(1)
    buttons = page.get_by_role("button", name=re.compile("Acknowledge|Shelve|Was it right"))
    expect(buttons).to_have_count(0)
    expect(page.get_by_text("metrics.token_file")).to_be_visible()


def test_what_happened_is_there_with_its_beat_after_a_restart(
    browser: Browser, scene: Scene
) -> None:
    scene.ectopic("bed-1")
    scene.normal("bed-1", 12)
    scene.flat("bed-2")
    scene.ward.wait(lambda: len(scene.ward.alerts()) >= 3)
    assert scene.daemon.stop() == 0
    scene.daemon.start()
    scene.ward.wait(scene.daemon.healthy)
    page = opened(browser, scene)
    rows = page.locator("#past li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(re.compile("bed-2.*Signal quality.*open"))
    old = rows.last
    expect(old).to_contain_text(re.compile("bed-1.*Anomaly.*for"))
    old.locator("summary").click()
    expect(old).to_contain_text(re.compile("Raised by 3 of .* beats.*threshold was"))
    assert len(old.locator("svg path.error").get_attribute("d") or "") > 1000
    page.goto(f"{scene.url}#device=bed-2")
    page.get_by_label("selected device only").check()
    expect(rows).to_have_count(1)
    page.set_viewport_size(PHONE)
    rows.first.locator("summary").click()
    expect(rows.first).to_contain_text("Raised by")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert complaints(page) == []


def named(page: Page, name: str) -> None:
    """Give whoever sits here a name and the token, as if both had been typed."""
    page.evaluate(
        "([by, token]) => { sessionStorage.by = by; sessionStorage.token = token }", [name, TOKEN]
    )


def test_what_somebody_has_seen_to_is_quiet_and_below_the_rest(
    browser: Browser, attended: Scene
) -> None:
    for bed in ("bed-1", "bed-2", "bed-3"):
        attended.ectopic(bed, 3 if bed == "bed-1" else 1)  # high, and medium
    page = opened(browser, attended, hash_="#device=bed-3")
    named(page, "Anna")
    cards = page.locator("#alarm-list li")
    expect(cards).to_have_count(3)
    expect(cards.first).to_contain_text("bed-1")
    loud = cards.first.evaluate("e => getComputedStyle(e).backgroundColor")
    page.get_by_role("button", name="Acknowledge: bed-1").click()
    expect(cards.last).to_contain_text(re.compile(r"bed-1.*acknowledged by Anna, .*\d\d:\d\d"))
    state = page.locator("#state")
    expect(state).to_have_text("3 of 3 devices in alarm, 2 not acknowledged")
    named(page, "Bert")
    page.get_by_role("button", name="Shelve", exact=True).click()
    expect(cards.last).to_contain_text(re.compile(r"bed-3.*shelved by Bert until .*\d\d:\d\d"))
    expect(state).to_have_text("2 of 3 devices in alarm, 1 not acknowledged, 1 shelved")
    expect(page).to_have_title("🟡 (2) ECG monitor")
    assert [text.split()[0] for text in cards.locator("a").all_inner_texts()] == [
        "bed-2",
        "bed-1",
        "bed-3",
    ]
    grounds = cards.evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    assert loud not in grounds
    assert len(set(grounds)) == 3
    page.get_by_role("button", name="Acknowledge: bed-2").click()
    expect(state).to_have_text("2 of 3 devices in alarm, all acknowledged, 1 shelved")
    contrasts = page.evaluate(CONTRASTS)
    assert [each for each in contrasts if each["contrast"] < each["least"]] == []
    assert complaints(page) == []


def test_what_is_said_moves_nothing_and_goes_away(browser: Browser, attended: Scene) -> None:
    attended.ectopic("bed-1")
    page = opened(browser, attended, PHONE)
    named(page, "Anna")
    place = "document.querySelector('main').getBoundingClientRect().top + scrollY"
    before = page.evaluate(place)
    page.get_by_role("button", name="Acknowledge: bed-1").click()
    expect(page.locator("#done")).to_have_text("bed-1: acknowledged by Anna.")
    assert page.evaluate(place) == before
    assert page.locator("#done").get_attribute("role") == "status"
    expect(page.locator("#done")).to_be_empty()


def test_an_alarm_is_judged_on_its_card_and_again_in_the_history(
    browser: Browser, attended: Scene
) -> None:
    attended.ectopic("bed-1")
    page = opened(browser, attended, PHONE, hash_="#device=bed-1")
    named(page, "Anna")
    page.locator("#alarm-list li").get_by_role("button", name="Was it right? bed-1").click()
    expect(page.locator("#judge-what")).to_have_text("bed-1: Anomaly")
    page.get_by_label("Why").fill("<i>washed</i>")
    page.keyboard.press("Enter")  # gives no verdict
    page.get_by_role("button", name="False alarm").click()
    expect(page.locator("#done")).to_have_text("bed-1: judged false by Anna.")
    row = page.locator("#past li")
    expect(row).to_contain_text("judged false by Anna: <i>washed</i>")
    attended.normal("bed-1", 12)
    expect(page.locator("#alarm-list li")).to_have_count(0)
    named(page, "Ben")
    row.locator("summary").click()
    expect(row.locator("svg path.error")).to_be_visible()
    row.get_by_role("button", name="Was it right? bed-1").click()
    page.get_by_role("button", name="Cancel").click()
    row.get_by_role("button", name="Was it right? bed-1").click()
    expect(page.get_by_label("Why")).to_be_empty()
    contrasts = page.evaluate(CONTRASTS)
    assert [each for each in contrasts if each["contrast"] < each["least"]] == []
    page.get_by_role("button", name="True alarm").click()
    expect(row).to_contain_text("judged true by Ben")
    expect(row).not_to_contain_text("washed")
    attended.ward.catch_up()
    first, last = [answer for _, answer in attended.ward.on("alarm/judged")]
    assert (first["by"], first["verdict"], first["note"]) == ("Anna", False, "<i>washed</i>")
    assert (last["by"], last["verdict"], last["note"]) == ("Ben", True, "")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert complaints(page) == []


def test_nothing_is_offered_that_cannot_be_done(browser: Browser, attended: Scene) -> None:
    page = opened(browser, attended)
    expect(page.locator("#device-title")).to_have_text("No device")
    expect(page.locator("#attend")).to_be_hidden()
    attended.ectopic("bed-1")
    button = page.get_by_role("button", name="Acknowledge: bed-1")
    expect(button).to_be_enabled()
    expect(page.locator("#attend")).to_be_visible()
    attended.daemon.stop()
    expect(button).to_be_disabled()
    expect(page.get_by_role("button", name="Shelve", exact=True)).to_be_disabled()
    attended.daemon.start()
    expect(button).to_be_enabled()


def test_a_phone_shows_every_alarm_and_is_easily_touched(browser: Browser, attended: Scene) -> None:
    for bed in range(1, 6):
        attended.ectopic(f"bed-{bed}")
    attended.flat("bed-6")
    page = opened(browser, attended, PHONE, hash_="#device=bed-6")
    cards = page.locator("#alarm-list li")
    expect(cards).to_have_count(6)
    inner = "e => [e.scrollHeight - e.clientHeight, getComputedStyle(e).maxHeight]"
    assert page.locator("#alarm-list").evaluate(inner) == [0, "none"]
    for part in (".kind", ".why"):
        assert cards.locator(part).evaluate_all(ONE_LINE), part
    watches(page, "bed-6")
    attended.normal("bed-6", 2)
    expect(page.locator("#chart path.beat")).to_be_visible()
    small = page.evaluate(
        """[...document.querySelectorAll("main :is(a, button, select, input, summary)")]
            .map(e => e.type === "checkbox" ? e.closest("label") : e.closest(".cards li") ?? e)
            .filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 44)
            .map(e => e.outerHTML)"""
    )
    assert small == []
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("link", name="bed-2").first.click()
    expect(page.locator("#device-title")).to_be_focused()
    top = "document.querySelector('#device').getBoundingClientRect().top"
    attended.ward.wait(lambda: page.evaluate(top) < 200)


ONE_LINE = "all => all.length && all.every(e => e.getClientRects().length && e.offsetHeight < 30)"


def test_the_history_is_there_while_no_alarm_is_open(browser: Browser, scene: Scene) -> None:
    scene.ectopic("bed-1")
    scene.normal("bed-1", 12)
    scene.ward.wait(lambda: len(scene.ward.alerts()) >= 2)
    assert scene.daemon.stop() == 0
    scene.daemon.start()
    scene.ward.wait(scene.daemon.healthy)
    page = opened(browser, scene)
    expect(page.locator("#state")).to_contain_text("no alarm")
    expect(page.locator("#past li")).to_contain_text("bed-1")


def test_silence_is_counted_from_the_last_beat(browser: Browser, tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        with RunningDaemon(tmp_path, broker.url, ALARM__SILENT_AFTER="5") as daemon:
            with Ward(broker.port) as ward:
                scene = Scene(broker, daemon, ward)
                scene.normal("bed-1")
                page = opened(browser, scene)
                card = page.locator("#alarm-list li")
                expect(card).to_contain_text("Silent")
                told = re.search(r"no beat, for (\d+) s", card.inner_text())
                assert told
                assert int(told[1]) >= 5
                said = re.compile(r"No beat since .*\d\d:\d\d:\d\d \(\d+ s\)")
                expect(page.locator("#no-beats")).to_contain_text(said)
