"""The two connections of a daemon against a broker in this process, step by step."""

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from monitor.errors import ConfigurationError
from monitor.metrics import Metrics
from monitor.mqtt import alert_sender, beat_consumer
from monitor.mqtt.alert_sender import RETRY_DELAY, AlertSender
from monitor.mqtt.beat_consumer import BeatConsumer
from monitor.mqtt.client import SUBSCRIPTIONS
from monitor.mqtt.connection import CONNACK_TIMEOUT, KEEPALIVE, MAX_FLAPPING_DELAY, wait
from monitor.settings import MqttSettings
from tests.harness.fake_broker import NOT_AUTHORIZED, UNSPECIFIED, FakeBroker, Line

BAD_CREDENTIALS, SERVER_UNAVAILABLE, UNSUPPORTED_VERSION = 0x86, 0x88, 0x84
SETTINGS = MqttSettings(client_id="test", receive_maximum=3)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBroker]:
    made = FakeBroker(monkeypatch)
    yield made
    made.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def consumer(broker: FakeBroker, metrics: Metrics) -> BeatConsumer:
    assert not broker.lines
    return BeatConsumer(SETTINGS, ["ecg/+/beats"], 1, metrics)


@pytest.fixture
def sender(broker: FakeBroker, metrics: Metrics) -> AlertSender:
    assert not broker.lines
    return AlertSender(SETTINGS, ["ecg/+/alarm/shelve"], metrics)


def turn(connection: BeatConsumer | AlertSender) -> list[bytes]:
    """Do what a daemon does with a connection, and return the payloads that came."""
    wait((connection,), 0)
    connection.maintain()
    payloads: list[bytes] = []
    if isinstance(connection, BeatConsumer):
        payloads = [message.payload for message in connection.collect(1 << 16)]
        connection.acknowledge()
    else:
        connection.read()
        connection.send()
    connection.write()
    return payloads


def connect(
    broker: FakeBroker,
    connection: BeatConsumer | AlertSender,
    session_present: bool = False,
    receive_maximum: int | None = None,
) -> Line:
    """Bring a connection up and return the broker's end of it."""
    broker.clock.now += MAX_FLAPPING_DELAY
    turn(connection)
    line = broker.line()
    line.read()
    line.accept(session_present, receive_maximum)
    turn(connection)
    line.read()
    line.grant()
    turn(connection)
    assert connection.trouble is None
    return line


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"ecg_monitor_{name}")


# -- connecting


def test_a_login_that_was_never_good_ends_the_program(
    broker: FakeBroker, consumer: BeatConsumer
) -> None:
    turn(consumer)
    broker.line().read()
    broker.line().reject(BAD_CREDENTIALS)
    wait((consumer,), 0)
    consumer.collect(1 << 16)
    with pytest.raises(ConfigurationError, match=r"mqtt\.username"):
        consumer.maintain()


def test_a_login_that_was_good_is_tried_again(broker: FakeBroker, consumer: BeatConsumer) -> None:
    connect(broker, consumer).cut()
    turn(consumer)
    broker.clock.now += MAX_FLAPPING_DELAY
    turn(consumer)
    broker.line().read()
    broker.line().reject(BAD_CREDENTIALS)
    turn(consumer)
    assert "bad user name or password" in (consumer.trouble or "")
    connect(broker, consumer)


def test_delays_grow_while_the_broker_cannot_be_reached(
    broker: FakeBroker, consumer: BeatConsumer
) -> None:
    broker.reachable = False
    attempts = []
    for _ in range(60):
        before = consumer._retry_at
        turn(consumer)
        if consumer._retry_at != before:
            attempts.append(round(consumer._retry_at - broker.clock.now, 3))
        broker.clock.now += 0.1
    assert attempts[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert set(attempts[5:]) == {1.0}
    assert "refused" in (consumer.trouble or "")


def test_a_broker_that_does_not_answer_is_left(broker: FakeBroker, consumer: BeatConsumer) -> None:
    turn(consumer)
    broker.clock.now += CONNACK_TIMEOUT + 1
    turn(consumer)
    assert "it does not answer" in (consumer.trouble or "")


def refuse(broker: FakeBroker, consumer: BeatConsumer, reason: int) -> None:
    """Accept the connection and refuse the subscription."""
    turn(consumer)
    line = broker.line()
    line.read()
    line.accept()
    turn(consumer)
    line.read()
    assert line.filters == ["ecg/+/beats"]
    line.grant(reason)
    wait((consumer,), 0)
    consumer.collect(1 << 16)


def test_a_subscription_that_was_never_granted_ends_the_program(
    broker: FakeBroker, consumer: BeatConsumer
) -> None:
    refuse(broker, consumer, NOT_AUTHORIZED)
    with pytest.raises(ConfigurationError, match=r"input\.topic = 'ecg/\+/beats'.*not authorized"):
        consumer.maintain()


def test_a_subscription_that_is_refused_without_a_reason_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, metrics: Metrics
) -> None:
    broker = FakeBroker(monkeypatch, "3.1.1")
    settings = MqttSettings(client_id="test", protocol="3.1.1")
    consumer = BeatConsumer(settings, ["ecg/+/beats"], 1, metrics)
    try:
        for asked in range(1, SUBSCRIPTIONS + 1):
            broker.clock.now += MAX_FLAPPING_DELAY
            refuse(broker, consumer, UNSPECIFIED)
            assert len(broker.lines) == asked
            assert "the broker refused the subscription" in (consumer.trouble or "")
        with pytest.raises(ConfigurationError, match=r"input\.topic = 'ecg/\+/beats'"):
            consumer.maintain()
    finally:
        broker.close()


# -- beats


def test_beats_are_acknowledged_in_order_behind_the_one_that_waits(
    broker: FakeBroker, consumer: BeatConsumer
) -> None:
    line = connect(broker, consumer)
    for mid in (7, 8):
        line.deliver("ecg/1/beats", b"%d" % mid, mid=mid)
    wait((consumer,), 0)
    first, second = consumer.collect(1 << 16)
    first.waiting = 1
    turn(consumer)
    line.read()
    assert line.acknowledged == []
    first.waiting = 0
    turn(consumer)
    line.read()
    assert line.acknowledged == [7, 8]
    assert second.waiting == 0


@pytest.mark.parametrize("done", [False, True])
def test_a_beat_that_comes_again_is_not_given_again_but_acknowledged(
    broker: FakeBroker, consumer: BeatConsumer, metrics: Metrics, done: bool
) -> None:
    """Whether it is in hand still, or its acknowledgement was lost with the connection."""
    line = connect(broker, consumer)
    line.deliver("ecg/1/beats", b"beat", mid=7)
    wait((consumer,), 0)
    (beat,) = consumer.collect(1 << 16)
    beat.waiting = int(not done)
    turn(consumer)
    line.cut()
    turn(consumer)
    line = connect(broker, consumer, session_present=True)
    line.deliver("ecg/1/beats", b"beat", mid=7, dup=True)
    line.deliver("ecg/1/beats", b"never read", mid=8, dup=True)
    assert turn(consumer) == [b"never read"]
    beat.waiting = 0
    turn(consumer)
    line.read()
    assert line.acknowledged == [7, 8]
    assert value(metrics, "messages_redelivered_total") == 2
    assert not consumer._unacknowledged
    assert not consumer._redeliverable


def test_packet_identifiers_mean_nothing_in_a_new_session(
    broker: FakeBroker, consumer: BeatConsumer
) -> None:
    line = connect(broker, consumer)
    line.deliver("ecg/1/beats", b"flat", mid=7)
    assert turn(consumer) == [b"flat"]
    line.cut()
    turn(consumer)
    consumer.new_session = False
    line = connect(broker, consumer, session_present=False)
    assert consumer.new_session
    line.deliver("ecg/1/beats", b"flat", mid=7, dup=True)
    assert turn(consumer) == [b"flat"]


def test_a_retained_beat_is_counted_and_acknowledged(
    broker: FakeBroker, consumer: BeatConsumer, metrics: Metrics
) -> None:
    line = connect(broker, consumer)
    line.deliver("ecg/1/beats", b"old", mid=7, retain=True)
    assert turn(consumer) == []
    line.read()
    assert line.acknowledged == [7]
    rejected = metrics.registry.get_sample_value(
        "ecg_monitor_messages_rejected_total", {"reason": "retained"}
    )
    assert rejected == 1


def test_no_more_is_in_hand_than_asked_for_though_the_broker_sends_more(
    broker: FakeBroker, consumer: BeatConsumer
) -> None:
    line = connect(broker, consumer)
    for mid in range(1, 6):
        line.deliver("ecg/1/beats", b"%d" % mid, mid=mid)
    wait((consumer,), 0)
    held = consumer.collect(1 << 16)
    assert len(held) == 3
    for message in held:
        message.waiting = 1
    for _ in range(20):  # ten minutes
        broker.clock.now += KEEPALIVE
        assert turn(consumer) == []
    line.read()
    assert line.pings >= 20
    assert consumer.trouble is None
    for message in held:
        message.waiting = 0
    turn(consumer)
    assert consumer._next_deadline() == 0  # what was read already is due at once
    assert turn(consumer) == [b"4", b"5"]


def test_a_broker_that_hangs_up_while_nothing_is_read_is_noticed(
    broker: FakeBroker, consumer: BeatConsumer
) -> None:
    line = connect(broker, consumer)
    consumer.pause(True)
    line.deliver("ecg/1/beats", b"1", mid=1)
    assert turn(consumer) == []
    line.cut()
    turn(consumer)
    assert "hung up" in (consumer.trouble or "")


def test_a_paused_consumer_leaves_beats_at_qos_0_with_the_broker(
    broker: FakeBroker, consumer: BeatConsumer
) -> None:
    line = connect(broker, consumer)
    consumer.pause(True)
    line.deliver("ecg/1/beats", b"1")
    assert turn(consumer) == []
    consumer.pause(False)
    assert turn(consumer) == [b"1"]


def test_scores_are_dropped_and_counted_where_the_network_is_slow(
    broker: FakeBroker,
    consumer: BeatConsumer,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consumer.publish_unassured("ecg/1/scores", b"no connection")
    assert value(metrics, "scores_dropped_total") == 1
    line = connect(broker, consumer)
    monkeypatch.setattr(beat_consumer, "MAX_UNSENT", 10_000)
    sent = 0
    for _ in range(3000):  # more than the socket pair takes
        consumer.publish_unassured("ecg/1/scores", bytes(1000))
        turn(consumer)
        sent += 1
    dropped = (value(metrics, "scores_dropped_total") or 0) - 1
    assert 0 < dropped < sent
    assert consumer._client is not None
    assert consumer._client.packets is not None
    assert consumer._client.packets.unsent < 12_000
    for _ in range(1000):
        line.read()
        turn(consumer)
    assert len(line.unassured) == sent - dropped


# -- alerts


def test_the_last_status_is_said_once_on_a_connection(
    broker: FakeBroker, sender: AlertSender
) -> None:
    line = connect(broker, sender)
    for status in ("online", "online", "offline"):
        sender.publish_status(status)
    turn(sender)
    line.read()
    (published,) = line.publishes  # the newest of those that had not gone out
    assert (published.topic, published.payload) == ("ecg-monitor/test/status", b"offline")
    assert published.retain
    line.answer(published)
    turn(sender)
    line.cut()
    turn(sender)
    line = connect(broker, sender)
    sender.publish_status("offline")
    turn(sender)
    line.read()
    assert len(line.publishes) == 1


def test_a_refused_alert_is_tried_again_until_it_is_accepted(
    broker: FakeBroker, sender: AlertSender, metrics: Metrics
) -> None:
    line = connect(broker, sender)
    sender.publish("ecg/1/alerts", b"raised")
    turn(sender)
    for attempt in (1, 2):
        line.read()
        line.answer(line.publishes[0], NOT_AUTHORIZED)
        turn(sender)
        assert "refused a publish to ecg/1/alerts" in (sender.trouble or "")
        assert value(metrics, "publishes_refused_total") == attempt
        line.read()
        assert line.publishes == []
        broker.clock.now += RETRY_DELAY
        turn(sender)
        line.read()
    line.answer(line.publishes[0])
    turn(sender)
    assert (sender.backlog, sender.trouble) == (0, None)


def test_no_more_is_under_way_than_the_broker_takes(
    broker: FakeBroker, sender: AlertSender
) -> None:
    line = connect(broker, sender, receive_maximum=2)
    for device in range(5):
        sender.publish(f"ecg/{device}/alerts", b"raised")
    turn(sender)
    line.read()
    assert len(line.publishes) == 2
    line.answer(line.publishes[0])
    turn(sender)
    line.read()
    assert len(line.publishes) == 2
    assert sender.backlog == 4


def test_an_alert_is_never_dropped_but_asks_for_no_more_beats(
    broker: FakeBroker, sender: AlertSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_sender, "MAX_BACKLOG", 100)
    for number in range(12):
        sender.publish("ecg/1/alerts", b"%010d" % number)
        assert sender.full is (number >= 10)
    line = connect(broker, sender)
    seen = []
    while sender.backlog:
        turn(sender)
        line.read()
        seen.append(int(line.publishes[0].payload))
        line.answer(line.publishes[0])
        turn(sender)
    assert seen == list(range(12))
    assert not sender.full


def test_requests_are_acknowledged_when_they_are_taken(
    broker: FakeBroker, sender: AlertSender
) -> None:
    line = connect(broker, sender)
    assert line.filters == ["ecg/+/alarm/shelve"]
    line.deliver("ecg/1/alarm/shelve", b"{}", mid=3)
    line.deliver("ecg/2/alarm/shelve", b"{}", mid=4, retain=True)
    turn(sender)
    line.read()
    assert line.acknowledged == []
    taken = [(request.topic, request.retain) for request in sender.take_requests()]
    assert taken == [(b"ecg/1/alarm/shelve", False), (b"ecg/2/alarm/shelve", True)]
    turn(sender)
    line.read()
    assert line.acknowledged == [3, 4]


def test_finishing_waits_for_the_broker_and_no_longer_than_it_may(
    broker: FakeBroker, sender: AlertSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = connect(broker, sender)
    sender.publish("ecg/1/alerts", b"raised")

    def no_answer(_connections: object, timeout: float) -> None:
        broker.clock.now += timeout

    def answer(_connections: object, _timeout: float) -> None:
        line.read()
        line.answer(line.publishes[0])

    monkeypatch.setattr(alert_sender, "wait", no_answer)
    begun = broker.clock.now
    sender.finish(3)
    assert broker.clock.now == pytest.approx(begun + 3, abs=0.1)
    assert sender.backlog == 1
    monkeypatch.setattr(alert_sender, "wait", answer)
    sender.finish(3)
    assert sender.backlog == 0
    sender.disconnect()
    sender.write()
    line.read()
    assert line.disconnected
