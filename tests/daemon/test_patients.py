"""Patients who are admitted, learnt, watched by their own models and discharged; real brokers.

The learner is played by the test: it reports, and writes files. Its model scores by the mean size
of the samples.
"""

import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from prometheus_client import Counter

from monitor.alarms.decisions import Alarms
from monitor.alarms.device import FORGET_AFTER
from monitor.alarms.patients import Learning, Patient
from monitor.configuration import load
from monitor.daemon.model_watch import DriftWatch, TrialWatch
from monitor.daemon.patients import Patients
from monitor.detector.folder import in_use, on_trial
from monitor.detector.per_device import Detectors
from monitor.history import query
from monitor.history.store import Action
from monitor.history.writer import HistoryWriter
from monitor.times import rfc3339
from tests.detector.test_per_device import model
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Sent, Ward, as_float32, as_json
from tests.harness.waiting import WITHIN, wait_until

QUIET = np.sin(np.arange(140) / 140 * 2 * np.pi, dtype=np.float32)
"""float32 [140] of mean size 0.64."""

ADMITTED = rfc3339(1_795_262_400.0)

STATUS = "ecg-monitor/test-learn/status"

TOKEN = "a-token-that-nobody-guesses"  # noqa: S105


def beats(number: int, size: float = 1.0) -> Any:
    """Waves that differ in nothing but some noise, float32 [N, 140]."""
    noise = np.random.default_rng(int(1000 * size)).normal(0, 0.01, (number, 140))
    return (size * QUIET + noise).astype(np.float32)


class Scene:
    """A broker, a daemon with a folder of models, devices, and the learner's side."""

    def __init__(self, broker: Mosquitto, daemon: RunningDaemon, ward: Ward, folder: Path) -> None:
        self.broker, self.daemon, self.ward, self.folder = broker, daemon, ward, folder

    def learner(self, status: str = "online") -> None:
        self.ward.publish(STATUS, status.encode(), retain=True)

    def report(self, device: str, state: Any, beats: int = 120, **others: Any) -> None:
        report = Learning(state=state, since=ADMITTED, by="Anna", beats=beats, needed=375, **others)
        self.ward.publish(f"ecg/{device}/learning", msgspec.json.encode(report), retain=True)

    def write(self, path: Path, name: str, threshold: float) -> None:
        path.parent.mkdir(exist_ok=True)
        model(self.folder / f"{name}.tmp", name, threshold).replace(path)

    def patients(self, device: str = "bed-7") -> list[Patient | None]:
        """What was made known of a patient, in order."""
        return [
            msgspec.json.decode(payload, type=Patient) if payload else None
            for _, topic, payload, _ in list(self.ward.seen)
            if topic == f"ecg/{device}/patient"
        ]

    def is_said(self, device: str = "bed-7", **fields: Any) -> Patient:
        """Wait until the last that is said of a patient has these fields."""

        def found() -> bool:
            known = self.patients(device)
            last = known[-1] if known else None
            return last is not None and all(getattr(last, k) == v for k, v in fields.items())

        wait_until(found, said=lambda: (fields, self.patients(device), self.daemon.log.read_text()))
        last = self.patients(device)[-1]
        assert last is not None
        return last

    def ask(self, device: str, end: str, **fields: Any) -> None:
        self.ward.publish(f"ecg/{device}/{end}", msgspec.json.encode(fields))

    def send(self, device: str, samples: Any, first: int | None = None) -> None:
        sent = as_float32(device, samples) if first is None else as_json(device, samples, first)
        self.ward.send(sent)


@contextmanager
def running(folder: Path, broker: Mosquitto, ward: Ward, **settings: str) -> Iterator[Scene]:
    models = folder / "models"
    with RunningDaemon(folder, broker.url, MODEL__FOLDER=str(models), **settings) as daemon:
        yield Scene(broker, daemon, ward, models)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def ward(broker: Mosquitto) -> Iterator[Ward]:
    with Ward(broker.port) as ward:
        yield ward


@pytest.fixture
def scene(tmp_path: Path, broker: Mosquitto, ward: Ward) -> Iterator[Scene]:
    with running(tmp_path, broker, ward) as scene:
        yield scene


def ecg_monitor(broker: Mosquitto, *arguments: str) -> "Future[subprocess.CompletedProcess[str]]":
    """Run a command as a person would, while the test goes on."""
    pool = ThreadPoolExecutor(1)
    ran = pool.submit(
        subprocess.run,
        [sys.executable, "-m", "monitor", *arguments],
        env={
            "ECG_MONITOR_MQTT__BROKER": broker.url,
            "PATH": "",
            "LOGNAME": "Clara",
            "PYTHONPATH": ".",
        },
        capture_output=True,
        text=True,
        timeout=WITHIN,
    )
    pool.shutdown(wait=False)
    return ran


def test_a_patient_is_admitted_learnt_and_watched_by_his_own_model(
    tmp_path: Path, scene: Scene
) -> None:
    scene.learner()
    scene.send("bed-7", beats(2))
    scene.is_said(state="shared", problem=None, progress=None)
    admitting = ecg_monitor(scene.broker, "admit", "bed-7", "--wait")
    wait_until(lambda: "admitted" in scene.daemon.log.read_text())
    scene.report("bed-7", "collecting")
    said = scene.is_said(state="learning", progress="collecting", beats=120, needed=375)
    assert (said.since, said.model) == (ADMITTED, None)

    # The shared model would call these anomalous, but the shape is not watched; the signal is.
    scene.send("bed-7", beats(20, 30.0))
    scene.send("bed-7", np.zeros((10, 140), np.float32))
    scene.ward.wait(scene.ward.alerts)
    assert {alert["kind"] for alert in scene.ward.alerts()} == {"signal-quality"}
    assert scene.daemon.value("ecg_monitor_beats_anomalous_total") == 2  # before he was admitted
    scene.report("bed-7", "waiting", 375, place=3)
    scene.is_said(state="learning", progress="waiting", place=3)

    scene.write(in_use(scene.folder, "bed-7"), "anna", 1.0)
    scene.report("bed-7", "done", 375, model="anna", sha256="0" * 64)
    said = scene.is_said(state="own", model="anna", problem=None, progress=None)
    assert said.since > ADMITTED
    scene.send("bed-7", beats(20))
    scene.send("bed-7", beats(5, 3.0))
    scene.ward.wait(lambda: any(alert["kind"] == "anomaly" for alert in scene.ward.alerts()))
    anomaly = next(alert for alert in scene.ward.alerts() if alert["kind"] == "anomaly")
    assert (anomaly["model"], anomaly["threshold"]) == ("anna", 1.0)
    wait_until(lambda: scene.daemon.value('ecg_monitor_patients{state="own"}') == 1)

    done = admitting.result()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "bed-7: learning, 120 of 375 beats",
        "bed-7: waiting to be fitted, number 3 in line",
        "bed-7: watched by its own model, anna",
    ]
    kept = query.care(tmp_path / "history.db")
    assert [(each.action, each.device, each.by) for each in kept] == [
        ("admitted", "bed-7", "Clara")
    ]


def test_a_restart_in_the_middle_goes_on(tmp_path: Path, broker: Mosquitto, ward: Ward) -> None:
    with running(tmp_path, broker, ward) as scene:
        scene.learner()
        scene.send("bed-7", beats(2))
        scene.report("bed-7", "collecting", 10)
        scene.write(in_use(scene.folder, "bed-8"), "bert", 1.0)
        scene.send("bed-8", beats(2))
        scene.is_said("bed-8", state="own")
        scene.is_said(state="learning", beats=10)
        scene.daemon.process.kill()
    with running(tmp_path, broker, ward) as scene:
        # From the first beat on: nothing of bed-7's shape is used, and bed-8 has its model.
        scene.send("bed-7", beats(20, 30.0))
        scene.send("bed-8", beats(20, 3.0))
        ward.wait(lambda: ward.alerts("bed-8"))
        assert ward.alerts("bed-8")[0]["model"] == "bert"
        scene.report("bed-7", "collecting", 30)
        scene.is_said(state="learning", beats=30)
        assert not ward.alerts("bed-7")


def test_where_nothing_can_be_learnt_one_line_says_why(scene: Scene) -> None:
    scene.send("bed-7", beats(2))
    scene.is_said(state="shared")
    admitting = ecg_monitor(scene.broker, "admit", "bed-7", "--by", "Anna")
    scene.ward.wait(lambda: "not running" in (scene.is_said().problem or ""))
    refused = admitting.result()
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: bed-7: ecg-train learn is not running (not seen): start it, then admit again\n"
    )
    scene.learner("offline")
    scene.ward.wait(lambda: "(offline)" in (scene.is_said().problem or ""))
    scene.learner()
    scene.report("bed-7", "failed", problem="too noisy: 40 of 400 beats are of poor quality")
    scene.is_said(
        state="shared", progress="failed", problem="too noisy: 40 of 400 beats are of poor quality"
    )
    scene.report("bed-7", "collecting")
    scene.is_said(state="learning", problem=None)
    scene.learner("stopped")
    scene.is_said(
        state="learning",
        problem="ecg-train learn is not running (stopped): nothing is learnt until it is",
    )


def test_files_that_change_and_bad_ones(scene: Scene) -> None:
    own = in_use(scene.folder, "bed-7")
    scene.send("bed-7", beats(2))
    scene.is_said(state="shared")
    scene.write(own, "first", 1.0)
    scene.is_said(state="own", model="first")
    (scene.folder / "new").write_bytes(b"no model")
    (scene.folder / "new").replace(own)
    said = scene.is_said(state="own", model="first", problem=f"{own}: {REFUSED}")
    scene.send("bed-7", beats(20, 3.0))
    scene.ward.wait(scene.ward.alerts)
    assert scene.ward.alerts()[0]["model"] == "first"
    scene.write(own, "second", 1.0)
    assert scene.is_said(state="own", model="second", problem=None).since >= said.since
    own.unlink()
    scene.is_said(state="shared", problem=None)
    log = scene.daemon.log.read_text()
    assert log.count("model refused, the old one goes on") == 1
    assert '"event":"model given up"' in log


REFUSED = (
    "is not an ONNX file that can be run: Failed to load model because protobuf parsing failed."
)


def test_a_patient_who_is_discharged_is_forgotten_at_once(
    tmp_path: Path, broker: Mosquitto, ward: Ward
) -> None:
    with running(tmp_path, broker, ward, OUTPUT__HOME_ASSISTANT="true") as scene:
        scene.learner()
        scene.write(in_use(scene.folder, "bed-7"), "anna", 1.0)
        scene.send("bed-7", beats(10), 0)
        scene.send("bed-7", beats(10, 3.0), 10)
        scene.is_said(state="own")
        ward.wait(lambda: len(ward.alerts("bed-7")) == 2)  # raised, escalated
        ward.publish("ecg/bed-7/alarm/shelve", b'{"minutes": 5, "by": "Anna"}')
        ward.wait(lambda: ward.on("alarm")[-1][1]["shelved"])
        discharging = ecg_monitor(broker, "discharge", "bed-7")
        ward.wait(lambda: ward.on("alarm")[-1] == ("bed-7", None))
        # What is still under way is the patient's who left, for five seconds.
        scene.send("bed-7", beats(5, 3.0), 20)
        left = discharging.result()
        assert left.stdout == "bed-7: discharged; the model is not used any more\n", left.stderr
        ward.wait(lambda: scene.patients()[-1] is None)
        assert [alert["event"] for alert in ward.alerts()][-1] == "cleared"
        scene.daemon.wait_until("ecg_monitor_beats_received_total", 25)
        wait_until(lambda: scene.daemon.value("ecg_monitor_devices") == 0)
        late = Ward(broker.port, "late")
        with late:
            late.catch_up()
            assert not [topic for _, topic, _, _ in late.seen if topic.startswith("ecg/bed-7")]

        def heard() -> bool:
            scene.send("bed-7", beats(1), None)
            return scene.daemon.value("ecg_monitor_devices") == 1

        wait_until(heard)  # five seconds after that
        said = scene.is_said(state="shared")
        assert said.problem is not None and "of the patient before" in said.problem
        assert ecg_monitor(broker, "discharge", "bed-9").result().returncode == 1
    # Nor later, the learner having deleted nothing; what comes after a discharge is another's.
    for written, watches in ("", "shared"), ("ben", "own"), ("", "own"):
        with running(tmp_path, broker, ward, OUTPUT__SCORES="true") as scene:
            if written:
                scene.send("bed-7", beats(1))
                scene.write(in_use(scene.folder, "bed-7"), written, 1.0)
                scene.is_said(state="own", model=written)
            before = len(ward.on("scores"))
            scene.send("bed-7", beats(1))
            ward.wait(lambda before=before: len(ward.on("scores")) > before)
            (score,) = ward.on("scores")[-1][1]["scores"]
            assert score["anomalous"] is (watches == "shared")  # which knows no such beats
    kept = query.care(tmp_path / "history.db")
    assert [each.action for each in kept] == ["shelved", "discharged"]


def test_beats_under_way_are_known_after_a_crash(
    tmp_path: Path, broker: Mosquitto, ward: Ward
) -> None:
    with running(tmp_path, broker, ward) as scene:
        scene.send("bed-7", beats(5))
        scene.is_said(state="shared")
        scene.ask("bed-7", "discharge", by="Anna")
        wait_until(lambda: query.care(tmp_path / "history.db"))
        scene.daemon.process.kill()
        scene.daemon.process.wait()
    scene.send("bed-7", beats(5, 3.0))
    with running(tmp_path, broker, ward) as scene:
        scene.daemon.wait_until("ecg_monitor_beats_received_total", 5)
        scene.send("bed-8", beats(2))
        scene.is_said("bed-8", state="shared")
        ward.wait(lambda: scene.patients("bed-7")[-1] is None)


def discharge_over_http(daemon: RunningDaemon, device: str) -> None:
    asked = urllib.request.Request(
        f"http://{daemon.address}/api/discharge",
        msgspec.json.encode({"device": device, "by": "Anna"}),
        {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=WITHIN) as answer:  # noqa: S310 - our own
        assert answer.read() == b"done\n"


@pytest.mark.parametrize("moment", ["alarm", "patient", "http", "history", 0.05, 0.15])
def test_whoever_was_told_of_a_discharge_can_rely_on_it_after_a_crash(
    tmp_path: Path, broker: Mosquitto, ward: Ward, moment: str | float
) -> None:
    kept, frozen = tmp_path / "history.db", threading.Event()
    with running(tmp_path, broker, ward, METRICS__TOKEN=TOKEN) as scene:
        scene.send("bed-7", beats(20), 0)
        scene.is_said(state="shared")
        ward.wait(lambda: ward.alerts("bed-7") and ward.on("alarm")[-1][1]["seq"] == 19)
        time.sleep(0.6)  # the gauge is set twice a second
        wait_until(lambda: scene.daemon.value("ecg_monitor_unacknowledged_messages") == 0)
        process = scene.daemon.process

        def freeze(payload: bytes = b"") -> None:
            if not payload:
                process.send_signal(signal.SIGSTOP)  # nothing more is written
                frozen.set()

        with Ward(broker.port, "freezer", listen=False) as freezer:
            if moment == "http":
                discharge_over_http(scene.daemon, "bed-7")
                freeze()
            elif moment == "history":  # and nobody is told
                scene.ask("bed-7", "discharge")
                wait_until(lambda: query.care(kept))
                freeze()
            elif isinstance(moment, str):
                freezer.subscribe(f"ecg/bed-7/{moment}", freeze)
                freezer.catch_up()
                scene.ask("bed-7", "discharge")
            else:
                scene.ask("bed-7", "discharge")
                time.sleep(moment)
                freeze()
            assert frozen.wait(WITHIN)
            scene.send("bed-7", beats(5, 3.0), 20)  # delivered, and to be delivered again
            process.kill()
            process.wait()
    care = [each.action for each in query.care(kept)]
    has_left = care == ["discharged"]
    assert has_left or (isinstance(moment, float) and care == [])
    with running(tmp_path, broker, ward) as scene:
        scene.send("bed-8", beats(2), 0)
        scene.is_said("bed-8", state="shared")
        assert scene.daemon.value("ecg_monitor_beats_received_total") == 7
        wait_until(lambda: scene.daemon.value("ecg_monitor_devices") == (1 if has_left else 2))
    with Ward(broker.port, "late") as late:
        late.catch_up()
        stays = any(topic.startswith("ecg/bed-7/") for _, topic, _, _ in late.seen)
        assert stays is not has_left


def test_what_an_earlier_process_said_of_a_patient_does_not_stay(
    tmp_path: Path, broker: Mosquitto, ward: Ward
) -> None:
    own = in_use(tmp_path / "models", "bed-7")
    with running(tmp_path, broker, ward) as scene:
        scene.write(own, "anna", 1.0)
        scene.send("bed-7", beats(2))
        scene.is_said(state="own")
        scene.daemon.process.kill()
        scene.daemon.process.wait()
    own.unlink()  # by the learner, who has heard the discharge
    ward.publish("ecg/bed-8/patient", b'{"state": "own"}', retain=True)
    with running(tmp_path, broker, ward) as scene:
        scene.is_said(state="shared")
        wait_until(lambda: scene.daemon.value('ecg_monitor_patients{state="shared"}') == 1)
        scene.daemon.wait_until('ecg_monitor_messages_rejected_total{reason="shape"}', 1)
        left = ecg_monitor(broker, "discharge", "bed-7").result()
        assert left.returncode == 0, left.stderr
        ward.wait(lambda: scene.patients()[-1] is None)


def watched_by_hand(folder: Path) -> tuple[Patients, Alarms]:
    """Return patients whose clock the test moves, and the alarms; bed-9 is another monitor's."""
    settings = load(None, {"model": {"folder": folder}, "history": {"days": 0}})
    detectors, alarms = Detectors(settings.model), Alarms(settings.alarm.policy)
    history = HistoryWriter(settings.history, folder / "h.db", Counter("lost", "", registry=None))
    trials, drifts = TrialWatch(detectors, alarms.policy), DriftWatch(detectors, history)
    return Patients(settings, detectors, alarms, trials, drifts, 0.0, {"bed-9"}), alarms


def test_a_folder_that_stays_unwritable_leaves_the_shape_unwatched_for_a_while_only(
    tmp_path: Path,
) -> None:
    patients, alarms = watched_by_hand(tmp_path)
    patients.report(b"ecg-monitor/ecg-monitor-learn/status", b"online", 0.0, 0.0)
    alarms.hear("bed-7", 0.0)

    def said(now: float, state: Any, problem: str | None = None) -> Any:
        report = Learning(state=state, since=ADMITTED, beats=9, needed=9, problem=problem)
        patients.report(b"ecg/bed-7/learning", msgspec.json.encode(report), now, now)
        return dict(patients.changes(now, now)).get("bed-7")

    assert said(0, "waiting", "read-only; trying again").state == "learning"
    assert said(20, "fitting").state == "learning"
    assert said(25, "waiting", "read-only; trying again").state == "learning"
    (held_up,) = dict(patients.changes(30.0, 30.0)).values()
    assert held_up is not None
    assert (held_up.state, held_up.problem) == ("shared", "read-only; trying again")
    assert "bed-7" not in patients.unwatched
    assert said(60, "fitting").state == "shared"
    assert said(70, "collecting").state == "learning"  # admitted anew


def test_a_device_that_nobody_hears_again_is_forgotten(tmp_path: Path) -> None:
    said = Patient(device="bed-7", state="shared", since=ADMITTED)
    patients, alarms = watched_by_hand(tmp_path)
    for name in ("bed-7", "bed-8", "bed-9"):
        payload = msgspec.json.encode(replace(said, device=name))
        patients.recover(f"ecg/{name}/patient".encode(), payload, 0.0, lambda *_: False)
    alarms.hear("bed-8", 0.0)
    known = dict(patients.changes(0.0, 0.0))
    assert {name: each and each.since for name, each in known.items()} == {
        "bed-7": ADMITTED,
        "bed-8": ADMITTED,
    }
    assert not dict(patients.changes(0.0, FORGET_AFTER - 1))
    assert not dict(patients.changes(0.0, FORGET_AFTER + 5))  # as it is forgotten
    assert dict(patients.changes(0.0, FORGET_AFTER + 10)) == {"bed-7": None}


def test_a_patient_goes_with_his_device_to_another_monitor(
    tmp_path: Path, broker: Mosquitto, ward: Ward
) -> None:
    """Both have one learner, who goes by the name of the first."""
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    learning = 'ecg_monitor_patients{state="learning"}'
    with (
        running(own, broker, ward) as scene,
        running(
            other, broker, ward, MQTT__CLIENT_ID="other", INPUT__TOPIC="other/{device}"
        ) as second,
    ):
        scene.learner()
        scene.send("bed-7", beats(2))
        scene.ask("bed-7", "admit", by="Anna")
        scene.report("bed-7", "collecting")
        scene.is_said(state="learning", problem=None)
        wait_until(lambda: scene.daemon.value(learning) == 1)
        wait_until(lambda: second.daemon.value(learning) == 0)

        ward.publish("other/bed-7", beats(1).tobytes())
        wait_until(lambda: second.daemon.value(learning) == 1)
        wait_until(lambda: scene.daemon.value(learning) == 0)
        scene.report("bed-7", "collecting", 130)
        scene.is_said(state="learning", beats=130, problem=None)
        assert scene.daemon.value(learning) == 0


def test_a_new_model_is_tried_beside_the_old_one(scene: Scene) -> None:
    scene.learner()
    scene.write(in_use(scene.folder, "bed-7"), "old", 1.0)
    scene.send("bed-7", beats(2), 0)
    scene.is_said(state="own", model="old")
    scene.write(on_trial(scene.folder, "bed-7"), "new", 3.0)
    scene.report("bed-7", "trial")
    scene.is_said(state="own", progress="trial")

    number = 2

    def tried() -> bool:
        nonlocal number
        scene.send("bed-7", beats(1), number)
        number += 1
        last = scene.patients()[-1]
        return last is not None and last.trial is not None

    wait_until(tried)
    scene.send("bed-7", beats(10, 3.0), number)  # mean size 1.9: anomalous to the old one alone
    scene.send("bed-7", beats(12), number + 10)
    scene.send("bed-7", beats(12), number + 10)  # again, and not counted again
    wait_until(lambda: (last := scene.patients()[-1]) and last.trial and last.trial.old_beats == 10)
    last = scene.patients()[-1]
    assert last is not None and last.trial is not None
    trial = last.trial
    assert (trial.new_beats, trial.old_alarms, trial.new_alarms) == (0, 1, 0)
    assert trial.model == "new"
    assert len([a for a in scene.ward.alerts() if a["event"] == "raised"]) == 1  # the real one

    choosing = ecg_monitor(scene.broker, "choose", "bed-7", "new")
    wait_until(lambda: "chose a model" in scene.daemon.log.read_text())
    on_trial(scene.folder, "bed-7").replace(in_use(scene.folder, "bed-7"))
    scene.report("bed-7", "done")
    chosen = choosing.result()
    assert chosen.stdout.startswith("bed-7: watched by its model new ("), chosen.stderr
    said = scene.is_said(state="own", model="new", trial=None)
    assert said.sha256 == trial.sha256
    again = ecg_monitor(scene.broker, "choose", "bed-7", "old").result()
    assert again.returncode == 1
    assert "no new model is on trial" in again.stderr


def test_every_new_device_is_admitted_once_where_that_is_wanted(
    tmp_path: Path, broker: Mosquitto, ward: Ward
) -> None:
    with running(tmp_path, broker, ward, LEARN__AUTOMATIC="true") as scene:
        scene.write(in_use(scene.folder, "bed-2"), "bert", 1.0)
        for device in ("bed-1", "bed-2", "bed-3"):
            scene.send(device, beats(2))
        scene.is_said("bed-2", state="own")
        asked = query.care(tmp_path / "history.db")
        assert not asked  # nobody is there to learn
        scene.learner()
        wait_until(lambda: len(query.care(tmp_path / "history.db")) == 2)
        scene.report("bed-1", "failed", problem="too few")
        scene.is_said("bed-1", problem="too few")
        for device in ("bed-1", "bed-2", "bed-3"):
            scene.send(device, beats(2))
        scene.daemon.wait_until("ecg_monitor_beats_received_total", 12)
    asked = query.care(tmp_path / "history.db")
    assert {(each.device, each.by) for each in asked} == {
        ("bed-1", "automatic"),
        ("bed-3", "automatic"),
    }
    assert all(isinstance(each, Action) for each in asked) and len(asked) == 2


def test_hostile_reports_are_counted_and_stop_nothing(scene: Scene) -> None:
    scene.learner()
    reason = 'ecg_monitor_messages_rejected_total{reason="%s"}'
    good = {"state": "collecting", "since": ADMITTED, "beats": 1, "needed": 375}
    shapes: list[Any] = [
        {},
        [],
        {**good, "beats": -1},
        {**good, "beats": 2**60},
        {**good, "since": "yesterday"},
        {**good, "since": "0001-01-01T00:00:00+14:00"},
        {**good, "state": "x"},
        {**good, "problem": "x" * 1001},
        {**good, "problem": "\x1b[2J"},
        {**good, "place": 0},
    ]
    for number, each in enumerate(shapes):
        scene.ward.publish("ecg/bed-7/learning", msgspec.json.encode(each), retain=True)
        scene.daemon.wait_until(reason % "shape", number + 1)
    for number, payload in enumerate((b"{", b"\xff", b'{"x": ' + b"[" * 100_000)):
        scene.ward.publish("ecg/bed-7/learning", payload)
        scene.daemon.wait_until(reason % "json", number + 1)
    scene.ward.publish(f"ecg/{'x' * 257}/learning", msgspec.json.encode(good))
    scene.daemon.wait_until(reason % "topic", 1)
    rejected = scene.daemon.value(reason % "shape")
    scene.ward.publish(STATUS, b"sleepy")
    scene.daemon.wait_until(reason % "shape", rejected + 1)
    for payload in (b"", b"{", b'{"minutes": 0}', b'{"minutes": "5"}', b'{"by": "a\\nb"}'):
        scene.ward.publish("ecg/bed-7/admit", payload)
    scene.daemon.wait_until(reason % "shape", rejected + 4)
    scene.ward.publish("ecg/bed-7/admit", b"{}", retain=True)  # of any age, unless it is heard live
    scene.send("bed-7", beats(2))
    scene.report("bed-7", "collecting", 2)
    scene.is_said(state="learning", beats=2)
    for device in range(300):  # of devices that nobody has heard
        scene.report(f"made-up-{device}", "collecting")
    scene.report("bed-7", "collecting", 3)
    scene.is_said(state="learning", beats=3)
    assert {topic for _, topic, _, _ in scene.ward.seen if topic.endswith("/patient")} == {
        "ecg/bed-7/patient"
    }
    assert "Traceback" not in scene.daemon.log.read_text()


def test_a_broker_that_forbids_what_is_new_holds_up_no_alert(tmp_path: Path) -> None:
    """Rights that were given to an older monitor: nothing may be written on `patient`."""
    acl = tmp_path / "acl"
    acl.write_text(
        "topic read #\ntopic write ecg/+/beats\ntopic write ecg/+/alerts\n"
        "topic write ecg/+/alarm\ntopic write ecg-monitor/#\n"
    )
    with (
        Mosquitto(tmp_path, f"{ANYBODY}acl_file {acl}\n") as broker,
        Ward(broker.port) as ward,
        running(tmp_path, broker, ward) as scene,
    ):
        scene.send("bed-7", beats(10))
        wait_until(lambda: "refused" in scene.daemon.log.read_text())
        ward.send([Sent("bed-7", each.payload) for each in as_float32("bed-7", beats(10, 30.0))])
        ward.wait(ward.alerts, within=4)  # sooner than a refused publish is tried again
        assert not scene.patients()
