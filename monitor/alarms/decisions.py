"""The alarm decisions: from what each beat was to what a person should hear of.

Pure: no network, no clock, no metrics. Time comes in as an argument, decisions go out as a list.
Scoring is done elsewhere; here a beat is normal, anomalous, or of poor quality, and nothing else.
"""

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from sys import byteorder
from typing import Final, NamedTuple, Self

from msgspec import UNSET

from monitor.alarms.alert_ids import alert_id
from monitor.alarms.beat_window import BeatWindow, WindowRule
from monitor.alarms.device import FORGET_AFTER, ActiveAlarm, Device, Shelf, as_it_was
from monitor.alarms.kinds import ANOMALOUS, KINDS, NORMAL, POOR, RHYTHM_KINDS
from monitor.alarms.lifecycle import SEEN, TABLE, Event, Trigger
from monitor.alarms.lost_connection import LostConnection
from monitor.alarms.messages import Acknowledged, Kind, Priority, RetainedAlarm, RhythmKind
from monitor.ecg.rhythm import Finding, RhythmSettings
from monitor.times import rfc3339

REMEMBERED, REMEMBERED_NUMBERED = 16, 256
"""How many of a device's last beats are known again when they come twice.

The second where it numbers them: it may send minutes of them again. The broker delivers again what
was not acknowledged, which rarely is more than some beats of each device.
"""

ENDED = 10_000
"""Ids kept of alarms that were cleared, by which a late message of such an alarm is known.

They take 2 MB, and are more alarms than all devices of a monitor have in a minute.
"""

BY_BEATS: Final = (Trigger.RAISE, Trigger.ESCALATE, Trigger.CLEAR, Trigger.LATCH)
"""What beats, or their absence, do to an alarm."""

IN_FLIGHT, IN_FLIGHT_AGAIN = 5.0, 60.0
"""Seconds after a discharge for which a device's beats are taken for those of the patient who left.

Beats come over another connection than the discharge, and may have been sent before it. The second
holds for those that the broker delivers again, which it does with its next connection.
"""


@dataclass(frozen=True, slots=True)
class Policy:
    """When an alarm is raised and cleared.

    Attributes:
        window: how many of a device's last beats are looked at.
        raise_at: raised when so many of them are anomalous (or of poor quality). Where the detector
            tells ventricular beats, fewer of those are enough, and more of the others needed.
        clear_at: cleared when so many or fewer are, once a whole window was seen.
        silent_after: seconds without a beat after which a device is silent; 0 for never.
    """

    window: int = 36
    raise_at: int = 6
    clear_at: int = 0
    silent_after: float = 30.0


class Rhythm(NamedTuple):
    """What is wrong with the rhythm of a heart at the moment.

    Attributes:
        kind: the most serious that is; None where nothing is wrong.
        priority: one of those that `KINDS` has for the kind.
        since: when it began, in seconds since 1970.
        heart_rate: in beats a minute, where it is about that.
        pause_s: in seconds, where it is about that.
    """

    kind: RhythmKind | None = None
    priority: Priority = "high"
    since: float = 0.0
    heart_rate: float | None = None
    pause_s: float | None = None

    @classmethod
    def of(cls, finding: Finding, settings: RhythmSettings) -> Self:
        """Return what an arrhythmia is at the moment; its times in seconds since 1970."""
        return cls(
            finding.kind,
            finding.priority(settings),
            finding.since,
            finding.heart_rate,
            finding.pause_s,
        )


class Decision(NamedTuple):
    """A change of an alarm.

    Attributes:
        id: the same whenever the same beats cause the same event.
        alarm: the id of the alert that raised the alarm.
        beat: which beat of the message caused it; None where none did.
        anomalous: how many beats of the window speak for the alarm.
        seen: how many beats are in the window.
        priority: as it is now; for "cleared", as it was.
        before: the priority it had; None for "raised".
        withheld_by: who has the device shelved, so that nobody is to be alerted; None else.
        heart_rate, pause_s: what an alarm of the rhythm is about, when that was last heard.
        over_since: when the condition ended of an alarm that was latched since; None else.
    """

    id: str
    alarm: str
    device: str
    event: Event
    kind: Kind
    beat: int | None
    anomalous: int
    seen: int
    priority: Priority
    since: float
    before: Priority | None
    withheld_by: str | None
    heart_rate: float | None
    pause_s: float | None
    over_since: float | None = None


class Alarms:
    """The alarms of all devices.

    Attributes:
        policy: when an alarm is raised and cleared.
        devices: that are heard, the one that was heard longest ago first.
        silent: those that are not; an hour later they are forgotten.
        lost: those that fell silent together.
        shelved: those that are.
        appeared: those that were heard and not known before, until somebody empties it.
        discharged: whose patients have left, and when, while beats of theirs may be under way.
        open: the device of each open alarm, by the ids of the alerts that raised and escalated it.
        ended: the ids of the last alarms that were cleared.
    """

    def __init__(
        self,
        policy: Policy,
        latching: Collection[Priority | Kind] = (),
        silent_together: float = 0.0,
    ) -> None:
        """Decide by this policy.

        Args:
            policy: when an alarm is raised and cleared.
            latching: priorities and kinds of alarms that latch.
            silent_together: seconds for which devices that fall silent together are not reported
                each by itself; 0 for none.
        """
        self.policy = policy
        self.devices: dict[str, Device] = {}
        self.silent: dict[str, Device] = {}
        self.lost = LostConnection(silent_together, policy.silent_after)
        self.shelved: dict[str, Device] = {}
        self.appeared: dict[str, None] = {}
        self.discharged: dict[str, float] = {}
        self.open: dict[str, str] = {}
        self.ended: dict[str, None] = {}
        self._latching = latching
        self._save_new = False
        self._rule = WindowRule(policy.window, policy.raise_at, policy.clear_at)

    def hear(self, name: str, now: float) -> Device:
        """Return the device that a message came from, put behind all that were heard before it."""
        device = self.devices.pop(name, None) or self.silent.pop(name, None)
        if device is None:
            device = Device(now)
            device.unsaved = self._save_new
            self.appeared[name] = None
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
        seqs: Sequence[int] | None = None,
    ) -> list[Decision]:
        """Take in the beats of one message and decide.

        Args:
            name: of the device.
            device: as `hear` gave it.
            verdicts: for each beat NORMAL, POOR, or one of the others of `kinds`.
            keys: for each beat what tells it from others, 64 bits (`ecg.beat.key`).
            times: when each beat was, in seconds since 1970.
            seq: the number of the first beat; None where the device does not number them.
            redelivered: whether the broker marked the message as delivered before.
            seqs: the number of each beat, where they do not follow one another.
        """
        if seq is None and not redelivered and device.clean and not any(verdicts):
            self.observe_normal(device, array("Q", keys).tobytes())
            return []
        if (redelivered or seq is not None) and device.knows(keys[-1]):
            return []  # it may be longer than what is remembered, but was taken in as a whole
        decisions: list[Decision] = []
        was_clean = device.clean
        rule, anomaly = self._rule, device.anomaly
        numbered = seq is not None or device.seq >= 0
        remembered = REMEMBERED_NUMBERED if numbered else REMEMBERED
        for beat, verdict in enumerate(verdicts):
            key, over = keys[beat], False
            if seq is not None or redelivered:
                number = seq
                if number is not None:
                    number = number + beat if seqs is None else seqs[beat]
                known = len(keys) > 1 and device.knows(key)  # a single one was looked for above
                if _counted(device, number, known, redelivered):
                    continue
                if number is not None:
                    device.number(number, redelivered)
                    over = number <= device.cleared
            device.remember(key.to_bytes(8, byteorder), remembered)
            if over and verdict != POOR:
                continue  # late, and of an episode that is over: it must not raise another alarm
            if verdict == NORMAL and not device.open and device.quality is None:
                rule.add(anomaly, verdict, key)  # nothing can come of it
                continue
            device.unsaved |= verdict != NORMAL
            self._count(name, device, beat, verdict, key, times[beat], decisions)
        device.update_clean()
        device.unsaved |= bool(decisions) or (device.clean and not was_clean)
        return decisions

    def observe_normal(self, device: Device, keys: bytes) -> None:
        """Take in beats that change nothing, which nearly all do: in one step, however many.

        Args:
            device: as `hear` gave it; it is clean.
            keys: of beats that are all normal, not numbered, and not delivered again; 8 bytes each.
        """
        device.remember(keys, REMEMBERED)
        anomaly = device.anomaly
        anomaly.seen = min(anomaly.seen + len(keys) // 8, self.policy.window)

    def _count(
        self,
        name: str,
        device: Device,
        beat: int,
        verdict: int,
        key: int,
        time: float,
        decisions: list[Decision],
    ) -> None:
        """Add what follows from a beat that something may come of."""
        if device.active("silent") is not None:
            decisions += self._end(name, device, "silent", time, beat)
        if verdict == POOR and device.quality is None:
            device.quality = BeatWindow("." * device.anomaly.seen)  # until now all were good
        if device.quality is not None:
            poor = ANOMALOUS if verdict == POOR else NORMAL
            self._decide(
                name, device, "signal-quality", device.quality, beat, poor, key, time, decisions
            )
        if verdict != POOR:  # a beat that cannot be believed says nothing about the heart
            self._decide(
                name, device, "anomaly", device.anomaly, beat, verdict, key, time, decisions
            )

    def _decide(
        self,
        name: str,
        device: Device,
        kind: Kind,
        window: BeatWindow,
        beat: int,
        verdict: int,
        key: int,
        time: float,
        decisions: list[Decision],
    ) -> None:
        """Add a beat to the window of a kind of alarm, and what follows from that."""
        rule, alarm = self._rule, device.active(kind)
        rule.add(window, verdict, key)
        first, whole = KINDS[kind].priorities
        if alarm is None:
            if rule.raises(window, verdict) and not device.explains(kind):
                priority = whole if rule.escalates(window) else first
                decisions += self._raise(name, device, kind, priority, time, beat)
        elif rule.escalates(window) and alarm.priority != whole and not device.explains(kind):
            decisions += self._step(Trigger.ESCALATE, name, device, kind, beat, whole)
        elif rule.clears(window):
            decisions += self._end(name, device, kind, time, beat)

    def hear_rhythm(
        self,
        name: str,
        device: Device,
        finding: Rhythm,
        time: float,
        redelivered: bool = False,
    ) -> list[Decision]:
        """Take in what is wrong with a device's rhythm, as often as it is known, and decide.

        One event is one alarm: that of a new kind takes the place of the one before. While nobody
        tells of the rhythm, what is open stays as it is, also if the device falls silent.

        Args:
            name: of the device.
            device: as `hear` gave it.
            finding: as it is now, not as it has changed.
            time: when that was known, in seconds since 1970; the next one is later.
            redelivered: whether the broker marked the message as delivered before. What is not
                later than the end of the last alarm is then taken for a repeat.
        """
        decisions: list[Decision] = []
        if redelivered and rfc3339(time) <= device.rhythm_ended:
            return decisions
        kind = finding.kind
        if kind is not None:
            priorities, alarm = KINDS[kind].priorities, device.active(kind)
            about = finding.heart_rate, finding.pause_s
            if alarm is None:
                priority = finding.priority if finding.priority in priorities else priorities[0]
                begun = rfc3339(finding.since) > device.rhythm_ended  # else another one is over
                since = finding.since if begun else time
                decisions += self._raise(name, device, kind, priority, since, about=about)
                alarm = device.open[kind]
            alarm.heart_rate, alarm.pause_s = about
            if finding.priority == priorities[-1] != alarm.priority:
                decisions += self._step(
                    Trigger.ESCALATE, name, device, kind, priority=finding.priority
                )
        for other in [each for each in RHYTHM_KINDS if device.active(each) and each != kind]:
            decisions += self._end(name, device, other, time)
            device.rhythm_ended = rfc3339(time)
        device.update_clean()
        device.unsaved |= bool(decisions)
        return decisions

    def fall_silent(self, now: float, since: float, wall: float, most: int) -> list[Decision]:
        """Decide on the devices that were not heard for too long, at most `most` at a time.

        Args:
            now: in seconds, on the clock that `hear` was given.
            since: when we began to listen; nobody is silent for longer than that.
            wall: `now` in seconds since 1970.
            most: how many devices are looked at.
        """
        decisions: list[Decision] = []
        after = self.policy.silent_after or FORGET_AFTER
        if since + after > now:
            return decisions
        if self.lost.members:
            decisions += self._report_lost(now, since, wall, most)
        fallen: list[str] = []
        all_heard: list[float] = []
        for name, device in self.devices.items():
            if len(fallen) == most or device.heard + after > now:
                break
            fallen.append(name)
            if device.active("silent") is not None or not self.policy.silent_after:
                continue  # since then it has only repeated itself, or nobody wants to hear of it
            heard = max(device.heard, since)
            all_heard = all_heard or [max(each.heard, since) for each in self.devices.values()]
            if self.lost.takes(name, heard, now, wall, all_heard):
                device.silent_since = wall - (now - device.heard)
                continue
            decisions += self._raise(name, device, "silent", KINDS["silent"].priorities[0], wall)
            device.clean = False
        for name in fallen:
            device = self.silent[name] = self.devices.pop(name)
            if self.policy.silent_after:
                device.heard = now  # from here on, the time until it is forgotten
        return decisions

    def _report_lost(self, now: float, since: float, wall: float, most: int) -> list[Decision]:
        """Report devices by themselves that fell silent with others, and stay so."""
        decisions: list[Decision] = []
        all_heard = (max(each.heard, since) for each in self.devices.values())
        for name in self.lost.review(self.silent, all_heard, now)[:most]:
            device = self.silent[name]
            silent = wall - (now - self.lost.report(name))
            decisions += self._raise(name, device, "silent", KINDS["silent"].priorities[0], silent)
            device.clean, device.silent_since = False, None
        for name in self.lost.changed:
            if name not in self.lost.members and (found := self.find(name)) is not None:
                found.silent_since = None
        return decisions

    def forget(self, now: float, wall: float, most: int) -> tuple[list[str], list[Decision]]:
        """Forget at most `most` devices that were silent for `FORGET_AFTER`.

        Return the names of those whose retained alarm changes, and for what was open of them the
        decisions that clear it. A device with an alarm that latches is not forgotten before
        somebody has seen it.

        Args:
            now: in seconds, on the clock that `hear` was given.
            wall: `now` in seconds since 1970.
            most: how many devices are forgotten.
        """
        decisions: list[Decision] = []
        changed: list[str] = []
        for name, device in self.silent.items():
            if len(changed) == most or device.heard + FORGET_AFTER > now:
                break
            over = [kind for kind in KINDS if device.active(kind) is not None]
            if device.shelf is not None or (device.open and not over):
                continue
            changed.append(name)
            for kind in over:
                decisions += self._end(name, device, kind, wall, trigger=Trigger.FORGET)
            device.update_clean()
        for name in changed:
            if not self.silent[name].open:
                del self.silent[name]
        return changed, decisions

    def find(self, name: str) -> Device | None:
        """Return the device of that name, heard or silent; None if it was forgotten."""
        return self.devices.get(name) or self.silent.get(name)

    def restore(self, saved: RetainedAlarm, now: float) -> None:
        """Go on where an earlier process stood.

        A device with nothing open counts as silent without an alarm: nobody knows since when.
        """
        device = as_it_was(saved, self.policy.window, now)
        for _, alarm in device.alarms():
            self._register(saved.device, alarm)
        if device.shelf is not None:
            self.shelved[saved.device] = device
        self.appeared[saved.device] = None
        expected = device.active("silent") is None and not device.clean
        expected = expected or saved.silent_since is not UNSET
        (self.devices if expected else self.silent)[saved.device] = device

    def _register(self, name: str, alarm: ActiveAlarm) -> None:
        self.open[alarm.id] = self.open[alarm.escalation or alarm.id] = name

    def _unregister(self, alarm: ActiveAlarm) -> None:
        for own in (alarm.id, alarm.escalation):
            self.open.pop(own or "", None)

    # -- where several monitors publish on one tree

    def save_all(self) -> None:
        """Have every device made known with its next beat, and each new one with its first."""
        self._save_new = True
        for devices in (self.devices, self.silent):
            for device in devices.values():
                device.unsaved = True

    def drop(self, name: str) -> None:
        """Watch a device no longer, without a decision: another monitor does."""
        device = self.devices.pop(name, None) or self.silent.pop(name)
        self.shelved.pop(name, None)
        for _, alarm in device.alarms():
            self._unregister(alarm)

    def adopt(self, name: str, device: Device, kind: Kind, alarm: ActiveAlarm) -> None:
        """Go on with an alarm that another monitor has raised."""
        device.open[kind] = alarm
        self._register(name, alarm)

    def escalate(self, name: str, device: Device, kind: Kind, priority: Priority) -> list[Decision]:
        """Escalate an open alarm, as another monitor has."""
        return self._step(Trigger.ESCALATE, name, device, kind, priority=priority)

    def end(self, name: str, device: Device, kind: Kind, alarm: ActiveAlarm) -> list[Decision]:
        """Clear an alarm that another monitor has raised beside the one that is open here."""
        own = device.open[kind]
        self.adopt(name, device, kind, alarm)
        decisions = self._step(Trigger.CLEAR, name, device, kind)
        device.open[kind] = own
        return decisions

    # -- what people say of them

    def acknowledge(self, identity: str, acknowledged: Acknowledged) -> list[Decision]:
        """Note who has seen an open alarm; `identity` is one that `open` has.

        Return what clears it, if it was latched.
        """
        name, device, kind = self._locate(identity)
        return self._step(Trigger.ACKNOWLEDGE, name, device, kind, seen=acknowledged)

    def raised_by(self, identity: str) -> str:
        """Return the id of the alert that raised an open alarm, by one that `open` has."""
        _, device, kind = self._locate(identity)
        return device.open[kind].id

    def _locate(self, identity: str) -> tuple[str, Device, Kind]:
        name = self.open[identity]
        device = self.find(name)
        assert device is not None
        return (
            name,
            device,
            next(kind for kind, each in device.alarms() if identity in (each.id, each.escalation)),
        )

    def shelve(self, name: str, shelf: Shelf) -> list[Decision]:
        """Alert nobody of a device that is known until `unshelve`.

        Return what an earlier shelf has withheld, and this one does not.
        """
        device = self.find(name)
        assert device is not None
        device.shelf = shelf
        self.shelved[name] = device
        decisions: list[Decision] = []
        for kind, _ in device.alarms():
            trigger = Trigger.SHELVE if device.withholds(kind) else Trigger.UNSHELVE
            decisions += self._step(trigger, name, device, kind)
        return decisions

    def unshelve(self, name: str) -> list[Decision]:
        """Alert of a device again, and first of what was withheld and still stands."""
        device = self.shelved.pop(name, None)
        if device is None:
            return []
        device.shelf = None
        decisions: list[Decision] = []
        for kind, _ in device.alarms():
            decisions += self._step(Trigger.UNSHELVE, name, device, kind)
        return decisions

    def discharge(self, name: str, now: float) -> list[Decision]:
        """Forget a device whose patient has left, and clear what is open of it.

        Args:
            name: of a device that need not be known.
            now: in seconds, on the clock that `hear` was given.
        """
        decisions: list[Decision] = []
        device = self.find(name)
        if device is not None:
            for kind, _ in list(device.alarms()):
                decisions += self._step(Trigger.CLEAR, name, device, kind)
        for devices in (self.devices, self.silent, self.shelved):
            devices.pop(name, None)
        self.appeared.pop(name, None)
        for other, when in list(self.discharged.items()):
            if when + IN_FLIGHT_AGAIN <= now:
                del self.discharged[other]
        self.discharged[name] = now
        return decisions

    def has_left(self, name: str, now: float, redelivered: bool) -> bool:
        """Return whether a message that came `now` is of a patient who has left."""
        when = self.discharged.get(name)
        within = IN_FLIGHT_AGAIN if redelivered else IN_FLIGHT
        return when is not None and now < when + within

    def due(self, wall: float) -> list[str]:
        """Return the devices whose shelf is over at `wall` seconds since 1970.

        One that begins only then is over, too: a clock that was set back is not to prolong it.
        """
        return [
            name
            for name, device in self.shelved.items()
            if device.shelf is not None and not device.shelf.since <= wall < device.shelf.until
        ]

    def _raise(
        self,
        name: str,
        device: Device,
        kind: Kind,
        priority: Priority,
        since: float,
        beat: int | None = None,
        about: tuple[float | None, float | None] = (None, None),
    ) -> list[Decision]:
        """Raise an alarm, or let one that is latched go on."""
        device.open.setdefault(
            kind, ActiveAlarm("", priority, since, heart_rate=about[0], pause_s=about[1])
        )
        device.unsaved = True
        return self._step(Trigger.RAISE, name, device, kind, beat)

    def _end(
        self,
        name: str,
        device: Device,
        kind: Kind,
        time: float,
        beat: int | None = None,
        trigger: Trigger = Trigger.CLEAR,
    ) -> list[Decision]:
        """End an alarm whose condition was over at `time`, or latch it until somebody sees it."""
        alarm = device.open[kind]
        latches = alarm.priority in self._latching or kind in self._latching
        if latches and alarm.acknowledged is None:
            trigger, alarm.over_since = Trigger.LATCH, time
        device.unsaved = True
        window = device.window(kind)
        if window is not None:
            window.first = None  # of this alarm; the next one has another
        if kind == "anomaly":
            device.cleared = device.seq
        return self._step(trigger, name, device, kind, beat)

    def _step(
        self,
        trigger: Trigger,
        name: str,
        device: Device,
        kind: Kind,
        beat: int | None = None,
        priority: Priority | None = None,
        seen: Acknowledged | None = None,
    ) -> list[Decision]:
        """Take an open alarm one step on; return the decision that follows, if one does.

        Args:
            trigger: what happens to it.
            name: of the device.
            device: whose alarm it is.
            kind: of the alarm.
            beat: of the message, that has caused it.
            priority: that the alarm has from now on; None for the same.
            seen: who has seen the alarm, if it is acknowledged.
        """
        alarm, shelf = device.open[kind], device.shelf
        row = TABLE[alarm.state, trigger, device.withholds(kind)]
        before = None if trigger in (Trigger.RAISE, Trigger.UNSHELVE) else alarm.priority
        alarm.state, alarm.priority = row.state, priority or alarm.priority
        if trigger is Trigger.RAISE:
            alarm.over_since = None
        if trigger in SEEN:
            alarm.acknowledged = seen if SEEN[trigger] else None
        if row.event is None:
            return []
        if trigger in BY_BEATS and kind not in RHYTHM_KINDS:
            device.changes += 1
        identity = alert_id(trigger, name, device, kind, row.event, alarm)
        if row.event == "cleared":
            del device.open[kind]
            self._unregister(alarm)
            self.ended[alarm.id] = None
            if len(self.ended) > ENDED:
                del self.ended[next(iter(self.ended))]
        else:
            if row.event == "raised":
                alarm.id = identity
            else:
                alarm.escalation = identity
            self.open[identity] = name
        assert row.published or shelf is not None  # the table withholds nothing else
        window = device.window(kind)
        decision = Decision(
            identity,
            alarm.id,
            name,
            row.event,
            kind,
            beat,
            window.bits.bit_count() if window else 0,
            window.seen if window else 0,
            alarm.priority,
            alarm.since,
            before,
            shelf.by if shelf is not None and not row.published else None,
            alarm.heart_rate,
            alarm.pause_s,
            alarm.over_since if trigger is not Trigger.LATCH else None,
        )
        return [decision]


def _counted(device: Device, seq: int | None, known: bool, redelivered: bool) -> bool:
    """Return whether a beat that may come twice was counted before.

    A device that sends a beat again sends the same number and the same samples. What the broker
    delivers again it marks, so there the samples are enough. After a restart only the keys are
    known that the retained alarm has; what came before those was counted. Behind them a beat may
    be late, for not every broker delivers again in order.
    """
    return known or (redelivered and seq is not None and seq <= device.settled)
