"""Asks the monitor, over the broker, to note an acknowledgement or to shelve a device.

What it made of it shows in the device's alarm as it stands, which is waited for.
"""

import getpass
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, Queue

from paho.mqtt.client import Client, MQTTMessage

from monitor.alarms import messages
from monitor.alarms.kinds import KINDS
from monitor.alarms.messages import OpenAlarm, RetainedAlarm, decode_alarm
from monitor.alarms.operator_requests import Acknowledge, Shelve
from monitor.errors import Failure, UsageError
from monitor.mqtt import client
from monitor.settings import Settings
from monitor.topics import topic_of

QUIET = 0.5
"""Seconds without another alarm after which there is none left."""

WITHIN = 5.0
"""Seconds that the monitor may take to answer."""

FEWEST = 6
"""Characters of an id that are enough, if no other alarm's begins like it."""


class _Desk:
    """A connection over which alarms are read and requests are sent."""

    def __init__(self, settings: Settings, device: str) -> None:
        self._output = settings.output
        self._arrivals: Queue[MQTTMessage] = Queue()
        self._client: Client = client.join(settings.mqtt, "attend")
        self._client.on_message = lambda _client, _data, message: self._arrivals.put(message)
        self._client.subscribe(topic_of(self._output.topic, device, "alarm"), qos=1)

    def __enter__(self) -> "_Desk":
        return self

    def __exit__(self, *_: object) -> None:
        client.leave(self._client)

    def standing(self) -> list[RetainedAlarm]:
        """The alarms that stand retained with the broker."""
        newest = {alarm.device: alarm for alarm in self._alarms(QUIET)}
        return list(newest.values())

    def ask(
        self,
        device: str,
        end: str,
        request: Acknowledge | Shelve,
        done: Callable[[RetainedAlarm], bool],
    ) -> None:
        """Send a request and wait until the device's alarm shows that it was done.

        Raises:
            Failure: it does not show in time.
        """
        topic = topic_of(self._output.topic, device, f"alarm/{end}")
        self._client.publish(topic, messages.encode(request), qos=1)
        if not any(alarm.device == device and done(alarm) for alarm in self._alarms(WITHIN)):
            raise Failure(
                f"{device}: no answer within {WITHIN:g} s; the monitor must run, know the device, "
                f"and be allowed to read {topic}, and you to write there"
            )

    def _alarms(self, quiet: float) -> Iterator[RetainedAlarm]:
        """Alarms as they come, until none has come for `quiet` seconds, or `WITHIN` are over.

        What is none, or stands under another name than its own, is passed over.
        """
        deadline = time.monotonic() + WITHIN
        with suppress(Empty):
            while (left := deadline - time.monotonic()) > 0:
                message = self._arrivals.get(timeout=min(quiet, left))
                with suppress(ValueError, RecursionError):
                    alarm = decode_alarm(message.payload)
                    if topic_of(self._output.topic, alarm.device, "alarm") == message.topic:
                        yield alarm


def acknowledge(settings: Settings, identity: str, by: str | None) -> None:
    """Acknowledge an open alarm by its id, or by as much of it as tells it from others.

    Raises:
        UsageError: no such alarm is open.
        Failure: the broker or the monitor does not answer.
    """
    by = by or getpass.getuser()
    with _Desk(settings, "+") as desk:
        fitting = [
            (device, alarm)
            for device in desk.standing()
            for alarm in device.alarms
            if _is(alarm, identity)
        ]
        if len(identity) < FEWEST or len(fitting) != 1:
            raise UsageError(
                f"{identity!r}: {len(fitting) or 'no'} open alarms have this id; allowed is the id "
                f"of one, of which {FEWEST} characters or more may do"
            )
        device, alarm = fitting[0]

        def done(now: RetainedAlarm) -> bool:
            seen = [a.acknowledged for a in now.alarms if a.id == alarm.id]
            # Ours is another than the one before; clocks may differ.
            return any(a and a != alarm.acknowledged and a.by == by for a in seen)

        desk.ask(device.device, "acknowledge", Acknowledge(alarm.id, by), done)
    print(f"{device.device}: {alarm.kind}, raised {alarm.since}, is acknowledged by {by}")


def _is(alarm: OpenAlarm, identity: str) -> bool:
    return any((own or "").startswith(identity) for own in (alarm.id, alarm.escalation))


def shelve(
    settings: Settings, device: str, minutes: float, by: str | None, kinds: list[str]
) -> None:
    """Shelve a device for some minutes, or take it off the shelf.

    Raises:
        UsageError: no device has such a name, or no alarm is of such a kind.
        Failure: the broker or the monitor does not answer.
    """
    if set("/+#") & set(device):
        raise UsageError(f"DEVICE {device!r}: a name has no /, + or #")
    named = tuple(kind for kind in KINDS if kind in kinds)
    for kind in set(kinds) - set(named):
        raise UsageError(f"--kind {kind!r}: not a kind of alarm; allowed are {', '.join(KINDS)}")
    by = by or getpass.getuser()
    until = ""
    with _Desk(settings, device) as desk:
        before = [standing.shelved for standing in desk.standing()]

        def done(now: RetainedAlarm) -> bool:
            nonlocal until
            until = now.shelved.until if now.shelved is not None else ""
            return now.shelved not in before if minutes else not until

        desk.ask(device, "shelve", Shelve(minutes, by, named), done)
    print(f"{device}: shelved until {until}" if until else f"{device}: not shelved any more")
