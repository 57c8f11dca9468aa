"""The learner, a process of its own beside a real broker."""

import json
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client import CollectorRegistry

from monitor.configuration import load
from monitor.detector.model_file import Detector, shipped
from monitor.ecg.segmenter import CutBeat, Segmenter
from monitor.metrics import LearnMetrics
from monitor.mqtt import client
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.signals import heart
from tests.harness.waiting import WITHIN, wait_until
from train.learn import loop
from train.learn.journal import Admission, Journal, Task

RATE = 250
STORED = "persistence true\npersistence_location {folder}/\nautosave_interval 1\n"
FIT = 240.0
"""Seconds that a fit may take on a busy machine, the import of TensorFlow included."""


def cut(seed: int = 0, upside_down: bool = False) -> list[CutBeat]:
    """Return 110 beats, a few more than a minute's learning needs."""
    samples, _ = heart(90, RATE, seed=seed)
    return Segmenter(RATE).feed(-samples if upside_down else samples)[:110]


BEATS = cut()


class Bed:
    """Sends beats and requests, and hears what the learner reports."""

    def __init__(self, broker: Mosquitto) -> None:
        self.reports: list[tuple[str, dict[str, Any] | None]] = []
        self.statuses: list[str] = []
        self._acknowledged = threading.Semaphore(0)
        self._client = Client(CallbackAPIVersion.VERSION2, "bed")
        self._client.on_message = self._on_message
        self._client.on_publish = lambda *_: self._acknowledged.release()
        self._client.on_connect = lambda mqtt, *_: mqtt.subscribe(
            [("ecg/+/learning", 1), ("ecg-monitor/+/status", 1)]
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        level = message.topic.split("/")
        if level[-1] == "status":
            self.statuses.append(message.payload.decode())
        else:
            payload = json.loads(message.payload) if message.payload else None
            self.reports.append((level[1], payload))

    def raw(self, topic: str, payload: bytes) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, payload, qos=1)
        assert self._acknowledged.acquire(timeout=WITHIN)

    def ask(self, device: str, what: str, **request: object) -> None:
        self.raw(f"ecg/{device}/{what}", json.dumps(request).encode())

    def admit(self, device: str) -> None:
        """Admit a patient, and wait until his beats are heard."""
        self.ask(device, "admit", minutes=1, by="Anna")
        self.wait(device, "collecting")

    def send(self, device: str, beats: list[CutBeat], first: int = 0) -> None:
        for number, each in enumerate(beats, first):
            message = {"beats": [each.samples.tolist()], "seq": number, "rr_ms": [each.rr_ms or 0]}
            self.raw(f"ecg/{device}/beats", json.dumps(message).encode())

    def said(self, device: str) -> dict[str, Any]:
        """The last report of a device."""
        return next((said or {} for name, said in self.reports[::-1] if name == device), {})

    def wait(self, device: str, state: str, within: float = WITHIN) -> dict[str, Any]:
        wait_until(
            lambda: self.said(device).get("state") == state,
            within,
            said=lambda: self.reports[-5:],
        )
        return self.said(device)

    def wait_for(self, ready: Callable[[], object]) -> None:
        wait_until(ready, said=lambda: self.reports[-5:])

    def close(self) -> None:
        client.leave(self._client)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path, ANYBODY + STORED.format(folder=tmp_path)) as running:
        yield running


@pytest.fixture
def bed(broker: Mosquitto) -> Iterator[Bed]:
    bed = Bed(broker)
    yield bed
    bed.close()


def learner(folder: Path, broker: Mosquitto, **settings: str) -> RunningDaemon:
    settings.setdefault("MODEL__FOLDER", str(folder / "models"))
    return RunningDaemon(folder, broker.url, command="learn", **settings)


def collected(folder: Path) -> list[int]:
    """The numbers of the beats in the journal."""
    with closing(sqlite3.connect(folder / "learn.db")) as database:
        return [seq for (seq,) in database.execute("SELECT seq FROM beats ORDER BY number")]


def workers(running: RunningDaemon) -> list[int]:
    """The processes that fit."""
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    return [int(child) for child in children.read_text().split()]


def test_a_patient_is_learnt_tried_and_brought_back(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    file = tmp_path / "models" / "a.onnx"

    def sha256() -> str:
        return Detector(file).sha256

    with learner(tmp_path, broker) as running:
        bed.admit("a")
        bed.send("a", BEATS)
        bed.send("b", BEATS[:3])  # nobody asked for b
        done = bed.wait("a", "done", FIT)
        assert (done["by"], done["needed"], done["model"]) == ("Anna", 100, "a.onnx")
        assert 100 <= done["beats"] <= 110
        first = Detector(file)
        assert first.sha256 == done["sha256"]
        assert first.hears_rhythm
        assert first.card.dataset.rows["given"] == done["beats"]
        assert first.card.training["admitted_by"] == "Anna"
        samples = np.array([each.samples for each in cut(seed=1)], np.float32)
        assert (first.score(samples).scores > first.threshold).mean() < 0.1
        assert collected(tmp_path) == []
        assert "b" not in dict(bed.reports)

        # Again: the new model is beside the old one until somebody chooses.
        bed.admit("a")
        bed.send("a", cut(upside_down=True))
        trial = bed.wait("a", "trial", FIT)
        assert trial["model"] == "trial/a.onnx"
        assert sha256() == first.sha256
        bed.ask("a", "model", model="new", by="Bob")
        bed.wait("a", "done")
        assert sha256() == trial["sha256"] != first.sha256
        assert not (tmp_path / "models" / "trial" / "a.onnx").exists()
        bed.ask("a", "model", model="new")
        bed.wait_for(lambda: bed.said("a")["problem"] == "no new model is on trial")

        # Back, and back again.
        for expected in (first.sha256, trial["sha256"]):
            bed.ask("a", "model", model="previous")
            wait_until(lambda: sha256() == expected)  # noqa: B023 - called here
            bed.wait_for(lambda: bed.said("a")["sha256"] == sha256())
        assert len(list((tmp_path / "models" / "versions" / "a").iterdir())) == 1

        # A patient who may return keeps his model, one who does not leaves nothing.
        for keep in (True, False):
            bed.reports.clear()
            bed.ask("a", "discharge", keep_model=keep)
            bed.wait_for(lambda: ("a", None) in bed.reports)
            assert file.exists() == keep
        assert not (tmp_path / "models" / "versions" / "a").exists()
        assert running.value('ecg_monitor_learn_fits_total{outcome="fitted"}') == 2
        assert running.stop() == 0
    bed.wait_for(lambda: bed.statuses[-1] == "stopped")


def test_nothing_is_lost_to_kills_at_any_stage(tmp_path: Path, broker: Mosquitto, bed: Bed) -> None:
    running = learner(tmp_path, broker)

    def kill() -> None:
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(WITHIN)
        wait_until(lambda: bed.statuses[-1:] == ["offline"])

    with running:
        bed.admit("a")
        bed.send("a", BEATS[:30])
        kill()
        bed.send("a", BEATS[30:60], 30)  # the broker keeps them, and the admission of b
        bed.ask("b", "admit", minutes=1)
        running.start()
        bed.wait("b", "collecting")
        bed.send("a", BEATS[60:97], 60)
        wait_until(lambda: len(collected(tmp_path)) == 97)
        assert collected(tmp_path) == list(range(97))
        bed.send("a", BEATS[90:97], 90)  # what comes again is not counted again
        bed.send("a", BEATS[97:99], 97)
        bed.wait_for(lambda: bed.said("a")["beats"] == 99)
        bed.send("a", BEATS[99:], 99)
        bed.wait("a", "fitting")
        wait_until(lambda: workers(running))
        (child,) = workers(running)
        kill()
        wait_until(lambda: not Path(f"/proc/{child}").exists())  # it does not outlive the loop
        running.start()
        bed.wait("a", "done", FIT)
    assert Detector(tmp_path / "models" / "a.onnx").card.dataset.rows["given"] >= 100


def test_a_model_that_was_fitted_is_put_in_its_place_after_a_kill(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    new = tmp_path / "models" / "new" / "a.onnx"
    new.parent.mkdir(parents=True)
    shutil.copy(shipped("ecg"), new)
    fitted = Admission(
        device="a", state="fitting", by="Anna", admitted=1, since=1, needed=100, good=100,
        task=Task("try", str(new)),
    )  # fmt: skip
    journal = Journal(tmp_path / "learn.db")
    with journal.transaction():
        journal.keep(fitted)
    journal.close()
    with learner(tmp_path, broker):
        done = bed.wait("a", "done")
        assert Detector(tmp_path / "models" / "a.onnx").sha256 == done["sha256"]
        # The next patient there must not be watched by it, however fast he comes.
        bed.ask("a", "discharge")
        bed.ask("a", "admit", by="Bob")
        bed.wait_for(lambda: bed.said("a").get("by") == "Bob")
        assert not (tmp_path / "models" / "a.onnx").exists()


def test_a_report_on_who_is_not_in_the_journal_does_not_stay(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    with learner(tmp_path, broker) as running:
        bed.admit("a")
        bed.admit("b")
        running.process.kill()
        running.process.wait()
        for file in tmp_path.glob("learn.db*"):
            file.unlink()
        bed.ask("c", "admit")
        running.start()
        bed.wait_for(lambda: all((each, None) in bed.reports for each in "ab"))
        bed.wait("c", "collecting")


def test_fits_stand_in_line_and_one_that_dies_twice_is_given_up(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    with learner(tmp_path, broker) as running:
        for device in ("a", "b", "c"):
            bed.admit(device)
        for device in ("a", "b", "c"):
            bed.send(device, BEATS)
        bed.wait_for(lambda: [bed.said(each).get("place") for each in "abc"] == [None, 1, 2])
        killed: set[int] = set()

        def kill_workers_of_a() -> bool:
            # By the log, which has the end of a fit before the next one begins.
            deaths = running.log.read_text().count('"outcome":"died"')
            if deaths == len(killed) < 2:
                for child in set(workers(running)) - killed:
                    os.kill(child, signal.SIGKILL)
                    killed.add(child)
            return deaths == 2

        wait_until(kill_workers_of_a, FIT)
        assert "signal 9" in bed.wait("a", "failed")["problem"]
        bed.wait("b", "done", FIT)
        bed.wait_for(lambda: bed.said("c")["place"] is None)
    assert not (tmp_path / "models" / "a.onnx").exists()


def test_what_cannot_be_learnt_is_said_in_a_line(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    noise = np.random.default_rng(0).normal(size=(100, 140)).astype(np.float32)
    with learner(tmp_path, broker):
        bed.admit("noisy")
        bed.admit("twice")
        bed.ask("twice", "admit", by="Bob")
        bed.wait_for(lambda: bed.said("twice")["problem"])
        assert bed.said("twice")["state"] == "collecting"
        assert "already learning since" in bed.said("twice")["problem"]
        bed.send("noisy", BEATS[:20] + [CutBeat(each, 0, 800.0) for each in noise])
        failed = bed.wait("noisy", "failed")
        assert failed["problem"] == "too noisy: 83% of 120 beats are of poor quality"
        assert failed["beats"] == 20
        bed.admit("moved")
        bed.send("moved", BEATS[:50] + cut(upside_down=True)[50:])
        assert "too different" in bed.wait("moved", "failed", FIT)["problem"]
        bed.ask("noisy", "model", model="previous")
        bed.wait_for(lambda: "no earlier model" in bed.said("noisy")["problem"])


def test_a_folder_that_cannot_be_written_is_tried_again(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    new = tmp_path / "models" / "new"
    with learner(tmp_path, broker):
        bed.admit("a")
        new.rmdir()
        new.write_text("in the way")
        bed.send("a", BEATS)
        bed.wait_for(lambda: "trying again" in str(bed.said("a").get("problem")))
        assert f"model.folder = '{tmp_path}/models': " in bed.said("a")["problem"]
        assert bed.said("a")["state"] == "waiting"
        new.unlink()
        bed.wait("a", "done", FIT)


@pytest.mark.parametrize("folder", ["", "file/models"])
def test_a_folder_that_is_not_there_ends_it_at_once(
    folder: str, tmp_path: Path, broker: Mosquitto
) -> None:
    (tmp_path / "file").touch()
    settings = {"MODEL__FOLDER": str(tmp_path / folder)} if folder else {}
    running = RunningDaemon(tmp_path, broker.url, command="learn", **settings).start()
    try:
        assert running.process.wait(WITHIN) == 78
    finally:
        running.stop()
    last = running.log.read_text().splitlines()[-1]
    assert last.startswith("error: model.folder")


def test_a_full_disk_holds_beats_up_and_loses_none(
    tmp_path: Path, broker: Mosquitto, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RETRY", 0.5)
    settings = load(
        None,
        {
            "mqtt": {"broker": broker.url, "client_id": "test"},
            "model": {"folder": tmp_path / "models"},
            "learn": {"journal": tmp_path / "learn.db"},
        },
    )
    running = loop.Learner(settings, LearnMetrics(CollectorRegistry()))
    running.startup()

    def until(ready: Callable[[], object]) -> None:
        def turned() -> object:
            running.turn()
            return ready()

        wait_until(turned, said=lambda: bed.reports[-5:])

    until(lambda: running.lifecycle.health() is None)
    bed.ask("a", "admit", minutes=1)
    until(lambda: bed.said("a"))
    database = running._journal._database
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages + 1}")
    bed.send("a", BEATS[:50])
    until(lambda: "disk is full; trying again" in str(bed.said("a")["problem"]))
    assert bed.said("a")["problem"].startswith("learn.journal = ")
    assert len(collected(tmp_path)) < 50
    database.execute("PRAGMA max_page_count = 100000")
    until(lambda: bed.said("a") | {"beats": 50, "problem": None} == bed.said("a"))
    assert collected(tmp_path) == list(range(50))
    running.shutdown()


def test_a_hundred_beds_admitted_at_once_say_where_they_stand(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    devices = [f"bed-{number}" for number in range(100)]
    message = {
        "beats": [each.samples.tolist() for each in BEATS],
        "seqs": [each.seq for each in BEATS],
        "rr_ms": [each.rr_ms or 0 for each in BEATS],
    }
    payload = json.dumps(message).encode()
    with learner(tmp_path, broker) as running:
        for device in devices:
            bed.ask(device, "admit", minutes=1)
        bed.wait_for(lambda: all(bed.said(each).get("state") == "collecting" for each in devices))
        for device in devices:
            bed.raw(f"ecg/{device}/beats", payload)

        def places() -> list[int]:
            said = [bed.said(device) for device in devices]
            return sorted(each["place"] for each in said if each["state"] == "waiting")

        bed.wait_for(lambda: len(places()) > 90 and places() == list(range(1, len(places()) + 1)))
        assert bed.said("bed-0")["state"] != "waiting"  # who came first is the first
        wait_until(running.healthy)
        good = 'ecg_monitor_learn_beats_total{quality="good"}'
        running.wait_until(good, 100 * len(BEATS))
        assert running.value(good) == 100 * len(BEATS)
        assert running.stop() == 0
