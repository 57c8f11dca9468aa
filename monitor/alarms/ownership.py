"""Which devices are this monitor's, where several publish on one tree.

Theory of operation: beats of a device go to one monitor at a time, and who hears it watches it. Its
retained alarm says who that is, and holds all that is needed to go on. So a monitor keeps what the
others make known of their devices, and when one of those is heard here, it takes the device over,
with its window, its open alarms and its shelf, and makes it known under its own name. Whoever
watched the device until then sees that, and drops it: nothing is cleared, nobody falls silent.

Two may have heard a device at the same time, one of them beats that were still in its session.
Each handover counts one up, and the higher count wins, or else the greater client id. What the
loser has made known meanwhile is not lost: the winner adopts the alarms and counts the beats that
it does not have, and makes the result known again. Each follows the order of the broker, which is
the same for both.

So that no retained alarm goes back to an older one, whoever takes a device over makes that known
only when what the other may still have on its way has come: `SETTLE` seconds after the last of it.

What is another monitor's is not touched, however long that one is gone.
"""

from typing import NamedTuple

from monitor.alarms.decisions import Alarms, Decision
from monitor.alarms.device import ActiveAlarm, Device, as_it_was
from monitor.alarms.kinds import ANOMALOUS, ATYPICAL, NORMAL, POOR, VENTRICULAR
from monitor.alarms.lifecycle import restored
from monitor.alarms.messages import Kind, RetainedAlarm, decode_alarm, encode
from monitor.times import from_rfc3339

RECENT = 5.0
"""Seconds since a message in which its beats are added to our own, even if it has none of ours.

One that comes later was held up in a monitor that stood still, and its beats are long over.
"""

SETTLE, SETTLE_WITHIN = 1.0, 3.0
"""Seconds without a word of the one that watched a device until now, after which it is made known
that it was taken over; and at most, from then on. A broker passes a message on in milliseconds, a
cluster of them on a busy machine in half a second."""


class Handover(NamedTuple):
    """A device, or alarms of it, that went from one monitor to another.

    Attributes:
        taken: whether it came here; else it went away.
        alarms: the open ones that went along.
        other: the client id of the other monitor, as far as it is known.
    """

    device: str
    taken: bool
    alarms: list[tuple[Kind, ActiveAlarm]]
    other: str | None


class Heard(NamedTuple):
    """What follows from what another monitor has made known.

    Attributes:
        handover: what went to the other, or came from it.
        decisions: that were made on it.
        unsaved: whether our own retained alarm was replaced, and is to be saved again.
    """

    handover: Handover | None = None
    decisions: tuple[Decision, ...] | list[Decision] = ()
    unsaved: bool = False


class Ownership:
    """Whose the devices are.

    Attributes:
        elsewhere: the devices that others watch, and their retained alarms, encoded, in about
            1 kB each. None of them is among ours.
        settling: those of ours that were taken over and are not to be made known yet: when they
            are, and when at the latest.
    """

    def __init__(self, alarms: Alarms, monitor: str) -> None:
        """`monitor` is our client id; `alarms` are those of our devices."""
        self.elsewhere: dict[str, bytes] = {}
        self.settling: dict[str, tuple[float, float]] = {}
        self._alarms, self._monitor = alarms, monitor

    def recover(self, saved: RetainedAlarm, now: float) -> bool:
        """Take in what stood before the start, of a device that is not known yet.

        Return whether it is ours: then we go on from there.
        """
        if saved.monitor not in (None, self._monitor):
            self.elsewhere[saved.device] = encode(saved)
            return False
        self._alarms.restore(saved, now)
        return True

    def claim(self, name: str, now: float) -> Handover:
        """Take over a device that is `elsewhere`, for it was heard here."""
        saved = decode_alarm(self.elsewhere.pop(name))
        self._alarms.restore(saved, now)
        device = self._alarms.find(name)
        assert device is not None
        device.handovers += 1
        device.unsaved = True
        self.settling[name] = now + SETTLE, now + SETTLE_WITHIN
        return Handover(name, True, list(device.alarms()), saved.monitor)

    def settled(self, now: float) -> list[str]:
        """Return the devices that are to be made known now."""
        due = [name for name, times in self.settling.items() if min(times) <= now]
        for name in due:
            del self.settling[name]
        return due

    def hear(
        self,
        name: str,
        saved: RetainedAlarm | None,
        now: float,
        wall: float,
        ventricular: bool = False,
        earlier: bool = False,
    ) -> Heard:
        """Take in what was made known of a device since the start.

        Args:
            name: of the device.
            saved: its alarm; None if it was removed.
            now: in seconds, on the clock by which devices are heard.
            wall: `now` in seconds since 1970.
            ventricular: whether the detector of the device tells ventricular beats.
            earlier: whether it was retained when it was asked for. Some brokers (NATS) then send
                it beside what is newer.
        """
        device = self._alarms.find(name)
        if saved is not None and saved.monitor == self._monitor:
            return Heard()  # everybody hears it
        if device is None:
            if saved is None:
                self.elsewhere.pop(name, None)
            elif not (earlier and self._is_older(saved)):
                self.elsewhere[name] = encode(saved)
            return Heard()
        if saved is None or saved.monitor is None:  # nobody who takes part in this
            return Heard(unsaved=True)
        outranked = (saved.handovers, saved.monitor) > (device.handovers, self._monitor)
        if outranked and name in self.settling:  # else what only we have heard would be lost
            device.handovers, outranked = saved.handovers + 1, False
        if not outranked:
            return self._merge(name, device, saved, now, wall, ventricular)
        self._alarms.drop(name)
        self.settling.pop(name, None)
        self.elsewhere[name] = encode(saved)
        return Heard(Handover(name, False, list(device.alarms()), saved.monitor))

    def _is_older(self, saved: RetainedAlarm) -> bool:
        if saved.device not in self.elsewhere:
            return False
        known = decode_alarm(self.elsewhere[saved.device])
        return (saved.handovers, saved.time) < (known.handovers, known.time)

    def _merge(
        self,
        name: str,
        device: Device,
        saved: RetainedAlarm,
        now: float,
        wall: float,
        ventricular: bool,
    ) -> Heard:
        """Adopt what the one who watched a device until now has still found."""
        if name in self.settling:
            goes_on = saved.seq is not None and saved.seq > device.seq  # both hear it: decide now
            self.settling[name] = now + (0 if goes_on else SETTLE), self.settling[name][1]
        alarms, was = self._alarms, as_it_was(saved, self._alarms.policy.window, now)
        decisions: list[Decision] = []
        adopted: list[tuple[Kind, ActiveAlarm]] = []
        for kind, alarm in was.alarms():
            own, withholds = device.open.get(kind), device.withholds(kind)
            untold = alarm.state.withheld == "raised"
            if alarm.id in alarms.ended or (untold and not withholds):
                continue  # it is over, or nobody was told of it, and now we would
            escalated = alarm.escalation is not None
            alarm.state = restored(escalated, alarm.state.withheld, withholds, alarm.state.latched)
            if own is None:
                alarms.adopt(name, device, kind, alarm)
                adopted.append((kind, alarm))
            elif own.id == alarm.id:
                if own.acknowledged is None and alarm.acknowledged is not None:
                    decisions += alarms.acknowledge(own.id, alarm.acknowledged)
                lower = own.priority != alarm.priority and own.escalation is None
                if escalated and lower and device.active(kind) is not None:
                    decisions += alarms.escalate(name, device, kind, alarm.priority)
            elif not untold:  # both have raised it, and one is enough
                adopted.append((kind, alarm))
                decisions += alarms.end(name, device, kind, alarm)
        keys, verdicts = _beats(saved, ventricular)
        recent = abs(wall - from_rfc3339(saved.time)) <= RECENT
        if recent or any(map(device.knows, keys)):
            late = [i for i, key in enumerate(keys) if not device.knows(key)]
            over = 0 <= was.seq <= device.cleared  # of an episode that is over here
            if late and not over:
                decisions += alarms.observe(
                    name,
                    device,
                    bytes(verdicts[i] for i in late),
                    [keys[i] for i in late],
                    [wall] * len(late),
                    redelivered=True,
                )
        device.seq = max(device.seq, was.seq)
        device.cleared = max(device.cleared, was.cleared)
        device.changes = max(device.changes, was.changes)
        device.rhythm_ended = max(device.rhythm_ended, was.rhythm_ended)
        device.update_clean()
        handover = Handover(name, True, adopted, saved.monitor) if adopted else None
        return Heard(handover, decisions, unsaved=True)


def _beats(saved: RetainedAlarm, ventricular: bool) -> tuple[list[int], list[int]]:
    """Return the keys and the verdicts of the last beats, as far as both are known.

    The beats of poor quality have no place in the window of the others.
    """
    told = {".": NORMAL, "x": ATYPICAL if ventricular else ANOMALOUS, "v": VENTRICULAR}
    keys: list[int] = []
    verdicts: list[int] = []
    anomalous = list(saved.anomalous)
    for i, key in enumerate(reversed(saved.counted), 1):
        poor = bool(saved.poor) and saved.poor[-min(i, len(saved.poor))] == "x"
        if not (poor or anomalous) or i > len(saved.poor or saved.counted):
            break
        keys.append(int(key, 16))
        verdicts.append(POOR if poor else told[anomalous.pop()])
    return keys[::-1], verdicts[::-1]
