"""Alarms that people acknowledge and devices that they shelve, over a real broker."""

import csv
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from monitor.batch.datasets import Beats
from monitor.commands import acknowledge
from monitor.settings import MqttSettings, Settings
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_float32, as_json
from tests.harness.waiting import WITHIN, wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture(scope="module")
def hearts(ecg: Beats) -> Hearts:
    return Hearts(ecg)


def ecg_monitor(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would."""
    environment = {f"ECG_MONITOR_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "monitor", *arguments],
        env=environment | {"PATH": "", "LOGNAME": "Clara", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=WITHIN,
    )


def alarm_of(ward: Ward, device: str = "bed-7") -> dict[str, Any]:
    """The device's alarm as it last stood."""
    states: list[dict[str, Any]] = [state for name, state in ward.on("alarm") if name == device]
    return states[-1]


def past(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """What `ecg-monitor alarms --json` prints."""
    run = ecg_monitor("alarms", "--json", *arguments, HISTORY__FILE=str(tmp_path / "history.db"))
    assert run.returncode == 0, run.stderr
    alarms: list[dict[str, Any]] = msgspec.json.decode(run.stdout)
    return alarms


def test_an_alarm_is_acknowledged_with_who_and_when_across_a_restart(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    with Ward(broker.port) as ward:
        with RunningDaemon(tmp_path, broker.url) as daemon:
            ward.send(as_json("bed-7", hearts.episode(10, 5, 0)))
            ward.wait(lambda: ward.on("alarm") and alarm_of(ward)["seq"] == 14)
            (raised,) = ward.alerts()
            assert raised["alarm"] == raised["id"]
            assert alarm_of(ward)["alarms"][0]["acknowledged"] is None

            done = ecg_monitor("acknowledge", raised["id"][:8], MQTT__BROKER=broker.url)
            assert done.returncode == 0, done.stderr
            assert "bed-7: anomaly" in done.stdout and "by Clara" in done.stdout
            ward.wait(lambda: alarm_of(ward)["alarms"][0]["acknowledged"])
            seen = alarm_of(ward)["alarms"][0]["acknowledged"]
            assert seen["by"] == "Clara"
            assert abs(time.time() - _seconds(seen["time"])) < 30
            assert len(ward.alerts()) == 1  # it is no event of the alarm's
            wait_until(lambda: [alarm["acknowledged"] for alarm in past(tmp_path)] == [seen])
            (kept,) = past(tmp_path)
            assert kept["id"] == raised["id"]
            assert kept["beat"] == raised["beat"]
            assert daemon.stop() == 0
        with RunningDaemon(tmp_path, broker.url):
            # What the device sends next does not undo it; nor does the daemon's restart.
            ward.send(as_json("bed-7", hearts.normal(1), first=15))
            ward.wait(lambda: alarm_of(ward)["seq"] == 15)
            assert alarm_of(ward)["alarms"][0]["acknowledged"] == seen
            # All beats of the window anomalous: that is another matter, to be seen again.
            ward.send(as_json("bed-7", hearts.anomalous(10), first=16))
            ward.wait(lambda: len(ward.alerts()) == 2)
            escalated = ward.alerts()[1]
            assert escalated["event"] == "escalated" and escalated["alarm"] == raised["id"]
            ward.wait(lambda: alarm_of(ward)["alarms"][0]["priority"] == "high")
            assert alarm_of(ward)["alarms"][0]["acknowledged"] is None
            again = msgspec.json.encode({"id": escalated["id"], "by": "Anna"})
            ward.publish("ecg/bed-7/alarm/acknowledge", again)
            ward.wait(lambda: alarm_of(ward)["alarms"][0]["acknowledged"] is not None)
            ward.send(as_json("bed-7", hearts.normal(10), first=26))
            ward.wait(lambda: len(ward.alerts()) == 3)
        (kept,) = past(tmp_path, "--device", "bed-7")
        assert kept["acknowledged"]["by"] == "Anna"
        assert kept["priority"] == "high" and kept["escalated"] and kept["cleared"]
        run = ecg_monitor("alarms", "--csv", HISTORY__FILE=str(tmp_path / "history.db"))
        (row,) = csv.DictReader(io.StringIO(run.stdout))
        assert row["acknowledged_by"] == "Anna" and row["id"] == raised["id"]


def test_it_is_acknowledged_though_clocks_differ(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url):
        ward.send(as_json("bed-7", hearts.episode(10, 5, 0)))
        ward.wait(lambda: ward.on("alarm") and ward.alerts() and alarm_of(ward)["seq"] == 14)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        acknowledge.acknowledge(
            Settings(mqtt=MqttSettings(broker=broker.url)), ward.alerts()[0]["id"], "Anna"
        )


def _seconds(text: str) -> float:
    from monitor.times import from_rfc3339

    return from_rfc3339(text)


def test_nobody_is_alerted_of_a_shelved_device_until_its_time_is_over(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url) as daemon:
        ward.send(as_json("bed-7", hearts.normal(10)) + as_json("bed-8", hearts.normal(10)))
        daemon.wait_until("ecg_monitor_beats_received_total", 20)
        done = ecg_monitor(
            "shelve", "bed-7", "--minutes", "0.25", "--by", "Anna", MQTT__BROKER=broker.url
        )
        assert done.returncode == 0, done.stderr
        assert "bed-7: shelved until" in done.stdout
        ward.wait(lambda: ward.on("alarm") and alarm_of(ward)["shelved"])
        assert alarm_of(ward)["shelved"]["by"] == "Anna"
        ward.send(as_json("bed-7", hearts.episode(0, 5, 10), first=10))  # raised and cleared
        ward.send(as_json("bed-7", hearts.anomalous(5), first=25))  # raised, and stands
        ward.send(as_json("bed-8", hearts.anomalous(5), first=10))
        ward.wait(lambda: ward.alerts("bed-8"))
        ward.wait(lambda: alarm_of(ward)["seq"] == 29)
        assert not ward.alerts("bed-7")
        standing = alarm_of(ward)["alarms"][0]
        assert standing["withheld"] == "raised"
        ward.wait(lambda: ward.alerts("bed-7"))
        (late,) = ward.alerts("bed-7")
        assert (late["event"], late["id"]) == ("raised", standing["id"])
        ward.wait(lambda: alarm_of(ward)["shelved"] is None)
        assert alarm_of(ward)["alarms"][0]["withheld"] is None
        ward.send(as_json("bed-7", hearts.normal(10), first=30))
        ward.wait(lambda: len(ward.alerts("bed-7")) == 2)
        assert ward.alerts("bed-7")[1]["event"] == "cleared"
    stood, over, other = past(tmp_path)
    assert {over["device"], stood["device"], other["device"]} == {"bed-7", "bed-8"}
    mine = [alarm for alarm in (stood, over, other) if alarm["device"] == "bed-7"]
    assert [alarm["shelved_by"] for alarm in mine] == ["Anna", "Anna"]
    assert all(alarm["cleared"] and alarm["beat"] for alarm in mine)
    text = ecg_monitor("alarms", HISTORY__FILE=str(tmp_path / "history.db")).stdout
    assert "bed-7 shelved by Anna until" in text and "bed-7 unshelved by the clock" in text


def test_a_device_stays_shelved_across_a_restart_and_is_taken_back_by_hand(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    ask = msgspec.json.encode({"minutes": 60, "by": "Anna"})
    with Ward(broker.port) as ward:
        with RunningDaemon(tmp_path, broker.url) as daemon:
            ward.send(as_json("bed-7", hearts.normal(10)))
            daemon.wait_until("ecg_monitor_beats_received_total", 10)
            ward.publish("ecg/bed-7/alarm/shelve", ask)
            ward.wait(lambda: ward.on("alarm") and alarm_of(ward)["shelved"])
            daemon.process.kill()
        with RunningDaemon(tmp_path, broker.url) as daemon:
            ward.send(as_json("bed-7", hearts.anomalous(10), first=10))
            ward.wait(lambda: alarm_of(ward)["seq"] == 19)
            assert not ward.alerts()
            done = ecg_monitor("shelve", "bed-7", "--minutes", "0", MQTT__BROKER=broker.url)
            assert done.stdout == "bed-7: no longer shelved\n", done.stderr
            ward.wait(lambda: len(ward.alerts()) == 1)
            (late,) = ward.alerts()
            assert (late["event"], late["priority"]) == ("raised", "high")


def test_a_shelf_ends_though_the_broker_is_away(tmp_path: Path, hearts: Hearts) -> None:
    conf = f"{ANYBODY}persistence true\npersistence_location {tmp_path}/\n"
    with (
        Mosquitto(tmp_path, conf) as broker,
        Ward(broker.port) as ward,
        RunningDaemon(tmp_path, broker.url) as daemon,
    ):
        ward.send(as_json("bed-7", hearts.normal(10)))
        daemon.wait_until("ecg_monitor_beats_received_total", 10)
        ward.publish("ecg/bed-7/alarm/shelve", b'{"minutes": 0.2, "by": "Anna"}')
        ward.wait(lambda: ward.on("alarm") and alarm_of(ward)["shelved"])
        ward.send(as_json("bed-7", hearts.anomalous(5), first=10))
        ward.wait(lambda: alarm_of(ward)["seq"] == 14)
        broker.stop()
        ward.wait(lambda: "unshelved" in daemon.log.read_text())
        assert not ward.alerts()
        broker.start()
        ward.wait(ward.alerts)
        ward.wait(lambda: alarm_of(ward)["shelved"] is None)
        assert [alert["event"] for alert in ward.alerts()] == ["raised"]


def test_requests_that_are_kept_do_not_stand_in_the_way(tmp_path: Path, hearts: Hearts) -> None:
    ask = b'{"minutes": 5, "by": "Anna"}'
    with (
        Mosquitto(tmp_path, f"{ANYBODY}max_inflight_messages 1\n") as broker,
        Ward(broker.port) as ward,
    ):
        ward.publish("ecg/bed-6/alarm/shelve", ask, retain=True)
        ward.flush()
        with RunningDaemon(tmp_path, broker.url, MQTT__PROTOCOL="3.1.1") as daemon:
            ward.send(as_json("bed-7", hearts.normal(1)))
            daemon.wait_until("ecg_monitor_beats_received_total", 1)
            ward.publish("ecg/bed-7/alarm/shelve", ask)
            ward.wait(lambda: ward.on("alarm") and alarm_of(ward)["shelved"])


def test_a_flood_of_requests_does_not_flood_the_log(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url) as daemon:
        ward.send(as_json("bed-7", hearts.normal(1)))
        daemon.wait_until("ecg_monitor_beats_received_total", 1)
        for _ in range(1000):
            ward.publish("ecg/bed-7/alarm/shelve", b'{"minutes": 5}')
            ward.publish("ecg/bed-8/alarm/shelve", b'{"minutes": 5}')
        ward.publish("ecg/bed-7/alarm/shelve", b'{"minutes": 6, "by": "Anna"}')
        ward.wait(
            lambda: any((s["shelved"] or {}).get("by") == "Anna" for _, s in ward.on("alarm"))
        )
    assert 2 <= len(daemon.log.read_text().splitlines()) < 100


def test_what_cannot_be_done_is_said(tmp_path: Path, broker: Mosquitto, hearts: Hearts) -> None:
    rejected = 'ecg_monitor_messages_rejected_total{reason="%s"}'
    with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url) as daemon:
        for number, payload in enumerate((b"{", b"\xff", b"")):
            ward.publish("ecg/bed-7/alarm/acknowledge", payload)
            daemon.wait_until(rejected % "json", number + 1)
        for number, payload in enumerate(
            (b"{}", b'{"minutes": 1e9}', b'{"minutes": 1, "by": "a\\nb"}', b"[1]")
        ):
            ward.publish("ecg/bed-7/alarm/shelve", payload)
            daemon.wait_until(rejected % "shape", number + 1)
        # Kept requests are nobody's: the alarm that they mean may be over.
        ward.publish("ecg/bed-7/alarm/shelve", b'{"minutes": 1}', retain=True)
        for arguments, code, said in (
            (("acknowledge", "0" * 32), 64, "no open alarms have an id that begins so"),
            (("acknowledge", "0"), 64, "characters or more"),
            (("shelve", "bed/7", "--minutes", "5"), 64, "must not contain /"),
            (("shelve", "bed-9", "--minutes", "5"), 1, "no answer within 5 s"),
            (("shelve", "bed-9", "--minutes", "1441"), 64, "1440"),
            (("shelve", "bed-9", "--minutes", "5", "--kind", "flutter"), 64, "allowed are"),
        ):
            run = ecg_monitor(*arguments, MQTT__BROKER=broker.url)
            assert run.returncode == code, run.stderr
            assert said in run.stderr.replace("\n", " ")
        ward.send(as_json("bed-7", hearts.episode(10, 5, 0)))
        ward.wait(ward.alerts)
        (alert,) = ward.alerts()
        # Another device's topic does not do: rights are given by topic.
        body = msgspec.json.encode({"id": alert["id"], "by": "Mallory"})
        ward.publish("ecg/bed-8/alarm/acknowledge", body)
        ward.send(as_json("bed-7", hearts.normal(1), first=15))
        ward.wait(lambda: ward.on("alarm") and alarm_of(ward)["seq"] == 15)
        assert alarm_of(ward)["alarms"][0]["acknowledged"] is None
        wait_until(daemon.healthy)
    assert "no alarm with the id" in daemon.log.read_text()


def test_requests_are_taken_wherever_the_device_stands_in_the_topic(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    topic = "ward/{device}/out"
    with (
        Ward(broker.port, listen=False) as ward,
        RunningDaemon(tmp_path, broker.url, OUTPUT__TOPIC=topic) as daemon,
    ):
        ward.send(as_json("bed-7", hearts.normal(1)))
        daemon.wait_until("ecg_monitor_beats_received_total", 1)
        asked = ("shelve", "bed-7", "--minutes", "5", "--by", "Anna")
        done = ecg_monitor(*asked, MQTT__BROKER=broker.url, OUTPUT__TOPIC=topic)
        assert done.returncode == 0, done.stderr


def test_a_device_is_shelved_for_some_kinds_of_alarm_alone(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url) as daemon:
        ward.send(as_json("bed-7", hearts.normal(1)))
        daemon.wait_until("ecg_monitor_beats_received_total", 1)
        asked = ("shelve", "bed-7", "--minutes", "5", "--kind", "tachycardia", "--kind", "anomaly")
        done = ecg_monitor(*asked, MQTT__BROKER=broker.url)
        assert done.returncode == 0, done.stderr
        ward.wait(lambda: ward.on("alarm") and alarm_of(ward)["shelved"])
        assert alarm_of(ward)["shelved"]["kinds"] == ["tachycardia", "anomaly"]
        ward.send(as_json("bed-7", hearts.episode(10, 5, 0), first=1))
        ward.wait(lambda: alarm_of(ward)["alarms"])
        assert alarm_of(ward)["alarms"][0]["withheld"] == "raised"
        ward.publish("ecg/bed-7/alarm/shelve", b'{"minutes": 5, "kinds": ["silent"], "by": "Bob"}')
        ward.wait(ward.alerts)
        assert alarm_of(ward)["alarms"][0]["id"] == ward.alerts()[0]["id"]


def test_a_beat_that_is_no_number_leaves_an_alert_that_can_be_read(
    tmp_path: Path, broker: Mosquitto
) -> None:
    beats = np.full((3, 140), np.nan, np.float32)
    with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url):
        ward.send(as_float32("bed-7", beats))
        ward.wait(ward.alerts)
        (raised,) = ward.alerts()
        assert (raised["kind"], raised["beat"]) == ("signal-quality", None)
        wait_until(lambda: past(tmp_path))
        (kept,) = past(tmp_path)
        assert kept["id"] == raised["id"]
