"""Who is to be called of an alarm by now. Pure: no network, no clock.

An alarm wants somebody while it is open, unacknowledged and not shelved. A person is called of it
once it has wanted somebody for `after` seconds, if the person's priority, kinds, devices and hours
say so: whoever has a longer `after` is the next, for when the ones before do not answer. If none of
the ones before can be reached, the next is called at once.
"""

from collections.abc import Container, Iterable
from datetime import datetime, timedelta
from typing import Final, get_args

import msgspec

from monitor.alarms.device import HIGHEST_FIRST, Device
from monitor.alarms.messages import Kind, Priority
from monitor.settings import CalledPerson, Day
from monitor.topics import fits

DAYS: Final[tuple[Day, ...]] = get_args(Day)
"""In the order of `datetime.weekday`."""


class UnansweredAlarm(msgspec.Struct, frozen=True):
    """An open alarm that nobody has acknowledged, and that no shelf withholds.

    Attributes:
        alert: the id of the alert that raised it or, once it has escalated, that escalated it:
            people are called again then.
        since: when it was raised, in seconds since 1970.
        heart_rate, pause_s: what a rhythm alarm is about, in beats a minute or seconds.
    """

    alert: str
    device: str
    kind: Kind
    priority: Priority
    since: float
    heart_rate: float | None = None
    pause_s: float | None = None


def unanswered(name: str, device: Device | None) -> tuple[UnansweredAlarm, ...]:
    """Return the alarms of a device that want somebody; `device` is None if it was forgotten."""
    if device is None:
        return ()
    return tuple(
        UnansweredAlarm(
            alarm.escalation or alarm.id,
            name,
            kind,
            alarm.priority,
            alarm.since,
            alarm.heart_rate,
            alarm.pause_s,
        )
        for kind, alarm in device.alarms()
        if alarm.acknowledged is None and not device.withholds(kind)
    )


def concerns(alarm: UnansweredAlarm, person: CalledPerson) -> bool:
    """Return whether a person is to be called of such an alarm at all."""
    return (
        HIGHEST_FIRST.index(alarm.priority) <= HIGHEST_FIRST.index(person.priority)
        and (not person.kinds or alarm.kind in person.kinds)
        and any(fits(alarm.device, pattern) for pattern in person.devices)
    )


def on_duty(person: CalledPerson, moment: datetime) -> bool:
    """Return whether a moment is in a person's hours, of which the day is that of the beginning.

    Args:
        person: whose `hours` may pass midnight, and are all day where they begin as they end.
        moment: by the clock on the wall.
    """
    begin, end = person.hours.split("-")
    now = f"{moment:%H:%M}"  # compares as the time does
    today = begin <= now and (now < end or end <= begin)
    before = end <= begin and now < end  # since the day before
    if not today and not before:
        return False
    began = moment - timedelta(days=1) if before else moment
    return not person.days or DAYS[began.weekday()] in person.days


def called_by_now(
    concerned: Iterable[tuple[float, str]],
    waited: float,
    there: Container[str],
    unreachable: Container[str] = (),
) -> list[str]:
    """Return who is to have been called of an alarm by now.

    Args:
        concerned: those whom the alarm concerns, each behind their `after`, in this order.
        waited: seconds for which it has wanted somebody.
        there: who is on duty.
        unreachable: who cannot be called, as it was tried.
    """
    called: list[str] = []
    latest = 0.0
    for after, name in concerned:
        if name not in there:
            continue
        if after > waited and after > latest:
            if not called or any(each not in unreachable for each in called):
                break
            latest = after
        called.append(name)
    return called
