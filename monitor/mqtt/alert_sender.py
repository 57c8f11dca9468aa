"""The alerts' way out: everything is published until the broker has acknowledged it.

What people ask of us comes in here, too, where it does not stand in line behind beats.
"""

import time

import structlog
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from monitor.metrics import ConnectionMetrics
from monitor.mqtt.connection import Connection, wait
from monitor.mqtt.outbox import Outbox, Publication, Waiting
from monitor.mqtt.packets import Client, Publish, parse_publish
from monitor.settings import MqttSettings

log = structlog.get_logger()

IN_FLIGHT = 1000
"""Publishes under way at once, where the broker allows that many."""

REFUSED_PAUSE = 5.0
"""Seconds after which a publish that the broker refused is tried again."""


UNSEEN = 1000
"""Requests at QoS 0 that wait to be looked at, at most; of the others, the broker bounds them."""


class AlertSender(Connection):
    """What the daemon says, and that it is there: its status, with a last will."""

    def __init__(
        self,
        mqtt: MqttSettings,
        requests: list[str],
        metrics: ConnectionMetrics,
        *,
        client_id: str | None = None,
    ) -> None:
        """Publish over this broker; `requests` are the filters of what people ask.

        `client_id` is the program's own, `mqtt.client_id` unless another is given.
        """
        program = client_id or mqtt.client_id
        super().__init__(mqtt, f"{program}-alerts", keep_session=False)
        self._metrics = metrics
        self._filters = requests
        self._requests: list[Publish] = []
        self._topic = f"ecg-monitor/{program}/status"
        self._status = ""  # what was last said on this connection
        self._outbox = Outbox()
        self._window = IN_FLIGHT
        self._refused_until = 0.0

    @property
    def backlog(self) -> int:
        """Publishes that the broker has not acknowledged."""
        return len(self._outbox)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        cause: Waiting | None = None,
        timed: bool = False,
    ) -> None:
        """Publish at QoS 1, now or when the broker is back; `cause` is not acknowledged before.

        Args:
            timed: whether the time from the cause's arrival to the broker's acknowledgement is one
                that people look at.
        """
        self._outbox.add(Publication(topic, payload, retain, cause, timed))

    def take_requests(self) -> list[Publish]:
        """What people asked since it was last looked at; it counts as taken."""
        requests, self._requests = self._requests, []
        client = self._client
        if client is not None and client.packets is not None:
            client.packets.acknowledge([request.mid for request in requests if request.qos])
        return [request for request in requests if not request.retain]  # the alarm may be over

    def say(self, status: str) -> None:
        """Publish our status, unless it is what we said last on this connection."""
        if self._accepted and status != self._status:
            self._status = status
            self.publish(self._topic, status.encode(), retain=True)

    def send(self) -> None:
        """Hand over as many publishes as the broker takes at once."""
        client = self._client
        while client is not None and self._accepted and self._outbox.under_way < self._window:
            publication = self._outbox.take()
            if publication is None:
                return
            info = client.publish(
                publication.topic, publication.payload, qos=1, retain=publication.retain
            )
            if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # its identifier is still in use
                self._outbox.put_back(publication)
                return
            self._outbox.handed_over(publication, info.mid)

    def finish(self, patience: float) -> None:
        """Wait until everything is acknowledged, at most `patience` seconds."""
        self._closing = True
        deadline = time.monotonic() + patience
        while self._client is not None and self.backlog and time.monotonic() < deadline:
            self.send()
            self.write()
            wait([self], 0.05)
            self.read()

    # -- what a connection does

    def _set_up(self, client: Client) -> None:
        client.max_inflight_messages_set(0)  # `send` keeps to the broker's window
        client.will_set(self._topic, b"offline", qos=1, retain=True)
        client.on_publish = self._on_publish

    def _begin(
        self, client: PahoClient, _flags: ConnectFlags, properties: Properties | None
    ) -> None:
        # A broker that does not let us hear requests is no trouble: alerts matter more.
        if self._filters:
            client.subscribe([(topic, 1) for topic in self._filters])
        self._window = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        self._status = ""  # the last will has spoken since
        self.trouble = None

    def _end(self) -> None:
        self._outbox.lose()
        # What they ask is done, but can no longer be acknowledged.
        self._requests = [request._replace(qos=0) for request in self._requests]

    def _take(self, header: int, body: bytes, _arrived: float) -> None:
        request = parse_publish(header, body, self._protocol == "5")
        if request.qos or len(self._requests) < UNSEEN:
            self._requests.append(request)

    def _on_publish(
        self,
        client: PahoClient,
        _userdata: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if client is not self._client:
            return
        if reason.is_failure:
            refused = self._outbox.refuse(mid)
            if refused is not None:
                self._on_refused(refused.topic, str(reason))
            return
        published = self._outbox.acknowledge(mid)
        if published is not None and published.timed:
            for cause in published.causes:
                self._metrics.beat_to_alert.observe(time.monotonic() - cause.arrived)

    def _on_refused(self, topic: str, reason: str) -> None:
        self._metrics.refused.inc()
        self.trouble = f"{self._mqtt.where} refused a publish to {topic}: {reason.lower()}"
        if self.trouble != self._said:
            log.error("refused", topic=topic, reason=reason, retrying=True)
            self._said = self.trouble
        if self._outbox.refused == 1:
            self._refused_until = time.monotonic() + REFUSED_PAUSE

    def _housekeeping(self, now: float) -> None:
        super()._housekeeping(now)
        if self._outbox.refused and now >= self._refused_until:
            self._outbox.retry()
            if self._accepted:
                self.trouble = None
