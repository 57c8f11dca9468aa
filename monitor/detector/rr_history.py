"""The RR intervals before each beat, kept for each device: what a detector hears of the rhythm.

Pure, and all that has to be done outside of a model file: medians, ratios and what they mean are
computed inside the graph.
"""

from array import array
from collections.abc import Sequence
from typing import Final

import numpy as np

from monitor.alarms.decisions import REMEMBERED_NUMBERED
from monitor.ecg.beat import Floats

INTERVALS: Final = 32
"""RR intervals that a graph sees. In cross-validation on MIT-BIH, with trees, F1 was 0.851 with 8,
0.861 with 16 and 0.874 with 32; and half a minute shows whether a rhythm is irregular."""

DEVICES: Final = 65536
"""Devices whose intervals are kept, 3 kB each; then the one that was first heard is forgotten."""


def extend(history: Floats, rr_ms: Sequence[float | None]) -> tuple[Floats, Floats]:
    """Return the history of each beat of a message, and the history to keep for the next message.

    Args:
        history: float32 [32], the device's last RR intervals in ms, the newest first; zeros for a
            device that was never heard.
        rr_ms: for each beat the RR interval before it in ms; None where it is not known, as for
            the first beat and after a pause.

    Returns:
        float32 [N, 32], for each beat the interval before it and the 31 before that, 0 where one is
        not known; and float32 [32], the last row, or `history` where there is no beat.
    """
    oldest_first = np.concatenate(
        [history[::-1], np.array([interval or 0.0 for interval in rr_ms], np.float32)]
    )
    rows = np.lib.stride_tricks.sliding_window_view(oldest_first, INTERVALS)[1:, ::-1]
    return np.ascontiguousarray(rows), rows[-1].copy() if len(rows) else history


def whole(rr_ms: Sequence[float | None]) -> Floats:
    """Return the history of each beat of a recording from its start: float32 [N, 32]."""
    return extend(np.zeros(INTERVALS, np.float32), rr_ms)[0]


class RrHistories:
    """The last RR intervals of each device. After a restart none is known, as of a new device."""

    def __init__(self) -> None:
        self._intervals: dict[str, Floats] = {}
        self._known: dict[str, array[int]] = {}

    def forget(self, device: str) -> None:
        """Forget the intervals of a device."""
        self._intervals.pop(device, None)
        self._known.pop(device, None)

    def extend(
        self, device: str, rr_ms: Sequence[float | None], keys: Sequence[int], repeats: bool
    ) -> Floats:
        """Return the history of each beat of a message, float32 [N, 32], and keep it.

        Args:
            device: whose beats they are.
            rr_ms: for each beat the RR interval before it in ms; None where it is not known.
            keys: what tells each beat from others, as `Beats.keys` gives it.
            repeats: whether the message may hold beats that came before. Those change nothing, and
                as they are not decided on again, nothing is known before them: zeros.
        """
        if device not in self._intervals:
            if len(self._intervals) == DEVICES:
                first = next(iter(self._intervals))
                del self._intervals[first], self._known[first]
            self._intervals[device] = np.zeros(INTERVALS, np.float32)
            self._known[device] = array("Q")
        known = self._known[device]
        rows = np.zeros((len(keys), INTERVALS), np.float32)
        if repeats and keys and keys[-1] in known:
            return rows  # it may be longer than what is remembered, but was taken in as a whole
        new = [i for i, key in enumerate(keys) if not (repeats and key in known)]
        rows[new], self._intervals[device] = extend(
            self._intervals[device], [rr_ms[i] for i in new]
        )
        known.extend(keys[i] for i in new)
        del known[:-REMEMBERED_NUMBERED]
        return rows
