"""The promise: no beat is acknowledged before its alerts, none is lost, none counts twice, and the
retained alarm is the newest, whatever the broker accepts, refuses, delivers again or loses.

`Bedside` stands for the daemon: every beat changes the alarm of its device, so it causes an alert
and a state, each with the number of the change.
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
from monitor.settings import MqttSettings
from tests.harness.fake_broker import NOT_AUTHORIZED, FakeBroker, Line, Published

DEVICES = st.sampled_from("123")


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
        self.consumer.maintain()
        self.sender.maintain()
        self.sender.read()
        for message in self.consumer.collect(1 << 16):
            device = message.topic.split(b"/")[1].decode()
            self.decided.append(message.payload)
            self.changes[device] += 1
            number, beat = b"%d" % self.changes[device], message.payload
            self.changed_by[beat] = self.changes[device]
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
            assert beat in self.alerted, "acknowledged before its alert"
            device, change = topic.split("/")[1], self.bedside.changed_by[beat]
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
            assert int(number) <= len(self.alerts.get(device, [])), "a state before its alert"
            self.retained[device] = int(number)

    @rule(device=DEVICES)
    def publish_beat(self, device: str) -> None:
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

    @rule()
    def accept(self) -> None:
        """Accept connections, the session as it is."""
        self.read()
        for line in self.broker.lines:
            if line.client_id and not line.accepted and not line.lost:
                known = line.client_id == "bedside" and self.session
                line.accept(session_present=known)
                if line.client_id == "bedside":
                    self.session = True
                    for mid, (topic, beat) in self.owed.items():
                        line.deliver(topic, beat, mid=mid, dup=True)
                    self.deliver()

    @rule()
    def grant(self) -> None:
        self.read()
        for line in self.broker.lines:
            if line.accepted and not line.lost:
                line.grant()

    @rule(data=st.data(), refuse=st.booleans())
    def answer(self, data: st.DataObject, refuse: bool) -> None:
        """Accept or refuse one of the publishes, or accept it and lose the answer."""
        self.read()
        line = self.line("bedside-alerts")
        if line is None or line.lost or not line.publishes:
            return
        # In MQTT a broker answers in the order in which publishes came.
        many = data.draw(st.integers(1, len(line.publishes)))
        for published in line.publishes[:many]:
            if not refuse:
                self.take(published)
            line.answer(published, NOT_AUTHORIZED if refuse else 0)

    @rule(role=st.sampled_from(["bedside", "bedside-alerts"]), taken=st.integers(0, 5))
    def cut(self, role: str, taken: int) -> None:
        """Lose a connection; the broker had taken some of what it could not answer any more."""
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

    @rule()
    def turn(self) -> None:
        self.bedside.turn()
        self.read()
        self.deliver()

    @rule(seconds=st.sampled_from([0.1, 1.0, RETRY_DELAY]))
    def wait(self, seconds: float) -> None:
        self.broker.clock.now += seconds

    # -- what holds

    @invariant()
    def no_beat_counts_twice(self) -> None:
        assert len(self.bedside.decided) == len(set(self.bedside.decided))

    @invariant()
    def what_is_in_hand_is_bounded(self) -> None:
        assert len(self.bedside.consumer._unacknowledged) <= 5
        assert len(self.bedside.sender._outbox) <= 2 * 5 + 1

    def teardown(self) -> None:
        """Let all go well from here on, and close everything."""
        try:
            self.come_to_an_end()
        finally:
            self.broker.close()
            self.patch.undo()

    def come_to_an_end(self) -> None:
        """Accept everything until nothing is left to do."""
        for _ in range(60):
            self.broker.clock.now += RETRY_DELAY
            self.bedside.turn()
            self.accept()
            self.grant()
            self.turn()
            line = self.line("bedside-alerts")
            while line is not None and not line.lost and line.publishes:
                self.take(line.publishes[0])
                line.answer(line.publishes[0])
            self.turn()
            if not (self.owed or self.waiting or self.bedside.sender.backlog):
                break
        assert set(self.promised) <= set(self.bedside.decided), "a beat is lost"
        assert not self.owed, "a beat is never acknowledged"
        assert self.bedside.sender.backlog == 0
        assert set(self.bedside.decided) == self.alerted
        assert self.retained == dict(self.bedside.changes)
        assert self.bedside.sender._outbox.size == 0


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
