"""The last beats of a device, and when they raise an alarm, escalate it and clear it. Pure."""

from typing import Final

from monitor.alarms.kinds import ANOMALOUS, NORMAL, VENTRICULAR

RECENT: Final = 10
"""Beats that are looked at, of the window, for ventricular beats, and for what comes together."""

VENTRICULAR_AT: Final = 3
TOGETHER_AT: Final = 5
SPREAD: Final = 1.5
"""Where the detector tells ventricular beats, an anomaly is raised by 3 ventricular beats of the
last 10, or by 9 anomalous ones of the window (1.5 times `raise_at`), 5 of them among the last 10.
On 42 records, by networks that have not seen them, 452 of 469 ventricular episodes are raised so,
and 0.80 false alarms an hour (docs/detector.md)."""


class BeatWindow:
    """The last beats of a device as bits, newest lowest: set where a beat speaks for an alarm.

    Attributes:
        bits: which of them do.
        ventricular: which of those are ventricular.
        seen: how many beats there are.
        first: the key of the first that spoke for an alarm since none did, or since an alarm was
            cleared; None before there is one.
    """

    __slots__ = ("bits", "first", "seen", "ventricular")

    def __init__(self, window: str = "", first: str | None = None) -> None:
        """Go on from a window that `window` wrote; `first` is the key in hexadecimal."""
        self.bits = int(window.translate(_TO_BITS) or "0", 2)
        self.ventricular = int(window.translate(_TO_VENTRICULAR) or "0", 2)
        self.seen = len(window)
        self.first = None if first is None else int(first, 16)

    def window(self) -> str:
        """Return the window as text, oldest beat first: `x` speaks for it, `v` is ventricular."""
        places = range(self.seen - 1, -1, -1)
        return "".join(_MARKS[self.bits >> i & 1][self.ventricular >> i & 1] for i in places)


_TO_BITS, _TO_VENTRICULAR = str.maketrans(".xv", "011"), str.maketrans(".xv", "001")
_MARKS = "..", "xv"


class WindowRule:
    """What follows from the last beats of any device."""

    def __init__(self, window: int, raise_at: int, clear_at: int) -> None:
        """Judge by as many beats as `Policy` says."""
        self._window, self._raise_at, self._clear_at = window, raise_at, clear_at
        self._all = (1 << window) - 1
        self._recent = (1 << min(RECENT, window)) - 1
        self._ventricular_at = min(VENTRICULAR_AT, raise_at)
        self._spread_at = min(int(SPREAD * raise_at), window)
        self._together_at = min(TOGETHER_AT, raise_at)

    def add(self, window: BeatWindow, verdict: int, key: int) -> None:
        """Add a beat: one of the verdicts of `kinds`, and what tells it from others."""
        before = window.bits << 1 & self._all
        speaks = verdict != NORMAL
        if speaks and (window.first is None or not before):
            window.first = key
        window.bits = before | speaks
        window.ventricular = (window.ventricular << 1 | (verdict == VENTRICULAR)) & self._all
        window.seen = min(window.seen + 1, self._window)

    def raises(self, window: BeatWindow, verdict: int) -> bool:
        """Return whether the last beat, which must speak for the alarm itself, raises it."""
        number = window.bits.bit_count()
        if verdict in (NORMAL, ANOMALOUS):
            return verdict == ANOMALOUS and number >= self._raise_at
        ventricular = (window.ventricular & self._recent).bit_count() >= self._ventricular_at
        together = (window.bits & self._recent).bit_count() >= self._together_at
        return (verdict == VENTRICULAR and ventricular) or (number >= self._spread_at and together)

    def escalates(self, window: BeatWindow) -> bool:
        """Return whether every beat of a whole window speaks for the alarm."""
        return window.bits == self._all

    def clears(self, window: BeatWindow) -> bool:
        """Return whether so few beats of a whole window speak for the alarm that it is over."""
        return window.seen == self._window and window.bits.bit_count() <= self._clear_at
