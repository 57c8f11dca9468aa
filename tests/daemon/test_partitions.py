"""Several daemons on one tree of alarms, each with its partition of the devices."""

import threading
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest

from monitor.batch.datasets import Beats
from monitor.history import query
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_json
from tests.harness.waiting import wait_until

BEDS = [f"bed-{i}" for i in range(12)]
SILENT_AFTER = 8.0
"""Seconds: a daemon that stood still for more than 5 waits for what it has not read."""
PACE = 0.2
"""Seconds between two beats of a device."""


@pytest.fixture(scope="module")
def hearts(ecg: Beats) -> Hearts:
    return Hearts(ecg)


class Stream(threading.Thread):
    """Devices that go on sending, by partition, as a broker publishes their beats that hashes them.

    Attributes:
        partitions: how many there are.
        alarm: whether the beats of every second device are anomalous.
        sent: beats of each device.
    """

    def __init__(self, ward: Ward, hearts: Hearts) -> None:
        super().__init__(daemon=True)
        self.partitions, self.alarm, self.sent = 2, False, 0
        self._ward, self._hearts = ward, hearts
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(PACE):
            partitions, alarm = self.partitions, self.alarm
            for i, bed in enumerate(BEDS):
                beat = self._hearts.anomalous if alarm and i % 2 == 0 else self._hearts.normal
                (message,) = as_json(bed, beat(1), first=self.sent)
                self._ward.publish(f"beats/{i % partitions}/{bed}", message.payload)
            self.sent += 1
        self._ward.flush()

    def wait(self, seconds: float) -> None:
        """Wait until beats for so many seconds have been sent."""
        enough = self.sent + seconds / PACE
        wait_until(lambda: self.sent >= enough)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def daemon(folder: Path, broker: Mosquitto, partition: int) -> RunningDaemon:
    own = folder / str(partition)
    own.mkdir()
    return RunningDaemon(
        own,
        broker.url,
        MQTT__CLIENT_ID=f"ward-{partition}",
        INPUT__TOPIC=f"beats/{partition}/{{device}}",
        ALARM__SILENT_AFTER=str(SILENT_AFTER),
    )


def told(ward: Ward) -> int:
    """Return how many alerts came; one that came twice counts once."""
    return len({alert["id"] for alert in ward.alerts()})


def check(ward: Ward) -> None:
    """Check that every second device had one alarm, from its raising to its clearing."""
    events = defaultdict(set)
    for bed, alert in ward.on("alerts"):
        events[bed].add((alert["event"], alert["kind"], alert["alarm"], alert["id"]))
    assert set(events) == set(BEDS[::2])
    for of in events.values():
        assert sorted(each[0] for each in of) == ["cleared", "escalated", "raised"]
        assert len({alarm for _, _, alarm, _ in of}) == 1
    for bed in BEDS:
        states = [state for name, state in ward.on("alarm") if name == bed]
        order = [(state["handovers"], state["seq"], state["time"]) for state in states]
        # A word of the former owner that comes more than a second late is replaced again.
        late = sum(after < before for before, after in pairwise(order))
        assert late <= 1 and order[-1] == max(order), "a retained alarm went back"
        alarms = [bool(state["alarms"]) for state in states]
        assert "".join("ox"[each] for each in alarms).strip("o").count("o") == 0


def test_alarms_go_on_where_their_devices_go(tmp_path: Path, hearts: Hearts) -> None:
    standing = 'ecg_monitor_alarms{kind="anomaly",priority="high"}'
    with Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        with daemon(tmp_path, broker, 0), daemon(tmp_path, broker, 1):
            with Stream(ward, hearts) as stream:
                stream.wait(1)
                stream.alarm = True
                ward.wait(lambda: told(ward) == len(BEDS))  # raised and escalated
                with daemon(tmp_path, broker, 2) as third:
                    stream.partitions = 3
                    third.wait_until("ecg_monitor_devices", len(BEDS) / 3)
                    wait_until(lambda: third.value(standing) == len(BEDS) / 6)
                    stream.partitions = 2
                    wait_until(lambda: third.value("ecg_monitor_devices") == 0)
                    stream.wait(SILENT_AFTER + 1)
                    assert third.value(standing) == 0
                    moved = {
                        alarm.moved_to for alarm in query.alarms(tmp_path / "2" / "history.db")
                    }
                    assert moved == {"ward-0"}
                stream.alarm = False
                ward.wait(lambda: told(ward) == 3 * len(BEDS) / 2)
            ward.catch_up()
    check(ward)
    logs = [file.read_text() for file in tmp_path.glob("[012]/daemon.log")]
    assert len(logs) == 3
    assert not any("warning" in log or "Traceback" in log for log in logs)
