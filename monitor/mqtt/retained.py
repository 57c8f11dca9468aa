"""Reads the retained alarms, so that a device in alarm stays in alarm across a restart.

MQTT does not say when the last retained message has come. So one of our own is put among them, the
probe, and another that is not retained is sent behind them, the mark, which a broker that keeps the
order cannot deliver before them. Where the mark comes alone, the broker gives no retained messages
to filters with wildcards, or has dropped some, and what was read is not all there is.

With MQTT 5 all of it is at QoS 1. Of 3,000 alarms at QoS 0 mosquitto dropped 281 somewhere in the
middle, its queue being full (`max_queued_messages`); at QoS 1 it drops the last ones, among them
the probe. NATS, which speaks 3.1.1 alone, drops none, but makes a consumer for each filter at QoS
1, which takes up to 5 s and may fail after one of its nodes has died. So with 3.1.1 the broker is
asked at QoS 0, and at 1 where they are many.
"""

import secrets

import structlog
from paho.mqtt.client import Client

from monitor.alarms.messages import RetainedAlarm, decode_alarm
from monitor.mqtt.client import NO_REASON, SUBSCRIPTIONS, qos_of_states
from monitor.topics import topic_of

log = structlog.get_logger()

QUIET = 0.5
"""Seconds without another retained message after which there is none left, once mark and probe are
here: some brokers send retained messages beside the others (NATS), and the mark overtakes them."""

PROBE_WITHIN = 2.0
"""Seconds after the mark, and after the last retained message, that the probe may still take."""

TIMEOUT = 15.0
"""Seconds without another retained message after which the rest is not waited for."""

MANY = 500
"""Alarms above which a broker may have dropped some at QoS 0: half of mosquitto's queue, unless
set."""

NO_PROBE = (
    "the broker gives no retained messages to filters with wildcards, or its queue is too short "
    "for them"
)
"""What is said where the mark came and the probe did not."""

LINGER = 60.0
"""Seconds, from then on, for which what comes late is still taken."""


class RetainedAlarms:
    """The reading of retained alarms, over a client whose owner passes on what arrives.

    Its owner calls `begin` with each connection until `finished`, and `tick` about twice a second.
    Times are on one monotonic clock.

    Attributes:
        over: whether it is not to be waited for any more.
        collected: whether what had come by then was collected.
        complete: whether all that is retained was read.
        finished: whether nothing more will come: the filters are unsubscribed.
        problem: why it is over and not complete, in words; empty else.
    """

    def __init__(self, output: str, program: str, device: str = "+") -> None:
        """Read the alarms of one device, or of all.

        Args:
            output: the setting `output.topic`.
            program: the first part of a topic of our own, a client id.
            device: whose alarms, "+" for all.
        """
        self.over = self.collected = self.complete = self.finished = False
        self.problem = ""
        self._output = output
        self._own = f"ecg-monitor/{program}/mark"
        # The probe must be asked for as the alarms are: that is what it tells.
        own = "ecg-monitor/+/mark" if device == "+" else self._own
        self._filters = [topic_of(output, device, "alarm"), own]
        self._alarms: dict[str, RetainedAlarm] = {}  # by topic: one may change as we read
        self._client: Client | None = None

    def begin(self, client: Client, now: float, retains: bool = True) -> None:
        """Begin over a connection that was just accepted.

        Args:
            client: of that connection.
            now: the time.
            retains: whether the broker keeps retained messages, as far as it has said.
        """
        nonce = secrets.token_hex(8)
        self._probe, self._mark = f"retained {nonce}".encode(), f"last {nonce}".encode()
        self._probe_mid = self._mark_mid = self._subscription = 0
        self._probed, self._marked_at = False, None if retains else now
        self._qos = qos_of_states(client)
        self._asked = self._taken = 0  # how often, and how many have come since
        self._heard_at = now  # a retained message, or from the broker at all
        self._client = client
        if not retains:
            self._finish("the broker keeps no retained messages")
            return
        self._probe_mid = client.publish(self._own, self._probe, qos=1, retain=True).mid

    def lose(self) -> None:
        """The connection is lost; what was read is kept."""
        self._client = None

    def on_published(self, mid: int, refusal: str | None, now: float) -> None:
        """The broker has answered a publish; `refusal` is its reason against it."""
        client = self._client
        if client is None or mid not in (self._probe_mid, self._mark_mid):
            return
        if refusal is not None:
            self.problem = f"the broker refused a publish to {self._own} ({refusal})"
        if mid == self._probe_mid:
            self._subscribe(client, now)

    def _subscribe(self, client: Client, now: float) -> None:
        self._asked += 1
        self._probed, self._marked_at, self._taken = False, None, 0
        self._heard_at = now
        filters = [(each, self._qos) for each in self._filters]
        self._subscription = client.subscribe(filters)[1] or 0

    def on_subscribed(self, mid: int, refusals: list[str | None], now: float) -> None:
        """The broker has answered a subscription; `refusals` has a reason for each filter."""
        client = self._client
        if client is None or mid != self._subscription:
            return
        for topic, refusal in zip(self._filters, refusals, strict=False):
            if refusal is not None:
                self.problem = f"the broker refused the subscription to {topic} ({refusal})"
                if refusal == NO_REASON and self._asked < SUBSCRIPTIONS:
                    self._subscribe(client, now)
                else:
                    self._finish(self.problem)
                return
        self._heard_at = now
        self._mark_mid = client.publish(self._own, self._mark, qos=1).mid

    def take(self, topic: bytes, payload: bytes, retain: bool, now: float) -> bool:
        """Take in a message; return False if it has nothing to do with the reading."""
        if topic.startswith(b"ecg-monitor/") and topic.endswith(b"/mark"):
            if payload == self._mark:
                self._marked_at = now
            elif payload == self._probe:
                self._probed, self._heard_at = True, now
            return True
        if not topic.endswith(b"/alarm"):
            return False
        if self.finished or (self.over and not retain):
            return True  # ours, as everybody hears it
        if retain:  # those of another monitor may never cease
            self._heard_at = now
            self._taken += 1
        name = topic.decode(errors="replace")
        if not payload:
            self._alarms.pop(name, None)
        elif (alarm := read_alarm(self._output, name, payload)) is not None:
            self._alarms[name] = alarm
        return True

    def tick(self, now: float) -> None:
        """Note the time: it decides when all has come, or too long nothing."""
        if self._client is None or self.finished:
            return
        quiet = now - self._heard_at
        if self._marked_at is not None and self._probed:
            if quiet >= QUIET and not self._qos and self._taken > MANY:
                self._qos = 1
                self._subscribe(self._client, now)
            elif quiet >= QUIET:
                self.complete = True
                self._finish("")
        elif self._marked_at is not None:
            # NATS may not know yet what it has just retained, and gives nothing without a leader.
            last = self._qos == 1 or self._asked >= SUBSCRIPTIONS
            if min(quiet, now - self._marked_at) < (PROBE_WITHIN if last else QUIET):
                return
            if last:
                self._finish(NO_PROBE)
            else:
                self._subscribe(self._client, now)
        elif quiet >= TIMEOUT + LINGER:
            self._finish(self.problem)
        elif quiet >= TIMEOUT:
            self.over = True
            self.problem = self.problem or f"for {TIMEOUT:g} s nothing more of them came"

    def collect(self) -> list[RetainedAlarm]:
        """Return the alarms that have come since the last call, each as it was last."""
        alarms, self._alarms = list(self._alarms.values()), {}
        self.collected = self.over
        return alarms

    def _finish(self, problem: str) -> None:
        self.over = self.finished = True
        self.problem = problem
        client, self._client = self._client, None
        if client is not None and self._subscription:
            client.unsubscribe(self._filters)  # else our own alarms would come back to us for ever
        if client is not None and self._probe_mid:
            client.publish(self._own, b"", qos=1, retain=True)


def read_alarm(output: str, topic: str, payload: bytes) -> RetainedAlarm | None:
    """Return a retained alarm; None, and a line in the log, for one that cannot be used."""
    try:
        alarm = decode_alarm(payload)
    except (ValueError, RecursionError) as error:
        log.warning("a retained alarm cannot be read", detail=str(error)[:200])
        return None
    # We shall publish under the name that it tells: it must be the one that it stands under.
    if topic_of(output, alarm.device, "alarm") != topic:
        log.warning("a retained alarm is another device's", topic=topic[:100])
        return None
    return alarm
