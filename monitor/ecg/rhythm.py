"""Decide on the rhythm of a heart from the times of its beats: rates, and runs.

The definitions are those of the PhysioNet/CinC 2015 challenge
(https://physionet.org/content/challenge-2015/1.0.0/). Pure: no signal, no clock, no network.
`signal_rhythm` decides what needs the signal; both use `Standing`, which ensures one alarm for each
event.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple

RhythmKind = Literal[
    "ventricular-fibrillation",
    "asystole",
    "ventricular-tachycardia",
    "tachycardia",
    "bradycardia",
]

SEVERITY: Final[tuple[RhythmKind, ...]] = (
    "ventricular-fibrillation",
    "asystole",
    "ventricular-tachycardia",
    "tachycardia",
    "bradycardia",
)
"""The kinds, most serious first: a kind explains those after it."""

TRIMMED: Final = 4
"""One in this many intervals is left out at either end of a trimmed mean.

A missed beat makes one interval twice as long, and a false one makes two short ones. Of the 16
intervals of a tachycardia, four can be left out at either end; of the four of a bradycardia, none.
"""

RUNNING: Final = 1.5
"""Multiple of the longest interval up to which the current interval counts for a slow rate."""

LONGEST_RUN: Final = 40
"""Beats of a run that are kept: its rate is computed from these."""

FASTEST: Final = 350.0
"""Beats a minute; no ventricle is faster, so flutter waves or noise do not count as a run."""

RATE_DIGITS: Final = 3
"""Decimals of a rate, in beats a minute.

Sums of intervals are not exact, and a heart at a limit is not beyond it: five beats at 1200 ms have
49.99999999999999 a minute. At 40 a minute a millisecond more makes 0.007 of difference.
"""


@dataclass(frozen=True)
class RhythmSettings:
    """What counts as an arrhythmia: seconds, beats, and beats a minute."""

    asystole_after: float = 4.0
    fibrillation_after: float = 4.0
    run_beats: int = 5
    run_rate: float = 100.0
    bradycardia: float = 40.0
    bradycardia_beats: int = 5
    tachycardia: float = 140.0
    tachycardia_beats: int = 17
    extreme_tachycardia: float = 180.0


class Finding(NamedTuple):
    """A present arrhythmia.

    Attributes:
        kind: one of `SEVERITY`.
        since: when it began, in seconds on the clock of the beats.
        seen: when it was last detected.
        heart_rate: beats a minute, for all kinds but asystole and fibrillation.
        pause_s: seconds without a QRS complex, for asystole.
    """

    kind: RhythmKind
    since: float
    seen: float
    heart_rate: float | None = None
    pause_s: float | None = None

    def priority(self, settings: RhythmSettings) -> Literal["high", "medium"]:
        """Return "medium" for a tachycardia that is not extreme, "high" for everything else."""
        slow = (self.heart_rate or 0.0) < settings.extreme_tachycardia
        return "medium" if self.kind == "tachycardia" and slow else "high"


class Change(NamedTuple):
    """An arrhythmia that began, became more serious, or ended."""

    event: Literal["raised", "escalated", "cleared"]
    finding: Finding


def _per_minute(intervals: int, seconds: float) -> float:
    """Return the rate of beats with so many intervals between them, in beats a minute."""
    return round(60 * intervals / seconds, RATE_DIGITS)


def trimmed_mean(intervals: list[float]) -> float:
    """Return the mean of intervals without one in `TRIMMED` at either end."""
    cut = len(intervals) // TRIMMED
    kept = sorted(intervals)[cut : len(intervals) - cut]
    return sum(kept) / len(kept)


def slow_rate(times: list[float], now: float | None, beats: int) -> float | None:
    """Return the rate over the last `beats` beats, in beats a minute; None with too few beats.

    The current interval, up to `now`, counts as soon as it is longer than the oldest one, so that a
    slowing heart is noticed before its next beat; but at most for `RUNNING` times the longest
    interval before it, as a heart that stops is not slow.
    """
    if len(times) < beats:
        return None
    over = times[-1] - times[-beats]
    if now is not None:
        intervals = [after - before for before, after in pairwise(times[-beats:])]
        running = min(now - times[-1], RUNNING * max(intervals[1:] or intervals))
        over += max(0.0, running - intervals[0])
    return _per_minute(beats - 1, over) if over > 0 else None


def fast_rate(times: list[float], beats: int, trimmed: bool = False) -> float | None:
    """Return the rate over the last `beats` beats; None with too few beats.

    With `trimmed`, leave out the longest and the shortest intervals, some of which may be false.
    """
    if len(times) < beats:
        return None
    intervals = [after - before for before, after in pairwise(times[-beats:])]
    mean = trimmed_mean(intervals) if trimmed else sum(intervals) / len(intervals)
    return _per_minute(1, mean) if mean > 0 else None


class Standing:
    """The present arrhythmias, and how they begin and end: one alarm for each event."""

    def __init__(
        self, settings: RhythmSettings, findings: Iterable[Finding] = (), hold: float = 0.0
    ) -> None:
        """Start with `findings`; keep each for `hold` seconds after it was last detected."""
        self._settings, self._hold = settings, hold
        self._standing: dict[RhythmKind, Finding] = {finding.kind: finding for finding in findings}

    def __bool__(self) -> bool:
        return bool(self._standing)

    def __iter__(self) -> Iterator[Finding]:
        """Iterate over the present findings, most serious first."""
        return iter([self._standing[kind] for kind in SEVERITY if kind in self._standing])

    def update(
        self, found: Iterable[Finding], now: float, heard: Iterable[RhythmKind] = SEVERITY
    ) -> list[Change]:
        """Take the arrhythmias at `now`; return what began, escalated, or ended.

        Args:
            found: the arrhythmias detected.
            now: seconds on the clock of the beats.
            heard: the kinds that could have been detected; others do not end.
        """
        changes: list[Change] = []
        there = {finding.kind: finding for finding in found}
        worst = next((kind for kind in SEVERITY if kind in there or self._holds(kind, now)), None)
        for kind, finding in there.items():
            before = self._standing.get(kind)
            if before is not None:
                finding = finding._replace(since=before.since)
                self._standing[kind] = finding
                was, is_now = (each.priority(self._settings) for each in (before, finding))
                if was == "medium" and is_now == "high":
                    changes.append(Change("escalated", finding))
            elif kind == worst:
                self._standing[kind] = finding
                changes.append(Change("raised", finding))
        ended = set(heard)
        for kind, finding in list(self._standing.items()):
            explained = worst is not None and SEVERITY.index(kind) > SEVERITY.index(worst)
            over = kind in ended and kind not in there and not self._holds(kind, now)
            if over or explained:
                del self._standing[kind]
                changes.append(Change("cleared", finding))
        return changes

    def _holds(self, kind: RhythmKind, now: float) -> bool:
        finding = self._standing.get(kind)
        return finding is not None and now - finding.seen <= self._hold


class IntervalRhythm:
    """The rhythm of one device, beat by beat, from the intervals between its beats.

    It detects bradycardia and tachycardia, and runs if it is told which beats are ventricular.
    """

    def __init__(self, settings: RhythmSettings | None = None) -> None:
        """Start with no beats."""
        self._settings = settings or RhythmSettings()
        longest = max(self._settings.tachycardia_beats, self._settings.bradycardia_beats)
        self._times: deque[float] = deque(maxlen=longest)
        self._run: deque[float] = deque(maxlen=max(self._settings.run_beats, LONGEST_RUN))
        self._run_since = 0.0
        self._standing = Standing(self._settings)
        self._shortest = 60 / min(self._settings.tachycardia, self._settings.run_rate)
        self._longest = 60 / self._settings.bradycardia
        self._calm = 0  # consecutive intervals that are neither too short nor too long

    @property
    def settled(self) -> bool:
        """Whether enough beats are known to say that nothing is wrong."""
        return len(self._times) == self._times.maxlen

    @property
    def standing(self) -> list[Finding]:
        """The present arrhythmias, most serious first."""
        return list(self._standing)

    def beat(self, at: float, rr_s: float | None = None, ventricular: bool = False) -> list[Change]:
        """Take the next beat; return what began, escalated, or ended.

        Args:
            at: the time of the beat in seconds; beats not after the last one are ignored.
            rr_s: the interval before it in seconds, if the device measured it, or None. An interval
                that disagrees with `at` means that beats are missing: earlier beats are forgotten.
            ventricular: whether it is a ventricular beat.
        """
        if self._times and at <= self._times[-1]:
            return []
        if rr_s is not None and self._times and abs(at - self._times[-1] - rr_s) > 0.1 + 0.1 * rr_s:
            self._times.clear()
            self._run.clear()
            self._times.append(at - rr_s)
        interval = at - self._times[-1] if self._times else 0.0
        self._times.append(at)
        calm = not ventricular and self._shortest < interval < self._longest
        self._calm = self._calm + 1 if calm else 0
        if self._calm > len(self._times) and not self._standing:
            return []  # as for nearly every beat
        if ventricular:
            if not self._run:
                self._run_since = at
            self._run.append(at)
        else:
            self._run.clear()
        return self._standing.update(self._found(), at, self._heard())

    def gap(self) -> None:
        """Forget the beats before a gap in the stream: no interval spans it."""
        self._times.clear()
        self._run.clear()
        self._calm = 0

    def _heard(self) -> list[RhythmKind]:
        few = len(self._times) < self._settings.bradycardia_beats
        return [] if few else list(SEVERITY)

    def _found(self) -> list[Finding]:
        settings, times, run = self._settings, list(self._times), list(self._run)
        now = times[-1]
        found: list[Finding] = []
        if len(run) >= settings.run_beats:
            rate = _per_minute(len(run) - 1, run[-1] - run[0])
            if settings.run_rate < rate < FASTEST:
                found.append(Finding("ventricular-tachycardia", self._run_since, now, rate))
        fast = fast_rate(times, settings.tachycardia_beats)
        if fast is not None and fast > settings.tachycardia:
            since = times[-settings.tachycardia_beats]
            found.append(Finding("tachycardia", since, now, fast))
        slow = slow_rate(times, None, settings.bradycardia_beats)
        if slow is not None and slow < settings.bradycardia:
            since = times[-settings.bradycardia_beats]
            found.append(Finding("bradycardia", since, now, slow))
        return found
