"""What is shown to those who look is bounded, however much there is, and costs nothing unseen."""

import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from monitor.alarms.decisions import Alarms, Policy, Rhythm
from monitor.alarms.device import Shelf
from monitor.alarms.kinds import ANOMALOUS, NORMAL, POOR
from monitor.detector.per_device import Detectors, Scored
from monitor.ecg.beat import Beats
from monitor.settings import ModelSettings
from monitor.web.live_feed import (
    BEATS_KEPT,
    BEATS_PER_SECOND,
    MAX_HEARD,
    MAX_IN_ALARM,
    MAX_WATCHED,
    REFRESH_INTERVAL,
    WATCH_TIMEOUT,
    LiveFeed,
)
from monitor.web.snapshot import ShownBeat, Snapshot, shorten

NOW = 1000.0


@pytest.fixture(scope="module")
def detectors() -> Detectors:
    return Detectors(ModelSettings())


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The monotonic clock, to be set."""
    now = [NOW]
    monkeypatch.setattr("monitor.web.live_feed.time.monotonic", lambda: now[0])
    yield now


class Scene:
    """A loop that shows what it is told to."""

    def __init__(self, detectors: Detectors, now: list[float]) -> None:
        self.live = LiveFeed(["ecg/{device}/beats"])
        self.alarms = Alarms(Policy(window=10, raise_at=3, clear_at=0))
        self.now, self._detectors = now, detectors

    def hear(self, name: str, verdicts: bytes) -> None:
        """Take in beats of a device, and show them to those who look at it."""
        device = self.alarms.hear(name, self.now[0])
        n = len(verdicts)
        decided = self.alarms.observe(name, device, verdicts, range(n), [self.now[0]] * n)
        for decision in decided:
            self.live.update_device(decision.device, self.alarms.find(decision.device))
        if self.live.watched:
            batch = np.arange(140 * n, dtype=np.float32).reshape(n, 140)
            scores = np.arange(n, dtype=np.float32)
            beats = Beats(batch.tobytes(), 0, None, [800.0] * n)
            outcome = Scored(scores, batch + 1, np.float32(0.5))
            self.live.take_beats([(name, beats, 0)], batch, outcome, verdicts, time.time())

    def show(self, after: float = REFRESH_INTERVAL) -> None:
        self.now[0] += after
        if self.live.watched:
            self.live.refresh(self.alarms, self._detectors, self.now[0])

    def look(self, device: str = "") -> Snapshot:
        """Look, as a page does, and see what is shown next."""
        self.live._available.set()  # so that a look does not wait for a loop that is us
        self.live.snapshot(device)
        self.show()
        view = self.live.snapshot(device)
        assert view is not None
        return view


@pytest.fixture
def scene(detectors: Detectors, moment: list[float]) -> Scene:
    return Scene(detectors, moment)


def test_nothing_is_shown_while_nobody_looks(scene: Scene) -> None:
    scene.hear("bed-1", bytes([NORMAL]))
    assert not scene.live.watched
    scene.look("bed-1")
    assert scene.live.watched
    scene.show(WATCH_TIMEOUT + 1)
    assert not scene.live.watched
    assert scene.live._snapshot is None
    assert not scene.live._watched_devices
    scene.look("bed-1")
    assert scene.live.watched


def test_a_shelf_makes_only_those_alarms_quiet_that_it_withholds(scene: Scene) -> None:
    scene.look("bed-1")
    scene.hear("bed-1", bytes([ANOMALOUS] * 4))
    scene.alarms.shelve("bed-1", Shelf("Anna", 0.0, 60.0))
    (row,) = scene.look().devices
    assert row.quiet
    device = scene.alarms.hear("bed-1", scene.now[0])
    scene.alarms.hear_rhythm("bed-1", device, Rhythm("asystole", "high", NOW, pause_s=5.2), NOW + 5)
    scene.live.update_device("bed-1", device)
    view = scene.look()
    assert [(a.kind, a.pause_s, a.shelved is not None) for a in view.alarms] == [
        ("asystole", 5.2, False),
        ("anomaly", None, True),
    ]
    (row,) = view.devices
    assert row.shelved is not None and not row.quiet


def test_a_view_tells_what_there_is(scene: Scene) -> None:
    scene.look("bed-1")
    scene.hear("bed-2", bytes([NORMAL, NORMAL]))
    scene.hear("bed-1", bytes([ANOMALOUS, POOR, ANOMALOUS, ANOMALOUS]))
    view = scene.look("bed-1")
    assert [(a.device, a.kind, a.priority, a.beats, a.seen) for a in view.alarms] == [
        ("bed-1", "anomaly", "medium", 3, 3)
    ]
    assert (view.in_alarm, view.known) == (1, 2)
    assert {(row.device, row.priority, row.model) for row in view.devices} == {
        ("bed-1", "medium", "ecg"),
        ("bed-2", None, "ecg"),
    }
    first, poor, *_ = view.beats["bed-1"]
    assert list(view.beats) == ["bed-1"]
    assert (first.number, first.seq, first.verdict, first.score) == (1, 0, "anomalous", 0.0)
    assert first.rr_ms == 800
    assert first.reconstruction is not None
    assert len(first.beat) == len(first.reconstruction) == 140
    assert (poor.verdict, poor.score, poor.reconstruction) == ("poor", None, None)
    assert msgspec.json.decode(msgspec.json.encode(view), type=Snapshot) == view


def test_of_thousands_of_beats_a_second_a_few_are_kept(scene: Scene) -> None:
    scene.look("bed-1")
    taken: dict[int, ShownBeat] = {}
    for _ in range(200):  # ten seconds
        scene.hear("bed-1", bytes([NORMAL]) * 250)
        scene.show(0.05)
        taken |= {beat.number: beat for beat in scene.look("bed-1").beats["bed-1"]}
        assert len(scene.live._watched_devices["bed-1"].beats) <= BEATS_KEPT
    seconds = scene.now[0] - NOW
    assert BEATS_PER_SECOND * seconds * 0.5 < len(taken) <= BEATS_KEPT + BEATS_PER_SECOND * seconds
    assert max(taken) == 50_000  # the newest is among them, and the number tells what was passed


def test_so_many_devices_can_be_looked_at_and_no_more(scene: Scene) -> None:
    for bed in range(MAX_WATCHED + 3):
        view = scene.look(f"bed-{bed}")
    assert (list(view.beats), view.full) == ([], True)
    assert list(scene.look("bed-0").beats) == ["bed-0"]
    assert list(scene.live._watched_devices) == [f"bed-{bed}" for bed in range(MAX_WATCHED)]
    scene.show(WATCH_TIMEOUT + 1)
    assert list(scene.look("another").beats) == ["another"]


def test_a_view_of_very_many_devices_is_small_and_soon_made(scene: Scene) -> None:
    many = 50_000
    for bed in range(many):
        scene.hear(f"bed-{bed}", bytes([NORMAL]))
    for bed in range(1000):
        scene.hear(f"bed-{bed}", bytes([ANOMALOUS]) * (10 if bed == 7 else 4))
    first = scene.look("bed-30000")
    begun = time.process_time()  # the machine may be busy with other work
    for _ in range(100):
        view = scene.look("bed-30000")
    assert time.process_time() - begun < 5  # a hundred walks through all of them take longer
    assert (view.known, view.in_alarm) == (many, 1000)
    assert len(view.alarms) == MAX_IN_ALARM
    assert [(a.device, a.priority) for a in view.alarms[:2]] == [
        ("bed-7", "high"),
        ("bed-999", "medium"),
    ]
    assert len(view.devices) <= MAX_IN_ALARM + MAX_HEARD + 1
    assert "bed-30000" in {row.device for row in view.devices}
    for bed in range(20_000, 21_000):
        scene.hear(f"bed-{bed}", bytes([NORMAL]))
    again = {row.device for row in scene.look("bed-30000").devices}
    assert again == {row.device for row in first.devices}  # a list that changes cannot be read


def test_an_alarm_that_is_cleared_or_forgotten_is_open_no_more(scene: Scene) -> None:
    scene.hear("bed-1", bytes([ANOMALOUS]) * 4)
    scene.hear("bed-2", bytes([ANOMALOUS]) * 4)
    assert scene.look().in_alarm == 2
    scene.hear("bed-1", bytes([NORMAL]) * 10)
    assert [alarm.device for alarm in scene.look().alarms] == ["bed-2"]
    scene.live.update_device("bed-2", None)
    assert scene.look().in_alarm == 0


def test_a_name_that_is_too_long_is_not_kept(scene: Scene) -> None:
    scene.look("x" * 60_000)
    assert max(map(len, scene.live._watched_devices)) == 256


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e38])
def test_samples_are_shortened_by_their_size(scale: float) -> None:
    exact = np.sin(np.arange(140)).astype(np.float32) * np.float32(scale)
    assert np.abs(np.array(shorten(exact)) - exact).max() <= 5e-4 * np.abs(exact).max()
    assert len(str(shorten(exact))) < 140 * 16


def test_samples_that_are_not_finite_have_no_place() -> None:
    exact = np.array([1, np.nan, np.inf, -np.inf, 2], np.float32)
    assert msgspec.json.encode(shorten(exact)) == b"[1.0,null,null,null,2.0]"
    assert shorten(np.zeros(3, np.float32)) == [0, 0, 0]
