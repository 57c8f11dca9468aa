"""What the broker says is heard: its limits, its reasons, its nodes."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from monitor.alarms.messages import Alert, encode
from monitor.batch.datasets import Beats
from monitor.errors import CONFIGURATION, ConfigurationError
from monitor.metrics import Metrics
from monitor.mqtt.alert_sender import RETRY_DELAY, AlertSender
from monitor.mqtt.beat_consumer import BeatConsumer
from monitor.mqtt.connection import (
    DIAL_TIMEOUT,
    LOGIN_RETRY_DELAY,
    MAX_FLAPPING_DELAY,
    wait,
)
from monitor.settings import MqttSettings
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon, ending
from tests.harness.devices import Hearts, Ward, as_float32
from tests.harness.fake_broker import FakeBroker, Line
from tests.harness.waiting import wait_until
from tests.mqtt.test_connections import BAD_CREDENTIALS, UNSUPPORTED_VERSION, connect, turn, value

SETTINGS = MqttSettings(client_id="test", session_expiry=1000)
IMPLEMENTATION_SPECIFIC, TAKEN_OVER, BUSY = 0x83, 0x8E, 0x89
MAXIMUM_PACKET, EXPIRY, MAXIMUM_QOS = 0x27, 0x11, 0x24
WILDCARDS, SHARED, SERVER_KEEP_ALIVE = 0x28, 0x2A, 0x13
ALERT = Alert(
    id="1",
    device="1",
    event="raised",
    kind="anomaly",
    priority="medium",
    time="2026-11-21T12:00:00Z",
    since="2026-11-21T12:00:00Z",
    score=1.0,
    threshold=0.5,
    beats_anomalous=3,
    beats_seen=10,
    model="ecg",
    beat=[0.123456] * 140,
    reconstruction=[0.123456] * 140,
)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBroker]:
    made = FakeBroker(monkeypatch)
    yield made
    made.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def sender(broker: FakeBroker, metrics: Metrics) -> AlertSender:
    assert not broker.lines
    return AlertSender(SETTINGS, [], metrics)


def consumer(metrics: Metrics, *filters: str) -> BeatConsumer:
    return BeatConsumer(SETTINGS, list(filters or ["ecg/+/beats"]), 1, metrics)


def accept(broker: FakeBroker, connection: BeatConsumer | AlertSender, limits: bytes) -> Line:
    """Let the broker accept a connection under limits."""
    broker.clock.now += MAX_FLAPPING_DELAY
    turn(connection)
    line = broker.line()
    line.read()
    line.accept(limits=limits)
    turn(connection)
    line.read()
    return line


def limit(identifier: int, number: int) -> bytes:
    sizes = {MAXIMUM_PACKET: "!BI", EXPIRY: "!BI", SERVER_KEEP_ALIVE: "!BH"}
    return struct.pack(sizes.get(identifier, "!BB"), identifier, number)


# -- sizes


@pytest.mark.parametrize(
    ("maximum", "left"), [(9000, "beat reconstruction"), (2500, "beat"), (800, "")]
)
def test_an_alert_goes_out_as_large_as_the_broker_takes(
    broker: FakeBroker, sender: AlertSender, maximum: int, left: str
) -> None:
    line = accept(broker, sender, limit(MAXIMUM_PACKET, maximum))
    sender.publish("ecg/1/alerts", encode(ALERT))
    turn(sender)
    line.read()
    (published,) = line.publishes
    alert = msgspec.json.decode(published.payload)
    assert alert["id"] == "1"
    assert " ".join(key for key in ("beat", "reconstruction") if alert[key]) == left


def test_what_no_broker_could_take_is_not_in_the_way_of_the_next(
    broker: FakeBroker, sender: AlertSender, metrics: Metrics
) -> None:
    line = accept(broker, sender, limit(MAXIMUM_PACKET, 100))
    sender.publish("ecg/1/alerts", encode(ALERT))
    sender.publish("ecg/1/alarm", b"{}", retain=True)
    turn(sender)
    line.read()
    assert [published.payload for published in line.publishes] == [b"{}"]
    assert value(metrics, "publishes_refused_total") == 1


def test_an_alert_that_is_refused_for_its_size_is_sent_smaller_at_once(
    broker: FakeBroker, sender: AlertSender
) -> None:
    line = connect(broker, sender)
    sender.publish("ecg/1/alerts", encode(ALERT))
    sizes = []
    for _ in range(3):
        turn(sender)
        line.read()
        sizes.append(len(line.publishes[0].payload))
        line.answer(line.publishes[0], IMPLEMENTATION_SPECIFIC)
        turn(sender)
    assert all(after < before for before, after in pairwise(sizes))
    assert "implementation specific error" in (sender.trouble or "")
    broker.clock.now += RETRY_DELAY  # it stays as small as it is
    turn(sender)
    line.read()
    assert len(line.publishes[0].payload) == sizes[-1]


def test_an_alert_on_which_a_broker_hangs_up_is_sent_smaller(
    broker: FakeBroker, sender: AlertSender
) -> None:
    sender.publish("ecg/1/alerts", encode(ALERT))
    sizes = []
    for _ in range(5):
        line = connect(broker, sender)
        line.read()
        sizes.append(len(line.publishes[0].payload))
        line.cut()
        turn(sender)
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[2] > sizes[3] > sizes[4]


def test_scores_that_are_too_large_are_dropped_and_cost_no_connection(
    broker: FakeBroker, metrics: Metrics
) -> None:
    beats = consumer(metrics)
    line = accept(broker, beats, limit(MAXIMUM_PACKET, 100))
    beats.publish_unassured("ecg/1/scores", bytes(100))
    turn(beats)
    line.read()
    assert line.unassured == []
    assert value(metrics, "scores_dropped_total") == 1


# -- other limits


@pytest.mark.parametrize(
    ("limits", "topic", "said"),
    [
        (limit(WILDCARDS, 0), "ecg/+/beats", "filters with wildcards"),
        (limit(SHARED, 0), "$share/ward/ecg/+/beats", r"\$share"),
    ],
)
def test_a_broker_that_cannot_be_subscribed_to_ends_the_program(
    broker: FakeBroker, metrics: Metrics, limits: bytes, topic: str, said: str
) -> None:
    beats = consumer(metrics, topic)
    accept(broker, beats, limits)
    with pytest.raises(
        ConfigurationError, match=rf"^input\.topic = .*localhost:1883 has no {said}"
    ):
        beats.maintain()


def test_a_broker_that_confirms_nothing_ends_the_program(
    broker: FakeBroker, sender: AlertSender
) -> None:
    accept(broker, sender, limit(MAXIMUM_QOS, 0))
    with pytest.raises(ConfigurationError, match=r"nothing above QoS 0"):
        sender.maintain()


def test_what_is_less_than_asked_is_said_once(broker: FakeBroker, metrics: Metrics) -> None:
    beats = consumer(metrics)
    with capture_logs() as logs:
        for _ in range(2):
            line = accept(broker, beats, limit(EXPIRY, 60))
            line.grant(0)
            turn(beats)
            assert beats.trouble is None
            line.cut()
            turn(beats)
    said = [
        each["limit"] for each in logs if each["event"] == "the broker gives less than was asked"
    ]
    assert len(said) == 2
    assert "mqtt.session_expiry = 1000: localhost:1883 keeps a session for 60 s only" in said
    assert any("grants QoS 0 for 1" in each for each in said)


def test_the_broker_s_keep_alive_is_kept_to(broker: FakeBroker, metrics: Metrics) -> None:
    beats = consumer(metrics)
    line = accept(broker, beats, limit(SERVER_KEEP_ALIVE, 2))
    line.grant()
    for _ in range(10):
        broker.clock.now += 1
        turn(beats)
    line.read()
    assert line.pings >= 9


# -- reasons


def test_the_reason_of_a_disconnect_is_told_in_the_broker_s_words(
    broker: FakeBroker, metrics: Metrics
) -> None:
    beats = consumer(metrics)
    connect(broker, beats).disconnect(BUSY, "maintenance until 4")
    turn(beats)
    assert "the broker disconnected us: server busy, 'maintenance until 4'" in (beats.trouble or "")
    connect(broker, beats).disconnect(TAKEN_OVER)
    turn(beats)
    assert "another client uses mqtt.client_id 'test'" in (beats.trouble or "")


def test_nobody_is_blamed_where_nothing_was_said(broker: FakeBroker, metrics: Metrics) -> None:
    beats = consumer(metrics)
    for _ in range(4):
        connect(broker, beats).cut()
        turn(beats)
    assert "another" not in (beats.trouble or "")
    assert "again and again, as soon as it is accepted" in (beats.trouble or "")


def test_only_a_broker_that_refuses_5_is_spoken_to_in_3_1_1(
    broker: FakeBroker, metrics: Metrics
) -> None:
    beats = consumer(metrics)
    for _ in range(3):
        turn(beats)
        broker.line().cut()  # as a broker does that is not up yet
        turn(beats)
        broker.clock.now += MAX_FLAPPING_DELAY
    spoken = [beats.protocol]
    turn(beats)
    broker.line().read()
    broker.line().reject(UNSUPPORTED_VERSION)
    turn(beats)
    assert [*spoken, beats.protocol] == ["5", "3.1.1"]


def test_a_login_that_is_refused_is_tried_again_for_as_long_as_it_may(
    broker: FakeBroker, metrics: Metrics
) -> None:
    beats = consumer(metrics)
    beats.login_patience = 3 * LOGIN_RETRY_DELAY

    def refuse() -> None:
        turn(beats)
        broker.line().read()
        broker.line().reject(BAD_CREDENTIALS)
        turn(beats)
        assert "bad user name or password" in (beats.trouble or "")
        broker.clock.now += LOGIN_RETRY_DELAY

    for _ in range(3):
        refuse()
    with pytest.raises(ConfigurationError, match=r"mqtt\.username"):
        refuse()
        turn(beats)


# -- nodes


def test_a_name_that_is_not_resolved_stops_nothing(broker: FakeBroker, metrics: Metrics) -> None:
    beats = consumer(metrics)
    broker.resolves = False
    turn(beats)
    assert not broker.lines
    broker.clock.now += DIAL_TIMEOUT + 1
    turn(beats)
    assert "not resolved" in (beats.trouble or "")
    broker.resolves = True
    connect(broker, beats)


def test_the_nodes_of_a_cluster_are_tried_in_turn(broker: FakeBroker, metrics: Metrics) -> None:
    nodes = [f"mqtt://node-{number}" for number in range(3)]
    beats = BeatConsumer(MqttSettings(client_id="test", broker=nodes), ["ecg/+/beats"], 1, metrics)
    broker.reachable = False
    tried = []
    for _ in range(6):
        broker.clock.now += MAX_FLAPPING_DELAY
        turn(beats)
        tried.append((beats.trouble or "").split()[3])
    assert sorted(tried[:3]) == [f"node-{number}:1883:" for number in range(3)]
    assert tried[:3] == tried[3:]


# -- filters


def test_a_beat_that_two_filters_match_is_asked_for_once(
    broker: FakeBroker, metrics: Metrics
) -> None:
    beats = consumer(metrics, "ecg/+/beats", "+/+/beats", "ward/+/+/beats")
    line = accept(broker, beats, b"")
    line.grant()
    assert line.filters == ["+/+/beats", "ward/+/+/beats"]
    line.deliver("other/1/beats", b"1", mid=1)
    line.deliver("ward/3/1/beats", b"2", mid=2)
    assert turn(beats) == [b"1", b"2"]


def test_what_an_old_filter_of_the_session_brings_is_left(
    broker: FakeBroker, metrics: Metrics, rejected: Callable[[str], float]
) -> None:
    beats = consumer(metrics)
    line = accept(broker, beats, b"")
    line.grant()
    line.filters += ["old/+/beats"]  # of the session, as an earlier process left it
    line.deliver("old/1/beats", b"old", mid=1)
    line.deliver("ecg/1/beats", b"new", mid=2)
    assert turn(beats) == [b"new"]
    line.read()
    assert line.acknowledged == [1, 2]
    assert line.filters == ["ecg/+/beats"]
    assert rejected("unsubscribed") == 1


@pytest.fixture
def rejected(metrics: Metrics) -> Callable[[str], float]:
    def count(reason: str) -> float:
        name = "ecg_monitor_messages_rejected_total"
        return metrics.registry.get_sample_value(name, {"reason": reason}) or 0.0

    return count


# -- with mosquitto


@pytest.fixture
def hearts(ecg: Beats) -> Hearts:
    return Hearts(ecg)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_an_alert_reaches_people_through_a_broker_of_small_packets(
    tmp_path: Path, hearts: Hearts, protocol: str
) -> None:
    """MQTT 5 tells the limit; with 3.1.1 the broker hangs up until the alert fits."""
    with (
        Mosquitto(tmp_path, ANYBODY + "max_packet_size 1500\n") as mosquitto,
        Ward(mosquitto.port) as ward,
        RunningDaemon(tmp_path, mosquitto.url, MQTT__PROTOCOL=protocol) as daemon,
    ):
        ward.send(as_float32("bed-1", hearts.anomalous(3)))
        ward.wait(lambda: ward.alerts("bed-1"), within=90)  # takes 14 on an idle machine
        (alert,) = ward.alerts("bed-1")
        assert (alert["event"], alert["beat"]) == ("raised", None)
        ward.wait(lambda: ward.on("alarm"))  # behind it, and not held up
        daemon.wait_until("ecg_monitor_mqtt_connected", 1)


def test_a_mosquitto_that_takes_no_qos_1_ends_the_program(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, ANYBODY + "max_qos 0\n") as mosquitto:
        code, line = ending(tmp_path, {"MQTT__BROKER": mosquitto.url})
    assert code == CONFIGURATION
    assert "it takes nothing above QoS 0" in line


def connected(daemon: RunningDaemon) -> list[str]:
    """Return the nodes that the two connections of a daemon went to last."""
    logged = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    nodes = {each["client_id"]: each["broker"] for each in logged if each["event"] == "connected"}
    return [nodes["test"], nodes["test-alerts"]]


def test_when_a_node_dies_the_next_one_is_connected_within_seconds(tmp_path: Path) -> None:
    nodes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        nodes.append(Mosquitto(tmp_path / name).start())
    try:
        addresses = json.dumps([node.url for node in nodes])
        with RunningDaemon(tmp_path, addresses) as daemon:
            dead, alive = (
                nodes if connected(daemon)[0].endswith(str(nodes[0].port)) else nodes[::-1]
            )
            dead.kill()
            wait_until(lambda: connected(daemon) == [f"127.0.0.1:{alive.port}"] * 2)
            wait_until(daemon.healthy, said=daemon.log.read_text)
    finally:
        for node in nodes:
            node.stop()


class MuteBroker:
    """Hangs up on every CONNECT of MQTT 5, or on the first few of any; accepts the others."""

    def __init__(self, mute: int | None) -> None:
        self._mute = mute
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._listening.getsockname()[1]}"
        self._sockets = [self._listening]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listening.accept()
                self._sockets.append(line)
                with suppress(OSError):  # the client has given it up
                    self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        version = line.recv(4096)[8:9]
        if self._mute is None and version == b"\x05":
            line.close()
        elif self._mute:
            self._mute -= 1
            line.close()
        else:
            mqtt5 = version == b"\x05"
            line.sendall(b"\x20\x03\x00\x00\x00" if mqtt5 else b"\x20\x02\x00\x00")

    def close(self) -> None:
        """Stop; nothing is left open, not even what connects meanwhile."""
        for each in tuple(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in self._sockets:
            each.close()


@pytest.mark.parametrize(("mute", "spoken"), [(None, "3.1.1"), (4, "5")])
def test_only_a_broker_that_never_answers_is_asked_in_another_version(
    metrics: Metrics, mute: int | None, spoken: str
) -> None:
    broker = MuteBroker(mute)
    consumer = BeatConsumer(
        MqttSettings(broker=broker.url, client_id="test"), ["ecg/+/beats"], 1, metrics
    )
    try:
        deadline = time.monotonic() + 30
        while not consumer.connected and time.monotonic() < deadline:
            wait((consumer,), 0.05)
            consumer.maintain()
            consumer.read()
            consumer.write()
        assert (consumer.connected, consumer.protocol) == (True, spoken)
    finally:
        consumer.disconnect()
        broker.close()
