"""Alarms that an earlier process left with a broker, which does all that brokers do."""

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from monitor.alarms import messages
from monitor.metrics import Metrics
from monitor.mqtt.alert_sender import READING, AlertSender
from monitor.mqtt.client import SUBSCRIPTIONS
from monitor.mqtt.connection import MAX_FLAPPING_DELAY, wait
from monitor.mqtt.retained import (
    LINGER,
    MANY,
    PROBE_WITHIN,
    QUIET,
    TIMEOUT,
    RetainedAlarms,
)
from monitor.settings import MqttSettings, Protocol
from tests.harness.fake_broker import NOT_AUTHORIZED, UNSPECIFIED, FakeBroker, Line

TIME = "2026-11-21T12:00:00.000Z"
MARK = "ecg-monitor/test/mark"
FILTERS = ["ecg/+/alarm", "ecg-monitor/+/mark"]
RETAIN_NOT_SUPPORTED = 0x9A


def payload(changes: int, device: str = "bed-7") -> bytes:
    return messages.encode(
        messages.RetainedAlarm(
            device=device,
            state="alarm",
            priority="medium",
            time=TIME,
            alarms=[messages.OpenAlarm(f"{changes:032x}", "anomaly", "medium", TIME)],
            anomalous="x" * 10,
            poor="",
            seq=None,
            counted=[],
            changes=changes,
        )
    )


class Reading:
    """A sender that reads alarms back, and the broker's end of its line."""

    def __init__(self, broker: FakeBroker, protocol: Protocol = "5") -> None:
        self.broker = broker
        self.alarms = RetainedAlarms("ecg/{device}", "test")
        metrics = Metrics(CollectorRegistry())
        settings = MqttSettings(client_id="test", protocol=protocol)
        self.sender = AlertSender(settings, [], metrics, retained=self.alarms)
        self.mid = 0

    def turn(self, seconds: float = 0) -> None:
        self.broker.clock.now += seconds
        wait((self.sender,), 0)
        self.sender.maintain()
        self.sender.read()
        self.sender.send()
        self.sender.write()
        if self.broker.lines and not self.line.lost:
            self.line.read()

    @property
    def line(self) -> Line:
        return self.broker.line()

    def connect(self, retain_available: bool = True) -> None:
        self.turn(MAX_FLAPPING_DELAY)
        self.line.accept(retain_available=retain_available)
        self.turn()

    def subscribe(self) -> bytes:
        """Take the probe and the subscription; return the probe."""
        (probe,) = self.line.publishes
        assert (probe.topic, probe.retain) == (MARK, True)
        assert self.line.filters == []  # it must be retained before it is asked for
        self.line.answer(probe)
        self.turn()
        assert self.line.filters == FILTERS
        assert self.line.publishes == []
        return probe.payload

    def deliver(self, topic: str, body: bytes, retain: bool = True) -> None:
        self.mid += 1
        self.line.deliver(topic, body, mid=self.mid, retain=retain)

    def grant(self) -> None:
        """Grant the subscription, take the mark and send it back."""
        self.line.grant()
        self.turn()
        (mark,) = self.line.publishes
        assert (mark.topic, mark.retain) == (MARK, False)
        self.line.answer(mark)
        self.deliver(MARK, mark.payload, retain=False)
        self.turn()

    def devices(self) -> dict[str, int]:
        return {alarm.device: alarm.changes for alarm in self.alarms.collect()}


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    broker = FakeBroker(monkeypatch)
    yield Reading(broker)
    broker.close()


@pytest.fixture
def in_3_1_1(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    broker = FakeBroker(monkeypatch, "3.1.1")
    yield Reading(broker, "3.1.1")
    broker.close()


def test_all_is_read_in_portions_behind_pauses(reading: Reading) -> None:
    reading.connect()
    probe = reading.subscribe()
    for i in range(10):
        reading.deliver(f"ecg/bed-{i}/alarm", payload(i, f"bed-{i}"))
        reading.turn(10)
        assert not reading.alarms.over
        assert reading.sender.trouble == READING
    reading.deliver(MARK, probe)
    reading.grant()
    reading.turn(QUIET)
    assert reading.alarms.complete and reading.alarms.finished
    assert reading.sender.trouble == READING
    assert reading.devices() == {f"bed-{i}": i for i in range(10)}
    reading.turn()
    assert reading.sender.trouble is None
    assert reading.line.filters == []  # our own alarms do not come back
    (cleared,) = reading.line.publishes
    assert (cleared.topic, cleared.payload, cleared.retain) == (MARK, b"", True)
    assert reading.line.acknowledged == list(range(1, reading.mid + 1))


def test_what_people_ask_meanwhile_does_not_stand_in_the_way(reading: Reading) -> None:
    reading.connect()
    reading.subscribe()
    reading.deliver("ecg/bed-7/alarm/shelve", b"request", retain=False)
    reading.turn()
    assert reading.line.acknowledged == [1]
    assert [each.payload for each in reading.sender.take_requests()] == [b"request"]
    reading.turn()
    assert reading.line.acknowledged == [1]


def test_a_mark_that_overtakes_what_is_retained_is_no_end(reading: Reading) -> None:
    reading.connect()
    probe = reading.subscribe()
    reading.grant()
    reading.turn(PROBE_WITHIN - 0.1)
    reading.deliver("ecg/bed-7/alarm", payload(1))
    reading.turn()
    reading.deliver(MARK, probe)
    reading.turn(PROBE_WITHIN - 0.1)
    reading.deliver("ecg/bed-8/alarm", payload(1, "bed-8"))
    reading.turn()
    assert not reading.alarms.over
    reading.turn(QUIET)
    assert reading.alarms.complete
    assert reading.devices() == {"bed-7": 1, "bed-8": 1}


def test_an_alarm_that_changes_meanwhile_is_read_once_and_reading_ends(reading: Reading) -> None:
    reading.connect()
    probe = reading.subscribe()
    reading.deliver("ecg/bed-7/alarm", payload(1))
    reading.deliver("ecg/bed-8/alarm", payload(1, "bed-8"))
    reading.deliver(MARK, probe)
    reading.grant()
    for changes in range(2, 9):
        reading.deliver("ecg/bed-7/alarm", payload(changes), retain=False)
        reading.deliver("ecg/bed-8/alarm", b"", retain=False)
        reading.turn(QUIET / 5)
    assert reading.alarms.complete
    (alarm,) = reading.alarms.collect()
    assert alarm.device == "bed-7" and alarm.changes > 1


def test_what_cannot_be_read_or_is_another_device_s_is_left_out(reading: Reading) -> None:
    reading.connect()
    probe = reading.subscribe()
    for topic, body in (
        ("ecg/bed-1/alarm", b"{"),
        ("ecg/bed-1/alarm", payload(1, "bed-1").replace(TIME.encode(), b"yesterday", 1)),
        ("ecg/bed-2/alarm", b"[" * 100_000),
        ("ecg/bed-3/alarm", payload(1, "bed-4")),
        ("ecg-monitor/other/mark", b"last 00"),
        (MARK, b"retained 00"),
    ):
        reading.deliver(topic, body)
    reading.deliver(MARK, probe)
    reading.grant()
    reading.turn(QUIET)
    assert reading.alarms.complete
    assert reading.devices() == {}


def test_a_broker_that_gives_nothing_retained_to_wildcards_is_noticed(reading: Reading) -> None:
    reading.connect()
    reading.subscribe()
    reading.grant()
    assert not reading.alarms.over
    reading.turn(PROBE_WITHIN)
    assert reading.alarms.finished and not reading.alarms.complete
    assert "wildcards" in reading.alarms.problem
    assert reading.devices() == {}
    reading.turn()
    assert reading.sender.trouble is None


def test_a_broker_that_says_that_it_keeps_nothing_is_sent_nothing_to_keep(reading: Reading) -> None:
    reading.connect(retain_available=False)
    assert reading.alarms.finished and not reading.alarms.complete
    assert "keeps no retained messages" in reading.alarms.problem
    reading.sender.publish_status("online")
    reading.sender.publish("ecg/bed-7/alarm", payload(1), retain=True)
    reading.turn()
    reading.turn()
    assert {(each.topic, each.retain) for each in reading.line.publishes} == {
        ("ecg-monitor/test/status", False),
        ("ecg/bed-7/alarm", False),
    }
    reading.line.cut()
    reading.turn()
    reading.turn(MAX_FLAPPING_DELAY)
    assert not reading.line.will_retained


def test_a_last_will_that_must_not_be_retained_is_given_without(reading: Reading) -> None:
    reading.turn()
    assert reading.line.will_retained
    reading.line.reject(RETAIN_NOT_SUPPORTED)
    reading.turn()
    reading.connect(retain_available=False)
    assert not reading.line.will_retained
    assert reading.alarms.finished


def test_a_connection_that_is_lost_meanwhile_is_begun_anew(reading: Reading) -> None:
    reading.connect()
    reading.subscribe()
    reading.deliver("ecg/bed-1/alarm", payload(1, "bed-1"))
    reading.turn()
    reading.line.cut()
    reading.turn()
    reading.connect()  # after more than TIMEOUT, of which nothing counts
    assert not reading.alarms.over
    probe = reading.subscribe()
    reading.deliver("ecg/bed-1/alarm", payload(2, "bed-1"))
    reading.deliver("ecg/bed-2/alarm", payload(2, "bed-2"))
    reading.deliver(MARK, probe)
    reading.grant()
    reading.turn(QUIET)
    assert reading.devices() == {"bed-1": 2, "bed-2": 2}


def test_what_does_not_come_is_not_waited_for_but_taken_when_it_comes(reading: Reading) -> None:
    reading.connect()
    probe = reading.subscribe()
    reading.turn(TIMEOUT)
    assert reading.alarms.over and not reading.alarms.finished
    assert reading.devices() == {}
    reading.turn()
    assert reading.sender.trouble is None
    reading.deliver("ecg/bed-1/alarm", payload(1, "bed-1"))
    reading.deliver("ecg/bed-2/alarm", payload(1, "bed-2"), retain=False)  # as we published it
    reading.deliver(MARK, probe)
    reading.grant()
    assert reading.devices() == {"bed-1": 1}
    reading.turn(QUIET)
    assert reading.alarms.complete


def test_what_never_comes_is_given_up(reading: Reading) -> None:
    reading.connect()
    reading.subscribe()
    reading.turn(TIMEOUT)
    reading.turn(LINGER)
    assert reading.alarms.finished and not reading.alarms.complete
    assert "15 s" in reading.alarms.problem
    reading.turn()
    assert reading.line.filters == []


def test_a_subscription_that_is_refused_is_not_waited_for(reading: Reading) -> None:
    reading.connect()
    reading.subscribe()
    reading.line.grant(NOT_AUTHORIZED)
    reading.turn()
    assert reading.alarms.finished and not reading.alarms.complete
    assert "refused the subscription to ecg/+/alarm (not authorized)" in reading.alarms.problem


def test_a_cluster_without_a_leader_is_asked_again(reading: Reading) -> None:
    reading.connect()
    reading.subscribe()
    for asked in range(1, SUBSCRIPTIONS):
        reading.line.grant(UNSPECIFIED)
        reading.turn()
        assert not reading.alarms.finished
        assert reading.line.filters == FILTERS * (asked + 1)
    reading.line.grant(UNSPECIFIED)
    reading.turn()
    assert reading.alarms.finished and not reading.alarms.complete


@pytest.mark.parametrize(("alarms", "asked"), [(0, [0]), (MANY, [0]), (MANY + 1, [0, 1])])
def test_of_a_broker_in_3_1_1_few_alarms_are_asked_for_at_qos_0(
    in_3_1_1: Reading, alarms: int, asked: list[int]
) -> None:
    in_3_1_1.connect()
    probe = in_3_1_1.subscribe()
    for turn, qos in enumerate(asked):
        assert not in_3_1_1.alarms.over
        assert in_3_1_1.line.filters == FILTERS * (turn + 1)
        assert in_3_1_1.line.asked_qos == [qos] * len(FILTERS)
        for i in range(alarms):
            in_3_1_1.deliver(f"ecg/bed-{i}/alarm", payload(i, f"bed-{i}"))
            in_3_1_1.turn()
        in_3_1_1.deliver(MARK, probe)
        in_3_1_1.grant()
        in_3_1_1.turn(QUIET)
        in_3_1_1.turn()
    assert in_3_1_1.alarms.complete
    assert len(in_3_1_1.devices()) == alarms


def test_a_cluster_that_gives_nothing_retained_without_a_leader_is_asked_again(
    in_3_1_1: Reading,
) -> None:
    in_3_1_1.connect()
    probe = in_3_1_1.subscribe()
    for asked in range(2, SUBSCRIPTIONS + 1):
        in_3_1_1.grant()
        in_3_1_1.turn(QUIET)
        in_3_1_1.turn()
        assert not in_3_1_1.alarms.over
        assert in_3_1_1.line.filters == FILTERS * asked
    in_3_1_1.deliver("ecg/bed-7/alarm", payload(1))
    in_3_1_1.deliver(MARK, probe)
    in_3_1_1.grant()
    in_3_1_1.turn(QUIET)
    assert in_3_1_1.alarms.complete
    assert in_3_1_1.devices() == {"bed-7": 1}


def test_who_never_gives_anything_retained_is_not_asked_for_ever(in_3_1_1: Reading) -> None:
    in_3_1_1.connect()
    in_3_1_1.subscribe()
    for _ in range(SUBSCRIPTIONS):
        assert not in_3_1_1.alarms.over
        in_3_1_1.grant()
        in_3_1_1.turn(PROBE_WITHIN)
        in_3_1_1.turn()
    assert in_3_1_1.alarms.finished and not in_3_1_1.alarms.complete
    assert "wildcards" in in_3_1_1.alarms.problem


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_could_not_be_published_again_is_not_read(since: str) -> None:
    written = payload(1).replace(TIME.encode(), since.encode())
    with pytest.raises(ValueError, match="RFC 3339"):
        messages.decode_alarm(written)
