"""The alarm decisions: from what each beat was to what a person should hear of.

Pure: no network, no clock, no metrics. Time comes in as an argument, decisions go out as a list.
Scoring is done elsewhere; here a beat is normal, anomalous, or of poor quality, and nothing else.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from monitor.wire import (
    DeviceAlarm,
    Event,
    Kind,
    Priority,
    StandingAlarm,
    from_rfc3339,
    rfc3339,
)

NORMAL, ANOMALOUS, POOR = range(3)
"""What a beat was."""

REMEMBERED = 16
"""How many of a device's last beats are known again when they come twice."""

FORGET_AFTER = 3600.0
"""Seconds of silence after which a device is forgotten, its open alarms cleared."""

PRIORITIES: dict[Kind, tuple[Priority, ...]] = {
    "anomaly": ("medium", "high"),
    "signal-quality": ("low", "medium"),
    "silent": ("medium",),
}
"""The priority of an alarm: when raised, and once every beat of the window speaks for it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When an alarm is raised and cleared.

    Attributes:
        window: how many of a device's last beats are looked at.
        raise_at: raised when so many of them are anomalous (or of poor quality).
        clear_at: cleared when so many or fewer are, once a whole window was seen.
        silent_after: seconds without a beat after which a device is silent; 0 for never.
    """

    window: int = 36
    raise_at: int = 6
    clear_at: int = 0
    silent_after: float = 30.0


@dataclass(slots=True)
class Alarm:
    """An open alarm.

    Attributes:
        id: of the alert that raised it.
        since: when it was raised, in seconds since 1970.
    """

    id: str
    priority: Priority
    since: float


class Condition:
    """The last beats of a device as bits, newest lowest: set where a beat speaks for the alarm."""

    __slots__ = ("alarm", "bits", "seen")

    def __init__(self, window: str = "", alarm: Alarm | None = None) -> None:
        """Go on from a window that `window` wrote."""
        self.bits = int(window.translate(_TO_BITS) or "0", 2)
        self.seen = len(window)
        self.alarm = alarm

    def window(self) -> str:
        """The window as text, the oldest beat first: `x` where a beat speaks for the alarm."""
        return f"{self.bits:0{self.seen}b}".translate(_TO_MARKS) if self.seen else ""

    @property
    def clean(self) -> bool:
        """Whether there is neither an alarm nor anything that speaks for one."""
        return not self.bits and self.alarm is None


_TO_BITS, _TO_MARKS = str.maketrans(".x", "01"), str.maketrans("01", ".x")


class Device:
    """What is known of one device, in under 1 kB.

    Attributes:
        heard: when its last message came, in seconds on the caller's clock.
        seq: the number of the last beat; -1 where the device does not number them.
        known: the keys of its last beats, the newest last.
        restored: True from a restart to the first beat that the broker had not sent before.
        unsaved: whether the alarm as it stands is not yet what was last made known of it.
        changes: how often an alarm of it has changed.
    """

    __slots__ = (
        "anomaly",
        "changes",
        "heard",
        "known",
        "quality",
        "restored",
        "seq",
        "silent",
        "unsaved",
    )

    def __init__(self, heard: float) -> None:
        self.heard = heard
        self.anomaly = Condition()
        self.quality: Condition | None = None  # made with the first beat of poor quality
        self.silent: Alarm | None = None
        self.seq = -1
        self.known = array("Q")
        self.restored = False
        self.unsaved = False
        self.changes = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is open and no beat in sight speaks for an alarm."""
        quality = self.quality is None or self.quality.clean
        return self.silent is None and self.anomaly.clean and quality

    @property
    def attentive(self) -> bool:
        """Whether it is heard, and has only sent beats that can be believed."""
        return self.silent is None and self.quality is None

    def alarms(self) -> Iterator[tuple[Kind, Alarm]]:
        """The open alarms."""
        if self.anomaly.alarm is not None:
            yield "anomaly", self.anomaly.alarm
        if self.quality is not None and self.quality.alarm is not None:
            yield "signal-quality", self.quality.alarm
        if self.silent is not None:
            yield "silent", self.silent


class Decision(NamedTuple):
    """A change of an alarm.

    Attributes:
        id: the same whenever the same beats cause the same event.
        beat: which beat of the message caused it; None where none did.
        anomalous: how many beats of the window speak for the alarm.
        seen: how many beats are in the window.
        alarm: as it is now; for "cleared", as it was.
        before: the priority it had; None for "raised".
    """

    id: str
    device: str
    event: Event
    kind: Kind
    beat: int | None
    anomalous: int
    seen: int
    priority: Priority
    since: float
    before: Priority | None


class Alarms:
    """The alarms of all devices.

    `devices` holds those that are heard, the one that was heard longest ago first; `silent` those
    that are not. A device is forgotten an hour after it fell silent.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.devices: dict[str, Device] = {}
        self.silent: dict[str, Device] = {}
        self._full = (1 << policy.window) - 1

    def hear(self, name: str, now: float) -> Device:
        """The device that a message came from, put behind all that were heard before it."""
        device = self.devices.pop(name, None) or self.silent.pop(name, None) or Device(now)
        device.heard = now
        self.devices[name] = device
        return device

    def observe(
        self,
        name: str,
        device: Device,
        verdicts: bytes,
        keys: Sequence[int],
        times: Sequence[float],
        seq: int | None = None,
        redelivered: bool = False,
    ) -> list[Decision]:
        """Take in the beats of one message and decide.

        Args:
            name: of the device.
            device: as `hear` gave it.
            verdicts: for each beat NORMAL, ANOMALOUS or POOR.
            keys: for each beat what tells it from others, 64 bits (`wire.key`).
            times: when each beat was, in seconds since 1970.
            seq: the number of the first beat; None where the device does not number them.
            redelivered: whether the broker marked the message as delivered before.
        """
        if seq is None and not redelivered and device.clean and not any(verdicts):
            # Nearly every message ends here.
            device.restored = False
            device.known.extend(keys[-REMEMBERED:])
            del device.known[:-REMEMBERED]
            anomaly = device.anomaly
            anomaly.seen = min(anomaly.seen + len(keys), self.policy.window)
            return []
        if (redelivered or seq is not None) and keys[-1] in device.known:
            return []  # it may be longer than what is remembered, but was taken in as a whole
        decisions: list[Decision] = []
        was_clean = device.clean
        device.restored = device.restored and redelivered
        anomaly, known = device.anomaly, device.known
        for beat, verdict in enumerate(verdicts):
            key = keys[beat]
            if seq is not None or redelivered:
                if _counted(device, None if seq is None else seq + beat, key):
                    continue
                device.seq = device.seq if seq is None else seq + beat
            known.append(key)
            if verdict == NORMAL and anomaly.alarm is None and device.attentive:
                anomaly.bits = anomaly.bits << 1 & self._full  # nothing can come of it
                anomaly.seen = min(anomaly.seen + 1, self.policy.window)
                continue
            device.unsaved |= verdict != NORMAL
            self._count(name, device, beat, verdict, times[beat], decisions)
        del known[:-REMEMBERED]
        device.unsaved |= bool(decisions) or (device.clean and not was_clean)
        return decisions

    def _count(
        self,
        name: str,
        device: Device,
        beat: int,
        verdict: int,
        time: float,
        decisions: list[Decision],
    ) -> None:
        if device.silent is not None:
            decisions.append(_end(name, device, "silent", device.silent, beat))
            device.silent = None
        if verdict == POOR and device.quality is None:
            device.quality = Condition("." * device.anomaly.seen)  # until now all were good
        if device.quality is not None:
            poor = verdict == POOR
            self._decide(
                name, device, "signal-quality", device.quality, beat, poor, time, decisions
            )
        if verdict != POOR:  # a beat that cannot be believed says nothing about the heart
            speaks = verdict == ANOMALOUS
            self._decide(name, device, "anomaly", device.anomaly, beat, speaks, time, decisions)

    def _decide(
        self,
        name: str,
        device: Device,
        kind: Kind,
        condition: Condition,
        beat: int,
        speaks: bool,
        time: float,
        decisions: list[Decision],
    ) -> None:
        policy = self.policy
        condition.bits = ((condition.bits << 1) | speaks) & self._full
        condition.seen = min(condition.seen + 1, policy.window)
        number, alarm = condition.bits.bit_count(), condition.alarm
        first, whole = PRIORITIES[kind]
        event: Event
        before = alarm.priority if alarm is not None else None
        if alarm is None:
            if number < policy.raise_at or not speaks:
                return
            event = "raised"
            priority = whole if number == policy.window else first
            alarm = condition.alarm = Alarm("", priority, time)
        elif number == policy.window and alarm.priority != whole:
            event = "escalated"
            alarm.priority = whole
        elif number <= policy.clear_at and condition.seen == policy.window:
            event = "cleared"
            condition.alarm = None
        else:
            return
        identity = _change(name, kind, event, device)
        alarm.id = alarm.id or identity
        decisions.append(
            Decision(
                identity,
                name,
                event,
                kind,
                beat,
                number,
                condition.seen,
                alarm.priority,
                alarm.since,
                before,
            )
        )

    def fall_silent(self, now: float, since: float, wall: float, most: int) -> list[Decision]:
        """Decide on the devices that were not heard for too long, at most `most` at a time.

        Args:
            now: in seconds, on the clock that `hear` was given.
            since: when we began to listen; nobody is silent for longer than that.
            wall: `now` in seconds since 1970.
            most: how many devices are looked at.
        """
        decisions: list[Decision] = []
        after = self.policy.silent_after
        if not after or since + after > now:
            return decisions
        fallen: list[str] = []
        for name, device in self.devices.items():
            if len(fallen) == most or device.heard + after > now:
                break
            fallen.append(name)
            if device.silent is not None:
                continue  # since then it has only repeated itself
            device.silent = Alarm(_change(name, "silent", "raised", device), "medium", wall)
            device.unsaved = True
            decisions.append(
                Decision(
                    device.silent.id, name, "raised", "silent", None, 0, 0, "medium", wall, None
                )
            )
        for name in fallen:
            device = self.silent[name] = self.devices.pop(name)
            device.heard = now  # from here on, the time until it is forgotten
        return decisions

    def forget(self, now: float, most: int) -> tuple[list[str], list[Decision]]:
        """Forget at most `most` devices that were silent for `FORGET_AFTER`.

        Gives their names, and for what was open of them the decisions that clear it.
        """
        decisions: list[Decision] = []
        gone: list[str] = []
        for name, device in self.silent.items():
            if len(gone) == most or device.heard + FORGET_AFTER > now:
                break
            gone.append(name)
            decisions += [_end(name, device, kind, alarm, None) for kind, alarm in device.alarms()]
        for name in gone:
            del self.silent[name]
        return gone, decisions

    def find(self, name: str) -> Device | None:
        """The device of that name, heard or silent; None if it was forgotten."""
        return self.devices.get(name) or self.silent.get(name)

    def restore(self, saved: DeviceAlarm, now: float) -> None:
        """Go on where an earlier process stood.

        A device with nothing open counts as silent without an alarm: nobody knows since when.
        """
        alarms = {
            alarm.kind: Alarm(alarm.id, alarm.priority, from_rfc3339(alarm.since))
            for alarm in saved.alarms
        }
        window = self.policy.window
        device = Device(now)
        device.anomaly = Condition(saved.anomalous[-window:], alarms.get("anomaly"))
        if "x" in saved.poor or "signal-quality" in alarms:
            device.quality = Condition(saved.poor[-window:], alarms.get("signal-quality"))
        device.silent = alarms.get("silent")
        device.changes = saved.changes
        device.seq = -1 if saved.seq is None else saved.seq
        device.known.extend(int(key, 16) for key in saved.counted)
        device.restored = True
        expected = device.silent is None and not device.clean
        (self.devices if expected else self.silent)[saved.device] = device


def as_it_stands(name: str, device: Device, wall: float) -> DeviceAlarm:
    """The alarm of a device as it is made known, with all that `Alarms.restore` needs."""
    alarms = [
        StandingAlarm(alarm.id, kind, alarm.priority, rfc3339(alarm.since))
        for kind, alarm in device.alarms()
    ]
    order: tuple[Priority, ...] = ("high", "medium", "low")
    return DeviceAlarm(
        device=name,
        state="alarm" if alarms else "ok",
        priority=min((alarm.priority for alarm in alarms), key=order.index, default=None),
        time=rfc3339(wall),
        alarms=alarms,
        anomalous=device.anomaly.window(),
        poor=device.quality.window() if device.quality else "",
        seq=None if device.seq < 0 else device.seq,
        counted=[f"{key:016x}" for key in device.known],
        changes=device.changes,
    )


def _counted(device: Device, seq: int | None, key: int) -> bool:
    """Whether a beat that may come twice was counted before.

    A device that sends a beat again sends the same number and the same samples. What the broker
    delivers again it marks, so there the samples are enough; and after a restart, when only what
    the retained alarm tells is known, so is a number that was passed already.
    """
    return key in device.known or (device.restored and seq is not None and seq <= device.seq)


def _change(name: str, kind: Kind, event: Event, device: Device) -> str:
    """The id of a change: derived from the beat that causes it, so that the beat gives it again.

    Beats without a number may be the same again and again, such as those of a lead that is off;
    there the number of the change tells one from the next.
    """
    last = device.known[-1] if device.known else 0
    number = device.changes if device.seq < 0 else 0
    device.changes += 1
    return hashlib.blake2b(
        f"{name}\0{kind}\0{event}\0{last}\0{number}".encode(), digest_size=16
    ).hexdigest()


def _end(name: str, device: Device, kind: Kind, alarm: Alarm, beat: int | None) -> Decision:
    return Decision(
        _change(name, kind, "cleared", device),
        name,
        "cleared",
        kind,
        beat,
        0,
        0,
        alarm.priority,
        alarm.since,
        alarm.priority,
    )
