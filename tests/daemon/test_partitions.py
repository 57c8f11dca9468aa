"""Several daemons on one tree of alarms, each with its partition of the devices."""

import time
from collections import defaultdict
from pathlib import Path

import pytest

from monitor.batch.datasets import Beats
from monitor.history import query
from tests.harness.brokers import Mosquitto, Nats
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_json
from tests.harness.waiting import wait_until

BEDS = [f"bed-{i}" for i in range(12)]
SILENT_AFTER = 2.0


@pytest.fixture(scope="module")
def hearts(ecg: Beats) -> Hearts:
    return Hearts(ecg)


class Partitions:
    """Devices whose beats are published by partition, as a broker does that hashes them."""

    def __init__(self, ward: Ward, hearts: Hearts, number: int) -> None:
        self.number = number
        self._ward, self._hearts = ward, hearts
        self._sent = 0

    def send(self, alarm: bool, beats: int, seconds: float = 0.0) -> None:
        """Send so many beats of each device; those with an even number have an alarm, if any."""
        for _ in range(beats):
            for i, bed in enumerate(BEDS):
                anomalous = alarm and i % 2 == 0
                beat = self._hearts.anomalous(1) if anomalous else self._hearts.normal(1)
                (message,) = as_json(bed, beat, first=self._sent)
                self._ward.publish(f"beats/{i % self.number}/{bed}", message.payload)
            self._sent += 1
            time.sleep(seconds / beats)
        self._ward.flush()


def daemon(folder: Path, broker: Mosquitto | Nats, partition: int) -> RunningDaemon:
    own = folder / f"ward-{partition}"
    own.mkdir()
    return RunningDaemon(
        own,
        broker.url,
        MQTT__CLIENT_ID=f"ward-{partition}",
        INPUT__TOPIC=f"beats/{partition}/{{device}}",
        ALARM__SILENT_AFTER=str(SILENT_AFTER),
    )


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
        assert order == sorted(order), "a retained alarm went back"
        alarms = [bool(state["alarms"]) for state in states]
        assert "".join("ox"[each] for each in alarms).strip("o").count("o") == 0


@pytest.mark.parametrize("kind", [Mosquitto, Nats])
def test_alarms_go_on_where_their_devices_go(
    tmp_path: Path, hearts: Hearts, kind: type[Mosquitto | Nats]
) -> None:
    with kind(tmp_path) as broker, Ward(broker.port, protocol=broker.protocol) as ward:
        partitions = Partitions(ward, hearts, 2)
        with daemon(tmp_path, broker, 0), daemon(tmp_path, broker, 1):
            partitions.send(alarm=False, beats=10)
            partitions.send(alarm=True, beats=4)
            ward.wait(lambda: len(ward.alerts()) == len(BEDS) / 2)
            with daemon(tmp_path, broker, 2) as third:
                partitions.number = 3
                partitions.send(alarm=True, beats=8, seconds=SILENT_AFTER + 1)
                assert third.value("ecg_monitor_devices") == len(BEDS) / 3
                assert third.value('ecg_monitor_alarms{kind="anomaly",priority="high"}') == 2
                partitions.number = 2
                partitions.send(alarm=True, beats=4, seconds=SILENT_AFTER + 1)
                assert third.value("ecg_monitor_devices") == 0
                assert third.value('ecg_monitor_alarms{kind="anomaly",priority="high"}') == 0
                history = tmp_path / "ward-2" / "history.db"
                wait_until(lambda: {a.moved_to for a in query.alarms(history)} == {"ward-0"})
            partitions.send(alarm=False, beats=11)
            ward.wait(lambda: len(ward.alerts()) == 3 * len(BEDS) / 2)
            ward.catch_up()
    check(ward)
    logs = [file.read_text() for file in tmp_path.glob("ward-*/daemon.log")]
    assert len(logs) == 3
    assert not any("Traceback" in log or "cannot be read" in log for log in logs)
