"""The daemon calls people: real broker, real webhooks, a real Alertmanager."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitor.batch.datasets import Beats
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_json
from tests.harness.receivers import Alertmanager, Webhook
from tests.harness.waiting import WITHIN, wait_until

DELIVERED, FAILED = (
    f'ecg_monitor_notifications_total{{outcome="{outcome}"}}' for outcome in ("delivered", "failed")
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture(scope="module")
def hearts(ecg: Beats) -> Hearts:
    return Hearts(ecg)


def live(daemon: RunningDaemon) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{daemon.address}/api/live", timeout=WITHIN) as answer:
        page: dict[str, Any] = json.load(answer)
    return page


def test_people_are_called_once_across_a_crash_until_somebody_has_seen_it(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    with Webhook() as nurse, Webhook() as doctor, Alertmanager(tmp_path) as manager:
        people = {
            "NOTIFY__PEOPLE__NURSE__URL": nurse.url,
            "NOTIFY__PEOPLE__DOCTOR__URL": doctor.url,
            "NOTIFY__PEOPLE__DOCTOR__AFTER": "15",
            "NOTIFY__PEOPLE__DUTY__URL": manager.url,
        }
        with Ward(broker.port) as ward:
            with RunningDaemon(tmp_path, broker.url, **people) as daemon:
                ward.send(as_json("bed-7", hearts.episode(10, 5, 0)))
                ward.send(as_json("bed-8", hearts.episode(10, 5, 0)))
                daemon.wait_until(DELIVERED, 4)
                manager.wait_for(("bed-7", "anomaly", "medium"), ("bed-8", "anomaly", "medium"))
                raised = {device: alert["id"] for device, alert in ward.on("alerts")}
                seen = msgspec.json.encode({"id": raised["bed-8"], "by": "Anna"})
                ward.publish("ecg/bed-8/alarm/acknowledge", seen)
                manager.wait_for(("bed-7", "anomaly", "medium"))
                daemon.process.kill()
            with RunningDaemon(tmp_path, broker.url, **people) as daemon:
                # By then the nurse would have been called again.
                wait_until(lambda: doctor.received)
                told = "".join(each["message"] for each in doctor.received)
                assert "bed-7: anomaly, medium priority" in told
                assert "bed-8" not in told
                manager.wait_for(("bed-7", "anomaly", "medium"))
                ward.send(as_json("bed-7", hearts.normal(10), first=15))
                manager.wait_for()
                wait_until(lambda: daemon.value(DELIVERED) == 1)
                assert daemon.stop() == 0
    assert sum(each["message"].count("anomaly") for each in nurse.received) == 2


def test_a_call_that_reaches_nobody_shows_on_the_page_and_in_metrics_and_delays_no_beat(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    with Webhook(hanging=True) as hangs, Webhook(500) as fails:
        people = {
            "NOTIFY__PEOPLE__HANGS__URL": hangs.url,
            "NOTIFY__PEOPLE__FAILS__URL": fails.url,
        }
        with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url, **people) as daemon:
            assert live(daemon)["uncalled"] is None
            ward.send(as_json("bed-7", hearts.episode(10, 5, 0)))
            daemon.wait_until("ecg_monitor_notifications_undelivered", 1)
            assert live(daemon)["uncalled"] == "Cannot be called: fails"
            wait_until(daemon.healthy)  # a restart mends no webhook
            wait_until(lambda: hangs.received)
            ward.send(as_json("bed-7", hearts.normal(10), first=15))
            ward.wait(lambda: len(ward.alerts()) == 2)
            assert daemon.value(FAILED) >= 1
            assert daemon.stop() == 0  # though a call hangs
        log = daemon.log.read_text()
        assert "error=500" in log
        assert "s3cret" not in log
        for row in log.splitlines():
            json.loads(row)


def test_everybody_is_called_to_see_whether_they_can_be(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    with Webhook() as works, Webhook(404) as fails, Alertmanager(tmp_path) as manager:
        secret = tmp_path / "fails"
        secret.write_text(f"{fails.url}\n")
        file.write_text(
            f'[notify.people."night nurse"]\nurl = "{works.url}"\nhours = "00:00-00:01"\n'
            f'[notify.people.doctor]\nurl_file = "{secret}"\n'
            f'[notify.people.duty]\nurl = "{manager.url}"\n'
        )

        def notify(*arguments: str) -> "subprocess.CompletedProcess[str]":
            command = [sys.executable, "-m", "monitor", "notify", "--config", str(file)]
            return subprocess.run(
                [*command, *arguments], capture_output=True, text=True, check=False
            )

        shown = notify()
        assert shown.returncode == 0, shown.stderr
        assert "night nurse" in shown.stdout
        tested = notify("--test")
        lines = tested.stdout.splitlines()
        assert lines[0] == "night nurse: delivered"
        assert lines[1].startswith("doctor: not delivered: ")
        assert "error=404" in lines[1]
        assert lines[2] == "duty: delivered"
        assert tested.returncode == 1
        assert tested.stderr == "error: 1 of 3 calls were not delivered\n"
        assert "s3cret" not in shown.stdout + tested.stdout
        assert works.received[0]["title"] == "Test call"
        assert "There is no alarm." in works.received[0]["message"]
        assert manager.active() == []
    file.write_text("")
    assert notify("--test").returncode == 78
