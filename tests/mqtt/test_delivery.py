"""The promise: no beat is acknowledged before its alerts, none is lost, none counts twice, and the
retained alarm is the newest, whatever the broker accepts, refuses, delivers again or loses.

`Bedside` stands for the daemon: every beat changes what is retained of its device, and but for one
device causes an alert, too; each carries the number of the change.
"""

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from monitor.metrics import Metrics
from monitor.mqtt.alert_sender import RETRY_DELAY, AlertSender
from monitor.mqtt.beat_consumer import BeatConsumer
from monitor.mqtt.connection import MAX_FLAPPING_DELAY, wait
from monitor.settings import MqttSettings
from tests.harness.fake_broker import NOT_AUTHORIZED, FakeBroker, Line, Published

DEVICES = st.sampled_from("123")
WITHOUT_ALERTS = "3"
"""A device whose windows change, but no alarm of it."""


class Bedside:
    """Decides on beats: each is the next change of its device's alarm."""

    def __init__(self, settings: MqttSettings) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.consumer = BeatConsumer(settings, ["ecg/+/beats"], 1, self.metrics)
        self.sender = AlertSender(settings, [], self.metrics)
        self.changes: Counter[str] = Counter()
        self.decided: list[bytes] = []
        self.changed_by: dict[bytes, int] = {}  # the number of the change that a beat caused

    def turn(self) -> None:
        """As the daemon does."""
        wait((self.consumer, self.sender), 0)
        self.consumer.maintain()
        self.sender.maintain()
        self.sender.read()
        for message in self.consumer.collect(1 << 16):
            device = message.topic.split(b"/")[1].decode()
            self.decided.append(message.payload)
            self.changes[device] += 1
            number, beat = b"%d" % self.changes[device], message.payload
            self.changed_by[beat] = self.changes[device]
            if device != WITHOUT_ALERTS:
                self.sender.publish(f"ecg/{device}/alerts", number + b" " + beat, cause=message)
            self.sender.publish(f"ecg/{device}/alarm", number, retain=True, cause=message)
        self.sender.send()
        self.sender.write()
        self.consumer.acknowledge()
        self.consumer.write()


class Delivery(RuleBasedStateMachine):
    """A broker that keeps a session of beats, and takes publishes or does not."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.broker = FakeBroker(self.patch)
        self.bedside = Bedside(MqttSettings(client_id="bedside", receive_maximum=5))
        self.count = 0
        self.owed: dict[int, tuple[str, bytes]] = {}  # in the session, by packet identifier
        self.waiting: list[tuple[str, bytes]] = []  # of the session, not delivered yet
        self.promised: list[bytes] = []  # beats that the broker has never lost
        self.alerts: dict[str, list[int]] = {}  # of each device, as first accepted
        self.alerted: set[bytes] = set()  # beats with an alert accepted
        self.retained: dict[str, int] = {}
        self.next_mid = 1
        self.session = False

    # -- what the broker does

    def line(self, role: str) -> Line | None:
        own = [line for line in self.broker.lines if line.client_id == role]
        return own[-1] if own else None

    def read(self) -> None:
        """Let the broker take in what was written, and check every acknowledgement."""
        for line in self.broker.lines:
            line.read()
        beats = self.line("bedside")
        if beats is None:
            return
        for mid in beats.acknowledged:
            topic, beat = self.owed.pop(mid)
            device, change = topic.split("/")[1], self.bedside.changed_by[beat]
            assert beat in self.alerted or device == WITHOUT_ALERTS, "acknowledged before its alert"
            assert self.retained.get(device, 0) >= change, "acknowledged before its state"
        beats.acknowledged.clear()

    def take(self, published: Published) -> None:
        """Accept a publish."""
        _, device, end = published.topic.split("/")
        if end == "alerts":
            number, _, beat = published.payload.partition(b" ")
            seen = self.alerts.setdefault(device, [])
            if int(number) not in seen:
                assert int(number) == len(seen) + 1, "an alert before the one that came before it"
                seen.append(int(number))
            self.alerted.add(beat)
        elif end == "alarm":
            number = published.payload
            assert published.retain
            assert int(number) >= self.retained.get(device, 0), "an older state after a newer one"
            if device != WITHOUT_ALERTS:
                assert int(number) <= len(self.alerts.get(device, [])), "a state before its alert"
            self.retained[device] = int(number)

    @rule(devices=st.lists(DEVICES, min_size=1, max_size=4))
    def publish_beats(self, devices: list[str]) -> None:
        """Publish a beat of each of the devices."""
        for device in devices:
            self.count += 1
            beat = b"beat %d" % self.count
            self.promised.append(beat)
            self.waiting.append((f"ecg/{device}/beats", beat))
        self.deliver()

    def deliver(self) -> None:
        """Send what waits, as far as the receive window allows."""
        line = self.line("bedside")
        if line is None or line.lost or not line.accepted:
            return
        while self.waiting and len(self.owed) < 5:
            topic, beat = self.waiting.pop(0)
            mid = next(n for n in (*range(self.next_mid, 8), *range(1, 8)) if n not in self.owed)
            self.next_mid = mid % 7 + 1
            self.owed[mid] = topic, beat
            line.deliver(topic, beat, mid=mid)

    def accept(self) -> None:
        """Accept connections, the session as it is, and grant subscriptions."""
        self.read()
        for line in self.broker.lines:
            if line.client_id and not line.accepted and not line.lost:
                line.accept(session_present=line.client_id == "bedside" and self.session)
                if line.client_id == "bedside":
                    self.session = True
                    for mid, (topic, beat) in self.owed.items():
                        line.deliver(topic, beat, mid=mid, dup=True)
                    self.deliver()
            if line.accepted and not line.lost:
                line.grant()

    @rule(refusals=st.lists(st.booleans(), min_size=1, max_size=8))
    def answer(self, refusals: list[bool]) -> None:
        """Accept or refuse some of the publishes, in the order in which they came."""
        self.read()
        line = self.line("bedside-alerts")
        if line is None or line.lost:
            return
        for published, refuse in zip(list(line.publishes), refusals, strict=False):
            if not refuse:
                self.take(published)
            line.answer(published, NOT_AUTHORIZED if refuse else 0)

    @rule(
        role=st.sampled_from(["bedside", "bedside-alerts"]),
        arrived=st.booleans(),
        taken=st.integers(0, 5),
    )
    def cut(self, role: str, arrived: bool, taken: int) -> None:
        """Lose a connection.

        Args:
            role: which.
            arrived: whether what was written last still came to the broker.
            taken: how many publishes the broker took and could not answer any more.
        """
        if arrived:
            self.read()
        line = self.line(role)
        if line is None or line.lost:
            return
        for published in line.publishes[:taken]:
            self.take(published)
        line.cut()

    @rule()
    @precondition(lambda self: self.session)
    def lose_session(self) -> None:
        """Restart the broker without its memory: beats that were not read are its own loss."""
        self.read()
        for line in self.broker.lines:
            if not line.lost:
                line.cut()
        unread = {beat for _, beat in (*self.owed.values(), *self.waiting)}
        unread -= set(self.bedside.decided)
        self.bedside.turn()  # what reached the socket may still be read
        unread -= set(self.bedside.decided)
        self.promised = [beat for beat in self.promised if beat not in unread]
        self.owed.clear()
        self.waiting.clear()
        self.session = False

    # -- what the daemon does

    @rule(times=st.integers(1, 3))
    def turn(self, times: int = 1) -> None:
        """Turn, with a broker that accepts connections and answers no publishes."""
        for _ in range(times):
            self.bedside.turn()
            self.accept()
            self.deliver()
            self.bedside.turn()

    @rule()
    def reconnect(self) -> None:
        """Come back, however often connections were lost."""
        self.broker.clock.now += MAX_FLAPPING_DELAY
        self.turn(2)

    @rule()
    def turn_alone(self) -> None:
        """Turn, while the broker does nothing."""
        self.bedside.turn()

    @rule(seconds=st.sampled_from([0.1, RETRY_DELAY, MAX_FLAPPING_DELAY]))
    def pass_time(self, seconds: float) -> None:
        self.broker.clock.now += seconds

    # -- what holds

    @invariant()
    def no_beat_counts_twice(self) -> None:
        assert len(self.bedside.decided) == len(set(self.bedside.decided))

    @invariant()
    def what_is_in_hand_is_bounded(self) -> None:
        assert len(self.bedside.consumer._unacknowledged) <= 2 * 5
        assert len(self.bedside.consumer._redeliverable) <= 2 * 5
        assert len(self.bedside.sender._outbox) <= 4 * 5

    def teardown(self) -> None:
        """Let all go well from here on, and close everything."""
        try:
            self.come_to_an_end()
        finally:
            self.broker.close()
            self.patch.undo()

    def come_to_an_end(self) -> None:
        """Accept everything until nothing is left to do."""
        for _ in range(10 + 5 * self.count):
            self.reconnect()
            self.read()
            line = self.line("bedside-alerts")
            while line is not None and not line.lost and line.publishes:
                self.take(line.publishes[0])
                line.answer(line.publishes[0])
            self.turn()
            self.read()
            if self.session and not (self.owed or self.waiting or self.bedside.sender.backlog):
                break
        assert set(self.promised) <= set(self.bedside.decided), "a beat is lost"
        assert not self.owed, "a beat is never acknowledged"
        assert self.bedside.sender.backlog == 0
        assert self.retained == dict(self.bedside.changes)
        assert self.bedside.sender._outbox.size == 0


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
