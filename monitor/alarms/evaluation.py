"""What the live alarm decisions make of a recording, held against what a cardiologist annotated.

Pure: verdicts and annotations in, alarms and counts out.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.alarms.decisions import Alarms, Policy
from monitor.alarms.messages import Kind

BEATS: Final = 10
VENTRICULAR: Final = 3
"""An episode: as many ventricular beats among so many. It is to be raised within `BEATS` more."""

ABNORMAL: Final = ("S", "V", "F", "Q")

Seconds = NDArray[np.float64]


class Span(NamedTuple):
    """An alarm or an episode, from second `begin` to `end`; `due`: when it must be raised."""

    begin: float
    end: float
    due: float


class Judged(NamedTuple):
    """Counts of a recording.

    Attributes:
        episodes: ventricular episodes.
        raised: those in which an alarm stood before it was due.
        other: alarms raised outside of every episode.
        false: those of them with fewer than three abnormal beats among the ten before.
        hours: how long the recording is.
    """

    episodes: int
    raised: int
    other: int
    false: int
    hours: float


def alarms(verdicts: bytes, times: Seconds, policy: Policy, kind: Kind = "anomaly") -> list[Span]:
    """Return the alarms of a kind that the daemon raises for one device; the last may have no end.

    Args:
        verdicts: for each beat one of those of `alarms.kinds`.
        times: [n], when each was, in seconds.
        policy: when an alarm is raised and cleared.
        kind: of alarm.
    """
    decided = Alarms(policy)
    device = decided.hear("", 0)
    spans: list[Span] = []
    begin = 0.0
    for decision in decided.observe("", device, verdicts, range(len(verdicts)), times.tolist()):
        if decision.kind != kind or decision.beat is None:
            continue
        if decision.event == "raised":
            begin = float(times[decision.beat])
        elif decision.event == "cleared":
            spans.append(Span(begin, float(times[decision.beat]), begin))
    if kind in dict(device.alarms()):
        spans.append(Span(begin, np.inf, begin))
    return spans


def episodes(times: Seconds, classes: NDArray[np.str_]) -> list[Span]:
    """Return the ventricular episodes among annotated beats: [n] seconds and classes of AAMI."""
    if not len(times):  # nobody has annotated the recording
        return []
    ventricular = (classes == "V").astype(int)
    inside = np.convolve(ventricular, np.ones(BEATS, int))[: len(times)] >= VENTRICULAR
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    last = len(times) - 1
    return [
        Span(
            float(times[max(0, third - BEATS + 1)]),
            float(times[behind - 1]),
            float(times[min(last, third + BEATS)]),
        )
        for third, behind in zip(edges[::2], edges[1::2], strict=True)
    ]


def judge(raised: list[Span], times: Seconds, classes: NDArray[np.str_], hours: float) -> Judged:
    """Count alarms by what annotated beats say of them: [n] seconds and classes of AAMI."""
    known = episodes(times, classes)
    found = sum(any(a.begin <= e.due and a.end >= e.begin for a in raised) for e in known)
    abnormal = times[np.isin(classes, ABNORMAL)]
    other = false = 0
    for alarm in raised:
        if any(e.begin <= alarm.begin <= max(e.end, e.due) for e in known):
            continue
        other += 1
        now = int(np.searchsorted(times, alarm.begin, "right"))
        since = times[max(0, now - BEATS)] if len(times) else 0.0
        # What is cut at a beat and what is annotated there may differ by a fraction of a second.
        near = (abnormal >= since - 0.3) & (abnormal <= alarm.begin + 0.3)
        false += int(near.sum()) < VENTRICULAR
    return Judged(len(known), found, other, false, hours)
