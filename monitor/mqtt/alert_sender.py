"""Publishes alerts, retained alarms and the daemon's status until the broker has accepted them.

Operator requests arrive over this connection, too, where they do not queue behind beats.
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
"""Publications under way at most; fewer where the broker's Receive Maximum is lower."""

MAX_BACKLOG = 32 * 1024 * 1024
"""Bytes of publications not accepted, above which no more beats should be read: 6,000 alerts.

Alerts are never dropped. Those of beats at QoS 1 are bounded by the beats in hand, those of beats
at QoS 0 only by this.
"""

RETRY_DELAY = 5.0
"""Seconds after which a publication that the broker refused is tried again."""


MAX_UNSEEN_REQUESTS = 1000
"""Operator requests at QoS 0 kept at most until they are taken; the broker bounds the others."""


class AlertSender(Connection):
    """A connection to publish over, with the status "offline" as its last will."""

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
        self._status = ""  # last published over this connection
        self._outbox = Outbox()
        self._window = IN_FLIGHT
        self._retry_refused_at = 0.0

    @property
    def backlog(self) -> int:
        """Publications that the broker has not accepted."""
        return len(self._outbox)

    @property
    def full(self) -> bool:
        """Whether so much waits for the broker that nothing more should be decided."""
        return self._outbox.size > MAX_BACKLOG

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        cause: Waiting | None = None,
        timed: bool = False,
    ) -> None:
        """Publish at QoS 1, now or when the broker is back.

        Args:
            topic: where to.
            payload: what.
            retain: whether it is a state, which replaces older ones for the topic.
            cause: the message that is not acknowledged before the broker has accepted this.
            timed: whether to measure the time from the arrival of the cause until then.
        """
        self._outbox.add(Publication(topic, payload, retain, cause, timed))

    def take_requests(self) -> list[Publish]:
        """Return the operator requests that have arrived, and acknowledge them."""
        requests, self._requests = self._requests, []
        client = self._client
        if client is not None and client.packets is not None:
            client.packets.acknowledge([request.mid for request in requests if request.qos])
        return [request for request in requests if not request.retain]  # those may be of any age

    def publish_status(self, status: str) -> None:
        """Publish the daemon's status, unless it is the one last published over this connection."""
        if self._accepted and status != self._status:
            self._status = status
            self.publish(self._topic, status.encode(), retain=True)

    def send(self) -> None:
        """Hand over as many publications as the broker takes at once."""
        client = self._client
        while client is not None and self._accepted and self._outbox.under_way < self._window:
            publication = self._outbox.take()
            if publication is None:
                return
            info = client.publish(
                publication.topic, publication.payload, qos=1, retain=publication.retain
            )
            if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # the identifier is still in use
                self._outbox.put_back(publication)
                return
            self._outbox.hand_over(publication, info.mid)

    def finish(self, timeout: float) -> None:
        """Wait until the broker has accepted everything, at most `timeout` seconds."""
        self._closing = True
        deadline = time.monotonic() + timeout
        while self._client is not None and self.backlog and time.monotonic() < deadline:
            self.send()
            self.write()
            wait([self], 0.05)
            self.read()

    # -- what subclasses of Connection fill in

    def _prepare(self, client: Client) -> None:
        client.max_inflight_messages_set(0)  # `send` keeps to the broker's window
        client.will_set(self._topic, b"offline", qos=1, retain=True)
        client.on_publish = self._on_publish

    def _on_accepted(
        self, client: PahoClient, _flags: ConnectFlags, properties: Properties | None
    ) -> None:
        # Whether the broker grants this is not checked: alerts go out without requests, too.
        if self._filters:
            client.subscribe([(topic, 1) for topic in self._filters])
        self._window = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        self._status = ""  # the broker may have published the last will since
        self.trouble = None

    def _on_lost(self) -> None:
        self._outbox.lose()
        # They are still handled, but can no longer be acknowledged.
        self._requests = [request._replace(qos=0) for request in self._requests]

    def _receive(self, header: int, body: bytes, _arrived: float) -> None:
        request = parse_publish(header, body, self._protocol == "5")
        if request.qos or len(self._requests) < MAX_UNSEEN_REQUESTS:
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
        if self.trouble != self._logged_trouble:
            log.error("refused", topic=topic, reason=reason, retrying=True)
            self._logged_trouble = self.trouble
        if self._outbox.refused == 1:  # the first since the last retry
            self._retry_refused_at = time.monotonic() + RETRY_DELAY

    def _housekeeping(self, now: float) -> None:
        super()._housekeeping(now)
        if self._outbox.refused and now >= self._retry_refused_at:
            self._outbox.retry()
            if self._accepted:
                self.trouble = None
