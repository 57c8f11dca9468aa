"""The MQTT side of the daemon: what came in, what goes out, and what is still to be acknowledged.

One paho client for each connection; nothing of an old one can reach a new one. What is kept across
connections is ours: the messages in hand, in the order they came, and the publishes that the broker
has not acknowledged.
"""

import random
import select
import ssl
import time
from collections import deque

import structlog
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags, DisconnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from monitor.client import (
    LOGIN_REFUSED,
    UNKNOWN_VERSION,
    make,
    other,
    refused_login,
    unverified,
)
from monitor.metrics import Metrics
from monitor.program import ConfigurationError
from monitor.settings import Mqtt
from monitor.transport import Client, parse_publish

log = structlog.get_logger()

KEEPALIVE = 30
"""Seconds after which a silent connection is probed."""

MAXIMUM_PACKET = 16 * 1024 * 1024
"""Bytes of the largest message that the broker may send us (MQTT 5)."""

IN_FLIGHT = 1000
"""Publishes under way at once, where the broker allows that many."""

PAUSES = (0.1, 1.0)
"""Seconds before the first and before a later attempt to connect."""

LONGEST_PAUSE = 30.0
"""Seconds between attempts where connections are lost as soon as they stand."""

STEADY = 2.0
"""Seconds after which a connection that is lost did stand."""

REFUSED_PAUSE = 5.0
"""Seconds after which a publish that the broker refused is tried again."""

ANSWER_WITHIN = 5.0
"""Seconds that a broker may take for its CONNACK."""


class Message:
    """A message in hand.

    Attributes:
        mid: its packet identifier; 0 at QoS 0.
        epoch: the connection it came over.
        arrived: when, on the monotonic clock.
        redelivered: whether the broker marked it as delivered before.
        waiting: how many publishes must be acknowledged before it may be.
    """

    __slots__ = (
        "arrived",
        "content_type",
        "epoch",
        "mid",
        "payload",
        "redelivered",
        "topic",
        "waiting",
    )

    def __init__(
        self,
        topic: bytes,
        payload: bytes,
        content_type: str | None,
        mid: int,
        epoch: int,
        arrived: float,
        redelivered: bool,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.content_type = content_type
        self.mid = mid
        self.epoch = epoch
        self.arrived = arrived
        self.redelivered = redelivered
        self.waiting = 0


class Publication:
    """A publish that the broker has not acknowledged, and the message that waits for it."""

    __slots__ = ("cause", "payload", "retain", "timed", "topic")

    def __init__(
        self, topic: str, payload: bytes, retain: bool, cause: Message | None, timed: bool
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.retain = retain
        self.cause = cause
        self.timed = timed


class Connection:
    """A session with the broker that outlives its connections.

    `trouble` says in words why there is none at the moment, and is None while all is well.
    `new_session` is set when the broker knew nothing of us any more.
    """

    def __init__(self, mqtt: Mqtt, filters: list[str], qos: int, metrics: Metrics) -> None:
        self.trouble: str | None = "not connected yet"
        self._said: str | None = None  # the trouble that the log knows of
        self.since = time.monotonic()  # of the connection, or of its loss
        self.new_session = False
        self._mqtt, self._filters, self._qos, self._metrics = mqtt, filters, qos, metrics
        self._status = f"ecg-monitor/{mqtt.client_id}/status"
        self._protocol = mqtt.protocol
        self._client: Client | None = None
        self._accepted = False  # the broker said yes to this connection
        self._ever = False  # … to any
        self._epoch = 0
        self._inbox: list[Message] = []
        self._ledger: deque[Message] = deque()
        self._carried: dict[int, Message] = {}
        self._outbox: deque[Publication] = deque()
        self._in_flight: dict[int, Publication] = {}
        self._window = IN_FLIGHT
        self._refused: list[Publication] = []
        self._refused_until = 0.0
        self._retry_at = 0.0
        self._failures = self._flaps = 0
        self._next_housekeeping = 0.0
        self._fatal: ConfigurationError | None = None
        self._closing = False

    @property
    def connected(self) -> bool:
        """Whether the broker accepted us and has not gone since."""
        return self._accepted

    @property
    def backlog(self) -> int:
        """Publishes that the broker has not acknowledged."""
        return len(self._outbox) + len(self._in_flight) + len(self._refused)

    def collect(self, patience: float) -> list[Message]:
        """Wait until there is something to do, at most `patience` seconds; give what came in.

        Raises:
            ConfigurationError: the broker will not have us, and has never had us.
        """
        now = time.monotonic()
        if self._client is None:
            if now < self._retry_at:
                time.sleep(min(patience, self._retry_at - now))
                return []
            self._connect()
        if self._client is not None and self._client.packets is not None:
            self._read(self._client, patience)
        if time.monotonic() >= self._next_housekeeping:
            self._housekeeping()
        if self._fatal:
            raise self._fatal
        messages, self._inbox = self._inbox, []
        return messages

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        cause: Message | None = None,
        timed: bool = False,
    ) -> None:
        """Publish at QoS 1, now or when the broker is back; `cause` is not acknowledged before.

        Args:
            timed: whether the time from the cause's arrival to the broker's acknowledgement is one
                that people look at.
        """
        if cause is not None:
            cause.waiting += 1
        self._outbox.append(Publication(topic, payload, retain, cause, timed))

    def publish_unassured(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0: lost if the broker is not there."""
        if self._client is not None and self._accepted:
            self._client.publish(topic, payload, qos=0)

    def settle(self) -> None:
        """Acknowledge, in the order they came, the messages whose publishes are; then write."""
        done: list[int] = []
        ledger = self._ledger
        while ledger and not ledger[0].waiting:
            message = ledger.popleft()
            if message.epoch == self._epoch:
                done.append(message.mid)
        client = self._client
        if client is None or client.packets is None:
            return
        if self._outbox and self._accepted:
            self._send(client)
        if client.want_write():
            client.loop_write()
        if self._client is client:
            client.packets.acknowledge(done)
            client.packets.flush()

    def abandon(self, problem: str) -> None:
        """Leave this connection, nothing acknowledged: all that came comes again over the next."""
        self._lost(problem)
        self._ledger.clear()
        self._carried.clear()

    def measure(self) -> None:
        """Set the gauges of how far behind we are."""
        self._metrics.unacknowledged.set(len(self._ledger))
        oldest = time.monotonic() - self._ledger[0].arrived if self._ledger else 0.0
        self._metrics.oldest.set(oldest)

    def close(self, patience: float) -> None:
        """Say `stopped`, wait at most `patience` seconds for what is under way, and disconnect."""
        self._closing = True
        self.publish(self._status, b"stopped", retain=True)
        deadline = time.monotonic() + patience
        while self._client is not None and self.backlog and time.monotonic() < deadline:
            self.settle()
            self._read(self._client, 0.05)
        self.settle()
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_write()

    # -- connecting

    def _connect(self) -> None:
        client = self._make_client()
        host, port = self._mqtt.address
        self._client, self._accepted, self.since = client, False, time.monotonic()
        try:
            if self._protocol == "5":
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.SessionExpiryInterval = self._mqtt.session_expiry
                properties.ReceiveMaximum = self._mqtt.receive_maximum
                properties.MaximumPacketSize = MAXIMUM_PACKET
                client.connect(host, port, KEEPALIVE, clean_start=False, properties=properties)
            else:
                client.connect(host, port, KEEPALIVE)
        except ssl.SSLCertVerificationError as error:
            if not self._ever:
                self._fatal = unverified(self._mqtt, error)
            self._lost(f"its certificate cannot be verified: {error.verify_message}")
        except (OSError, ValueError) as error:
            self._lost(str(error) or type(error).__name__)

    def _make_client(self) -> Client:
        made = make(Client, self._mqtt, self._mqtt.client_id, self._protocol, keep=True)
        made.max_inflight_messages_set(0)  # `_send` keeps to the broker's window
        made.will_set(self._status, b"offline", qos=1, retain=True)
        made.on_connect = self._on_connect
        made.on_subscribe = self._on_subscribe
        made.on_publish = self._on_publish
        made.on_disconnect = self._on_disconnect
        made.on_socket_register_write = _only_queue
        return made

    def _on_connect(
        self,
        client: PahoClient,
        _userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._on_refusal(str(reason))
            return
        self._accepted = self._ever = True
        self.since = time.monotonic()
        self._failures = 0
        self._metrics.connects.inc()
        self._metrics.connected.set(1)
        self._window = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        if not flags.session_present:
            self._carried.clear()
            self.new_session = True
        if self._flaps < 2:
            log.info("connected", broker=self._mqtt.where, protocol=self._protocol)
        if self._protocol == "5":
            options = SubscribeOptions(qos=self._qos, retainHandling=2)
            client.subscribe([(topic, options) for topic in self._filters])
        else:
            client.subscribe([(topic, self._qos) for topic in self._filters])

    def _on_refusal(self, reason: str) -> None:
        if reason == UNKNOWN_VERSION and self._protocol == "5":
            self._protocol = other(self._protocol)
            self._failures = 0
            log.info("trying another protocol", broker=self._mqtt.where, protocol=self._protocol)
        elif not self._ever and reason in LOGIN_REFUSED:
            self._fatal = refused_login(self._mqtt, reason)
        elif not self._ever and reason == "Client identifier not valid":
            self._fatal = ConfigurationError(
                f"mqtt.client_id = {self._mqtt.client_id!r}: {self._mqtt.where} refused it"
            )
        self._lost(f"the broker refused us: {reason.lower()}")

    def _on_subscribe(
        self,
        _client: PahoClient,
        _userdata: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for topic, reason in zip(self._filters, reasons, strict=False):
            if reason.is_failure:
                problem = f"{self._mqtt.where} refused the subscription ({str(reason).lower()})"
                self._fatal = ConfigurationError(f"input.topic = {topic!r}: {problem}")
                return
        self.trouble = None
        self._outbox.appendleft(Publication(self._status, b"online", True, None, False))

    # -- losing the connection

    def _on_disconnect(
        self,
        client: PahoClient,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if client is self._client:  # it may come twice
            self._no_answer(str(reason).lower())

    def _no_answer(self, problem: str) -> None:
        if not self._ever and self._mqtt.protocol == "5":
            # Some brokers hang up on a version that they do not know, or fall silent; and so does
            # what stands in front of a broker that is not there yet: take turns.
            self._protocol = other(self._protocol)
        self._lost(problem)

    def _lost(self, problem: str) -> None:
        """Keep the messages in hand, forget that they could be acknowledged, and plan to return."""
        now = time.monotonic()
        if self._accepted:
            if now - self.since < STEADY:
                self._flaps += 1
            else:
                self._flaps, self._said = 0, None
            self._failures = 0
        self._carried.update((m.mid, m) for m in self._ledger if m.epoch == self._epoch)
        self._epoch += 1
        self._outbox.extendleft(reversed(self._in_flight.values()))
        self._in_flight.clear()
        if self._client is not None and self._client.packets is not None:
            self._client.packets.close()
        self._client, self._accepted, self.since = None, False, now
        self._metrics.connected.set(0)
        first, longest = PAUSES
        pause = min(first * 2**self._failures, longest)
        if self._flaps:
            pause = min(max(pause, 2.0 ** (self._flaps - 1)), LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 16)
        self._retry_at = now + pause * random.uniform(0.5, 1)  # noqa: S311 - no secret
        if "taken over" in problem or self._flaps > 1:
            problem += f"; perhaps another client uses mqtt.client_id {self._mqtt.client_id!r}"
        self.trouble = f"no connection to {self._mqtt.where}: {problem}"
        if self.trouble != self._said and not self._fatal and not self._closing:
            log.warning("disconnected", broker=self._mqtt.where, reason=problem, retrying=True)
            self._said = self.trouble

    # -- reading

    def _read(self, client: Client, patience: float) -> None:
        packets = client.packets
        assert packets is not None
        # What waits for an answer can only go on if we read; else more in hand helps nobody.
        waiting = not self._accepted or bool(self._in_flight)
        listen = waiting or len(self._ledger) < self._mqtt.receive_maximum
        events = select.POLLIN if listen else 0
        if client.want_write():
            client.loop_write()
        if packets.unsent:
            events |= select.POLLOUT
        poll = select.poll()
        poll.register(packets.fileno(), events)
        ready = poll.poll(1000 * patience)
        if not ready:
            return
        if packets.unsent:
            packets.flush()
        if not listen:
            return
        packets.fill()
        arrived = time.monotonic()
        mqtt5 = self._protocol == "5"
        while self._client is client:
            packet = packets.next_packet()
            if packet is True:
                if client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
            elif packet is False:
                break
            else:
                try:
                    self._take(*packet, mqtt5, arrived)
                except ValueError as error:
                    self._lost(str(error))

    def _take(self, header: int, body: bytes, mqtt5: bool, arrived: float) -> None:
        if self._closing:
            return  # not acknowledged, it comes again
        topic, payload, qos, mid, dup, retain, content_type = parse_publish(header, body, mqtt5)
        kind = content_type.decode(errors="replace") if content_type else None
        message = Message(topic, payload, kind, mid, self._epoch, arrived, dup)
        earlier = None
        if qos:
            self._ledger.append(message)
            earlier = self._carried.pop(mid, None)
        if dup:
            self._metrics.redelivered.inc()
            if earlier and earlier.topic == topic and earlier.payload == payload:
                return  # it is in hand or done; being behind it, it is acknowledged after it
        if retain:
            self._metrics.rejected.labels("retained").inc()
            return  # an old beat, kept by the broker
        self._inbox.append(message)

    # -- publishing

    def _send(self, client: Client) -> None:
        while self._outbox and len(self._in_flight) < self._window:
            publication = self._outbox.popleft()
            info = client.publish(
                publication.topic, publication.payload, qos=1, retain=publication.retain
            )
            if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # its identifier is still in use
                self._outbox.appendleft(publication)
                return
            self._in_flight[info.mid] = publication

    def _on_publish(
        self,
        client: PahoClient,
        _userdata: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        publication = self._in_flight.pop(mid, None) if client is self._client else None
        if publication is None:
            return
        if reason.is_failure:
            self._metrics.refused.inc()
            trouble = (
                f"{self._mqtt.where} refused a publish to {publication.topic}: {reason}".lower()
            )
            if not self._refused:
                log.error("refused", topic=publication.topic, reason=str(reason))
                self._refused_until = time.monotonic() + REFUSED_PAUSE
            self.trouble = trouble
            self._refused.append(publication)
            return
        if publication.cause is not None:
            publication.cause.waiting -= 1
            if publication.timed:
                self._metrics.beat_to_alert.observe(time.monotonic() - publication.cause.arrived)

    # -- twice a second

    def _housekeeping(self) -> None:
        now = time.monotonic()
        self._next_housekeeping = now + 0.5
        if self._refused and now >= self._refused_until:
            self._outbox.extendleft(reversed(self._refused))
            self._refused.clear()
            if self._accepted:
                self.trouble = None
        client = self._client
        if client is None:
            return
        client.loop_misc()
        if self._client is client and not self._accepted and now - self.since > ANSWER_WITHIN:
            self._no_answer("it does not answer")


def _only_queue(_client: PahoClient, _userdata: object, _socket: object) -> None:
    """Stands where paho looks whether it should write at once; `settle` writes."""
