"""Ask the monitor, over the broker, to record what people say of alarms, or to shelve a device.

The outcome is waited for: it shows in the device's retained alarm, or of a judgement, which may be
of an alarm that is over, in an answer on `ecg/<device>/alarm/judged`.
"""

import getpass
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, Queue
from typing import NamedTuple

from paho.mqtt.client import Client
from paho.mqtt.reasoncodes import ReasonCode

from monitor.alarms import messages
from monitor.alarms.kinds import KINDS
from monitor.alarms.messages import Judged, OpenAlarm, RetainedAlarm, decode_alarm, decode_judged
from monitor.alarms.operator_requests import (
    LONGEST_NOTE,
    LONGEST_REASON,
    Acknowledge,
    Judge,
    Request,
    Shelve,
)
from monitor.errors import Failure, UsageError
from monitor.history import query
from monitor.mqtt import client
from monitor.mqtt.retained import RetainedAlarms
from monitor.settings import Settings
from monitor.times import local
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


class Connection:
    """A connection over which alarms are read and requests are sent."""

    def __init__(self, settings: Settings, device: str) -> None:
        self._output, self._where = settings.output, settings.mqtt.where
        name = client.unique_id(settings.mqtt, "operator")
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

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        client.leave(self._client)

    def _fail(self, reason: str) -> None:
        raise Failure(f"{self._where}: the connection was lost ({reason.lower()})")

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
        request: Acknowledge | Shelve | Judge,
        done: Callable[[bytes], bool],
        answer: str = "alarm",
    ) -> None:
        """Send a request and wait for a message that shows that it has been carried out.

        Args:
            device: that the request is about.
            end: the last level of the request's topic.
            request: what is asked.
            done: tells such a message by its payload; of a ValueError the message is ignored.
            answer: the levels below the device's topic on which the message comes.

        Raises:
            Failure: no such message comes in time.
        """
        answers = self.listen(device, answer)
        self.send(device, f"alarm/{end}", request)
        for payload in self.heard(answers, ANSWER_TIMEOUT):
            with suppress(ValueError, RecursionError):
                if done(payload):
                    return
        topic = topic_of(self._output.topic, device, f"alarm/{end}")
        raise Failure(
            f"{device}: no answer within {ANSWER_TIMEOUT:g} s; the monitor must be running, know "
            f"the device and be allowed to read {topic}, and you must be allowed to write there "
            f"and to read {answers}"
        )

    def listen(self, device: str, end: str) -> str:
        """Subscribe to a topic of a device, and return it."""
        topic = topic_of(self._output.topic, device, end)
        self._client.subscribe(topic, qos=1)
        return topic

    def send(self, device: str, end: str, request: Request) -> None:
        """Publish a request on a topic of a device."""
        topic = topic_of(self._output.topic, device, end)
        self._client.publish(topic, messages.encode(request), qos=1)

    def heard(self, topic: str, timeout: float) -> Iterator[bytes]:
        """Yield what comes on a topic within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            for arrival in self._next(left):
                if arrival.topic == topic:
                    yield arrival.payload

    def _next(self, timeout: float) -> list[_Arrival]:
        """Wait for an event, and return the messages that have arrived."""
        with suppress(Empty):
            self._events.get(timeout=timeout)()
        arrivals, self._arrivals = self._arrivals, []
        return arrivals


def check_device(device: str) -> None:
    """Refuse what cannot be a device ID.

    Raises:
        UsageError: it is none.
    """
    if not device or set("/+#") & set(device):
        raise UsageError(f"DEVICE {device!r}: a device ID must not contain /, + or #")


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


def acknowledge(settings: Settings, identity: str, by: str | None, note: str = "") -> None:
    """Acknowledge an open alarm by its id or a unique prefix of it.

    Raises:
        UsageError: no such alarm is open, or the note is not allowed.
        Failure: the broker or the monitor does not answer.
    """
    _check_note(note, LONGEST_REASON)
    by = by or getpass.getuser()
    with Connection(settings, "+") as connection:
        matching = [
            (device, alarm)
            for device in connection.retained()
            for alarm in device.alarms
            if _matches(alarm, identity)
        ]
        if len(identity) < SHORTEST_ID or len(matching) != 1:
            raise UsageError(
                f"{identity!r}: {len(matching) or 'no'} open alarms have an id that begins so; "
                f"allowed is the id of one, or its first {SHORTEST_ID} characters or more"
            )
        device, alarm = matching[0]

        def done(payload: bytes) -> bool:
            now = _alarm(payload, device.device) if payload else None
            if alarm.latched is True and (
                now is None or alarm.id not in {a.id for a in now.alarms}
            ):
                return True
            seen = [a.acknowledged for a in now.alarms if a.id == alarm.id] if now else []
            # Ours differs from the one before; the times cannot be compared, as clocks may differ.
            return any(a and a != alarm.acknowledged and a.by == by for a in seen)

        connection.ask(device.device, "acknowledge", Acknowledge(alarm.id, by, note), done)
    cleared = " and cleared" if alarm.latched is True else ""
    since = local(alarm.since)
    print(f"{device.device}: {alarm.kind}, raised {since}, is acknowledged by {by}{cleared}")


def judge(
    settings: Settings, identity: str, verdict: bool, note: str, by: str | None, device: str | None
) -> None:
    """Say whether an alarm was right, by its id or a unique prefix of it.

    It may be open, or over and in the history on this machine. Of another one that is over, the
    whole id and the device have to be given.

    Raises:
        UsageError: there is no such alarm, or the note is not allowed.
        Failure: the broker or the monitor does not answer, or nothing was recorded.
    """
    if not re.fullmatch(f"[0-9a-f]{{{SHORTEST_ID},32}}", identity):
        raise UsageError(
            f"ALARM {identity!r}: allowed is an alarm's id, 32 digits or letters from a to f, or "
            f"its first {SHORTEST_ID} or more"
        )
    _check_note(note, LONGEST_NOTE)
    by = by or getpass.getuser()
    with Connection(settings, "+") as connection:
        found = _past(settings, identity) | {
            alarm.id: each.device
            for each in connection.retained()
            for alarm in each.alarms
            if _matches(alarm, identity)
        }
        if device is not None:
            found = {alarm: whose for alarm, whose in found.items() if whose == device}
            if not found and len(identity) == 32:
                found = {identity: device}
        if len(found) != 1:
            raise UsageError(
                f"ALARM {identity!r}: {len(found) or 'no'} alarms have an id that begins so, of "
                "those that are open or in the history on this machine; any other needs its whole "
                "id and --device"
            )
        ((alarm, whose),) = found.items()
        request = Judge(alarm, verdict, note, by)
        judged: Judged | None = None

        def done(payload: bytes) -> bool:
            nonlocal judged
            judged = decode_judged(payload)
            return (judged.id, judged.verdict, judged.note, judged.by) == (
                (request.id, verdict, note, by)
            )

        connection.ask(whose, "judge", request, done, "alarm/judged")
    assert judged is not None
    if judged.problem is not None:
        raise Failure(f"{whose}: not recorded: {judged.problem}")
    print(f"{whose}: {judged.kind} {alarm[:8]} is judged {str(verdict).lower()} by {by}")


def _check_note(note: str, longest: int) -> None:
    if not note.isprintable() or len(note) > longest:
        raise UsageError(
            f"--note of {len(note)} characters: allowed are {longest}, all of which can be printed"
        )


def _past(settings: Settings, identity: str) -> dict[str, str]:
    """Return the past alarms whose ids begin like this, each with its device, as far as known."""
    with suppress(Failure):  # the history may be on another machine
        return query.find(settings.history_file, identity)
    return {}


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
    check_device(device)
    named = tuple(kind for kind in KINDS if kind in kinds)
    for kind in set(kinds) - set(named):
        raise UsageError(f"--kind {kind!r}: not a kind of alarm; allowed are {', '.join(KINDS)}")
    by = by or getpass.getuser()
    until = ""
    with Connection(settings, device) as connection:
        before = [alarm.shelved for alarm in connection.retained()]

        def done(payload: bytes) -> bool:
            nonlocal until
            now = _alarm(payload, device)
            until = now.shelved.until if now.shelved is not None else ""
            return now.shelved not in before if minutes else not until

        connection.ask(device, "shelve", Shelve(minutes, by, named), done)
    print(f"{device}: shelved until {local(until)}" if until else f"{device}: no longer shelved")
