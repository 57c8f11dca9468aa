"""Alarms that latch, and devices that fall silent together, over a real broker."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from monitor.alarms.messages import Connection, decode_connection
from monitor.ecg.simulator import Simulator
from monitor.history import query
from tests.harness.brokers import Mosquitto, end
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Ward, as_json, in_turn
from tests.harness.waiting import wait_until


def alarms_of(ward: Ward) -> list[dict[str, Any]]:
    """The open alarms of the device that changed last; none before the first."""
    states = [state for _, state in ward.on("alarm")]
    found: list[dict[str, Any]] = states[-1]["alarms"] if states else []
    return found


def test_a_high_alarm_stays_until_it_is_seen_across_a_crash_and_is_shown(tmp_path: Path) -> None:
    simulator = Simulator(7)
    latch = {"ALARM__LATCH": '["high"]'}
    command = [sys.executable, "-m", "monitor"]
    with Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        said = tmp_path / "watched"
        with RunningDaemon(tmp_path, broker.url, **latch) as daemon, said.open("wb") as output:
            ward.send(as_json("bed-7", simulator.normal(10)))
            ward.send(as_json("bed-7", simulator.ectopic(80)[:40], first=10))
            ward.wait(lambda: any(each["priority"] == "high" for each in alarms_of(ward)))
            ward.send(as_json("bed-7", simulator.normal(12), first=50))
            ward.wait(lambda: alarms_of(ward) and alarms_of(ward)[0].get("latched"))
            (alarm,) = alarms_of(ward)
            assert alarm["over_since"] > alarm["since"]
            watching = [*command, "watch", "--broker", broker.url]
            watcher = subprocess.Popen(watching, stdout=output)
            try:
                wait_until(lambda: b"latched" in said.read_bytes(), said=said.read_text)
            finally:
                end(watcher)
            assert alarm["id"][:8] in said.read_text()
            daemon.process.kill()
        with RunningDaemon(tmp_path, broker.url, **latch) as daemon:
            ward.send(as_json("bed-7", simulator.normal(2), first=62))
            daemon.wait_until("ecg_monitor_beats_scored_total", 2)
            assert daemon.value('ecg_monitor_alarms{kind="anomaly",priority="high"}') == 1
            assert alarms_of(ward) == [alarm]
            assert {each["event"] for each in ward.alerts()} == {"raised", "escalated"}
            note = ["--note", "electrode changed", "--by", "Anna", "--broker", broker.url]
            done = subprocess.run(
                [*command, "acknowledge", alarm["id"][:8], *note],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert "is acknowledged by Anna and cleared" in done.stdout
            ward.wait(lambda: ward.alerts()[-1]["event"] == "cleared")
            assert ward.alerts()[-1]["over_since"] == alarm["over_since"]
            ward.wait(lambda: alarms_of(ward) == [])
            high = 'ecg_monitor_alarms{kind="anomaly",priority="high"}'
            wait_until(lambda: daemon.value(high) == 0)
    (kept,) = query.alarms(tmp_path / "history.db")
    assert kept.cleared is not None
    assert kept.acknowledged is not None
    assert (kept.acknowledged.by, kept.acknowledged.note) == ("Anna", "electrode changed")


def test_devices_that_fall_silent_together_are_one_number_and_then_each_by_itself(
    tmp_path: Path,
) -> None:
    simulator = Simulator(7)
    beds = [f"bed-{i}" for i in range(8)]
    settings = {"ALARM__SILENT_AFTER": "6", "ALARM__SILENT_TOGETHER": "4"}

    def connections() -> list[Connection]:
        return [
            decode_connection(payload)
            for _, topic, payload, _ in list(ward.seen)
            if topic == "ecg-monitor/test/connection"
        ]

    with Mosquitto(tmp_path) as broker, Ward(broker.port) as ward:
        ward._client.subscribe("ecg-monitor/test/connection", 1)
        with RunningDaemon(tmp_path, broker.url, **settings) as daemon:
            ward.wait(lambda: [each.state for each in connections()] == ["ok"])
            ward.send(in_turn([as_json(bed, simulator.normal(2)) for bed in beds]))
            ward.wait(lambda: connections()[-1].devices == 8)
            told = connections()[-1]
            assert (told.of, told.reported, told.names) == (8, 0, beds)
            daemon.wait_until("ecg_monitor_devices_connection_lost", 8)
            assert not ward.alerts()
            ward.wait(lambda: all("silent_since" in state for _, state in ward.on("alarm")[-8:]))
            number = 2

            def told_of_six() -> bool:
                nonlocal number
                for bed in beds[:2]:  # which go on
                    ward.send(as_json(bed, simulator.normal(1), first=number))
                number += 1
                return len(ward.alerts()) == 6

            ward.wait(told_of_six)
            assert {each["device"] for each in ward.alerts()} == set(beds[2:])
            assert {(each["kind"], each["event"]) for each in ward.alerts()} == {
                ("silent", "raised")
            }
            ward.wait(lambda: (connections()[-1].devices, connections()[-1].reported) == (6, 6))
            for bed in beds:
                ward.send(as_json(bed, simulator.normal(2), first=number))
            ward.wait(lambda: connections()[-1].state == "ok")
            ward.wait(lambda: sum(each["event"] == "cleared" for each in ward.alerts()) == 6)
    lines = [msgspec.json.decode(line) for line in daemon.log.read_bytes().splitlines()]
    assert [each["event"] for each in lines if "connection " in each["event"]] == [
        "connection lost",
        "connection back",
    ]
