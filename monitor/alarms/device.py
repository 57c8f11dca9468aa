"""What is known of one device: its last beats, its open alarms, and whether it is shelved."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from sys import byteorder
from typing import NamedTuple

from msgspec import UNSET

from monitor.alarms.beat_window import BeatWindow
from monitor.alarms.intervals import IntervalWatch
from monitor.alarms.kinds import KINDS
from monitor.alarms.lifecycle import State, restored
from monitor.alarms.messages import (
    Acknowledged,
    Kind,
    OpenAlarm,
    Priority,
    RetainedAlarm,
    Shelved,
    or_none,
    or_unset,
)
from monitor.times import from_rfc3339, rfc3339

KEPT = 32
"""Keys of a device's last beats in its retained alarm: of what came before, the number tells."""

FORGET_AFTER = 3600.0
"""Seconds of silence after which a device is forgotten, its open alarms cleared."""

HIGHEST_FIRST: tuple[Priority, ...] = ("high", "medium", "low")


@dataclass(slots=True)
class ActiveAlarm:
    """An open alarm.

    Attributes:
        id: of the alert that raised it.
        since: when it was raised, in seconds since 1970.
        state: where it is in its life cycle.
        escalation: the id of the alert that escalated it.
        acknowledged: who has seen it. An alarm that escalates is to be seen again.
        heart_rate, pause_s: what an alarm of the rhythm is about, when that was last heard.
        over_since: when the condition ended, in seconds since 1970, while the alarm is latched.
    """

    id: str
    priority: Priority
    since: float
    state: State = State.NONE
    escalation: str | None = None
    acknowledged: Acknowledged | None = None
    heart_rate: float | None = None
    pause_s: float | None = None
    over_since: float | None = None


class Shelf(NamedTuple):
    """Where a device stands of which nobody is to be alerted; times in seconds since 1970.

    Attributes:
        kinds: of alarm that it withholds; without any, those that `KINDS` says.
    """

    by: str
    since: float
    until: float
    kinds: tuple[Kind, ...] = ()


class Device:
    """What is known of one device, in under 1 kB, or 3 kB if it numbers its beats.

    Attributes:
        heard: when its last message came, in seconds on the caller's clock.
        anomaly: its last beats that can be believed, and which of them were anomalous.
        quality: its last beats, and which were of poor quality; None until one was.
        open: its open alarms.
        clean: whether nothing is open, but for what is latched, and no beat in sight speaks for an
            alarm.
        seq: the number of the last beat; -1 where the device does not number them.
        known: the keys of its last beats, 8 bytes each, the newest last.
        numbers: those of its last beats, at most `KEPT`, in the order in which they were counted.
        settled: the number up to which a beat that the broker sends again was counted by an earlier
            process, whose last keys tell of those behind it; -1 without one.
        cleared: the number of the last beat when an anomaly was last cleared; -1 where none was.
        unsaved: whether the alarm as it stands is not yet what was last made known of it.
        changes: how often an alarm of it has changed by its beats, or by their absence.
        intervals: what follows its rhythm by the intervals between its beats; None until it must.
        rhythm_ended: when the last alarm of its rhythm ended, RFC 3339; "" if none has.
        shelf: while it is shelved.
        handovers: how often it has gone from one monitor to another.
        silent_since: when it was last heard, in seconds since 1970, while it is silent with many
            others and not reported by itself.
    """

    __slots__ = (
        "anomaly",
        "changes",
        "clean",
        "cleared",
        "handovers",
        "heard",
        "intervals",
        "known",
        "numbers",
        "open",
        "quality",
        "rhythm_ended",
        "seq",
        "settled",
        "shelf",
        "silent_since",
        "unsaved",
    )

    def __init__(self, heard: float) -> None:
        self.heard = heard
        self.anomaly = BeatWindow()
        self.quality: BeatWindow | None = None
        self.open: dict[Kind, ActiveAlarm] = {}
        self.clean = True
        self.seq = -1
        self.known = bytearray()
        self.numbers = array("Q")
        self.settled = self.cleared = -1
        self.unsaved = False
        self.handovers = 0
        self.silent_since: float | None = None
        self.changes = 0
        self.rhythm_ended = ""
        self.shelf: Shelf | None = None
        self.intervals: IntervalWatch | None = None

    def remember(self, keys: bytes, most: int) -> None:
        """Add the keys of beats, 8 bytes each, of which the last `most` are kept."""
        self.known += keys[-8 * most :]
        if len(self.known) > 8 * most:
            del self.known[: -8 * most]

    def number(self, number: int, redelivered: bool) -> None:
        """Note the number of a beat that counts.

        Lower than the last one it is late, if the broker sends it again or the last beats go back
        so far; else the device begins to count anew.
        """
        numbers = self.numbers
        if number > self.seq:
            self.seq = number
        elif not redelivered and not (numbers and number >= min(numbers)):
            self.seq, self.settled, self.cleared = number, -1, -1
            del numbers[:]
        numbers.append(number)
        if len(numbers) > KEPT:
            del numbers[0]

    def knows(self, key: int) -> bool:
        """Return whether a beat is among those that are remembered."""
        sought = key.to_bytes(8, byteorder)
        at = self.known.find(sought)
        while at > 0 and at % 8:  # the end of one key and the start of the next
            at = self.known.find(sought, at + 1)
        return at >= 0

    def keys(self) -> "array[int]":
        """Return the keys of the last beats, the newest last."""
        return array("Q", bytes(self.known))

    def update_clean(self) -> None:
        """Bring `clean` up to date, after all that may have changed it."""
        quality = self.quality is not None and self.quality.bits
        active = any(not alarm.state.latched for alarm in self.open.values())
        self.clean = not (active or self.anomaly.bits or quality)

    def window(self, kind: Kind) -> BeatWindow | None:
        """Return the beats that are looked at for a kind of alarm; None where none are."""
        if kind == "anomaly":
            return self.anomaly
        return self.quality if kind == "signal-quality" else None

    def active(self, kind: Kind) -> ActiveAlarm | None:
        """Return the open alarm of a kind; None if there is none, or it is latched."""
        alarm = self.open.get(kind)
        return None if alarm is None or alarm.state.latched else alarm

    def alarms(self) -> Iterator[tuple[Kind, ActiveAlarm]]:
        """Yield the open alarms in the order of `KINDS`."""
        if self.open:
            for kind in KINDS:
                if kind in self.open:
                    yield kind, self.open[kind]

    def withholds(self, kind: Kind) -> bool:
        """Return whether people are not to be alerted of a kind of alarm for now."""
        if self.shelf is None:
            return False
        return kind in self.shelf.kinds if self.shelf.kinds else KINDS[kind].shelved

    def explains(self, kind: Kind) -> bool:
        """Return whether an open alarm of the rhythm explains what speaks for this kind."""
        return kind == "anomaly" and any(
            KINDS[each].explains and self.active(each) for each in self.open
        )


def shelved(device: Device) -> Shelved | None:
    """Return until when a device is shelved, and by whom, as it is made known."""
    shelf = device.shelf
    return shelf and Shelved(shelf.by, rfc3339(shelf.since), rfc3339(shelf.until), shelf.kinds)


def priority_of(device: Device) -> Priority | None:
    """Return the highest priority of a device's open alarms; None without one."""
    return min(
        (alarm.priority for _, alarm in device.alarms()), key=HIGHEST_FIRST.index, default=None
    )


def as_it_stands(
    name: str, device: Device, wall: float, monitor: str | None = None
) -> RetainedAlarm:
    """Return the alarm of a device as `monitor` makes it known, with all that `as_it_was` needs."""
    alarms = [
        OpenAlarm(
            alarm.id,
            kind,
            alarm.priority,
            rfc3339(alarm.since),
            alarm.acknowledged,
            alarm.escalation,
            alarm.state.withheld,
            or_unset(alarm.heart_rate),
            or_unset(alarm.pause_s),
            alarm.state.latched or UNSET,
            UNSET if alarm.over_since is None else rfc3339(alarm.over_since),
        )
        for kind, alarm in device.alarms()
    ]
    return RetainedAlarm(
        device=name,
        state="alarm" if alarms else "ok",
        priority=priority_of(device),
        time=rfc3339(wall),
        alarms=alarms,
        shelved=shelved(device),
        anomalous=device.anomaly.window(),
        poor=device.quality.window() if device.quality else "",
        anomalous_since=_written(device.anomaly.first),
        poor_since=_written(device.quality.first) if device.quality else None,
        seq=None if device.seq < 0 else device.seq,
        counted=[f"{key:016x}" for key in device.keys()[-KEPT:]],
        changes=device.changes,
        rhythm_ended=device.rhythm_ended or None,
        cleared_at=None if device.cleared < 0 else device.cleared,
        counted_from=device.numbers[0] if len(device.numbers) == KEPT else None,
        handovers=device.handovers,
        silent_since=UNSET if device.silent_since is None else rfc3339(device.silent_since),
        monitor=monitor,
    )


def _written(key: int | None) -> str | None:
    return None if key is None else f"{key:016x}"


def as_it_was(saved: RetainedAlarm, window: int, now: float) -> Device:
    """Return the device whose alarm an earlier process made known.

    Args:
        saved: its alarm as it stood.
        window: how many of its last beats are looked at.
        now: in seconds, on the clock by which it is heard.
    """
    device = Device(now)
    if (shelf := saved.shelved) is not None:
        device.shelf = Shelf(
            shelf.by, from_rfc3339(shelf.since), from_rfc3339(shelf.until), shelf.kinds
        )
    for alarm in saved.alarms:
        escalated = (
            alarm.escalation is not None and alarm.priority == KINDS[alarm.kind].priorities[-1]
        )
        device.open[alarm.kind] = ActiveAlarm(
            alarm.id,
            alarm.priority,
            from_rfc3339(alarm.since),
            restored(
                escalated, alarm.withheld, device.withholds(alarm.kind), alarm.latched is True
            ),
            alarm.escalation if escalated else None,
            alarm.acknowledged,
            or_none(alarm.heart_rate),
            or_none(alarm.pause_s),
            _over_since(alarm),
        )
    device.anomaly = BeatWindow(saved.anomalous[-window:], saved.anomalous_since)
    if "x" in saved.poor or "signal-quality" in device.open:
        device.quality = BeatWindow(saved.poor[-window:], saved.poor_since)
    device.changes = saved.changes
    device.rhythm_ended = saved.rhythm_ended or ""
    device.seq = -1 if saved.seq is None else saved.seq
    device.remember(array("Q", [int(key, 16) for key in saved.counted]).tobytes(), KEPT)
    device.settled = _settled(saved)
    device.cleared = -1 if saved.cleared_at is None else saved.cleared_at
    device.numbers = _numbers(saved)
    device.handovers = saved.handovers
    device.update_clean()
    return device


def _over_since(alarm: OpenAlarm) -> float | None:
    if alarm.latched is not True:
        return None
    return from_rfc3339(alarm.since if alarm.over_since is UNSET else alarm.over_since)


def _settled(saved: RetainedAlarm) -> int:
    if saved.counted_from is not None:
        return saved.counted_from - 1
    # Either all keys are there, or an earlier version wrote it, which did not tell.
    return -1 if saved.seq is None or len(saved.counted) < KEPT else saved.seq


def _numbers(saved: RetainedAlarm) -> "array[int]":
    """Return about those of the beats whose keys are kept: only the first and last are told."""
    most = len(saved.counted) - 1
    if saved.seq is None or most < 1 or (most == KEPT - 1 and saved.counted_from is None):
        return array("Q")
    first = max(0, saved.seq - most) if saved.counted_from is None else saved.counted_from
    step = (saved.seq - first) / most
    return array("Q", [first + round(i * step) for i in range(most + 1)])
