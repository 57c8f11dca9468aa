"""The signals of all devices: chunks in, beats out, whatever happens to the chunks on their way.

Pure: time comes in as an argument. A chunk may come twice, may be missing, may hold samples that
were lost, and its device may begin to count anew. Lost samples are time that passes with the lead
off: no beat and no interval is made of the two sides of a hole.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np

from monitor.ecg.chunks import Chunk
from monitor.ecg.rhythm import Finding, RhythmSettings
from monitor.ecg.rpeaks import Signal
from monitor.ecg.segmenter import CutBeat, Segmenter
from monitor.ecg.signal_rhythm import SignalRhythm
from monitor.errors import ConfigurationError, Rejected

SILENT_AFTER: Final = 10.0
"""Seconds without a chunk after which a stream is over and its last beats are given."""

RATE_TOLERANCE: Final = 0.02
"""Share by which a chunk's rate may differ from its stream's: devices measure their clocks."""

LONGEST_HOLE: Final = 60.0
"""Seconds of lost samples that are a lead that is off; after more of them a new stream begins."""

REPEATABLE: Final = 60.0
"""Seconds that a chunk may reach back and still be a repetition of one that came before."""

TAIL: Final = 10.0
"""Seconds of samples that are kept, to tell a chunk that overlaps them from a count begun anew."""


class Taken(NamedTuple):
    """What a chunk brought.

    Attributes:
        beats: those that it completed.
        rhythm_changed: whether an arrhythmia began, grew more serious, or ended.
        notice: why a new stream of a known device begins; None where it does not.
        first: the number of the first sample that was new; None where all came before.
        lost: how many samples were missing before it, or are not finite in it.
    """

    beats: list[CutBeat]
    rhythm_changed: bool = False
    notice: str | None = None
    first: int | None = None
    lost: int = 0


class Stream:
    """The signal of one device.

    Attributes:
        expected: the number of the next sample.
        told: what `expected` was when something was last published of it; the caller's to set.
        heard: when its last chunk came, in seconds on the caller's clock.
    """

    def __init__(
        self, rate: float, chunk: Chunk, lead: str | None, settings: RhythmSettings
    ) -> None:
        """Begin with the first sample of a chunk.

        Raises ConfigurationError for a rate that cannot be used.
        """
        self.expected = chunk.seq or 0
        self.told = self.expected
        self.heard = 0.0
        self.lead = lead if lead in chunk.leads else next(iter(chunk.leads))
        self.leads = list(chunk.leads)
        self._segmenter = Segmenter(rate, self.expected)
        self._rhythm = SignalRhythm(rate, self.leads, settings)
        self._first = self.expected
        self._arrived = 0.0  # when the last chunk came, in seconds since 1970
        self._moment: tuple[int, float] | None = None  # a sample's number, and when it was
        self._recent: deque[tuple[int, int, int]] = deque()  # first, number and check of chunks
        self._tail: Signal = np.empty(0)

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self._segmenter.rate

    def time_of(self, seq: int) -> float | None:
        """When a sample was, in seconds since 1970; None where the device does not say."""
        if self._moment is None:
            return None
        number, time = self._moment
        return time + (seq - number) / self.rate

    def rhythm(self) -> list[Finding]:
        """Return the arrhythmias that are there, the most serious first, in seconds since 1970."""
        return [
            each._replace(since=self._wall(each.since), seen=self._wall(each.seen))
            for each in self._rhythm.standing
        ]

    def _wall(self, second: float) -> float:
        """Return when a second of the stream was: by the device's clock, or else by arrival."""
        seq = self._first + round(second * self.rate)
        told = self.time_of(seq)
        return told if told is not None else self._arrived - (self.expected - seq) / self.rate

    def repeats(self, chunk: Chunk) -> bool:
        """Whether a chunk that reaches back, or the part of it that does, came before."""
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

    def feed(self, chunk: Chunk, wall: float) -> tuple[list[CutBeat], bool]:
        """Take in a chunk that begins at or after the sample that is expected.

        Returns the beats that it completes, and whether the rhythm has changed; `wall` is when it
        came, in seconds since 1970.
        """
        first = self.expected + self.lost_before(chunk)
        samples = self._samples(chunk)
        self._recent.append((first, len(chunk), _check(samples)))
        while self._recent and self._recent[0][0] < first - REPEATABLE * self.rate:
            self._recent.popleft()
        if chunk.time is not None:
            self._moment = first, chunk.time
        hole = np.full(first - self.expected, np.nan)
        new = np.concatenate([hole, samples])
        self._arrived = wall
        leads = {name: np.concatenate([hole, own]) for name, own in chunk.leads.items()}
        changes = self._rhythm.feed(leads)
        self.expected = first + len(chunk)
        self._tail = np.concatenate([self._tail, new])[-round(TAIL * self.rate) :]
        return self._segmenter.feed(new), bool(changes)

    def finish(self) -> list[CutBeat]:
        """Return the beats that are left when no more samples come."""
        return self._segmenter.finish()

    def lost_before(self, chunk: Chunk) -> int:
        """Return how many samples are missing before a chunk, by its number or else its time."""
        if chunk.seq is not None:
            return max(0, chunk.seq - self.expected)
        due = self.time_of(self.expected)
        if due is None or chunk.time is None or chunk.time - due < 1:  # clocks and networks waver
            return 0
        return round((chunk.time - due) * self.rate)

    def _samples(self, chunk: Chunk) -> Signal:
        lost = np.full(len(chunk), np.nan)
        return chunk.leads.get(self.lead, lost)  # a lead that is not sent is a lead that is off


class Streams:
    """The signals of all devices."""

    def __init__(
        self,
        rate: float | None = None,
        lead: str | None = None,
        rhythm: Callable[[str], RhythmSettings] = lambda _: RhythmSettings(),
    ) -> None:
        """Begin with no device known.

        Args:
            rate: in Hz, of chunks that do not carry theirs.
            lead: that beats are cut from; a device that does not have it is cut on its first one.
            rhythm: what counts as an arrhythmia of a device.
        """
        self._rate, self._lead, self._rhythm = rate, lead, rhythm
        self._streams: dict[str, Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def find(self, device: str) -> Stream | None:
        """Return a device's stream; None if it has none."""
        return self._streams.get(device)

    def take(
        self,
        device: str,
        chunk: Chunk,
        now: float,
        redelivered: bool = False,
        wall: float = 0.0,
    ) -> Taken:
        """Take in a chunk.

        Args:
            device: that it came from.
            chunk: as `chunks.decode` gives it.
            now: in seconds.
            redelivered: whether the broker marked it as delivered before; one without a number
                that came before is then known by its samples.
            wall: when it came, in seconds since 1970.

        Raises:
            Rejected: its rate is not known, or cannot be used.
        """
        rate = chunk.rate or self._rate
        if rate is None:
            raise Rejected("shape", "the chunk carries no rate, and segment.rate is not set")
        stream, notice, beats = self._streams.get(device), None, list[CutBeat]()
        if stream is not None:
            notice = _breaks(stream, chunk, rate)
            if notice is not None:
                beats, stream = stream.finish(), None
        if stream is None:
            try:
                stream = self._streams[device] = Stream(
                    rate, chunk, self._lead, self._rhythm(device)
                )
            except ConfigurationError as error:
                raise Rejected("shape", str(error)) from None
        stream.heard = now
        if chunk.seq is not None and chunk.seq < stream.expected:
            chunk = _rest(chunk, stream.expected, stream.rate)
        elif chunk.seq is None and redelivered and stream.repeats(chunk):
            return Taken(beats, notice=notice)
        if not len(chunk):
            return Taken(beats, notice=notice)
        due = stream.expected
        cut, changed = stream.feed(chunk, wall)
        beats += cut
        first = stream.expected - len(chunk)
        lost = sum(int(np.isnan(samples).sum()) for samples in chunk.leads.values())
        return Taken(beats, changed, notice, first, lost + first - due)

    def end_silent(self, now: float) -> list[tuple[str, Stream, list[CutBeat]]]:
        """End the streams that were not heard for `SILENT_AFTER`, and return their last beats."""
        ended = [name for name, it in self._streams.items() if it.heard + SILENT_AFTER < now]
        return [(name, *self.end(name)) for name in ended]

    def end(self, device: str) -> tuple[Stream, list[CutBeat]]:
        """End the stream of a device that has one, and return it and its last beats."""
        stream = self._streams.pop(device)
        return stream, stream.finish()


def _breaks(stream: Stream, chunk: Chunk, rate: float) -> str | None:
    """Return why a chunk does not belong to a stream; None where it does."""
    if abs(rate - stream.rate) > RATE_TOLERANCE * stream.rate:
        return f"its rate is {rate:g} Hz, and was {stream.rate:g} Hz"
    if not set(chunk.leads) & set(stream.leads):
        return f"its leads are {_named(chunk.leads)}, and were {_named(stream.leads)}"
    lost = stream.lost_before(chunk) / stream.rate
    if lost > LONGEST_HOLE:
        return f"{lost:.0f} s of its samples are missing"
    if chunk.seq is not None and chunk.seq < stream.expected and not stream.repeats(chunk):
        return f"it counts from {chunk.seq} again; {stream.expected} was to come"
    return None


def _named(leads: Iterable[str]) -> str:
    return ", ".join(leads) or "not named"


def _rest(chunk: Chunk, expected: int, rate: float) -> Chunk:
    """Return what of a chunk comes at or after the sample `expected`."""
    assert chunk.seq is not None
    known = min(len(chunk), expected - chunk.seq)
    time = None if chunk.time is None else chunk.time + known / rate
    leads = {name: samples[known:] for name, samples in chunk.leads.items()}
    return Chunk(leads, chunk.rate, chunk.seq + known, time)


def _check(samples: Signal) -> int:
    return crc32(samples.tobytes())
