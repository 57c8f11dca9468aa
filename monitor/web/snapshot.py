"""What a page is told: the open alarms, the devices, and beats to draw; JSON at `/api/live`."""

import math
from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.alarms.decisions import Policy
from monitor.alarms.device import HIGHEST_FIRST, Device, shelved
from monitor.alarms.messages import Acknowledged, Kind, Priority, Shelved

DIGITS = 4
"""Of the largest sample of a beat: a chart is no finer, and they are half as long to send."""

Verdict = Literal["normal", "anomalous", "poor"]
VERDICTS: tuple[Verdict, ...] = ("normal", "anomalous", "poor", "anomalous", "anomalous")
"""The verdicts of `alarms.kinds` in words."""


class ShownBeat(msgspec.Struct, frozen=True):
    """A beat as it is drawn.

    Attributes:
        number: counts the device's beats, shown or not, since somebody looks at it.
        time: when it was, in seconds since 1970 UTC.
        score: None where the beat cannot be believed.
        beat: [140], in the units of the model's data; NaN, which is null in JSON, where a sample
            is not finite.
        reconstruction: [140] in the same units; None where the beat cannot be believed.
    """

    number: int
    time: float
    seq: int | None
    rr_ms: float | None
    verdict: Verdict
    score: float | None
    threshold: float
    beat: list[float]
    reconstruction: list[float] | None


class ShownAlarm(msgspec.Struct, frozen=True):
    """An open alarm: `beats` of the `seen` last ones speak for it.

    `since` is when it was raised, in seconds since 1970 UTC; `shelved` is by whom it is withheld.
    An alarm of the rhythm is about a `heart_rate`, in beats a minute, or a pause in seconds.
    """

    id: str
    device: str
    kind: Kind
    priority: Priority
    since: float
    beats: int
    seen: int
    acknowledged: Acknowledged | None
    shelved: Shelved | None
    heart_rate: float | None
    pause_s: float | None


class DeviceRow(msgspec.Struct, frozen=True):
    """A device.

    Attributes:
        priority: of its open alarms the highest; None without one.
        heard: when, in seconds since 1970 UTC; None while it is silent.
        model: that scores its beats.
        quiet: whether it is shelved, and nothing is open that its shelf does not withhold.
    """

    device: str
    priority: Priority | None
    heard: float | None
    model: str
    shelved: Shelved | None
    quiet: bool


class DetectorInUse(msgspec.Struct, frozen=True):
    """A detector that scores."""

    name: str
    sha256: str
    threshold: float


class Snapshot(msgspec.Struct, frozen=True):
    """What there was to be seen at one moment.

    Attributes:
        time: the moment, in seconds since 1970 UTC.
        alarms: the open ones in the order of `open_alarms`, of at most `live.MAX_IN_ALARM` devices.
        in_alarm: how many devices have an open alarm.
        devices: those in alarm, those that are looked at, and some of those that are heard.
        known: how many devices there are.
        beats: for each device that is looked at its last beats, the newest last.
        full: whether the beats of no other device can be looked at.
        topics: where beats are to be published.
    """

    time: float
    version: str
    models: list[DetectorInUse]
    policy: Policy
    alarms: list[ShownAlarm]
    in_alarm: int
    devices: list[DeviceRow]
    known: int
    beats: dict[str, list[ShownBeat]]
    full: bool
    topics: list[str]


def open_alarms(devices: Iterable[tuple[str, Device]]) -> list[ShownAlarm]:
    """The open alarms of some devices: those that wait for somebody, by priority and the newest
    first; then those that somebody has seen; and last those that a shelf withholds."""
    alarms: list[ShownAlarm] = []
    for name, device in devices:
        for kind, alarm in device.alarms():
            window = device.window(kind)
            beats, seen = (window.bits.bit_count(), window.seen) if window else (0, 0)
            alarms.append(
                ShownAlarm(
                    alarm.id,
                    name,
                    kind,
                    alarm.priority,
                    alarm.since,
                    beats,
                    seen,
                    alarm.acknowledged,
                    shelved(device) if device.withholds(kind) else None,
                    alarm.heart_rate,
                    alarm.pause_s,
                )
            )
    alarms.sort(
        key=lambda alarm: (
            alarm.shelved is not None,
            alarm.acknowledged is not None,
            HIGHEST_FIRST.index(alarm.priority),
            -alarm.since,
        )
    )
    return alarms


def shorten(samples: NDArray[np.float32]) -> list[float]:
    """Samples [140] to `DIGITS` digits of the largest of them."""
    exact = samples.astype(np.float64)
    exact[~np.isfinite(exact)] = np.nan
    largest = np.nanmax(np.abs(exact), initial=0.0)
    if largest > 0:
        exact = np.round(exact, DIGITS - math.ceil(math.log10(largest)))
    shortened: list[float] = exact.tolist()
    return shortened
