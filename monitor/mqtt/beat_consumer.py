"""Reads beats over a session that the broker keeps, and acknowledges them in order.

Messages in hand are kept when the connection is lost. Their acknowledgements are not: a packet
identifier is valid only on the connection over which its message came. The broker delivers such a
message again; it is recognised, not decided on twice, and acknowledged in its new place.
"""

import time
from array import array
from collections.abc import Sequence
from itertools import takewhile

import msgspec
import structlog
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from monitor.metrics import ConnectionMetrics
from monitor.mqtt.client import NO_REASON, SUBSCRIPTIONS
from monitor.mqtt.connection import Connection
from monitor.mqtt.packets import Client, Packet, parse_publish
from monitor.mqtt.standby import INSTANCE, NAMED_EVERY, active_topic
from monitor.settings import MqttSettings
from monitor.topics import disjoint, filters_of, matcher

log = structlog.get_logger()

MAX_UNSENT = 1024 * 1024
"""Bytes that may wait for a slow network, above which scores are dropped.

Acknowledgements of beats queue behind them: at 1 Mbit/s for 8 s, at most.
"""

PACKET_IDENTIFIERS = 65536

MAX_STRAYS, MAX_LEVELS = 8, 8
"""Most messages that no filter asks for, of a connection, after which filters are unsubscribed
from, and most levels that their topics may have: an UNSUBSCRIBE has up to 767 filters then."""


class Message(msgspec.Struct, eq=False, gc=False):
    """A message in hand.

    Attributes:
        mid: its packet identifier; 0 at QoS 0.
        epoch: the number of the connection it came over.
        arrived: when it was read, on the monotonic clock.
        redelivered: whether the broker marked it as delivered before.
        waiting: how many publications must be acknowledged before it may be.
    """

    topic: bytes
    payload: bytes
    content_type: str | None
    mid: int
    epoch: int
    arrived: float
    redelivered: bool
    waiting: int = 0


class BeatConsumer(Connection):
    """A session with the broker, which keeps the messages that arrive while the daemon is away.

    Attributes:
        new_session: set when the broker had no session of ours any more.
        named: whether the broker retains that this process is active.
        refused: why the broker refused filters that `follow` was given.
    """

    def __init__(
        self,
        mqtt: MqttSettings,
        filters: list[str],
        qos: int,
        metrics: ConnectionMetrics,
        *,
        client_id: str | None = None,
        setting: str = "input.topic",
    ) -> None:
        """Subscribe to filters, which `setting` names; `mqtt.client_id` unless another is given."""
        super().__init__(mqtt, client_id or mqtt.client_id, keep_session=True)
        self._setting = setting
        self.new_session = self.named = False
        self.refused: dict[str, str] = {}
        self._filters, self._qos, self._metrics = filters, qos, metrics
        self._subscriptions = disjoint(filters)
        self._followed: set[str] = set()
        self._wanted, self._expected = matcher(filters), matcher(self._subscriptions)
        self._asked: dict[int, list[str]] = {}  # filters, by packet identifier of the SUBSCRIBE
        self._told: set[str] = set()  # what was said of the broker's limits
        self._strays = 0  # messages of this connection that led to an UNSUBSCRIBE
        self._epoch = 0
        self._inbox: list[Message] = []
        self._paused = False
        self._unacknowledged: dict[Message, None] = {}  # in the order of their delivery
        self._of_this_connection = 0  # how many of them
        # Of this session, by packet identifier: what was delivered last, as a hash, and which
        # messages of earlier connections are in hand.
        self._delivered = array("Q", bytes(8 * PACKET_IDENTIFIERS))
        self._redeliverable: dict[int, Message] = {}
        self._next_name = 0.0
        self._retains = True
        self._refusals = 0  # without a reason, of a program that never had its beats

    def collect(self, limit: int) -> list[Message]:
        """Read about `limit` bytes at most, and return the messages."""
        self.read(limit)
        messages, self._inbox = self._inbox, []
        return messages

    def acknowledge(self) -> None:
        """Acknowledge, in the order they came, the messages that wait for nothing any more.

        MQTT asks for that order (version 5, 4.6); a message that waits holds up those behind it.
        """
        done: list[int] = []
        for message in list(takewhile(_is_done, self._unacknowledged)):
            del self._unacknowledged[message]
            if message.epoch == self._epoch:
                done.append(message.mid)
            elif self._redeliverable.get(message.mid) is message:
                del self._redeliverable[message.mid]
        self._of_this_connection -= len(done)
        client = self._client
        if done and client is not None and client.packets is not None:
            if client.want_write():
                client.loop_write()  # scores before the acknowledgements of their beats
            if client is self._client:
                client.packets.acknowledge(done)

    def follow(self, filters: set[str]) -> None:
        """Subscribe to these filters beside those of the start, and to no others any more."""
        for topic in self._followed - filters:
            self.leave(topic)
        new, self._followed = filters - self._followed, filters
        self._wanted = matcher([*self._filters, *filters])
        self._expected = matcher([*self._subscriptions, *filters])
        if new and self._client is not None and self._accepted:
            self._subscribe(self._client, sorted(new))

    def leave(self, topic: str) -> None:
        """Unsubscribe from a filter, which a session may have from an earlier process, too."""
        self.refused.pop(topic, None)
        if self._client is not None and self._accepted:
            self._client.unsubscribe(topic)

    def publish_unassured(self, topic: str, payload: bytes) -> None:
        """Publish scores at QoS 0, over the connection on which their beats are acknowledged.

        So they are lost with the broker, but not with this process. Without a connection, or where
        the network is too slow, they are dropped and counted.
        """
        client = self._client
        packets = client.packets if client is not None and self._accepted else None
        slow = packets is not None and packets.unsent > MAX_UNSENT
        if client is None or packets is None or slow or not self._takes(topic, payload):
            self._metrics.scores_dropped.inc()
        else:
            client.publish(topic, payload, qos=0)

    def pause(self, paused: bool) -> None:
        """Stop reading, or go on: the broker keeps what is not read, unless it is at QoS 0."""
        self._paused = paused

    def name_active(self, now: float) -> None:
        """Say once a second that this process holds the session, at QoS 0.

        Over this connection, which is the session's: whoever lost it cannot say so any more. The
        first time it is retained, for who asks later; not each time, for NATS hears nothing else
        over a connection while what it shall retain cannot be stored, for 5 s.
        """
        client = self._client
        if client is not None and self._accepted and now >= self._next_name:
            self._next_name = now + NAMED_EVERY
            retain = self._retains and not self.named
            client.publish(active_topic(self.client_id), INSTANCE.encode(), 0, retain)
            self.named = True

    def measure(self) -> None:
        """Set the gauges of how far behind the daemon is."""
        self._metrics.unacknowledged.set(len(self._unacknowledged))
        oldest = min((each.arrived for each in self._unacknowledged), default=None)
        self._metrics.oldest.set(0.0 if oldest is None else time.monotonic() - oldest)

    @property
    def metrics(self) -> ConnectionMetrics:
        """The metrics of the program."""
        return self._metrics

    # -- what subclasses of Connection fill in

    def _prepare(self, client: Client) -> None:
        client.on_subscribe = self._on_subscribe

    def _on_accepted(
        self, client: PahoClient, flags: ConnectFlags, properties: Properties | None
    ) -> None:
        self._metrics.connects.inc()
        self._next_name = 0.0
        self._retains = bool(getattr(properties, "RetainAvailable", 1))
        self._strays = 0
        if not flags.session_present:
            self._forget_session()
            self.new_session = True
        if not self._can_subscribe(properties):
            return
        kept = getattr(properties, "SessionExpiryInterval", self._mqtt.session_expiry)
        if kept < self._mqtt.session_expiry:
            self._tell(
                f"mqtt.session_expiry = {self._mqtt.session_expiry}: {self._where} keeps a session "
                f"for {kept} s only"
            )
        self._asked.clear()
        self.refused.clear()
        self._subscribe(client, self._subscriptions)
        if self._followed:
            self._subscribe(client, sorted(self._followed))

    def _subscribe(self, client: PahoClient, filters: list[str]) -> None:
        if self.protocol == "5":
            options = SubscribeOptions(qos=self._qos, retainHandling=2)
            _, mid = client.subscribe([(topic, options) for topic in filters])
        else:
            _, mid = client.subscribe([(topic, self._qos) for topic in filters])
        if mid is not None:
            self._asked[mid] = filters

    def _can_subscribe(self, properties: Properties | None) -> bool:
        """Refuse a broker that has no subscriptions of the kinds that are set."""
        for topic in self._subscriptions:
            lacking = ""
            if not getattr(properties, "WildcardSubscriptionAvailable", 1):
                lacking = "filters with wildcards"
            elif topic.startswith("$share/"):
                lacking = "" if getattr(properties, "SharedSubscriptionAvailable", 1) else "$share"
            if lacking:
                self._refuse(f"{self._setting} = {topic!r}: {self._where} has no {lacking}")
                return False
        return True

    def _tell(self, limit: str) -> None:
        """Say once how the broker falls short of what was asked."""
        if limit not in self._told:
            self._told.add(limit)
            log.warning("the broker gives less than was asked", limit=limit)

    def _on_subscribe(
        self,
        _client: PahoClient,
        _userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        filters = self._asked.pop(mid, [])
        for topic, reason in zip(filters, reasons, strict=False):
            if reason.is_failure:
                said = str(reason).lower()
                problem = f"the broker refused the subscription ({said})"
                if filters is not self._subscriptions:
                    self.refused[topic] = problem
                    continue
                if not self._worked and said == NO_REASON:
                    self._refusals += 1
                    if self._refusals < SUBSCRIPTIONS:
                        self._drop(problem)
                        return
                self._refuse(f"{self._setting} = {topic!r}: {self._where}: {problem}")
                return
            if reason.value < self._qos:
                self._tell(
                    f"{self._setting} = {topic!r}: {self._where} grants QoS {reason.value} for "
                    f"{self._qos}; what comes while we are away, or not read yet, is lost"
                )
        if filters is self._subscriptions:
            self._worked = True
            self.trouble = None

    def _on_lost(self) -> None:
        """Keep the messages in hand, without their acknowledgements."""
        self._redeliverable.update(
            (m.mid, m) for m in self._unacknowledged if m.epoch == self._epoch
        )
        self._epoch += 1
        self._of_this_connection = 0

    def _forget_session(self) -> None:
        self._delivered = array("Q", bytes(8 * PACKET_IDENTIFIERS))
        self._redeliverable.clear()

    def _room(self) -> int:
        if self._paused:
            return 0
        # Not every broker keeps to the Receive Maximum, and MQTT 3.1.1 has none. What is in hand
        # from an earlier connection leaves room: it comes again, and takes no more of it.
        most = self._mqtt.receive_maximum
        return max(0, min(most - self._of_this_connection, 2 * most - len(self._unacknowledged)))

    def _receive(self, publishes: Sequence[Packet], arrived: float) -> None:
        mqtt5, epoch, wanted = self.protocol == "5", self._epoch, self._wanted.fullmatch
        for header, body in publishes:
            publish = parse_publish(header, body, mqtt5)
            topic, payload, mid, dup = publish.topic, publish.payload, publish.mid, publish.dup
            kind = publish.content_type
            told = None if kind is None else kind.decode(errors="replace")
            message = Message(topic, payload, told, mid, epoch, arrived, dup)
            if dup:
                self._metrics.redelivered.inc()
            if mid:
                self._of_this_connection += 1
                earlier = self._redeliverable.pop(mid, None)
                content = hash((topic, payload)) & 0xFFFF_FFFF_FFFF_FFFF
                delivered, self._delivered[mid] = self._delivered[mid], content
                if dup and delivered == content:
                    again = earlier or message  # in hand still, or done and its PUBACK lost
                    again.epoch = epoch
                    self._unacknowledged.pop(again, None)
                    self._unacknowledged[again] = None  # acknowledged in the order of delivery
                    continue
                self._unacknowledged[message] = None
            if publish.retain:
                self._metrics.rejected.labels("retained").inc()  # an old beat, kept by the broker
            elif wanted(topic):
                self._inbox.append(message)
            else:
                self._leave_stray(topic)

    def _leave_stray(self, topic: bytes) -> None:
        """Count a message that no filter asks for, and unsubscribe from all that may have.

        The session may have filters from before `input.topic` was changed, which no broker lists.
        """
        if self._expected.fullmatch(topic):
            return  # of a filter that stands for two
        self._metrics.rejected.labels("unsubscribed").inc()
        if self._client is None or self._strays >= MAX_STRAYS or topic.count(b"/") >= MAX_LEVELS:
            return
        self._strays += 1
        text = topic.decode(errors="replace")
        log.warning("unsubscribing from what was asked for earlier", topic=text[:100])
        ours = {*self._subscriptions, *self._followed}
        self._client.unsubscribe([each for each in filters_of(text) if each not in ours])


def _is_done(message: Message) -> bool:
    return not message.waiting
