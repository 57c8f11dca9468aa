"""The beats' way in: what came, in its order, and what of it is still to be acknowledged.

What is in hand is kept across connections, and so is its order; that it could be acknowledged is
not, for an acknowledgement belongs to the connection over which its message came.
"""

import time
from collections import deque

from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from monitor.errors import ConfigurationError
from monitor.metrics import ConnectionMetrics
from monitor.mqtt.connection import Connection
from monitor.mqtt.packets import Client, parse_publish
from monitor.settings import MqttSettings


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


class BeatConsumer(Connection):
    """A session with the broker: what comes while we are away is kept there.

    Attributes:
        new_session: set when the broker knew nothing of us any more.
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
        self.new_session = False
        self._filters, self._qos, self._metrics = filters, qos, metrics
        self._listened = False  # the broker granted our subscriptions, on any connection
        self._epoch = 0
        self._inbox: list[Message] = []
        self._ledger: deque[Message] = deque()
        self._carried: dict[int, Message] = {}

    def collect(self, most: int) -> list[Message]:
        """Read what has come, about so many bytes at most, and give it."""
        self.read(most)
        messages, self._inbox = self._inbox, []
        return messages

    def acknowledge(self) -> None:
        """Acknowledge, in the order they came, the messages that wait for nothing any more."""
        done: list[int] = []
        ledger = self._ledger
        while ledger and not ledger[0].waiting:
            message = ledger.popleft()
            if message.epoch == self._epoch:
                done.append(message.mid)
        client = self._client
        if done and client is not None and client.packets is not None:
            if client.want_write():
                client.loop_write()  # scores go before the acknowledgements of their beats
            if client is self._client:
                client.packets.acknowledge(done)

    def publish_unassured(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0: lost if the broker is not there, but not if only we die."""
        if self._client is not None and self._accepted:
            self._client.publish(topic, payload, qos=0)

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

    # -- what a connection does

    def _set_up(self, client: Client) -> None:
        client.on_subscribe = self._on_subscribe

    def _begin(
        self, client: PahoClient, flags: ConnectFlags, _properties: Properties | None
    ) -> None:
        self._metrics.connects.inc()
        if not flags.session_present:
            self._carried.clear()
            self.new_session = True
        if self._protocol == "5":
            options = SubscribeOptions(qos=self._qos, retainHandling=2)
            client.subscribe([(topic, options) for topic in self._filters])
        else:
            client.subscribe([(topic, self._qos) for topic in self._filters])

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
                problem = f"the broker refused the subscription ({str(reason).lower()})"
                if not self._listened:
                    where = self._mqtt.where
                    self._fatal = ConfigurationError(
                        f"{self._setting} = {topic!r}: {where}: {problem}"
                    )
                self._lost(problem)
                return
        self._listened = True
        self.trouble = None

    def _end(self) -> None:
        """Keep the messages in hand, and forget that they could be acknowledged."""
        self._carried.update((m.mid, m) for m in self._ledger if m.epoch == self._epoch)
        self._epoch += 1

    def _listening(self) -> bool:
        # With both hands full, more of it helps nobody: it is better off with the broker.
        return not self._accepted or len(self._ledger) < self._mqtt.receive_maximum

    def _take(self, header: int, body: bytes, arrived: float) -> None:
        mqtt5 = self._protocol == "5"
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
