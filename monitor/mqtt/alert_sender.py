"""Publishes alerts, retained alarms and the daemon's status until the broker has accepted them.

Operator requests arrive over this connection, too, where they do not queue behind beats, so do the
reports of the learner, and at the start the alarms that an earlier process left retained.
"""

import time
from collections.abc import Sequence

import structlog
from msgspec import structs
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from monitor.alarms.messages import smaller
from monitor.errors import ConfigurationError
from monitor.metrics import ConnectionMetrics
from monitor.mqtt.client import qos_of_states
from monitor.mqtt.connection import Connection, wait
from monitor.mqtt.other_monitors import OtherMonitors
from monitor.mqtt.outbox import Outbox, Publication, Waiting
from monitor.mqtt.packets import Client, Publish
from monitor.mqtt.retained import RetainedAlarms
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

MAX_LOSSES = 2
"""Connections that may be lost, each with the same publication under way, before that is held to
be too large: brokers of MQTT 3.1.1 hang up on those. One that restarts may cost an alert its
reconstruction, never the alert."""

MAY_BE_TOO_LARGE = {"Implementation specific error", "Unspecified error"}
"""Reasons with which a broker may refuse a publication for its size: MQTT 5 has none that says so.
mosquitto's `message_size_limit` gives the first."""

READING = "reading back the alarms"
"""What `AlertSender.trouble` says while beats wait for the retained alarms."""

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
        retained: RetainedAlarms | None = None,
        others: OtherMonitors | None = None,
        left: Sequence[str] = (),
    ) -> None:
        """Publish over this broker.

        Args:
            mqtt: the broker.
            requests: the filters of what people ask, and of what the learner reports.
            metrics: that are counted up.
            client_id: the program's own; None for `mqtt.client_id`.
            retained: the alarms to be read before anything is published; None for none.
            others: what hears of other monitors; None where there can be none.
            left: the filters of what an earlier process may have left retained, beside the alarms;
                it is asked for once, behind those, and comes among the requests.
        """
        program = client_id or mqtt.client_id
        super().__init__(mqtt, f"{program}-alerts", keep_session=False)
        self._metrics = metrics
        self._filters, self._left = requests, left
        self._watched: set[str] = set()
        self._requests: list[Publish] = []
        self._topic = f"ecg-monitor/{program}/status"
        self._status = ""  # last published over this connection
        self._outbox = Outbox()
        self._window = IN_FLIGHT
        self._retry_refused_at = 0.0
        self._retained = retained
        self._others = others
        self._retains = True  # whether the broker keeps retained messages

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
        waiting: Sequence[Waiting] = (),
        apart: bool = False,
    ) -> None:
        """Publish at QoS 1, now or when the broker is back.

        Args:
            topic: where to.
            payload: what.
            retain: whether it is a state, which replaces older ones for the topic.
            cause: the message that is not acknowledged before the broker has accepted this.
            timed: whether to measure the time from the arrival of the cause until then.
            waiting: messages that wait for this already, beside the cause.
            apart: whether its refusal is to hold up nothing else of the device.
        """
        publication = Publication(topic, payload, retain, cause, timed, apart)
        publication.causes += waiting
        self._outbox.add(publication)

    def withdraw(self, topic: str) -> None:
        """Publish no state for a topic that is not under way yet: it is another's now."""
        self._outbox.withdraw(topic)

    def take_requests(self) -> list[Publish]:
        """Return the requests and reports that have arrived, and acknowledge them."""
        requests, self._requests = self._requests, []
        client = self._client
        if client is not None and client.packets is not None:
            client.packets.acknowledge([request.mid for request in requests if request.qos])
        return requests

    def watch(self, topics: set[str]) -> None:
        """Hear these topics, too, at QoS 0, and no more those that were watched before."""
        new, old = topics - self._watched, self._watched - topics
        self._watched = topics
        if self._client is not None and self._accepted:
            if old:
                self._client.unsubscribe(sorted(old))
            if new:
                self._client.subscribe([(topic, 0) for topic in sorted(new)])

    def publish_status(self, status: str) -> None:
        """Publish the daemon's status, unless it is the one last published over this connection."""
        if self._accepted and status != self._status:
            self._status = status
            self.publish(self._topic, status.encode(), retain=True)

    def send(self) -> None:
        """Hand over as many publications as the broker takes at once."""
        client = self._client
        held = self._others is not None and self._others.behind(time.monotonic(), self.since)
        lane = self._topic.rpartition("/")[0] if held else None
        while client is not None and self._accepted and self._outbox.under_way < self._window:
            publication = self._outbox.take(lane)
            if publication is None:
                return
            payload = self._fitting(publication)
            if payload is None:
                self._give_up(publication)
                continue
            info = client.publish(
                publication.topic,
                payload,
                qos=1,
                retain=publication.retain and self._retains,
            )
            if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # the identifier is still in use
                self._outbox.put_back(publication)
                return
            self._outbox.hand_over(publication, info.mid)

    def _fitting(self, publication: Publication) -> bytes | None:
        """Return the payload as the broker takes it; None if it takes none.

        An alert goes without its reconstruction, and then without its beat, where it is larger than
        the broker takes: as it has said, or as it shows by refusing it or hanging up again and
        again.
        """
        topic, payload = publication.topic, publication.payload
        doubts = max(publication.refusals, publication.losses - MAX_LOSSES)
        if doubts <= 0 and self._takes(topic, payload):
            return payload
        forms = [payload, *smaller(payload)]
        forms = forms[min(max(doubts, 0), len(forms) - 1) :]
        return next((each for each in forms if self._takes(topic, each)), None)

    def _give_up(self, publication: Publication) -> None:
        """Say that a publication is larger than the broker takes, and go on with the next."""
        self._metrics.refused.inc()
        topic, size = publication.topic, len(publication.payload)
        log.error("too large for the broker", topic=topic, bytes=size, maximum=self._largest)
        self._outbox.hand_over(publication, 0)  # 0 is no packet identifier
        self._outbox.acknowledge(0)

    def finish(self, timeout: float) -> None:
        """Wait until the broker has accepted everything, at most `timeout` seconds."""
        self._closing = True
        deadline = time.monotonic() + timeout
        while self._client is not None and self.backlog and time.monotonic() < deadline:
            self.send()
            self.write()
            wait([self], 0.05)
            self.read()

    def maintain(self) -> None:
        """Connect if it is time to, do the housekeeping, and see whether all alarms are read.

        Raises:
            ConfigurationError: the broker refuses the connection, and never accepted one.
        """
        super().maintain()
        if self._retained is not None:
            self._retained.tick(time.monotonic())
            self._show_reading()
        if self._retained is None or (self._retained.finished and self._retained.collected):
            if self._others is not None:
                self._others.listen(time.monotonic())
            self._ask_for_what_is_left()

    def _ask_for_what_is_left(self) -> None:
        if self._left and self._client is not None and self._accepted:
            self._client.subscribe([(topic, qos_of_states(self._client)) for topic in self._left])
            self._left = ()

    # -- what subclasses of Connection fill in

    def _prepare(self, client: Client) -> None:
        client.max_inflight_messages_set(0)  # `send` keeps to the broker's window
        client.will_set(self._topic, b"offline", qos=1, retain=self._retains)
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe

    def _on_accepted(
        self, client: PahoClient, _flags: ConnectFlags, properties: Properties | None
    ) -> None:
        # Whether the broker grants this is not checked: alerts go out without requests, too.
        heard = [(topic, qos_of_states(client)) for topic in self._filters]
        heard += [(topic, 0) for topic in sorted(self._watched)]
        if heard:
            client.subscribe(heard)
        if self._others is not None:
            self._others.begin(client)
        self._window = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        self._status = ""  # the broker may have published the last will since
        self.trouble = None
        if getattr(properties, "MaximumQoS", 1) < 1:
            self._refuse(self._no_qos())
            return
        self._worked = True
        if not getattr(properties, "RetainAvailable", 1):
            self._do_without_retaining()
        if self._retained is not None and not self._retained.finished:
            self._retained.begin(client, time.monotonic(), self._retains)
            self._show_reading()

    def _on_refusal(self, reason: str, explained: str) -> None:
        if reason == "Retain not supported":  # it is the last will that is refused
            self._do_without_retaining()
        elif reason == "QoS not supported" and not self._worked:
            self._fatal = ConfigurationError(self._no_qos())
        super()._on_refusal(reason, explained)

    def _no_qos(self) -> str:
        return (
            f"mqtt.broker = {self._where}: it takes nothing above QoS 0, so that no alert could be "
            "confirmed; allowed is a broker that takes QoS 1"
        )

    def _do_without_retaining(self) -> None:
        """Publish states as if they were none: a broker that keeps none would hang up."""
        if self._retains:
            log.warning("the broker keeps no retained messages", broker=self._where)
        self._retains = False

    def _show_reading(self) -> None:
        """Say in `trouble` that the retained alarms are being read, until they are collected."""
        if self._retained is not None and self._accepted:
            if not self._retained.collected:
                self.trouble = READING
            elif self.trouble == READING:
                self.trouble = None

    def _on_subscribe(
        self,
        client: PahoClient,
        _userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        if self._retained is not None and client is self._client:
            refusals = [str(each).lower() if each.is_failure else None for each in reasons]
            self._retained.on_subscribed(mid, refusals, time.monotonic())
            if self._others is not None:
                self._others.on_subscribed(mid, any(refusals), time.monotonic())

    def _on_lost(self) -> None:
        self._outbox.lose()
        if self._retained is not None:
            self._retained.lose()
        if self._others is not None:
            self._others.lose()
        # They are still handled, but can no longer be acknowledged.
        self._requests = [structs.replace(request, qos=0) for request in self._requests]

    def _hear(self, publish: Publish, arrived: float) -> None:
        retained, client = self._retained, self._client
        if retained is not None and client is not None and client.packets is not None:
            content = publish.topic, publish.payload, publish.retain
            is_state = (self._others is not None and self._others.take(*content)) or retained.take(
                *content, arrived
            )
            if publish.qos and (is_state or not retained.collected):
                # At once, for what is not acknowledged may keep alarms from coming.
                client.packets.acknowledge([publish.mid])
                publish = structs.replace(publish, qos=0)
            if is_state:
                return
        if publish.qos or len(self._requests) < MAX_UNSEEN_REQUESTS:
            self._requests.append(publish)

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
        if self._retained is not None:
            refusal = str(reason).lower() if reason.is_failure else None
            self._retained.on_published(mid, refusal, time.monotonic())
        if reason.is_failure:
            refused = self._outbox.refuse(mid)
            if refused is not None and str(reason) in MAY_BE_TOO_LARGE and self._shrinks(refused):
                self._outbox.retry()
            elif refused is not None:
                self._on_refused(refused.topic, str(reason))
            return
        published = self._outbox.acknowledge(mid)
        if published is not None and published.timed:
            for cause in published.causes:
                self._metrics.beat_to_alert.observe(time.monotonic() - cause.arrived)

    def _shrinks(self, publication: Publication) -> bool:
        """Let a publication be smaller the next time; return whether it can be."""
        publication.refusals += 1
        return publication.refusals <= len(smaller(publication.payload))

    def _on_refused(self, topic: str, reason: str) -> None:
        self._metrics.refused.inc()
        self.trouble = f"{self._where} refused a publish to {topic}: {reason.lower()}"
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
