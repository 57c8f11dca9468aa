"""Alarms that an earlier process left with the broker, while others publish there, too."""

import itertools
import threading
import time
from pathlib import Path

import pytest

from monitor.alarms import messages
from monitor.mqtt import client
from monitor.mqtt.retained import read_retained_alarms
from monitor.settings import MqttSettings, Settings
from tests.harness.brokers import Mosquitto
from tests.harness.waiting import WITHIN

TIME = "2026-11-21T12:00:00.000Z"


def payload(changes: int) -> bytes:
    return messages.encode(
        messages.RetainedAlarm(
            device="bed-7",
            state="alarm",
            priority="medium",
            time=TIME,
            alarms=[messages.OpenAlarm(f"{changes:032x}", "anomaly", "medium", TIME)],
            anomalous="x" * 10,
            poor="",
            seq=None,
            counted=[],
            changes=changes,
        )
    )


def test_an_alarm_that_changes_meanwhile_is_read_once_and_reading_ends(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        mqtt = MqttSettings(broker=broker.url)
        other = client.join(mqtt, "another-monitor")
        over, changing = threading.Event(), threading.Event()

        def publish() -> None:
            for changes in itertools.count(1):
                other.publish("ecg/bed-7/alarm", payload(changes), retain=True)
                if changes > 1:
                    changing.set()
                if over.wait(0.02):
                    return

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            assert changing.wait(WITHIN)
            begun = time.monotonic()
            (alarm,) = read_retained_alarms(Settings(mqtt=mqtt))
            assert time.monotonic() - begun < 5
            assert alarm.changes > 1
        finally:
            over.set()
            thread.join()
            other.disconnect()
            other.loop_stop()


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_could_not_be_published_again_is_not_read(since: str) -> None:
    written = payload(1).replace(TIME.encode(), since.encode())
    with pytest.raises(ValueError, match="RFC 3339"):
        messages.decode_alarm(written)
