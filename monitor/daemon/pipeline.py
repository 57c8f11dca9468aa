"""One batch of messages in, decisions out: decode, score, decide.

No socket, no broker, no clock.
"""

import time
from collections.abc import Callable, Container, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.alarms import messages
from monitor.alarms.decisions import Alarms, Decision, Rhythm
from monitor.alarms.device import Device
from monitor.alarms.intervals import IntervalWatch
from monitor.alarms.kinds import NORMAL, POOR, VENTRICULAR
from monitor.alarms.ownership import Ownership
from monitor.daemon.changes import NO_EVIDENCE, Changes, Evidence
from monitor.detector.model_file import verdicts
from monitor.detector.per_device import Detectors, Scored
from monitor.detector.rr_history import INTERVALS, RrHistories
from monitor.ecg import codec, quality
from monitor.ecg.beat import SAMPLES, Beats, Floats, fingerprints, samples
from monitor.ecg.rhythm import SEVERITY, Finding, RhythmSettings
from monitor.errors import Reason, Rejected
from monitor.mqtt.beat_consumer import Message
from monitor.times import LONGEST_HELD, is_credible, rfc3339
from monitor.topics import Topics

SMALL_BATCH = 16
"""Messages in a batch up to which each beat is saved of a device with anomalous beats in sight.

In a larger batch the window is saved with each anomalous beat only: a save costs a publish.
"""


LARGE_BATCH = 256
"""Beats in a batch from which on their signal is judged in a second thread while they are scored.

onnxruntime and NumPy let go of Python's lock. A flood of messages of 32 beats is taken in a
tenth faster; in a small batch, to wake the thread would take longer than to judge the beats.
"""

LONGEST_ARRHYTHMIA = 366 * 86400.0
"""Seconds for which an arrhythmia may have lasted: a heart can be too fast for months."""


class Rejection(NamedTuple):
    """A message that cannot be understood, and why."""

    topic: bytes
    reason: Reason
    detail: str


class DecodedMessage(msgspec.Struct, frozen=True, gc=False):
    """The beats of one message, their device, and their place `start:stop` in the batch."""

    message: Message
    device: str
    beats: Beats
    start: int
    stop: int


class ScoredBatch(NamedTuple):
    """The beats of the messages that could be decoded.

    Attributes:
        messages: in the order of their arrival.
        samples: float32 [N, 140].
        scored: what the detectors said of each beat.
        faults: uint8 [N], the fault of each beat as `quality.assess` gives it.
        verdicts: a byte for each beat, one of those of `alarms.kinds`: VENTRICULAR, too.
        rejected: what could not be decoded or, without a finite sample, scored.
        seconds: that the detectors took.
        misdated: the device of each message whose time is not credible, and that time.
        rr: float32 [N, 32], the RR intervals before each beat; None where no detector hears them.
    """

    messages: list[DecodedMessage]
    samples: Floats
    scored: Scored
    faults: NDArray[np.uint8]
    verdicts: bytes
    rejected: list[Rejection]
    seconds: float
    misdated: Sequence[tuple[str, float]] = ()
    rr: Floats | None = None


class Pipeline:
    """Turns batches of messages into decisions. Its memory: the alarms, and RR intervals."""

    def __init__(
        self,
        topics: Topics,
        payload: codec.Payload,
        detectors: Detectors,
        alarms: Alarms,
        rhythm: Callable[[str], RhythmSettings] = lambda _: RhythmSettings(),
        rate: float | None = None,
        longest_held: float = LONGEST_HELD,
        ownership: Ownership | None = None,
        unwatched: AbstractSet[str] = frozenset(),
    ) -> None:
        """Decide with these alarms.

        Args:
            topics: that name the devices.
            payload: how beats are encoded.
            detectors: that score them.
            alarms: that are decided on.
            rhythm: what counts as an arrhythmia of a device.
            rate: of the samples that devices number their beats by, in Hz; None if it is not known.
            longest_held: the age of a message, in seconds, above which its time is not credible.
            ownership: which devices other monitors watch; None where there can be no others.
            unwatched: the devices of which the shape of beats says nothing for now.
        """
        self._longest_held = longest_held
        self._topics, self._payload = topics, payload
        self._rhythm, self._rate, self._unwatched = rhythm, rate, unwatched
        self._detectors, self._alarms = detectors, alarms
        self._ownership = ownership or Ownership(alarms, "")
        self._rr_histories = RrHistories()
        self._beside = ThreadPoolExecutor(1, "judge")

    def score(self, received: Sequence[Message], now: float) -> ScoredBatch:
        """Decode messages and score their beats together; what cannot be decoded is left out.

        Args:
            received: in the order of their arrival.
            now: the time of it, in seconds since 1970 UTC.
        """
        decoded, rejected, misdated = self._decode(received, now)
        if not decoded:
            return ScoredBatch([], _NO_BEATS, _NO_SCORES, _NO_FAULTS, b"", rejected, 0.0)
        batch = samples(b"".join([each.beats.data for each in decoded]))
        rr = self._rr_before(decoded, batch) if self._detectors.hear_rhythm else None
        large = len(batch) >= LARGE_BATCH
        judging = self._beside.submit(quality.assess, batch) if large else None
        begun = time.perf_counter()
        scored = self._detectors.score(
            batch, ((each.device, each.start, each.stop) for each in decoded), rr
        )
        seconds = time.perf_counter() - begun
        faults = quality.assess(batch) if judging is None else judging.result()
        verdicts = _verdicts(scored, faults)
        rejected += _not_finite(decoded, faults)
        if self._unwatched:
            verdicts = self._without_shape(decoded, verdicts)
        return ScoredBatch(
            decoded, batch, scored, faults, verdicts, rejected, seconds, misdated, rr
        )

    def decide(
        self,
        batch: ScoredBatch,
        now: float,
        skip_saves: bool = False,
        announced: Container[str] | None = None,
        changes: Changes | None = None,
    ) -> Changes:
        """Decide on the alarms of every device in a batch.

        Args:
            batch: as `score` returned it.
            now: in seconds since 1970 UTC, the time of beats that carry none.
            skip_saves: save a window only when its alarm changes.
            announced: the devices that Home Assistant has been told of; None where it is not told
                of any.
            changes: of this turn, to which those of the batch are added.
        """
        changes = changes or Changes()
        if not batch.messages:
            return changes
        verdicts, small = batch.verdicts, len(batch.messages) <= SMALL_BATCH
        prints = fingerprints(batch.samples)
        fingerprints_as_keys = prints.tobytes()
        for each in batch.messages:
            message, name, beats = each.message, each.device, each.beats
            start, stop = each.start, each.stop
            if self._alarms.has_left(name, message.arrived, message.redelivered):
                continue
            if name in self._ownership.elsewhere:
                changes.handovers.append(self._ownership.claim(name, message.arrived))
                changes.save(name, message)
            device = self._alarms.hear(name, message.arrived)
            if announced is not None and name not in announced:
                changes.unannounced[name] = None
                device.unsaved = True  # it is shown with its alarm, even if none is open
            normal = verdicts.count(NORMAL, start, stop) == stop - start
            if normal and device.clean and self._is_plain(beats) and not message.redelivered:
                self._alarms.observe_normal(device, fingerprints_as_keys[8 * start : 8 * stop])
                if device.unsaved and not skip_saves:
                    changes.save(name, message)
                continue  # nearly always
            times = beats.times(now)
            keys = beats.keys(prints[start:stop].tolist(), times)
            # What explains an anomaly comes first.
            decisions: list[Decision] = []
            if beats.rhythm is not None or self._times_beats(beats):
                decisions += self._hear_rhythm(name, device, batch, each, times, keys, now)
            if keys:
                decisions += self._alarms.observe(
                    name,
                    device,
                    verdicts[start:stop],
                    keys,
                    times,
                    beats.seq,
                    message.redelivered,
                    beats.seqs,
                )
            for decision in decisions:
                at = decision.beat or 0
                evidence = _evidence(batch, start + at) if keys else NO_EVIDENCE
                moment = times[at] if keys else beats.moment(now)
                detector = self._detectors.for_device(name)
                changes.add(decision, moment, detector, evidence, message)
            if decisions or (device.unsaved and not skip_saves) or (small and not device.clean):
                changes.save(name, message)
        return changes

    def _hear_rhythm(
        self,
        name: str,
        device: Device,
        batch: ScoredBatch,
        decoded: DecodedMessage,
        times: list[float],
        keys: list[int],
        now: float,
    ) -> list[Decision]:
        """Decide on a device's rhythm: as its messages tell it, or else by the intervals.

        Runs of ventricular beats are heard in either case: the device's own detector knows better
        what a ventricular beat of this patient is than whoever follows the signal.
        """
        message, beats = decoded.message, decoded.beats
        found, verdicts = beats.rhythm, batch.verdicts[decoded.start : decoded.stop]
        if found is None or VENTRICULAR in verdicts or device.intervals is not None:
            own = self._by_intervals(name, device, beats, verdicts, times, keys, message)
            if found is None:
                if own is None:
                    return []
                found = own
            elif own:
                runs = [each for each in own if each.kind == "ventricular-tachycardia"]
                found = sorted(found + runs, key=lambda each: SEVERITY.index(each.kind))
        if not found and not device.open:
            return []  # nearly always
        rhythm = Rhythm.of(found[0], self._rhythm(name)) if found else Rhythm()
        moment = times[-1] if times else beats.moment(now)
        return self._alarms.hear_rhythm(name, device, rhythm, moment, message.redelivered)

    def _is_plain(self, beats: Beats) -> bool:
        """Return whether a message says nothing but its samples."""
        return beats.seq is None and beats.rhythm is None and not self._times_beats(beats)

    def _times_beats(self, beats: Beats) -> bool:
        """Return whether a message says how long after one another its beats were."""
        return beats.rr_ms is not None or beats.time is not None or self._rate is not None

    def _by_intervals(
        self,
        name: str,
        device: Device,
        beats: Beats,
        verdicts: bytes,
        times: list[float],
        keys: list[int],
        message: Message,
    ) -> list[Finding] | None:
        """Return what the intervals between a device's beats say; None if they say nothing."""
        again = keys and (message.redelivered or beats.seq is not None) and device.knows(keys[-1])
        if not keys or again or not self._times_beats(beats):
            return None
        if device.intervals is None:
            device.intervals = IntervalWatch(self._rhythm(name))
        return device.intervals.hear(beats, verdicts, times, message.arrived, self._rate)

    def _without_shape(self, decoded: list[DecodedMessage], verdicts: bytes) -> bytes:
        """Return the verdicts where those of unwatched devices say no more than how good it is."""
        told = bytearray(verdicts)
        for each in decoded:
            if each.device in self._unwatched:
                for at in range(each.start, each.stop):
                    told[at] = POOR if told[at] == POOR else NORMAL
        return bytes(told)

    def forget(self, name: str) -> None:
        """Forget the RR intervals of a device whose patient has left."""
        self._rr_histories.forget(name)

    def _rr_before(self, decoded: list[DecodedMessage], batch: Floats) -> Floats:
        """Return the RR intervals before each beat, float32 [N, 32]; zeros for who has no use."""
        rr = np.zeros((len(batch), INTERVALS), np.float32)
        for each in decoded:
            if self._detectors.hears_rhythm(each.device):
                beats, own = each.beats, slice(each.start, each.stop)
                prints = fingerprints(batch[own]).tolist()
                rr[own] = self._rr_histories.extend(
                    each.device,
                    beats.rr_ms or [None] * len(beats),
                    beats.keys(prints, beats.times(0.0)),
                    each.message.redelivered or beats.seq is not None,
                )
        return rr

    def _decode(
        self, received: Sequence[Message], now: float
    ) -> tuple[list[DecodedMessage], list[Rejection], list[tuple[str, float]]]:
        decoded: list[DecodedMessage] = []
        rejected: list[Rejection] = []
        misdated: list[tuple[str, float]] = []
        at = 0
        for message in received:
            try:
                device = self._topics.device(message.topic)
                beats = codec.decode(message.payload, message.content_type, self._payload)
            except Rejected as error:
                rejected.append(Rejection(message.topic, error.reason, str(error)))
                continue
            if beats.time is not None and not is_credible(beats.time, now, self._longest_held):
                misdated.append((device, beats.time))
                beats = msgspec.structs.replace(beats, credible=False)
            if beats.rhythm:
                beats = msgspec.structs.replace(beats, rhythm=_dated(beats, now))
            stop = at + len(beats)
            decoded.append(DecodedMessage(message, device, beats, at, stop))
            at = stop
        return decoded, rejected, misdated


def _dated(beats: Beats, now: float) -> list[Finding]:
    """Return the arrhythmias of a message with onsets that are credible, by its own clock or ours.

    An arrhythmia may last for longer than any message was on its way.
    """
    moment = beats.moment(now)
    wrong = 0.0 if beats.time is None or beats.credible else moment - beats.time
    return [
        each
        if not wrong and is_credible(each.since, moment, LONGEST_ARRHYTHMIA)
        else each._replace(since=_within(each.since + wrong, moment), seen=moment)
        for each in beats.rhythm or ()
    ]


def _within(since: float, moment: float) -> float:
    return min(since, moment) if is_credible(since, moment, LONGEST_ARRHYTHMIA) else moment


_NO_BEATS = np.empty((0, SAMPLES), np.float32)
_NO_SCORES = Scored(np.empty(0, np.float32), _NO_BEATS, np.float32(1))
_NO_FAULTS = np.empty(0, np.uint8)


def _verdicts(scored: Scored, faults: NDArray[np.uint8]) -> bytes:
    """Return the verdict of each beat, a byte each; add to `faults` what the scores tell."""
    finite = np.isfinite(scored.scores)
    if not finite.all():
        faults[~finite] = quality.NOT_FINITE
    if scored.off_scale is not None:
        faults[scored.off_scale & (faults == quality.GOOD)] = quality.OFF_SCALE
    anomalous = scored.scores > scored.thresholds
    if scored.ventricular is None and not faults.any():
        return anomalous.tobytes()
    return verdicts(anomalous, faults == quality.GOOD, scored.ventricular).tobytes()


def _not_finite(decoded: list[DecodedMessage], faults: NDArray[np.uint8]) -> list[Rejection]:
    bad = faults == quality.NOT_FINITE
    if not bad.any():
        return []
    detail = "a sample is NaN, infinite, or beyond what the model can score"
    return [
        Rejection(each.message.topic, "not_finite", detail)
        for each in decoded
        if bad[each.start : each.stop].any()
    ]


def _evidence(batch: ScoredBatch, at: int) -> Evidence:
    beat = batch.samples[at]
    if batch.verdicts[at] == POOR:  # JSON has no word for NaN, nor for what is infinite
        return Evidence(beat=beat.tolist() if np.isfinite(beat).all() else None)
    scored = batch.scored
    return Evidence(float(scored.scores[at]), beat.tolist(), scored.reconstructions[at].tolist())


def scores(batch: ScoredBatch, now: float) -> list[messages.Scores]:
    """Return the scores of each message's beats that can be believed, as they are published."""
    published: list[messages.Scores] = []
    for each in batch.messages:
        beats, start = each.beats, each.start
        times = beats.times(now)
        believed = [
            messages.Score(
                beats.number(i),
                rfc3339(times[i]),
                float(batch.scored.scores[start + i]),
                batch.verdicts[start + i] != NORMAL,
            )
            for i in range(each.stop - start)
            if batch.verdicts[start + i] != POOR
        ]
        if believed:
            published.append(messages.Scores(each.device, believed))
    return published
