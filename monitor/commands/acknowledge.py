"""Ask the monitor, over the broker, to record an acknowledgement or to shelve a device.

The outcome shows in the device's retained alarm, which is waited for.
"""

import getpass
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Queue
from typing import NamedTuple

from paho.mqtt.client import Client
from paho.mqtt.reasoncodes import ReasonCode

from monitor.alarms import messages
from monitor.alarms.kinds import KINDS
from monitor.alarms.messages import OpenAlarm, RetainedAlarm, decode_alarm
from monitor.alarms.operator_requests import Acknowledge, Shelve
from monitor.errors import Failure, UsageError
from monitor.mqtt import client
from monitor.mqtt.retained import RetainedAlarms
from monitor.settings import Settings
from monitor.topics import topic_of

ANSWER_TIMEOUT = 5.0
"""Seconds that the monitor may take to answer."""

SHORTEST_ID = 6
"""Fewest characters by which an alarm may be named: short enough to type, and rarely ambiguous."""


class _Arrival(NamedTuple):
    """A message, as it arrived."""

    topic: str
    payload: bytes
    retain: bool


class _Connection:
    """A connection over which alarms are read and requests are sent."""

    def __init__(self, settings: Settings, device: str) -> None:
        self._output, self._where = settings.output, settings.mqtt.where
        name = f"{settings.mqtt.client_id}-operator"
        self._retained = RetainedAlarms(settings.output.topic, name, device)
        # Events of the network thread are handed over to this one.
        self._events: Queue[Callable[[], None]] = Queue()
        self._arrivals: list[_Arrival] = []
        self._client: Client = client.join(settings.mqtt, "operator", name)
        put, retained = self._events.put, self._retained
        self._client.on_message = lambda _client, _data, m: put(
            lambda: self._arrivals.append(_Arrival(m.topic, bytes(m.payload), m.retain))
        )
        self._client.on_publish = lambda _client, _data, mid, reason, _properties: put(
            lambda: retained.on_published(mid, _refusal(reason), time.monotonic())
        )
        self._client.on_subscribe = lambda _client, _data, mid, reasons, _properties: put(
            lambda: retained.on_subscribed(mid, [*map(_refusal, reasons)], time.monotonic())
        )
        self._client.on_disconnect = lambda _client, _data, _flags, reason, _properties: put(
            lambda: self._fail(str(reason))
        )

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        client.leave(self._client)

    def _fail(self, reason: str) -> None:
        raise Failure(
            f"{self._where}: the connection was lost ({reason.lower()}); perhaps somebody else is "
            "acknowledging or shelving at the same time"
        )

    def retained(self) -> list[RetainedAlarm]:
        """Return the alarms that the broker retains.

        Raises:
            Failure: not all of them can be read.
        """
        retained = self._retained
        retained.begin(self._client, time.monotonic())
        while not retained.over:
            for topic, payload, retain in self._next(0.1):
                retained.take(topic.encode(), payload, retain, time.monotonic())
            retained.tick(time.monotonic())
        if not retained.complete:
            raise Failure(f"{self._where}: the retained alarms cannot be read: {retained.problem}")
        return retained.collect()

    def ask(
        self,
        device: str,
        end: str,
        request: Acknowledge | Shelve,
        done: Callable[[RetainedAlarm], bool],
    ) -> None:
        """Send a request and wait until the device's alarm shows that it has been carried out.

        Raises:
            Failure: the alarm does not show it in time.
        """
        topic, alarm = (topic_of(self._output.topic, device, e) for e in (f"alarm/{end}", "alarm"))
        self._client.subscribe(alarm, qos=1)
        self._client.publish(topic, messages.encode(request), qos=1)
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            for arrival in self._next(left):
                with suppress(ValueError, RecursionError):
                    if arrival.topic == alarm and done(_alarm(arrival.payload, device)):
                        return
        raise Failure(
            f"{device}: no answer within {ANSWER_TIMEOUT:g} s; the monitor must be running, know "
            f"the device and be allowed to read {topic}, and you must be allowed to write there"
        )

    def _next(self, timeout: float) -> list[_Arrival]:
        """Wait for an event, and return the messages that have arrived."""
        with suppress(Empty):
            self._events.get(timeout=timeout)()
        arrivals, self._arrivals = self._arrivals, []
        return arrivals


def _refusal(reason: ReasonCode) -> str | None:
    return str(reason).lower() if reason.is_failure else None


def _alarm(payload: bytes, device: str) -> RetainedAlarm:
    """Return a device's retained alarm.

    Raises:
        ValueError: it is not an alarm, or another device's.
    """
    alarm = decode_alarm(payload)
    if alarm.device != device:
        raise ValueError("another device's")
    return alarm


def acknowledge(settings: Settings, identity: str, by: str | None) -> None:
    """Acknowledge an open alarm by its id or a unique prefix of it.

    Raises:
        UsageError: no such alarm is open.
        Failure: the broker or the monitor does not answer.
    """
    by = by or getpass.getuser()
    with _Connection(settings, "+") as connection:
        matching = [
            (device, alarm)
            for device in connection.retained()
            for alarm in device.alarms
            if _matches(alarm, identity)
        ]
        if len(identity) < SHORTEST_ID or len(matching) != 1:
            raise UsageError(
                f"{identity!r}: the ids of {len(matching) or 'no'} open alarms begin like this; "
                f"allowed is the id of one, or its first {SHORTEST_ID} characters or more"
            )
        device, alarm = matching[0]

        def done(now: RetainedAlarm) -> bool:
            seen = [a.acknowledged for a in now.alarms if a.id == alarm.id]
            # Ours differs from the one before; the times cannot be compared, as clocks may differ.
            return any(a and a != alarm.acknowledged and a.by == by for a in seen)

        connection.ask(device.device, "acknowledge", Acknowledge(alarm.id, by), done)
    print(f"{device.device}: {alarm.kind}, raised {alarm.since}, is acknowledged by {by}")


def _matches(alarm: OpenAlarm, identity: str) -> bool:
    return any((own or "").startswith(identity) for own in (alarm.id, alarm.escalation))


def shelve(
    settings: Settings, device: str, minutes: float, by: str | None, kinds: list[str]
) -> None:
    """Shelve a device for some minutes; 0 minutes end the shelving.

    Raises:
        UsageError: no device can have this name, or a kind does not exist.
        Failure: the broker or the monitor does not answer.
    """
    if set("/+#") & set(device):
        raise UsageError(f"DEVICE {device!r}: a device ID must not contain /, + or #")
    named = tuple(kind for kind in KINDS if kind in kinds)
    for kind in set(kinds) - set(named):
        raise UsageError(f"--kind {kind!r}: not a kind of alarm; allowed are {', '.join(KINDS)}")
    by = by or getpass.getuser()
    until = ""
    with _Connection(settings, device) as connection:
        before = [alarm.shelved for alarm in connection.retained()]

        def done(now: RetainedAlarm) -> bool:
            nonlocal until
            until = now.shelved.until if now.shelved is not None else ""
            return now.shelved not in before if minutes else not until

        connection.ask(device, "shelve", Shelve(minutes, by, named), done)
    print(f"{device}: shelved until {until}" if until else f"{device}: no longer shelved")
