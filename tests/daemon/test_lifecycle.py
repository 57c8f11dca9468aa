"""Who is active is asked where a connection is lost, against a broker in this process."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest
from prometheus_client import CollectorRegistry

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
        self._broker = broker
        self.consumer = BeatConsumer(settings, ["ecg/+/beats"], 1, metrics)
        self.sender = AlertSender(settings, [], metrics)
        self._lifecycle = Lifecycle((self.consumer, self.sender))

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self._broker.clock.now += 0.1
            for each in (self.consumer, self.sender):
                each.maintain()
                each.read()
                each.write()
            self._lifecycle.tick(self._broker.clock.now)
            for line in self._broker.lines:
                line.read()

    def line(self, client_id: str) -> Line:
        return self._broker.line(lambda line: fnmatchcase(line.client_id, client_id))

    def let_in(self, client_id: str) -> Line:
        line = self.line(client_id)
        line.accept()
        self.turn(2)
        line.grant()
        self.turn()
        return line

    def lose(self) -> Line:
        """Lose both connections, and return that over which it asks who is active."""
        for name in CONNECTIONS:
            self.line(name).cut()
        self.turn(2)
        return self.let_in("test-standby-*")


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    broker = FakeBroker(monkeypatch)
    monkeypatch.setattr(standby, "time", broker.clock)
    made = Daemon(broker)
    try:
        made.turn()
        for name in CONNECTIONS:
            made.let_in(name)
        assert made.consumer.connected and made.sender.connected
        yield made
    finally:
        broker.close()


def test_whoever_took_the_session_is_heard_until_the_broker_lets_us_in(daemon: Daemon) -> None:
    asked = daemon.lose()
    asked.deliver(ACTIVE, INSTANCE.encode(), retain=True)  # as long as the other names itself not
    daemon.turn(80)
    assert not any(each.topic == ACTIVE for each in asked.publishes)  # it asks, and claims nothing
    assert not daemon.consumer.suspended and not daemon.line("test").accepted  # it calls, and waits
    asked.deliver(ACTIVE, b"another")
    daemon.turn(20)
    assert daemon.consumer.suspended and daemon.sender.suspended


def test_nobody_is_asked_any_more_once_the_connections_stand(daemon: Daemon) -> None:
    asked = daemon.lose()
    asked.deliver(ACTIVE, INSTANCE.encode(), retain=True)
    daemon.turn(20)
    for name in CONNECTIONS:
        daemon.let_in(name)
    daemon.turn(2)
    assert daemon.consumer.connected and daemon.sender.connected
    assert asked.disconnected
