"""Turn the chunks of all devices into beats, whatever happens to the chunks on their way.

Pure: the time is an argument. A chunk may arrive twice, may be missing, may contain lost samples,
and its device may restart its sample numbers. Lost samples are time with the lead off: no beat and
no interval spans a gap.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.chunks import Chunk
from monitor.ecg.rhythm import Finding, RhythmSettings
from monitor.ecg.rpeaks import Signal
from monitor.ecg.segmenter import CutBeat, Segmenter
from monitor.ecg.signal_rhythm import SignalRhythm
from monitor.errors import ConfigurationError, Rejected
from monitor.times import LONGEST_HELD, is_credible

SILENT_AFTER: Final = 10.0
"""Seconds without a chunk after which a stream ends and its last beats are returned."""

RATE_TOLERANCE: Final = 0.02
"""Share by which a chunk's rate may differ from its stream's: some devices measure their clock."""

LONGEST_HOLE: Final = 60.0
"""Longest gap within a stream, in seconds; after a longer one a new stream begins."""

REPEATABLE: Final = 60.0
"""Seconds for which earlier chunks are remembered, to recognise duplicates."""

TAIL: Final = 10.0
"""Seconds of samples kept, to distinguish an overlapping chunk from restarted sample numbers."""

SHOWN: Final = 35.0
"""Seconds of signal and beats kept to be shown around an alarm: ten before it, 14 until the beats
of the ten after it are cut, and the time that the alarm took to be raised."""

SHOWN_LEADS: Final = 3
"""Most leads kept for that: 35 s at 250 Hz are 105 kB a device."""


class Taken(NamedTuple):
    """The result of taking a chunk.

    Attributes:
        beats: the beats that it completed.
        rhythm_changed: whether an arrhythmia began, became more serious, or ended.
        notice: why a new stream of a known device begins; None if it does not.
        first: the number of the first new sample; None if there is none.
        misdated: the chunk's time, if it is not credible.
        ended: the stream that ended with this chunk, and its last beats; None if none did.
        lost: the number of samples missing before the chunk or not finite in it.
    """

    beats: list[CutBeat]
    rhythm_changed: bool = False
    notice: str | None = None
    first: int | None = None
    lost: int = 0
    misdated: float | None = None
    ended: tuple["Stream", list[CutBeat]] | None = None


_numbers = count(1)


class Stream:
    """The signal of one device.

    Attributes:
        number: which no other stream of this process has.
        expected: the number of the next sample.
        told: the value of `expected` when the caller last published something; set by the caller.
        heard: when its last chunk arrived, in seconds on the caller's clock.
    """

    def __init__(
        self, rate: float, chunk: Chunk, lead: str | None, settings: RhythmSettings
    ) -> None:
        """Start with the first sample of a chunk.

        Raises:
            ConfigurationError: the rate cannot be used.
        """
        self.number = next(_numbers)
        self.expected = chunk.seq or 0
        self.told = self.expected
        self.heard = 0.0
        self.lead = lead if lead in chunk.leads else next(iter(chunk.leads))
        self.leads = list(chunk.leads)
        self._segmenter = Segmenter(rate, self.expected)
        self._rhythm = SignalRhythm(rate, self.leads, settings)
        self._first = self.expected
        self._arrived = 0.0  # when the last chunk arrived, in seconds since 1970
        self._given: tuple[int, float] | None = None  # a sample's number, and its time as given
        self._credible = True  # whether that may be true
        self._recent: deque[tuple[int, int, int]] = deque()  # first, length, checksum of chunks
        self._tail: Signal = np.empty(0)
        shown = sorted(self.leads, key=lambda name: name != self.lead)[:SHOWN_LEADS]
        self._shown = {name: np.empty(0, np.float32) for name in shown}
        self._beats: deque[int] = deque(maxlen=600)  # more than 35 s of any heart

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self._segmenter.rate

    def time_of(self, seq: int) -> float | None:
        """Return the time of a sample in seconds since 1970, by the device's clock.

        None if the device sends no times, or none that is credible.
        """
        return self._given_time(seq) if self._credible else None

    def _given_time(self, seq: int) -> float | None:
        if self._given is None:
            return None
        number, time = self._given
        return time + (seq - number) / self.rate

    def moment_of(self, seq: int) -> float:
        """Return the time of a sample, by the device's clock or else by when chunks arrived."""
        told = self.time_of(seq)
        return told if told is not None else self._arrived - (self.expected - seq) / self.rate

    def ventricular(self, seq: int) -> bool:
        """Return whether the beat at this sample is rather ventricular, as the rhythm hears it."""
        return self._rhythm.ventricular(self.lead, (seq - self._first) / self.rate)

    def shown(self, first: int, last: int) -> tuple[int, dict[str, NDArray[np.float32]], list[int]]:
        """Return what is kept of the samples `first:last`, NaN where one was lost.

        Return the number of the first of them, each lead, [n], and the numbers of the beats there.
        """
        kept = self.expected - len(next(iter(self._shown.values())))
        first, last = max(first, kept), min(last, self.expected)
        leads = {name: own[first - kept : last - kept] for name, own in self._shown.items()}
        return first, leads, [seq for seq in self._beats if first <= seq < last]

    def rhythm(self) -> list[Finding]:
        """Return the arrhythmias present, most serious first, with times in seconds since 1970."""
        return [
            each._replace(since=self._wall(each.since), seen=self._wall(each.seen))
            for each in self._rhythm.standing
        ]

    def _wall(self, second: float) -> float:
        """Return the time of a second of the stream, by the device's clock or else by arrival."""
        return self.moment_of(self._first + round(second * self.rate))

    def repeats(self, chunk: Chunk) -> bool:
        """Return whether a chunk, or the part of it before `expected`, is a duplicate."""
        samples = self._samples(chunk)
        if chunk.seq is None:
            return any(check == _check(samples) for _, _, check in self._recent)
        kept = self.expected - len(self._tail)
        first, last = max(chunk.seq, kept), min(chunk.seq + len(chunk), self.expected)
        if first < last:
            ours = self._tail[first - kept : last - kept]
            theirs = samples[first - chunk.seq : last - chunk.seq]
            return bool(np.array_equal(ours, theirs, equal_nan=True))
        return (chunk.seq, len(chunk), _check(samples)) in self._recent

    def feed(self, chunk: Chunk, wall: float, credible: bool = True) -> tuple[list[CutBeat], bool]:
        """Take a chunk that begins at or after the expected sample.

        Return the beats that it completes, and whether the rhythm has changed. `wall` is the time
        of arrival in seconds since 1970; `credible` is whether the chunk's own time may be true.
        """
        first = self.expected + self.lost_before(chunk)
        samples = self._samples(chunk)
        self._recent.append((first, len(chunk), _check(samples)))
        while self._recent and self._recent[0][0] < first - REPEATABLE * self.rate:
            self._recent.popleft()
        if chunk.time is not None:
            self._given, self._credible = (first, chunk.time), credible
        hole = np.full(first - self.expected, np.nan)
        new = np.concatenate([hole, samples])
        self._arrived = wall
        leads = {name: np.concatenate([hole, own]) for name, own in chunk.leads.items()}
        changes = self._rhythm.feed(leads)
        self.expected = first + len(chunk)
        self._tail = np.concatenate([self._tail, new])[-round(TAIL * self.rate) :]
        for name, kept in self._shown.items():
            own = leads.get(name, np.full(len(new), np.nan)).astype(np.float32)
            self._shown[name] = np.concatenate([kept, own])[-round(SHOWN * self.rate) :]
        return self._noted(self._segmenter.feed(new)), bool(changes)

    def finish(self) -> list[CutBeat]:
        """Return the remaining beats when no more samples will come."""
        return self._noted(self._segmenter.finish())

    def _noted(self, beats: list[CutBeat]) -> list[CutBeat]:
        self._beats.extend(beat.seq for beat in beats)
        return beats

    def lost_before(self, chunk: Chunk) -> int:
        """Return how many samples are missing before a chunk, by its number or else by its time."""
        if chunk.seq is not None:
            return max(0, chunk.seq - self.expected)
        due = self._given_time(self.expected)  # a clock that is wrong still ticks
        if due is None or chunk.time is None or chunk.time - due < 1:  # clocks are not exact
            return 0
        return round((chunk.time - due) * self.rate)

    def _samples(self, chunk: Chunk) -> Signal:
        lost = np.full(len(chunk), np.nan)
        return chunk.leads.get(self.lead, lost)  # a lead that is not sent counts as off


class Streams:
    """The signals of all devices."""

    def __init__(
        self,
        rate: float | None = None,
        lead: str | None = None,
        rhythm: Callable[[str], RhythmSettings] = lambda _: RhythmSettings(),
        longest_held: float = LONGEST_HELD,
    ) -> None:
        """Start with no streams.

        Args:
            rate: in Hz, for chunks that do not contain one.
            lead: to cut beats from; for devices that do not have it, the first one.
            rhythm: returns the settings that define a device's arrhythmias.
            longest_held: the age of a chunk, in seconds, above which its time is not credible.
        """
        self._longest_held = longest_held
        self._rate, self._lead, self._rhythm = rate, lead, rhythm
        self._streams: dict[str, Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def find(self, device: str) -> Stream | None:
        """Return the stream of a device; None if it has none."""
        return self._streams.get(device)

    def take(
        self,
        device: str,
        chunk: Chunk,
        now: float,
        redelivered: bool = False,
        wall: float | None = None,
    ) -> Taken:
        """Take a chunk.

        Args:
            device: that sent it.
            chunk: as `chunks.decode` returned it.
            now: in seconds.
            redelivered: whether the broker marked it as a duplicate; without a number, it is then
                compared with earlier chunks by its samples.
            wall: when it arrived, in seconds since 1970; None if that is not known.

        Raises:
            Rejected: its rate is not known, or cannot be used.
        """
        rate = self._rate if chunk.rate is None else chunk.rate
        if rate is None:
            raise Rejected("shape", "the chunk contains no rate, and segment.rate is not set")
        stream, ended = self._streams.get(device), None
        notice = None if stream is None else _breaks(stream, chunk, rate)
        credible = (
            chunk.time is None or wall is None or is_credible(chunk.time, wall, self._longest_held)
        )
        misdated = None if credible else chunk.time
        if stream is None or notice is not None:
            try:
                new = Stream(rate, chunk, self._lead, self._rhythm(device))
            except ConfigurationError as error:
                raise Rejected("shape", str(error)) from None
            if stream is not None:
                ended = stream, stream.finish()
            stream = self._streams[device] = new
        stream.heard = now
        if chunk.seq is not None and chunk.seq < stream.expected:
            chunk = _rest(chunk, stream.expected, stream.rate)
        elif chunk.seq is None and redelivered and stream.repeats(chunk):
            return Taken([], notice=notice)
        if not len(chunk):
            return Taken([], notice=notice)
        due = stream.expected
        beats, changed = stream.feed(chunk, wall or 0.0, credible)
        first = stream.expected - len(chunk)
        lost = sum(int(np.isnan(samples).sum()) for samples in chunk.leads.values())
        return Taken(beats, changed, notice, first, lost + first - due, misdated, ended)

    def end_silent(self, now: float) -> list[tuple[str, Stream, list[CutBeat]]]:
        """End the streams without a chunk for `SILENT_AFTER`, and return their last beats."""
        ended = [name for name, it in self._streams.items() if it.heard + SILENT_AFTER < now]
        return [(name, *self.end(name)) for name in ended]

    def end(self, device: str) -> tuple[Stream, list[CutBeat]]:
        """End the stream of a device, which must have one; return it and its last beats."""
        stream = self._streams.pop(device)
        return stream, stream.finish()


def _breaks(stream: Stream, chunk: Chunk, rate: float) -> str | None:
    """Return why a chunk does not belong to a stream; None if it does."""
    if abs(rate - stream.rate) > RATE_TOLERANCE * stream.rate:
        return f"its rate is {rate:g} Hz, and was {stream.rate:g} Hz"
    if not set(chunk.leads) & set(stream.leads):
        return f"its leads are {_named(chunk.leads)}, and were {_named(stream.leads)}"
    lost = stream.lost_before(chunk) / stream.rate
    if lost > LONGEST_HOLE:
        return f"{lost:.0f} s of its samples are missing"
    if chunk.seq is not None and chunk.seq < stream.expected and not stream.repeats(chunk):
        return f"it counts from {chunk.seq} again; {stream.expected} was expected"
    return None


def _named(leads: Iterable[str]) -> str:
    return ", ".join(leads) or "not named"


def _rest(chunk: Chunk, expected: int, rate: float) -> Chunk:
    """Return the part of a chunk at or after the sample `expected`."""
    assert chunk.seq is not None
    known = min(len(chunk), expected - chunk.seq)
    time = None if chunk.time is None else chunk.time + known / rate
    leads = {name: samples[known:] for name, samples in chunk.leads.items()}
    return Chunk(leads, chunk.rate, chunk.seq + known, time)


def _check(samples: Signal) -> int:
    return crc32(samples.tobytes())
