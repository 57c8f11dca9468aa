"""What is published of alarms: alerts, alarms as they stand, scores."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from monitor.alarms.lifecycle import Event, Withheld
from monitor.times import EARLIEST, LATEST, from_rfc3339

RhythmKind = Literal[
    "ventricular-fibrillation",
    "asystole",
    "ventricular-tachycardia",
    "bradycardia",
    "tachycardia",
]

Kind = Literal[RhythmKind, "anomaly", "signal-quality", "silent"]

Priority = Literal["high", "medium", "low"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an alarm, as it is published on `ecg/<device>/alerts`.

    Attributes:
        id: the same whenever the same beats cause the same event.
        alarm: the id of the alert that raised the alarm: the same in all alerts of it.
        time: when the beat was that caused the event, or the shelf over that withheld the alert;
            RFC 3339, UTC.
        since: when the alarm was raised; RFC 3339, UTC.
        score: of the beat that caused the event; None where it was not scored.
        threshold: a score above it is anomalous.
        beats_anomalous: of the beats in the window, how many speak for the alarm.
        beats_seen: how many beats are in the window.
        beat: float32 [140]; None where no beat caused the event, or it holds what is no number.
        reconstruction: float32 [140]; None where the beat was not scored.
        heart_rate, pause_s: what an alarm of the rhythm is about, in beats a minute or seconds; of
            these one at most, of other alarms neither.
        over_since: of a "cleared" alarm that was latched: when the condition ended; RFC 3339, UTC.
    """

    id: str
    alarm: str = ""
    device: str
    event: Event
    kind: Kind
    priority: Priority
    time: str
    since: str
    score: float | None
    threshold: float
    beats_anomalous: int
    beats_seen: int
    model: str
    beat: list[float] | None
    reconstruction: list[float] | None
    heart_rate: float | UnsetType = UNSET
    pause_s: float | UnsetType = UNSET
    over_since: str | UnsetType = UNSET


class Acknowledged(msgspec.Struct, frozen=True):
    """Who has seen an alarm, and when; `note`: what they said of it."""

    by: str
    time: str
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a time that is none, and a name or a note that cannot be printed."""
        check_time(self.time)
        _check_name(self.by)
        _check_name(self.note)


class OpenAlarm(msgspec.Struct, frozen=True):
    """One open alarm of a device.

    Attributes:
        id: of the alert that raised it.
        acknowledged: None until somebody has seen it, and again once it escalates.
        escalation: the id of the alert that escalated it.
        withheld: the event that nobody was alerted of, for the device is shelved.
        heart_rate, pause_s: as its alerts have them.
        latched: whether the condition is over, and the alarm stays until somebody has seen it.
        over_since: while it is latched, when the condition ended; RFC 3339, UTC.
    """

    id: str
    kind: Kind
    priority: Priority
    since: str
    acknowledged: Acknowledged | None = None
    escalation: str | None = None
    withheld: Withheld | None = None
    heart_rate: float | UnsetType = UNSET
    pause_s: float | UnsetType = UNSET
    latched: bool | UnsetType = UNSET
    over_since: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Refuse a time that is none."""
        check_time(self.since)
        if self.over_since is not UNSET:
            check_time(self.over_since)


class Shelved(msgspec.Struct, frozen=True):
    """Until when nobody is alerted of a device, and who wanted it so.

    Attributes:
        kinds: of alarm that are withheld; without any, those that `KINDS` says.
    """

    by: str
    since: str
    until: str
    kinds: tuple[Kind, ...] = ()

    def __post_init__(self) -> None:
        """Refuse times that are none, and a name that cannot be printed."""
        check_time(self.since)
        check_time(self.until)
        _check_name(self.by)


def check_time(time: str) -> None:
    """Refuse a time that cannot be written as RFC 3339.

    Raises:
        ValueError: it cannot.
    """
    if not EARLIEST <= from_rfc3339(time) <= LATEST:
        raise ValueError("a time that cannot be written as RFC 3339")


def _check_name(name: str) -> None:
    if not name.isprintable():
        raise ValueError("a character that cannot be printed")


Window = Annotated[str, Meta(pattern="^[.xv]*$", max_length=1000)]

Key = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class RetainedAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """The alarm of a device as it stands, retained on `ecg/<device>/alarm`.

    It holds all that is needed to go on after a restart: which of the last beats were anomalous
    or of poor quality (`x`, or `v` if ventricular, oldest first, `.` for the others), which beats
    were counted, how often an alarm of this device has changed by its beats, and when the last
    alarm of the rhythm ended.

    Attributes:
        counted: the keys of the last beats, the newest last.
        counted_from: the number of the first of them; None where the device numbers none, or where
            they are all that were counted.
        cleared_at: the number of the last beat when an anomaly was last cleared: late ones from
            before raise no other. None where none was, or the device numbers none.
        anomalous_since, poor_since: the key of the first beat that spoke for the alarm, by which it
            is named; None before there is one.
        handovers: how often the device has gone from one monitor to another.
        silent_since: when it was last heard, while it is silent with so many others that their
            connection is taken to be lost, and it is not reported by itself.
        monitor: the client id of the one that watches it; None before there was this field. It
            comes last: by the end of a message a monitor knows its own.
    """

    device: str
    state: Literal["alarm", "ok"]
    priority: Priority | None
    time: str
    alarms: list[OpenAlarm]
    shelved: Shelved | None = None
    anomalous: Window
    poor: Window
    seq: Annotated[int, Meta(ge=0, lt=2**53)] | None
    counted: Annotated[list[Key], Meta(max_length=1000)]
    changes: int
    rhythm_ended: str | None = None
    counted_from: Annotated[int, Meta(ge=0, lt=2**53)] | None = None
    cleared_at: Annotated[int, Meta(ge=0, lt=2**53)] | None = None
    anomalous_since: Key | None = None
    poor_since: Key | None = None
    handovers: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    silent_since: str | UnsetType = UNSET
    monitor: str | None = None

    def __post_init__(self) -> None:
        """Refuse a time that is none."""
        check_time(self.time)
        if self.rhythm_ended is not None:
            check_time(self.rhythm_ended)


class Connection(msgspec.Struct, frozen=True):
    """Whether many devices have fallen silent together; on `ecg-monitor/<instance>/connection`.

    Attributes:
        since: when the first of them was last heard; None while the state is "ok".
        devices: how many of them are not heard yet.
        of: how many were heard before.
        reported: how many of them are reported as `silent`, each by itself, as it lasts.
        names: of the devices, at most 20.
    """

    state: Literal["lost", "ok"]
    time: str
    since: str | None
    devices: int
    of: int
    reported: int
    names: list[str]


class Judged(msgspec.Struct, frozen=True):
    """The answer to a judgement of an alarm, published on `ecg/<device>/alarm/judged`.

    Attributes:
        id: of the alert, as it was asked.
        time: when the answer was given; RFC 3339, UTC.
        alarm: the id of the alert that raised the alarm; None if nothing was recorded.
        kind: of the alarm; None if nothing was recorded.
        problem: why nothing was recorded; None once the judgement is in the history.
    """

    id: str
    device: str
    verdict: bool
    note: str
    by: str
    time: str
    alarm: str | None = None
    kind: Kind | None = None
    problem: str | None = None


class Score(msgspec.Struct, frozen=True):
    """The score of one beat."""

    seq: int | None
    time: str
    score: float
    anomalous: bool


class Scores(msgspec.Struct, frozen=True):
    """Scores of a device, as they are published on `ecg/<device>/scores`."""

    device: str
    scores: list[Score]


def or_unset(value: float | None) -> float | UnsetType:
    """Return a value as a message has it, which leaves out what is not known."""
    return UNSET if value is None else value


def or_none(value: float | UnsetType) -> float | None:
    """Return the inverse of `or_unset`."""
    return None if value is UNSET else value


encode = msgspec.json.Encoder().encode

decode_alarm = msgspec.json.Decoder(RetainedAlarm).decode

decode_alert = msgspec.json.Decoder(Alert).decode

decode_connection = msgspec.json.Decoder(Connection).decode

decode_judged = msgspec.json.Decoder(Judged).decode


def smaller(alert: bytes) -> list[bytes]:
    """Return an encoded alert without its reconstruction, and without its beat as well.

    Of anything else there is nothing smaller.
    """
    try:
        whole = decode_alert(alert)
    except ValueError:
        return []
    bare = msgspec.structs.replace(whole, reconstruction=None)
    return [encode(bare), encode(msgspec.structs.replace(bare, beat=None))]
