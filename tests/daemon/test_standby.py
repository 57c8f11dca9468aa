"""A daemon and its standby on real brokers: killed, standing still, and coming back."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

from monitor.batch.datasets import Beats
from tests.harness import faults
from tests.harness.brokers import Mosquitto, Nats
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_json, in_turn
from tests.harness.waiting import wait_until

STANDBY, SCORED = "ecg_monitor_standby", "ecg_monitor_beats_scored_total"
DEVICES = [f"bed-{number}" for number in range(6)]


@pytest.fixture(params=["mosquitto", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mosquitto | Nats]:
    made = Mosquitto(tmp_path, faults.OPEN) if request.param == "mosquitto" else Nats(tmp_path)
    with made:
        yield made


@pytest.fixture
def hearts(ecg: Beats) -> Hearts:
    return Hearts(ecg)


@contextmanager
def two(
    folder: Path, url: str, first: dict[str, str] | None = None
) -> Iterator[tuple[RunningDaemon, RunningDaemon]]:
    """Start a daemon, and then another one that stands by."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    scores = {"OUTPUT__SCORES": "true"}
    with ExitStack() as running:
        active = running.enter_context(RunningDaemon(folder / "a", url, **scores, **(first or {})))
        running.callback(active.process.send_signal, signal.SIGCONT)
        wait_until(lambda: active.health() == "ok")
        standby = RunningDaemon(folder / "b", url, **scores, MQTT__STANDBY="true")
        running.enter_context(standby)
        running.callback(standby.process.send_signal, signal.SIGCONT)
        wait_until(lambda: standby.health() == "standby")
        assert standby.value(STANDBY) == 1
        yield active, standby


def unwatched(ward: Ward, hearts: Hearts, device: str) -> float:
    """Return the seconds until one of the beats that are sent from now on is scored."""
    numbers = count()

    def is_scored() -> bool:
        ward.send(as_json(device, hearts.normal(1), first=next(numbers)))
        return device in ward.scored()

    return wait_until(is_scored)


def test_a_standby_takes_over_from_one_that_is_killed_and_loses_nothing(
    tmp_path: Path, broker: Mosquitto | Nats, hearts: Hearts
) -> None:
    with (
        two(tmp_path, broker.url) as (active, standby),
        Ward(broker.port, protocol=broker.protocol) as ward,
    ):
        beats = in_turn([as_json(name, hearts.episode(10, 20, 20)) for name in DEVICES])
        ward.send(beats[:120], rate=200)
        assert standby.value(SCORED) == 0
        active.process.kill()
        active.process.wait()
        seconds = unwatched(ward, hearts, "late")
        assert seconds < 2
        ward.send(beats[120:], rate=200)
        wait_until(lambda: standby.health() == "ok")
        assert standby.value(STANDBY) == 0
        heard_out(ward, broker)
        print("killed: unwatched for", seconds)


def heard_out(ward: Ward, broker: Mosquitto | Nats) -> None:
    """Wait until every beat is scored, and every alarm was raised, escalated and cleared once.

    NATS delivers again, after its `ack_wait` and not in order, what the one before had in hand:
    windows may then differ, so that only the beats are looked at.
    """

    def scored() -> bool:
        numbers = ward.scored()
        return all(len(set(numbers.get(name, []))) == 50 for name in DEVICES)

    ward.wait(scored)
    if isinstance(broker, Nats):
        return
    ward.wait(lambda: len({a["id"] for a in ward.alerts()}) >= 3 * len(DEVICES))
    ward.catch_up()
    alerts = {alert["id"]: (alert["device"], alert["event"]) for alert in ward.alerts()}
    assert Counter(alerts.values()) == {
        (name, event): 1 for name in DEVICES for event in ("raised", "escalated", "cleared")
    }


def test_one_that_stood_still_steps_down_and_publishes_nothing_old(
    tmp_path: Path, broker: Mosquitto | Nats, hearts: Hearts
) -> None:
    with (
        two(tmp_path, broker.url) as (active, standby),
        Ward(broker.port, protocol=broker.protocol) as ward,
    ):
        beats = in_turn([as_json(name, hearts.episode(10, 20, 20)) for name in DEVICES])
        ward.send(beats[:120], rate=200)
        active.process.send_signal(signal.SIGSTOP)
        seconds = unwatched(ward, hearts, "late")
        assert seconds < 10
        ward.send(beats[120:], rate=200)
        heard_out(ward, broker)
        published(standby)
        ward.catch_up()
        ward.seen.clear()
        active.process.send_signal(signal.SIGCONT)
        wait_until(lambda: active.health() == "standby", said=active.log.read_text)
        wait_until(lambda: standby.health() == "ok")
        assert "stepping down" in active.log.read_text()
        ward.catch_up()
        assert not ward.alerts()
        assert not ward.on("alarm")
        # And back: the one that stepped down is warm.
        standby.process.kill()
        standby.process.wait()
        assert unwatched(ward, hearts, "later") < 2
        print("stopped: unwatched for", seconds)


def published(daemon: RunningDaemon) -> None:
    """Wait until all that was decided is published: the gauge is set twice a second."""
    time.sleep(0.6)
    wait_until(lambda: daemon.value("ecg_monitor_unacknowledged_messages") == 0)


def test_of_two_with_one_client_id_the_later_is_active_and_the_other_stands_by(
    tmp_path: Path, broker: Mosquitto | Nats
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with RunningDaemon(tmp_path / "a", broker.url) as one:
        with RunningDaemon(tmp_path / "b", broker.url) as other:
            wait_until(lambda: one.health() == "standby", said=one.log.read_text)
            wait_until(lambda: other.health() == "ok")
            assert one.log.read_text().count("stepping down") == 1
            assert "stepping down" not in other.log.read_text()
            other.stop()
        wait_until(lambda: one.health() == "ok", said=one.log.read_text)


def test_a_standby_that_may_not_read_who_is_active_says_so_and_takes_nothing(
    tmp_path: Path,
) -> None:
    rights = tmp_path / "acl"
    rights.write_text("topic write #\ntopic read ecg/#\ntopic read ecg-monitor/+/mark\n")
    for name in "ab":
        (tmp_path / name).mkdir()
    with (
        Mosquitto(tmp_path, f"allow_anonymous true\nacl_file {rights}\n") as broker,
        RunningDaemon(tmp_path / "a", broker.url) as active,
    ):
        standby = RunningDaemon(tmp_path / "b", broker.url, MQTT__STANDBY="true").start()
        try:
            wait_until(lambda: "does not come back" in standby.health(), said=standby.log.read_text)
            wait_until(lambda: active.health() == "ok")
            assert "disconnected" not in active.log.read_text()
        finally:
            standby.stop()
