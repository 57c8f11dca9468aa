"""Who is active is asked where a connection is lost, against a broker in this process."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest
from prometheus_client import CollectorRegistry

from monitor.daemon import lifecycle
from monitor.daemon.lifecycle import Lifecycle
from monitor.metrics import Metrics
from monitor.mqtt import standby
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.beat_consumer import BeatConsumer
from monitor.mqtt.standby import INSTANCE, active_topic
from monitor.settings import MqttSettings
from tests.harness.fake_broker import FakeBroker, Line

ACTIVE = active_topic("test")
CONNECTIONS = ("test", "test-alerts")


class Daemon:
    """The connections of a daemon and its life cycle, which turn by turn are at work."""

    def __init__(self, broker: FakeBroker) -> None:
        settings, metrics = MqttSettings(client_id="test"), Metrics(CollectorRegistry())
        self.broker = broker
        self.consumer = BeatConsumer(settings, ["ecg/+/beats"], 1, metrics)
        self.sender = AlertSender(settings, [], metrics)
        self.lifecycle = Lifecycle((self.consumer, self.sender))

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.broker.clock.now += 0.1
            for each in (self.consumer, self.sender):
                each.maintain()
                each.read()
                each.write()
            self.lifecycle.tick(self.broker.clock.now)
            for line in self.broker.lines:
                line.read()

    def line(self, client_id: str) -> Line:
        return self.broker.line(lambda line: fnmatchcase(line.client_id, client_id))

    def let_in(self, client_id: str) -> Line:
        line = self.line(client_id)
        line.accept()
        self.turn(2)
        line.grant()
        self.turn()
        return line

    def connect(self) -> None:
        self.turn()
        for name in CONNECTIONS:
            self.let_in(name)
        assert self.consumer.connected and self.sender.connected

    def lose(self) -> Line:
        """Lose both connections, and return that over which it asks who is active."""
        for name in CONNECTIONS:
            self.line(name).cut()
        self.turn(2)
        return self.let_in("test-standby-*")


def names(line: Line) -> list[bool]:
    """Return of each time that the daemon was said to be active whether it is to be retained."""
    said = [each for each in line.unassured if each.topic == ACTIVE]
    assert all(each.payload == INSTANCE.encode() for each in said)
    return [each.retain for each in said]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    broker = FakeBroker(monkeypatch)
    yield Daemon(broker)
    broker.close()


def test_the_broker_retains_once_who_is_active(daemon: Daemon) -> None:
    daemon.connect()
    daemon.turn(35)
    assert names(daemon.line("test")) == [True, False, False, False]


@pytest.mark.parametrize("retained", [True, False])
def test_until_it_is_let_in_a_daemon_says_elsewhere_that_it_is_active(
    daemon: Daemon, retained: bool
) -> None:
    daemon.connect()
    asked = daemon.lose()
    if retained:
        asked.deliver(ACTIVE, INSTANCE.encode(), retain=True)
    daemon.turn(10)
    first = names(asked)
    assert first == [not retained]
    asked.deliver(ACTIVE, INSTANCE.encode())  # as every subscriber gets it
    daemon.turn(30)
    assert names(asked) == first + [False] * 3
    for name in CONNECTIONS:
        daemon.let_in(name)
    daemon.turn(2)
    assert asked.disconnected
    assert names(daemon.line("test")) == [False]


def test_a_daemon_that_is_never_let_in_leaves_the_session_to_a_standby(daemon: Daemon) -> None:
    daemon.connect()
    asked = daemon.lose()
    asked.deliver(ACTIVE, INSTANCE.encode(), retain=True)
    daemon.turn(round(10 * (standby.INSIST + 20)))
    assert len(names(asked)) == pytest.approx(standby.INSIST, abs=2)


def test_a_standby_that_has_taken_the_session_says_so_until_it_is_let_in(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = daemon.broker

    def serve(_connections: object, _timeout: float) -> None:
        """Take the place of waiting: be the broker of a standby that alone is there."""
        broker.clock.now += 0.1
        for line in broker.lines:
            line.read()
            if line.client_id and not line.accepted:
                line.accept()
            line.grant()
            for published in list(line.publishes):
                line.answer(published)
                line.deliver(published.topic, published.payload)

    monkeypatch.setattr(lifecycle, "wait", serve)
    monkeypatch.setattr(lifecycle, "time", broker.clock)
    daemon.lifecycle._stand_by()
    watched = daemon.line("test-standby-*")
    daemon.turn(30)
    assert names(watched) == [False] * 3
    assert not daemon.consumer.connected  # it calls, and waits
    for name in CONNECTIONS:
        daemon.let_in(name)
    daemon.turn(15)
    assert watched.disconnected
    assert names(daemon.line("test")) == [False, False]


def test_whoever_took_the_session_is_heard_until_the_broker_lets_us_in(daemon: Daemon) -> None:
    daemon.connect()
    asked = daemon.lose()
    asked.deliver(ACTIVE, INSTANCE.encode(), retain=True)  # as long as the other names itself not
    daemon.turn(80)
    assert not any(each.topic == ACTIVE for each in asked.publishes)  # it asks, and claims nothing
    assert not daemon.consumer.suspended and not daemon.line("test").accepted  # it calls, and waits
    said = len(names(asked))
    asked.deliver(ACTIVE, b"another")
    daemon.turn(20)
    assert daemon.consumer.suspended and daemon.sender.suspended
    assert len(names(asked)) == said


def test_nobody_is_asked_any_more_once_the_connections_stand(daemon: Daemon) -> None:
    daemon.connect()
    asked = daemon.lose()
    asked.deliver(ACTIVE, INSTANCE.encode(), retain=True)
    daemon.turn(20)
    for name in CONNECTIONS:
        daemon.let_in(name)
    daemon.turn(2)
    assert daemon.consumer.connected and daemon.sender.connected
    assert asked.disconnected
