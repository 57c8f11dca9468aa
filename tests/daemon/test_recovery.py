"""Alarms that stood before a start, read back over real brokers: late, slowly, or not at all."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from monitor.alarms import messages
from monitor.alarms.patients import Patient
from monitor.batch.datasets import Beats
from monitor.commands import acknowledge
from monitor.history import query
from monitor.history.store import Action
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings, MqttSettings, Settings
from monitor.times import from_rfc3339, rfc3339
from tests.harness.brokers import ANYBODY, Mosquitto, Nats
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Sent, Ward, as_json
from tests.harness.histories import lost_counter
from tests.harness.slow_line import SlowLine
from tests.harness.waiting import WITHIN, wait_until

OPEN = 'ecg_monitor_alarms{kind="anomaly",priority="medium"}'
SINCE = "2026-11-21T12:00:00.000Z"
BEDS = 50


@pytest.fixture(scope="module")
def hearts(ecg: Beats) -> Hearts:
    return Hearts(ecg)


@pytest.fixture(params=[Mosquitto, Nats])
def broker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mosquitto | Nats]:
    with request.param(tmp_path) as broker:
        yield broker


def standing(device: str, identity: str) -> messages.RetainedAlarm:
    return messages.RetainedAlarm(
        device=device,
        state="alarm",
        priority="medium",
        time=SINCE,
        alarms=[messages.OpenAlarm(identity, "anomaly", "medium", SINCE)],
        anomalous="." * 7 + "x" * 3,
        poor="",
        seq=9,
        counted=[f"{i:016x}" for i in range(16)],
        changes=1,
    )


def publish_alarms(broker: Mosquitto | Nats, beds: int = BEDS) -> dict[str, str]:
    """Leave an alarm of each bed with the broker; return their ids by device."""
    identities = {f"bed-{i}": f"{i:032x}" for i in range(beds)}
    with Ward(broker.port, "past", listen=False, protocol=broker.protocol) as past:
        for device, identity in identities.items():
            alarm = messages.encode(standing(device, identity))
            past.publish(f"ecg/{device}/alarm", alarm, retain=True)
        past.flush()
    return identities


def recorded(folder: Path) -> list[query.PastAlarm]:
    return list(query.alarms(folder / "history.db"))


def normal_beats(hearts: Hearts, device: str) -> list[Sent]:
    return as_json(device, hearts.normal(12), first=10)


def test_all_alarms_are_read_over_a_slow_line_before_any_beat(
    tmp_path: Path, broker: Mosquitto | Nats, hearts: Hearts
) -> None:
    identities = publish_alarms(broker)
    with SlowLine(broker.port, 8000) as line:
        with Ward(broker.port, device="bed-7", protocol=broker.protocol) as ward:
            daemon = RunningDaemon(tmp_path, line.url).start()
            try:
                ward.wait(lambda: "reading back the alarms" in daemon.health())
                ward.send(normal_beats(hearts, "bed-7"))
                ward.wait(daemon.healthy)
                line.rate = 1e6
                ward.wait(ward.alerts)
                ward.wait(lambda: daemon.value(OPEN) == BEDS - 1)
                for device in ("bed-0", f"bed-{BEDS - 1}"):
                    ward.send(normal_beats(hearts, device))
                ward.wait(lambda: daemon.value(OPEN) == BEDS - 3)
            finally:
                assert daemon.stop() == 0
    (alert,) = ward.alerts()
    assert (alert["event"], alert["alarm"]) == ("cleared", identities["bed-7"])
    assert alert["since"] == SINCE
    assert "not all retained alarms" not in daemon.log.read_text()


def test_a_broker_that_goes_while_alarms_are_read_back_is_waited_for(tmp_path: Path) -> None:
    conf = f"{ANYBODY}persistence true\npersistence_location {tmp_path}/\n"
    with Mosquitto(tmp_path, conf) as broker, SlowLine(broker.port, 5000) as line:
        publish_alarms(broker)
        daemon = RunningDaemon(tmp_path, line.url).start()
        try:
            wait_until(lambda: "reading back the alarms" in daemon.health())
            broker.stop()
            wait_until(lambda: "no connection" in daemon.health())
            line.rate = 1e6
            broker.start()
            wait_until(daemon.healthy)
            wait_until(lambda: daemon.value(OPEN) == BEDS)
        finally:
            assert daemon.stop() == 0


def test_an_alarm_is_acknowledged_over_a_slow_line(
    tmp_path: Path, broker: Mosquitto | Nats
) -> None:
    identities = publish_alarms(broker)
    with RunningDaemon(tmp_path, broker.url), SlowLine(broker.port, 20_000) as line:
        settings = Settings(mqtt=MqttSettings(broker=line.url, client_id="test"))
        acknowledge.acknowledge(settings, identities["bed-49"], "Anna")


def test_thousands_of_alarms_are_all_read(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, f"{ANYBODY}max_queued_messages 0\n") as broker:
        publish_alarms(broker, 3000)
        with RunningDaemon(tmp_path, broker.url) as daemon:
            wait_until(lambda: daemon.value(OPEN) == 3000)
    assert "not all retained alarms" not in daemon.log.read_text()


def test_a_queue_that_is_too_short_for_all_alarms_is_noticed(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, f"{ANYBODY}max_queued_messages 100\n") as broker:
        publish_alarms(broker, 300)
        with RunningDaemon(tmp_path, broker.url, MQTT__RECEIVE_MAXIMUM="10") as daemon:
            daemon.wait_until(OPEN, 100)
            assert daemon.value(OPEN) < 300
    assert daemon.log.read_text().count("not all retained alarms were read") == 1


def test_a_broker_that_forbids_the_mark_costs_time_and_no_alarm(
    tmp_path: Path, hearts: Hearts
) -> None:
    rights = tmp_path / "acl"
    own = "topic readwrite ecg-monitor/+/status\ntopic write ecg-monitor/+/connection\n"
    rights.write_text(f"topic readwrite ecg/#\n{own}")
    with Mosquitto(tmp_path, f"allow_anonymous true\nacl_file {rights}\n") as broker:
        identities = publish_alarms(broker, 3)
        with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url) as daemon:
            wait_until(lambda: daemon.value(OPEN) == 3)
            ward.send(normal_beats(hearts, "bed-1"))
            ward.wait(ward.alerts)
            assert ward.alerts()[0]["alarm"] == identities["bed-1"]
    said = daemon.log.read_text()
    assert "ecg-monitor/test/mark (not authorized)" in said
    assert said.count("not all retained alarms were read") == 1


def test_where_nothing_retained_is_given_the_history_serves(tmp_path: Path, hearts: Hearts) -> None:
    """The rights hide what is retained, as a broker does that gives none to wildcards."""
    rights = tmp_path / "acl"
    rights.write_text("topic readwrite #\n")
    conf = f"allow_anonymous true\nacl_file {rights}\n"
    with Mosquitto(tmp_path, conf) as broker, Ward(broker.port) as ward:
        with RunningDaemon(tmp_path, broker.url):
            ward.send(as_json("bed-1", hearts.episode(10, 5, 0)))
            ward.wait(lambda: ward.alerts() and ward.on("alarm"))
            wait_until(lambda: recorded(tmp_path))  # it is written behind the alert
        rights.write_text("topic readwrite #\ntopic deny ecg-monitor/+/mark\n")
        broker.reload()
        ward.publish("ecg/bed-1/alarm", b"", retain=True)
        ward.flush()
        with RunningDaemon(tmp_path, broker.url) as daemon:
            wait_until(lambda: daemon.value(OPEN) == 1)
            (past,) = query.alarms(tmp_path / "history.db")
            assert not past.lost and past.cleared is None
            ward.send(as_json("bed-1", hearts.normal(12), first=15))
            ward.wait(lambda: len(ward.alerts()) == 2)
            ward.send(as_json("bed-1", hearts.normal(12), first=27))
            daemon.wait_until("ecg_monitor_beats_received_total", 24)
    raised, cleared = ward.alerts()
    assert (cleared["event"], cleared["alarm"]) == ("cleared", raised["id"])


def test_a_discharge_that_was_cut_short_is_completed_however_late_the_next_start(
    tmp_path: Path, hearts: Hearts
) -> None:
    history = HistoryWriter(HistorySettings(), tmp_path / "history.db", lost_counter())
    saved = from_rfc3339(SINCE)
    # The first one's alarm is still there, the next one's is the next patient's, the third was
    # discharged by a clock that was wrong, and of the last no alarm is left.
    times = {"bed-0": saved + 10, "bed-1": saved - 10, "bed-2": saved + 1e10, "bed-3": saved + 10}
    for device, left in times.items():
        history.note(Action("discharged", device, "Anna", left)).result(WITHIN)
    history.close(WITHIN)
    with Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        identities = publish_alarms(broker, 3)
        for device in ("bed-0", "bed-1", "bed-3"):
            patient = messages.encode(Patient(device=device, state="shared", since=SINCE))
            ward.publish(f"ecg/{device}/patient", patient, retain=True)
        ward.flush()
        with RunningDaemon(tmp_path, broker.url, MODEL__FOLDER=str(tmp_path)) as daemon:
            ward.wait(ward.alerts)
            wait_until(lambda: daemon.value(OPEN) == 2)
            ward.wait(
                lambda: {n for n, said in ward.on("patient") if not said} >= {"bed-0", "bed-3"}
            )
            ward.send(normal_beats(hearts, "bed-0")[:1])  # of the next patient, heard at once
            daemon.wait_until("ecg_monitor_devices", 3)
        with Ward(broker.port, "late") as late:
            late.catch_up()
            assert {name for name, _ in late.on("alarm")} == {"bed-1", "bed-2"}
            assert {name for name, _ in late.on("patient")} >= {"bed-1", "bed-2"}
            assert "bed-3" not in {name for name, _ in late.on("patient")}
    (alert,) = ward.alerts()
    assert (alert["event"], alert["alarm"]) == ("cleared", identities["bed-0"])


def test_the_next_patient_is_heard_at_once_after_a_restart(tmp_path: Path, hearts: Hearts) -> None:
    history = HistoryWriter(HistorySettings(), tmp_path / "history.db", lost_counter())
    now = time.time()
    history.note(Action("discharged", "bed-7", "Anna", now - 30)).result(WITHIN)
    history.close(WITHIN)
    alarm = msgspec.structs.replace(standing("bed-7", "7" * 32), time=rfc3339(now - 10))
    with Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        ward.publish("ecg/bed-7/alarm", messages.encode(alarm), retain=True)
        with RunningDaemon(tmp_path, broker.url):
            ward.send(normal_beats(hearts, "bed-7"))
            ward.wait(ward.alerts)
    assert [each["event"] for each in ward.alerts()] == ["cleared"]


def test_what_the_broker_has_forgotten_is_lost(tmp_path: Path, hearts: Hearts) -> None:
    with Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        with RunningDaemon(tmp_path, broker.url) as daemon:
            ward.send(as_json("bed-1", hearts.episode(10, 5, 0)))
            ward.wait(lambda: ward.alerts() and ward.on("alarm"))
            wait_until(lambda: recorded(tmp_path))
            daemon.process.kill()
            daemon.process.wait()
        broker.forget()
        broker.start()
        with RunningDaemon(tmp_path, broker.url):
            ward.wait(lambda: next(query.alarms(tmp_path / "history.db")).lost)
