"""The drift of a heart: the share of a patient's beats near the threshold of his model, by day.

Pure: days come in, a hint goes out. Only days of one model are compared.
"""

from typing import Final, NamedTuple

DAY: Final = 86400
"""Seconds. Days are those of UTC: a day and its night belong to each."""

NEAR: Final = (0.5, 2.0)
"""The scores that count as near, as multiples of the threshold.

In eight records, to the first five minutes of which models were fitted (four healthy hearts for
two hours, MIT-BIH 101, 108, 114 and 230), 95 % of the beats stayed below 0.6, in 114 below 1.1, and
the ectopic hundredth of 108 and 114 lay above 17: what is near is neither clearly normal nor
clearly abnormal.
"""

MOVED_BY: Final = 0.10
"""By how much the share of near beats must exceed that of the model's first day.

In the eighths of those records it was at most 0.08 above that of the first, except where the shape
of normal beats moved: by 0.20 in the last of 16483, by 0.15 to 0.55 in four of 114. A day is
steadier than an eighth of two hours.
"""

FEWEST: Final = 1000
"""Beats of a day that counts, a quarter of an hour: a share of 0.1 is then known to 0.02."""


class Day(NamedTuple):
    """How many beats of a day could be believed, and how many of them were near.

    `day` counts from 1970-01-01 UTC.
    """

    day: int
    beats: int
    near: int

    @property
    def share(self) -> float:
        """The share of near beats."""
        return self.near / self.beats


class Drift:
    """The days of one patient by one model: the first and the last whole one, and today."""

    __slots__ = ("_first", "_last", "_today", "moved", "sha256")

    def __init__(self, sha256: str) -> None:
        """Begin with a model.

        Attributes:
            sha256: of the model.
            moved: whether the patient's normal beats have moved away from it.
        """
        self.sha256 = sha256
        self.moved = False
        self._first: Day | None = None
        self._last: Day | None = None
        self._today: Day | None = None

    def count(self, day: int, beats: int, near: int) -> bool:
        """Add beats of a day, which is none that is over; return whether `moved` has changed."""
        before, today = self.moved, self._today
        if today is None or today.day != day:
            if today is not None and today.beats >= FEWEST:
                self._first = self._first or today
                self._last = today
                self.moved = today.share > self._first.share + MOVED_BY
            today = Day(day, 0, 0)
        self._today = Day(today.day, today.beats + beats, today.near + near)
        return self.moved != before
