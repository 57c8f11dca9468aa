"""The data of the live page, JSON at `/api/live`: open alarms, devices, and beats to draw."""

import math
from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.alarms.decisions import Policy
from monitor.alarms.device import HIGHEST_FIRST, Device, shelved
from monitor.alarms.messages import Acknowledged, Connection, Kind, Priority, Shelved
from monitor.alarms.patients import Patient

DIGITS = 4
"""Digits of the largest sample of a beat: as fine as a chart, and half as much to send."""

Verdict = Literal["normal", "anomalous", "poor"]
VERDICTS: tuple[Verdict, ...] = ("normal", "anomalous", "poor", "anomalous", "anomalous")
"""The name of each verdict of `alarms.kinds`."""


class ShownBeat(msgspec.Struct, frozen=True):
    """A beat to draw.

    Attributes:
        number: counts the device's beats, shown or not, since it has been watched.
        time: in seconds since 1970 UTC.
        score: None if the signal is poor.
        beat: [140], in the units of the model's data; NaN, which is null in JSON, for a sample that
            is not finite.
        reconstruction: [140], in the same units; None if the signal is poor.
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
    """An open alarm.

    Attributes:
        since: when it was raised, in seconds since 1970 UTC.
        beats, seen: how many of how many last beats are affected; both 0 for other kinds of alarm.
        shelved: who shelved it; None if it is not shelved.
        heart_rate, pause_s: what a rhythm alarm is about, in beats a minute or seconds.
        over_since: when the condition ended, in seconds since 1970 UTC, while the alarm is latched.
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
    over_since: float | None = None


class DeviceRow(msgspec.Struct, frozen=True):
    """A device.

    Attributes:
        priority: the highest of its open alarms; None if there are none.
        heard: the time of its last message, in seconds since 1970 UTC; None while it is silent.
        model: the name of the model that scores its beats.
        patient: what was made known of its patient; None where nothing was.
        quiet: whether it is shelved and all of its open alarms are withheld.
        scale: what its beats are divided by to have that model's unit.
    """

    device: str
    priority: Priority | None
    heard: float | None
    model: str
    shelved: Shelved | None
    quiet: bool
    scale: float = 1
    patient: Patient | None = None


class DetectorInUse(msgspec.Struct, frozen=True):
    """A detector in use."""

    name: str
    sha256: str
    threshold: float


class Snapshot(msgspec.Struct, frozen=True):
    """The state at one moment.

    Attributes:
        time: in seconds since 1970 UTC.
        alarms: the open alarms of up to `live_feed.MAX_IN_ALARM` devices, ordered as by
            `open_alarms`.
        in_alarm: the number of devices with an open alarm.
        devices: those in alarm, those that are watched, and some of the others.
        known: the number of devices.
        beats: the last beats of each watched device, newest last.
        full: whether no further device can be watched.
        topics: where to publish beats.
        connection: the devices that have fallen silent together; None while there are none.
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
    connection: Connection | None = None


def open_alarms(devices: Iterable[tuple[str, Device]]) -> list[ShownAlarm]:
    """Return the open alarms of some devices, by priority, latched ones behind the others, and then
    newest first: first those that need attention, then acknowledged ones, then shelved ones."""
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
                    alarm.over_since,
                )
            )
    alarms.sort(
        key=lambda alarm: (
            alarm.shelved is not None,
            alarm.acknowledged is not None,
            HIGHEST_FIRST.index(alarm.priority),
            alarm.over_since is not None,
            -alarm.since,
        )
    )
    return alarms


def shorten(samples: NDArray[np.float32]) -> list[float]:
    """Return samples [140], rounded to `DIGITS` digits of the largest of them."""
    exact = samples.astype(np.float64)
    exact[~np.isfinite(exact)] = np.nan
    largest = np.nanmax(np.abs(exact), initial=0.0)
    if largest > 0:
        exact = np.round(exact, DIGITS - math.ceil(math.log10(largest)))
    shortened: list[float] = exact.tolist()
    return shortened
