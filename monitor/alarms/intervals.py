"""The rhythm of a device that sends beats: what the intervals between them say. Pure.

Of a device whose samples are followed elsewhere (`ecg.signal_rhythm`), the messages tell the
rhythm; of any other one it is decided here, from `rr_ms`, or the beats' times, or their numbers
where those are sample numbers of a known rate.
"""

from collections.abc import Sequence
from typing import Final

from monitor.alarms.kinds import POOR, VENTRICULAR
from monitor.ecg.beat import Beats
from monitor.ecg.rhythm import Finding, IntervalRhythm, RhythmSettings

LONGEST_SILENCE: Final = 10.0
"""Seconds without a message after which no interval is made of what came before and comes after."""

SHORTEST: Final = 0.15
"""Seconds between two beats, at least: numbers that lie closer count beats, not samples, and times
that lie closer are seconds taken for milliseconds."""


class IntervalWatch:
    """Follows the intervals of one device."""

    __slots__ = ("_at", "_given", "_heard", "_number", "_rhythm")

    def __init__(self, settings: RhythmSettings) -> None:
        self._rhythm = IntervalRhythm(settings)
        self._at = 0.0  # when the last beat was, on a clock that the intervals make
        self._number: int | None = None
        self._given: float | None = None  # the time of the last beat, by the device's clock
        self._heard = 0.0

    def hear(
        self,
        beats: Beats,
        verdicts: bytes,
        times: Sequence[float],
        arrived: float,
        rate: float | None = None,
    ) -> list[Finding] | None:
        """Take in the beats of a message, which did not come before, and return the arrhythmias.

        They are those that are there now, the most serious first, in seconds since 1970. None
        where nothing can be said: the intervals are not known, or too few of them.

        Args:
            beats: as they were decoded.
            verdicts: for each beat what it was, as `kinds` has it.
            times: when each beat was, in seconds since 1970.
            arrived: when the message came, in seconds on any clock.
            rate: of the samples that beats are numbered by, in Hz; None where they are not.
        """
        if arrived - self._heard > LONGEST_SILENCE:
            self._rhythm.gap()
            self._number = self._given = None
        self._heard = arrived
        heard = False
        for i, verdict in enumerate(verdicts):
            interval = self._interval(beats, i, rate)
            if interval is None or verdict == POOR:
                self._rhythm.gap()
                continue
            self._at += interval
            self._rhythm.beat(self._at, ventricular=verdict == VENTRICULAR)
            heard = True
        standing = self._rhythm.standing
        if standing:
            moved = times[-1] - self._at
            return [
                each._replace(since=each.since + moved, seen=each.seen + moved) for each in standing
            ]
        return [] if heard and self._rhythm.settled else None

    def _interval(self, beats: Beats, i: int, rate: float | None) -> float | None:
        """Return the seconds between a beat of the message and the one before it, if known."""
        number, before = beats.number(i), self._number
        self._number = number
        if beats.rr_ms is not None:
            return beats.rr_ms[i] / 1000 or None
        if beats.time is not None and len(beats) == 1:
            given, self._given = self._given, beats.time  # a clock that is wrong still ticks
            interval = None if given is None else beats.time - given
        elif rate is None or number is None or before is None:
            return None
        else:
            interval = (number - before) / rate
        return interval if interval and SHORTEST <= interval < LONGEST_SILENCE else None
