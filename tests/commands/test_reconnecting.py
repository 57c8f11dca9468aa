"""Commands that run for long go on when their broker dies, and it or another node is there."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.harness.brokers import Mosquitto
from tests.harness.devices import Ward
from tests.harness.waiting import wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path, "allow_anonymous true\npersistence true\n") as running:
        yield running


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command; what it says is in the files `out` and `said`."""
    with (folder / "out").open("wb") as out, (folder / "said").open("wb") as said:
        command = [sys.executable, "-m", "monitor", *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=said)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_replay_goes_on_at_another_node_with_what_was_not_accepted(
    tmp_path: Path, broker: Mosquitto
) -> None:
    table = tmp_path / "beats.csv"
    np.savetxt(table, np.random.default_rng(0).normal(size=(50, 140)), delimiter=",")
    heard: list[tuple[int, int]] = []
    (tmp_path / "other").mkdir()
    with (
        Mosquitto(tmp_path / "other") as other,
        Ward(broker.port, "one", listen=False) as one,
        Ward(other.port, "two", listen=False) as two,
    ):
        nodes, wards = (broker, other), (one, two)
        for node, ward in enumerate(wards):
            ward.subscribe("ecg/bed-7/beats", partial(hear, heard, node))
        options = [f"--broker={each.url}" for each in nodes]
        options += ["--device=bed-7", "--rate=10"]
        with running(tmp_path, "replay", str(table), *options) as replay:
            wait_until(lambda: len(heard) > 10)
            first = heard[0][0]
            nodes[first].kill()
            assert replay.wait(60) == 0
        wards[1 - first].catch_up()
    assert {node for node, _ in heard} == {0, 1}
    assert list(dict.fromkeys(number for _, number in heard)) == list(range(50))


def hear(heard: list[tuple[int, int]], node: int, beats: bytes) -> None:
    """Note the number of a message's first beat, and the node that it came from."""
    heard.append((node, msgspec.json.decode(beats)["seq"]))


def test_watching_goes_on(tmp_path: Path, broker: Mosquitto) -> None:
    said, out = tmp_path / "said", tmp_path / "out"
    with running(tmp_path, "watch", "--json", "--broker", broker.url) as watcher:
        wait_until(lambda: see(broker, out, "first"))
        broker.stop()
        wait_until(lambda: "lost the connection" in said.read_text())
        broker.start()
        wait_until(lambda: see(broker, out, "second"))
        assert watcher.poll() is None
    assert said.read_text().count("listening at") == 2


def see(broker: Mosquitto, out: Path, identity: str) -> bool:
    """Publish an alert and return whether one of that id was printed."""
    moment = "2026-11-21T12:00:00.000Z"
    alert: dict[str, object] = {
        "id": identity,
        "alarm": identity,
        "device": "bed-7",
        "event": "raised",
    }
    alert |= {"kind": "silent", "priority": "medium", "time": moment, "since": moment}
    alert |= {"beats_anomalous": 0, "beats_seen": 0, "model": "ecg", "threshold": 1.0}
    alert |= dict.fromkeys(("score", "beat", "reconstruction"))
    with Ward(broker.port, listen=False) as ward:
        ward.publish("ecg/bed-7/alerts", msgspec.json.encode(alert))
        ward.flush()
    return f'"id": "{identity}"' in out.read_text()
