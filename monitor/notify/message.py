"""What people and Alertmanager are told of alarms. Pure."""

from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from monitor.alarms.device import HIGHEST_FIRST
from monitor.notify.duty import UnansweredAlarm
from monitor.text import printable
from monitor.times import rfc3339

MAX_LINES: Final = 20
"""Alarms that one message lists: as many as can be read on a telephone; the page has all."""

HOLD: Final = 300.0
"""Seconds for which Alertmanager keeps an alarm that it is not told of again: four repeats may get
lost. That is Alertmanager's own default, `resolve_timeout`."""

ALERTNAME: Final = "EcgAlarm"

NOTICE: Final = "Not a medical device."


class Message(NamedTuple):
    """A message to a person, as plain text."""

    title: str
    body: str


class Sender(NamedTuple):
    """Who calls.

    Attributes:
        name: the monitor's client ID.
        page: the address of the live page; empty if there is none to link to.
        zone: of the times in messages; None for this machine's.
    """

    name: str
    page: str = ""
    zone: tzinfo | None = None

    def link(self, device: str) -> str:
        """Return the address of a device on the live page."""
        return f"{self.page.rstrip('/')}/#device={quote(device, safe='')}" if self.page else ""


def message(alarms: Sequence[UnansweredAlarm], sender: Sender) -> Message:
    """Return the message that tells a person of alarms: the most serious first, then the oldest."""
    ordered = sorted(alarms, key=lambda each: (HIGHEST_FIRST.index(each.priority), each.since))
    first = ordered[0]
    title = f"{first.priority.upper()}: {first.kind}, {printable(first.device)}"
    if len(ordered) > 1:
        title += f" and {len(ordered) - 1} more"
    lines = []
    for alarm in ordered[:MAX_LINES]:
        lines += [_line(alarm, sender), *filter(None, [sender.link(alarm.device)])]
    if len(ordered) > MAX_LINES:
        lines.append(f"and {len(ordered) - MAX_LINES} more")
    return Message(title, "\n".join([*lines, f"From {printable(sender.name)}. {NOTICE}"]))


def message_to_test(sender: Sender, moment: float) -> Message:
    """Return the message that only shows that a person can be reached."""
    body = f"This is a test. There is no alarm. {_time(moment, sender)}"
    return Message("Test call", f"{body}\nFrom {printable(sender.name)}. {NOTICE}")


def for_alertmanager(
    alarms: Sequence[UnansweredAlarm],
    over: Sequence[UnansweredAlarm],
    sender: Sender,
    moment: float,
) -> list[dict[str, Any]]:
    """Return the body of a request to Alertmanager, `POST /api/v2/alerts`.

    Args:
        alarms: that want somebody.
        over: that Alertmanager was told of, and that do not any more.
        sender: who calls.
        moment: now, in seconds since 1970.
    """
    firing = [_alert(each, sender, moment, moment + HOLD) for each in alarms]
    labels = [each["labels"] for each in firing]
    ended = [_alert(each, sender, moment, moment) for each in over]
    # The device may have such an alarm again, which is the same one to Alertmanager.
    return firing + [each for each in ended if each["labels"] not in labels]


def alert_to_test(sender: Sender, moment: float) -> list[dict[str, Any]]:
    """Return the body of a request that tells Alertmanager of an alarm that is over at once."""
    alarm = UnansweredAlarm("", "test", "silent", "low", moment - 1)
    (alert,) = for_alertmanager([alarm], [], sender, moment)
    return [alert | {"labels": alert["labels"] | {"test": "true"}, "endsAt": rfc3339(moment)}]


def _alert(alarm: UnansweredAlarm, sender: Sender, moment: float, end: float) -> dict[str, Any]:
    """Return an alarm as Alertmanager has it; its clock and the device's may differ."""
    link = sender.link(alarm.device)
    return {
        "labels": {
            "alertname": ALERTNAME,
            "device": alarm.device,
            "kind": alarm.kind,
            "priority": alarm.priority,
            "monitor": sender.name,
        },
        "annotations": {
            "summary": f"{alarm.kind}, {printable(alarm.device)}",
            "description": f"{_line(alarm, sender)}. {NOTICE}",
            "alert": alarm.alert,
        },
        "startsAt": rfc3339(min(alarm.since, moment - 0.001)),
        "endsAt": rfc3339(end),
        **({"generatorURL": link} if link else {}),
    }


def _line(alarm: UnansweredAlarm, sender: Sender) -> str:
    said = [f"{printable(alarm.device)}: {alarm.kind}", f"{alarm.priority} priority"]
    if alarm.heart_rate is not None:
        said.append(f"{alarm.heart_rate:.0f}/min")
    if alarm.pause_s is not None:
        said.append(f"pause of {alarm.pause_s:.1f} s")
    return ", ".join([*said, f"since {_time(alarm.since, sender)}"])


def _time(moment: float, sender: Sender) -> str:
    local = datetime.fromtimestamp(moment, sender.zone).astimezone(sender.zone)
    return f"{local:%Y-%m-%d %H:%M:%S %Z}"
