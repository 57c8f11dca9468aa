"""What is counted of patients' own models: a new one beside the one in use, and their drift.

Silent: it is done once the alerts of a batch are under way, and causes none.
"""

import time
from collections import defaultdict

import numpy as np
import structlog

from monitor.alarms.decisions import Policy
from monitor.alarms.drift import DAY, NEAR, Day, Drift
from monitor.alarms.patients import Trial
from monitor.alarms.trials import Comparison
from monitor.daemon.pipeline import ScoredBatch
from monitor.detector.model_file import Detector, verdicts
from monitor.detector.per_device import Detectors
from monitor.ecg import quality
from monitor.ecg.beat import fingerprints
from monitor.errors import Failure
from monitor.history import query
from monitor.history.writer import HistoryWriter

log = structlog.get_logger()

WRITE_INTERVAL = 60.0
"""Seconds between two times that counts of a day are written: what a kill may lose of them."""


class TrialWatch:
    """Scores beats with the models that are on trial, and compares them with those in use."""

    def __init__(self, detectors: Detectors, policy: Policy) -> None:
        self._detectors, self._policy = detectors, policy
        self._comparisons: dict[str, Comparison] = {}

    def observe(self, batch: ScoredBatch, now: float) -> None:
        """Take in a batch received `now`, in seconds since 1970."""
        if not self._detectors.tries:
            self._comparisons.clear()
            return
        for each in batch.messages:
            trial = self._detectors.trial(each.device)
            if trial is None or self._detectors.own(each.device) is None:
                self._comparisons.pop(each.device, None)
                continue
            at, times = slice(each.start, each.stop), each.beats.times(now)
            rr = None if batch.rr is None else batch.rr[at]
            scale = np.float32(self._detectors.scales.factor(each.device))
            scored = trial.score(batch.samples[at] / scale, rr)
            believed = batch.faults[at] == quality.GOOD
            new = verdicts(scored.scores > trial.threshold, believed, scored.ventricular)
            comparison = self._comparisons.get(each.device)
            if comparison is None or comparison.sha256 != trial.sha256:
                comparison = Comparison(self._policy, now, trial.name, trial.sha256)
                self._comparisons[each.device] = comparison
            comparison.observe(
                batch.verdicts[at],
                new.tobytes(),
                each.beats.keys(fingerprints(batch.samples[at]).tolist(), times),
                times,
                each.beats.seq,
                each.message.redelivered,
                each.beats.seqs,
            )

    @property
    def devices(self) -> list[str]:
        """The devices at which a new model is tried."""
        return list(self._comparisons)

    def result(self, device: str) -> Trial | None:
        """Return what was counted of a device so far; None where no model is tried."""
        comparison = self._comparisons.get(device)
        return None if comparison is None else comparison.result()


class DriftWatch:
    """Counts by day how many beats of a patient come near the threshold of his own model."""

    def __init__(self, detectors: Detectors, history: HistoryWriter) -> None:
        """Go on from what the history has kept."""
        self._detectors, self._history = detectors, history
        self._drifts: dict[str, Drift] = {}
        self._unwritten: defaultdict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
        self._write_at = 0.0
        if history.file is not None:
            try:
                for device, sha256, counted in query.days(history.file):
                    self._of(device, sha256).count(*counted)
            except Failure as failure:
                log.warning("the drift of no patient is known", reason=str(failure))

    def observe(self, batch: ScoredBatch, now: float) -> list[str]:
        """Take in a batch received `now`, in seconds since 1970.

        Return the devices whose hint has changed.
        """
        changed: list[str] = []
        if not batch.messages or not self._detectors.has_own:
            return changed
        ratios = batch.scored.scores / batch.scored.thresholds
        good = batch.faults == quality.GOOD
        near = good & (ratios > NEAR[0]) & (ratios <= NEAR[1])
        goods, nears = (np.concatenate([[0], np.cumsum(each)]).tolist() for each in (good, near))
        day = int(now // DAY)
        for each in batch.messages:
            own = self._detectors.own(each.device)
            if own is None or each.message.redelivered:
                continue
            beats = goods[each.stop] - goods[each.start]
            close = nears[each.stop] - nears[each.start]
            if self._of(each.device, own.sha256).count(day, beats, close):
                changed.append(each.device)
            counted = self._unwritten[each.device, own.sha256, day]
            counted[0] += beats
            counted[1] += close
        return changed

    def has_moved(self, device: str, own: Detector) -> bool:
        """Return whether a patient's normal beats have moved away from his model."""
        drift = self._drifts.get(device)
        return drift is not None and drift.sha256 == own.sha256 and drift.moved

    @property
    def hints(self) -> int:
        """How many patients' normal beats have moved."""
        return sum(drift.moved for drift in self._drifts.values())

    def forget(self, device: str) -> None:
        """Forget a patient who has left; his days stay in the history."""
        self._drifts.pop(device, None)

    def write(self, force: bool = False) -> None:
        """Have the history keep what was counted, if it is time to."""
        if not force and time.monotonic() < self._write_at:
            return
        self._write_at = time.monotonic() + WRITE_INTERVAL
        for (device, sha256, day), (beats, near) in self._unwritten.items():
            self._history.add_to_day(device, sha256, Day(day, beats, near))
        self._unwritten.clear()

    def _of(self, device: str, sha256: str) -> Drift:
        drift = self._drifts.get(device)
        if drift is None or drift.sha256 != sha256:
            drift = self._drifts[device] = Drift(sha256)
        return drift
