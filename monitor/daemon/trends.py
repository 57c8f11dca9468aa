"""What was heard of each heart, by the minute: into the history, for trends and reports.

Of devices whose signal `segment` follows the last beats are remembered, too, to label strips.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from monitor.alarms.trends import Minute, Tally
from monitor.daemon.pipeline import ScoredBatch
from monitor.history.writer import HistoryWriter
from monitor.times import MAX_AHEAD

MAX_FINISHED: Final = 20_000
"""Most minutes that wait for the next flush, twice a second: more devices than a monitor has, each
in a minute that is just over. What is more is a clock that jumps, and is not counted."""

SWEEP_INTERVAL: Final = 60.0
"""Seconds between two looks for minutes that are over of devices that send nothing any more."""

REMEMBERED: Final = 24
"""Messages of a device whose verdicts are remembered, of 2 s each: a strip needs 24 s of them."""


class TrendSink:
    """Counts beats by device and minute, by the device's clock if it can be believed."""

    def __init__(self, history: HistoryWriter) -> None:
        self._history = history
        self._tallies: dict[str, Tally] = {}
        self._finished: list[tuple[str, Minute]] = []
        self._last: dict[str, deque[tuple[Sequence[int], bytes]]] = {}
        self._next_sweep = 0.0

    def count(self, batch: ScoredBatch, now: float) -> None:
        """Count the beats of a batch received `now`, in seconds since 1970 UTC."""
        if self._history.file is None:
            return
        tallies, verdicts = self._tallies, batch.verdicts
        for each in batch.messages:
            device, beats, start, stop = each.device, each.beats, each.start, each.stop
            if start == stop:
                continue
            moment = beats.time if beats.time is not None and beats.credible else now
            tally = tallies.get(device)
            if tally is None or not 0 <= moment - tally.time < 60:
                tally = self._begin(device, moment, tally)
            own = verdicts[start:stop]
            tally.add_beats(own, beats.rr_ms)
            if beats.rhythm is not None and beats.seq is not None:
                numbers = beats.seqs or range(beats.seq, beats.seq + len(own))
                self._last.setdefault(device, deque(maxlen=REMEMBERED)).append((numbers, own))

    def verdicts(self, device: str) -> dict[int, int]:
        """Return what the last beats of a device were, by their numbers."""
        return {
            number: verdict
            for numbers, verdicts in self._last.get(device, ())
            for number, verdict in zip(numbers, verdicts, strict=True)
        }

    def flush(self, now: float, everything: bool = False) -> None:
        """Hand minutes that are over to the history, `now` in seconds since 1970 UTC."""
        since = self._next_sweep - SWEEP_INTERVAL  # a clock that was set back is before it
        if everything or not since <= now < self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL
            oldest, latest = now - 60 - SWEEP_INTERVAL, now + MAX_AHEAD
            for device, tally in list(self._tallies.items()):
                if everything or not oldest <= tally.time <= latest:
                    self._finish(device, tally)
                    del self._tallies[device]
                    self._last.pop(device, None)
        if self._finished:
            self._history.keep_minutes(self._finished)
            self._finished = []

    def _begin(self, device: str, moment: float, before: Tally | None) -> Tally:
        if before is not None:
            self._finish(device, before)
        tally = self._tallies[device] = Tally(moment)
        return tally

    def _finish(self, device: str, tally: Tally) -> None:
        if len(self._finished) < MAX_FINISHED:
            self._finished.append((device, tally.minute()))
