"""What a report says, wherever it comes from."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.alarms.burden import Burden
from monitor.alarms.messages import Kind, Priority
from monitor.alarms.trends import Minute
from monitor.settings import Settings

STRIPS: Final = 60
"""Most events that are shown with their signal, the most serious and then the first of them."""


class Strip(NamedTuple):
    """Some seconds of signal around an event.

    Attributes:
        begin: in seconds since 1970.
        rate: samples a second.
        leads: the samples of each lead by name, float64 [n], NaN where none are.
        unit: of the samples.
        marks: beats, each with its time in seconds since 1970 and its letter: N, V, or A for
            another anomalous one.
    """

    begin: float
    rate: float
    leads: dict[str, NDArray[np.float64]]
    unit: str
    marks: list[tuple[float, str]]


class Run(NamedTuple):
    """Ventricular beats in a row.

    Attributes:
        beats: how many; at least so many where `counted` is false.
        rate: in beats a minute.
        begin: in seconds since 1970.
        counted: whether the beats were counted one by one.
    """

    beats: int
    rate: float
    begin: float
    counted: bool

    def __str__(self) -> str:
        return f"{self.beats} beats" if self.counted else f"{self.beats} beats or more"


@dataclass
class Event:
    """An alarm of the report.

    Attributes:
        begin, end: in seconds since 1970; the end is None while it goes on.
        told: when it was raised, in seconds since 1970.
        heart_rate, pause_s: what an alarm of the rhythm is about.
        remark: what people did and said: acknowledged, shelved, judged.
        strip: the signal around its beginning; None where none is kept.
        beat: the beat that raised it, [140]; None if none did.
    """

    kind: Kind
    priority: Priority
    begin: float
    told: float
    end: float | None = None
    heart_rate: float | None = None
    pause_s: float | None = None
    remark: str = ""
    strip: Strip | None = None
    beat: list[float] | None = None


@dataclass
class Content:
    """All that a report shows.

    Attributes:
        title: the recording or the device.
        begin, end: in seconds since 1970.
        dated: whether the begin is a date that is known; if not, it is 0.
        facts: what is said of source, model and settings: a name and a text each.
        shaped: whether the shape of beats was judged: if not, none is counted as abnormal.
        notes: what a reader must know to read it rightly.
        minutes: in order; of those without a beat some may be missing.
        events: in order.
        longest_pause: the longest RR interval or standstill in seconds, and when it began.
        longest_run, fastest_run: of three or more ventricular beats in a row.
        burden: what the device's alarms asked of people; None of a recording: it alerted nobody.
    """

    title: str
    begin: float
    end: float
    dated: bool
    facts: list[tuple[str, str]]
    shaped: bool
    notes: list[str] = field(default_factory=list)
    minutes: list[Minute] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    longest_pause: tuple[float, float] | None = None
    longest_run: Run | None = None
    fastest_run: Run | None = None
    burden: Burden | None = None


def to_draw(events: Iterable[Event]) -> list[Event]:
    """Return the events that are shown with their signal, if there is any: at most `STRIPS`."""
    order = {"high": 0, "medium": 1, "low": 2}
    return sorted(events, key=lambda each: (order[each.priority], each.begin))[:STRIPS]


def runs_told(events: Iterable[Event], shortest: int) -> list[Run]:
    """Return the runs that alarms of ventricular tachycardia are about, of `shortest` beats."""
    return [
        Run(shortest, each.heart_rate, each.begin, False)
        for each in events
        if each.kind == "ventricular-tachycardia" and each.heart_rate is not None
    ]


def limits(settings: Settings, device: str) -> tuple[str, str]:
    """Return what counts as an arrhythmia of a device, and when an anomaly is raised, in words."""
    own, policy = settings.rhythm.for_device(device), settings.alarm.policy
    return (
        f"asystole after {own.asystole_after:g} s, fibrillation after "
        f"{own.fibrillation_after:g} s, ventricular tachycardia from {own.run_beats} "
        f"beats above {own.run_rate:g} a minute, bradycardia below {own.bradycardia:g}, "
        f"tachycardia above {own.tachycardia:g}, extreme from {own.extreme_tachycardia:g}",
        f"raised at {policy.raise_at} anomalous beats of {policy.window}, cleared at "
        f"{policy.clear_at}",
    )
