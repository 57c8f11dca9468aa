"""Minutes of a heart: its rate, its abnormal beats and the quality of the signal. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.alarms.kinds import NORMAL, POOR, VENTRICULAR

AVERAGED: Final = 8
"""Successive RR intervals over which the lowest and the highest rate of a minute are measured: a
single early beat, or a missed one, is no rate."""


MOST_INTERVALS: Final = 1000
"""Most RR intervals of a minute that are kept: no heart has as many, and a device may send more."""


class Minute(NamedTuple):
    """What was heard of a heart in a minute.

    Attributes:
        time: when the minute began, in seconds since 1970.
        beats: all beats.
        low, mean, high: heart rates, in beats a minute; None if no RR interval is known.
        ventricular: ventricular beats, if the detector tells them.
        anomalous: other anomalous beats.
        poor: beats of poor signal quality.
    """

    time: float
    beats: int
    low: float | None
    mean: float | None
    high: float | None
    ventricular: int
    anomalous: int
    poor: int


def rates(rr_ms: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the lowest, the mean and the highest heart rate of RR intervals in milliseconds.

    Lowest and highest are over `AVERAGED` intervals; None without an interval.

    >>> rates([1000.0] * 10)
    (60.0, 60.0, 60.0)
    """
    intervals = np.array([each for each in rr_ms if each > 0], np.float64)
    if not len(intervals):
        return None
    n = min(AVERAGED, len(intervals))
    averaged = np.convolve(intervals, np.full(n, 1 / n), "valid")
    low, mean, high = 60_000 / np.array([averaged.max(), intervals.mean(), averaged.min()])
    return round(low, 1), round(mean, 1), round(high, 1)


class Tally:
    """Counts the beats of a minute that is not over."""

    __slots__ = ("anomalous", "beats", "poor", "rr_ms", "time", "ventricular")

    def __init__(self, time: float) -> None:
        """Start the minute that this time, in seconds since 1970, belongs to."""
        self.time = time // 60 * 60
        self.beats = self.ventricular = self.anomalous = self.poor = 0
        self.rr_ms: list[float] = []

    def add(self, verdict: int, rr_ms: float) -> None:
        """Count a beat, one of `monitor.alarms.kinds`; its RR interval is 0 if it is not known."""
        self.beats += 1
        if verdict == POOR:
            self.poor += 1
            return
        if rr_ms:
            self.rr_ms.append(rr_ms)
        if verdict == VENTRICULAR:
            self.ventricular += 1
        elif verdict != NORMAL:
            self.anomalous += 1

    def add_beats(self, verdicts: bytes, rr_ms: Sequence[float] | None) -> None:
        """Count the beats of a message, the same as `add` does one by one, but faster."""
        n = len(verdicts)
        self.beats += n
        if len(self.rr_ms) >= MOST_INTERVALS:
            rr_ms = None
        normal = verdicts.count(NORMAL)
        if normal == n:
            if rr_ms is not None:
                self.rr_ms += rr_ms
            return
        poor, ventricular = verdicts.count(POOR), verdicts.count(VENTRICULAR)
        self.poor += poor
        self.ventricular += ventricular
        self.anomalous += n - normal - poor - ventricular
        if rr_ms is not None:
            told = zip(rr_ms, verdicts, strict=True)
            self.rr_ms += [rr for rr, verdict in told if verdict != POOR]

    def minute(self) -> Minute:
        """Return what was counted."""
        low, mean, high = rates(self.rr_ms) or (None, None, None)
        return Minute(
            self.time,
            self.beats,
            low,
            mean,
            high,
            self.ventricular,
            self.anomalous,
            self.poor,
        )


def hours(minutes: Sequence[Minute]) -> Iterator[list[Minute]]:
    """Yield the minutes of each hour, in order; an hour without any is left out.

    >>> [len(hour) for hour in hours([Minute(t, 0, None, None, None, 0, 0, 0) for t in (0, 3600)])]
    [1, 1]
    """
    hour: list[Minute] = []
    for minute in minutes:
        if hour and minute.time // 3600 != hour[0].time // 3600:
            yield hour
            hour = []
        hour.append(minute)
    if hour:
        yield hour


def runs(ventricular: NDArray[np.bool_], shortest: int) -> list[tuple[int, int]]:
    """Return the runs of ventricular beats, each from its first beat to behind its last: [n].

    >>> runs(np.array([False, True, True, True, False]), 3)
    [(1, 4)]
    """
    edges = np.flatnonzero(np.diff(ventricular.astype(np.int8), prepend=0, append=0))
    pairs = edges.reshape(-1, 2).tolist()
    return [(first, last) for first, last in pairs if last - first >= shortest]
