"""Chooses settings on some records and judges them on others: what to expect of new patients.

Settings look better than they are on the records that they were chosen on, and a dozen records say
little. So each record is judged by the settings that the others choose (M. Stone, "Cross-validatory
choice and assessment of statistical predictions", Journal of the Royal Statistical Society B 36,
1974), and sets of records are drawn again and again from those there are (B. Efron, "Bootstrap
methods: another look at the jackknife", Annals of Statistics 7, 1979).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.alarms.evaluation import Judged

RAISED, FALSE = 0.9, 2.0
"""The goals: the share of episodes raised, at least; false alarms an hour, at most."""

DRAWN, TIMES = 10, 1000
INTERVAL: Final = (5, 50, 95)  # percentiles that are told

Counts = NDArray[np.float64]
"""[…, records, 4]: episodes, those raised, false and other alarms an hour."""


class Spread(NamedTuple):
    """What sets of ten records show: percentiles 5, 50 and 95, and how many sets meet both goals.

    `raised` is the share of all episodes of a set; `false` and `other` are alarms an hour on its
    average record.
    """

    raised: list[float]
    false: list[float]
    other: list[float]
    met: float


def crossed(records: Sequence[Sequence[Judged]]) -> tuple[list[Judged], list[int]]:
    """Judge each record by the settings that the other records choose.

    `records[i][k]` is record i under settings k. Gives each record's figures, and which settings
    the others chose for it.
    """
    table = np.stack([_counts(settings) for settings in records], axis=1)
    chosen = [_best(np.delete(table, i, axis=1)) for i in range(len(records))]
    return [settings[k] for settings, k in zip(records, chosen, strict=True)], chosen


def spread(records: Sequence[Judged]) -> Spread:
    """Draw sets of ten from the records of one choice of settings, with replacement."""
    raised, false, other = _drawn(_counts(records))

    def percentiles(figure: NDArray[np.float64]) -> list[float]:
        return [float(np.percentile(figure, share)) for share in INTERVAL]

    met = float(np.mean((raised >= RAISED) & (false <= FALSE)))
    return Spread(percentiles(raised), percentiles(false), percentiles(other), met)


def _best(table: Counts) -> int:
    """Give the settings, [settings, records, 4], by which most sets of records meet both goals."""
    met = []
    for counts in table:
        raised, false, _ = _drawn(counts)
        met.append(np.mean((raised >= RAISED) & (false <= FALSE)))
    return int(np.argmax(met))


def _drawn(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Give the share raised, false and other alarms an hour of each set drawn: float64 [TIMES]."""
    sets = np.random.default_rng(0).integers(len(counts), size=(TIMES, DRAWN))
    episodes, raised, false, other = np.moveaxis(counts[sets], 2, 0)
    share = raised.sum(axis=1) / np.maximum(episodes.sum(axis=1), 1)
    return share, false.mean(axis=1), other.mean(axis=1)


def _counts(judged: Sequence[Judged]) -> Counts:
    return np.array([(j.episodes, j.raised, j.false / j.hours, j.other / j.hours) for j in judged])
