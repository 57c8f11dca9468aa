"""Chunks become the beats that the whole signal has, across gaps, repetitions and new counts."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.alarms.decisions import Policy
from monitor.ecg import quality
from monitor.ecg.chunks import Chunk
from monitor.ecg.segmenter import CutBeat, Segmenter
from monitor.ecg.streams import LONGEST_HOLE, SILENT_AFTER, Streams, Taken
from monitor.errors import Rejected
from tests.harness.signals import heart

RATE = 250
SIGNAL, PEAKS = heart(60, RATE)
NOW = 1_790_000_000.0


def chunk(
    start: int, stop: int, signal: NDArray[np.float64] = SIGNAL, rate: float | None = RATE
) -> Chunk:
    return Chunk({"": signal[start:stop]}, rate, start)


def send(
    streams: Streams, start: int, stop: int, signal: NDArray[np.float64] = SIGNAL, shift: int = 0
) -> list[CutBeat]:
    """Send the samples from `start` to `stop` in chunks of a second, numbered from `shift` on."""
    beats: list[CutBeat] = []
    for first in range(start, stop, RATE):
        part = signal[first : min(first + RATE, stop)]
        beats += streams.take("a", Chunk({"": part}, RATE, first - start + shift), 0).beats
    return beats


def numbers(beats: list[CutBeat]) -> list[int]:
    return [beat.seq for beat in beats]


def found(beats: list[CutBeat], peaks: NDArray[np.int64]) -> bool:
    """Whether each of these R peaks, and no other, is a beat's."""
    at = np.array(numbers(beats))
    return len(at) == len(peaks) and bool((np.abs(at - peaks) <= 5).all())


def test_chunks_give_the_beats_of_the_whole() -> None:
    streams = Streams()
    beats = send(streams, 0, len(SIGNAL))
    assert streams.end_silent(SILENT_AFTER - 1) == []
    ((device, _, last),) = streams.end_silent(SILENT_AFTER + 1)
    whole = Segmenter(RATE)
    expected = whole.feed(SIGNAL) + whole.finish()
    assert device == "a"
    assert numbers(beats + last) == numbers(expected)
    assert found(beats + last, PEAKS)
    assert len(streams) == 0


def test_a_chunk_that_comes_twice_counts_once() -> None:
    once, twice = Streams(), Streams()
    expected = send(once, 0, 40 * RATE)
    beats = send(twice, 0, 20 * RATE)
    for start, stop in ((19, 20), (18, 20), (3, 4)):  # the last one, two as one, an early one
        assert twice.take("a", chunk(start * RATE, stop * RATE), 0) == Taken([])
    late = twice.take("a", chunk(19 * RATE, 21 * RATE), 0)  # half of it is new
    assert late.notice is None
    beats += late.beats + send_on(twice, 21 * RATE, 40 * RATE)
    assert numbers(beats) == numbers(expected)


def send_on(streams: Streams, start: int, stop: int) -> list[CutBeat]:
    return send(streams, start, stop, shift=start)


def test_without_numbers_a_redelivered_chunk_counts_once() -> None:
    streams = Streams(RATE)
    bare = [Chunk({"": part}) for part in np.split(SIGNAL, 60)]
    beats = [beat for one in bare[:30] for beat in streams.take("a", one, 0).beats]
    for one in bare[28:30]:
        assert streams.take("a", one, 0, redelivered=True).beats == []
    beats += [beat for one in bare[30:] for beat in streams.take("a", one, 0).beats]
    expected = Segmenter(RATE).feed(SIGNAL)
    assert numbers(beats) == numbers(expected)


def test_a_device_that_counts_from_zero_again_is_heard_at_once() -> None:
    streams = Streams()
    send(streams, 0, 30 * RATE)
    again = streams.take("a", chunk(0, RATE, SIGNAL[100:]), 0)
    assert again.notice is not None
    assert "counts from 0 again; 7500 was expected" in again.notice
    beats = send(streams, RATE, 20 * RATE, SIGNAL[100:], shift=RATE)
    assert found(beats, PEAKS[(PEAKS > 100) & (PEAKS < 100 + 18 * RATE)] - 100)


def test_a_counter_that_wraps_goes_on() -> None:
    streams = Streams()
    top = 2**32 - 20 * RATE
    for first in range(0, 40 * RATE, RATE):
        part = SIGNAL[first : first + RATE]
        taken = streams.take("a", Chunk({"": part}, RATE, (top + first) % 2**32), 0)
        assert (taken.notice is not None) == (first == 20 * RATE)


@pytest.mark.parametrize("drift", [0.1, 2.0, 4.9])
def test_a_rate_that_wavers_is_one_rate(drift: float) -> None:
    streams = Streams()
    beats: list[CutBeat] = []
    for i in range(40):
        taken = streams.take(
            "a", chunk(i * RATE, (i + 1) * RATE, rate=RATE + drift * (i % 3) / 2), 0
        )
        assert taken.notice is None
        beats += taken.beats
    assert numbers(beats) == numbers(Segmenter(RATE).feed(SIGNAL[: 40 * RATE]))
    other = streams.take("a", chunk(40 * RATE, 41 * RATE, rate=500), 0)
    assert other.notice == "its rate is 500 Hz, and was 250 Hz"


def with_hole(form: str, first: int, last: int) -> list[Chunk]:
    """Give the signal, in chunks of a second, with samples lost in one of the ways of losing."""
    holed = SIGNAL.copy()
    holed[first:last] = np.nan
    parts = [(i, holed[i : i + RATE]) for i in range(0, 50 * RATE, RATE)]
    if form == "nan":
        return [Chunk({"": part}, RATE, i) for i, part in parts]
    whole = [(i, part) for i, part in parts if not np.isnan(part).any()]
    if form == "seq":
        return [Chunk({"": part}, RATE, i) for i, part in whole]
    if form == "time":
        return [Chunk({"": part}, RATE, None, 1000 + i / RATE) for i, part in whole]
    other = np.zeros(RATE)
    return [
        Chunk({"II": part, "V1": other} if not np.isnan(part).any() else {"V1": other}, RATE, i)
        for i, part in parts
    ]


@pytest.mark.parametrize("form", ["nan", "seq", "time", "lead"])
def test_lost_samples_are_a_lead_that_is_off_in_time(form: str) -> None:
    first, last = 20 * RATE, 28 * RATE
    streams = Streams(lead="II")
    beats: list[CutBeat] = []
    for one in with_hole(form, first, last):
        taken = streams.take("a", one, 0)
        assert taken.notice is None
        beats += taken.beats
    at = np.array(numbers(beats))
    samples = np.array([beat.samples for beat in beats])
    good = quality.assess(samples) == quality.GOOD
    within = (at > first) & (at < last)
    assert within.sum() >= 3  # the lead is said to be off while it is
    assert not good[within].any()
    whole = PEAKS[(first - 2 * RATE > PEAKS) | ((last + 2 * RATE < PEAKS) & (PEAKS < 46 * RATE))]
    assert all((np.abs(at[good] - peak) <= 5).any() for peak in whole)
    after = next(beat for beat in beats if beat.seq > last and beat.rr_ms is not None)
    assert 600 < (after.rr_ms or 0) < 1000  # no interval spans the hole


def test_a_short_hole_costs_the_beats_that_it_touches_and_no_other() -> None:
    peak = int(PEAKS[25])
    streams, signal = Streams(), SIGNAL.copy()
    signal[peak + 20 : peak + 45] = np.nan  # 100 ms, 80 ms after an R peak
    beats = send(streams, 0, 50 * RATE, signal)
    samples = np.array([beat.samples for beat in beats])
    good = quality.assess(samples) == quality.GOOD
    bad = np.array(numbers(beats))[~good]
    assert len(bad) == 1
    assert abs(bad[0] - peak) <= 5
    assert next(beat.rr_ms for beat in beats if beat.seq > peak + 20) is None


def test_a_single_lost_sample_costs_no_beat() -> None:
    streams, signal = Streams(), SIGNAL.copy()
    signal[:: 7 * RATE] = np.nan
    beats = send(streams, 0, len(signal), signal)
    assert (quality.assess(np.array([b.samples for b in beats])) == quality.GOOD).all()
    assert found(beats, PEAKS[: len(beats)])


def test_after_a_long_hole_a_new_stream_begins() -> None:
    streams = Streams()
    send(streams, 0, 20 * RATE)
    late = round(20 + LONGEST_HOLE + 5) * RATE
    taken = streams.take("a", Chunk({"": SIGNAL[:RATE]}, RATE, late), 0)
    assert taken.notice == "65 s of its samples are missing"


def test_beats_are_when_the_device_says() -> None:
    streams = Streams()
    for i in range(20):
        part = SIGNAL[i * RATE : (i + 1) * RATE]
        streams.take("a", Chunk({"": part}, RATE, i * RATE, 5000.0 + i), 0)
    stream = streams.find("a")
    assert stream is not None
    assert stream.time_of(10 * RATE) == pytest.approx(5010.0)


@pytest.mark.parametrize(
    "given", [0.0, NOW / 1000, 946_684_800.0, NOW + 3600, NOW + 1e9], ids=lambda each: f"{each:g}"
)
def test_a_clock_that_is_wrong_is_not_believed_and_still_ticks(given: float) -> None:
    streams = Streams()
    for i in (*range(20), *range(30, 40)):  # ten seconds are missing
        part = SIGNAL[i * RATE : (i + 1) * RATE]
        taken = streams.take("a", Chunk({"": part}, RATE, None, given + i), 0, wall=NOW + i)
        assert taken.misdated == given + i
        assert taken.notice is None
    stream = streams.find("a")
    assert stream is not None
    assert stream.time_of(10 * RATE) is None
    assert stream.expected == 40 * RATE
    taken = streams.take("a", Chunk({"": SIGNAL[:RATE]}, RATE, None, NOW + 40), 0, wall=NOW + 40)
    assert taken.misdated is None
    stream = streams.find("a")
    assert stream is not None
    assert stream.time_of(stream.expected) == pytest.approx(NOW + 41)


def test_the_last_beats_of_a_stream_that_breaks_are_of_its_own_time() -> None:
    streams = Streams()
    for i in range(20):
        streams.take("a", Chunk({"": SIGNAL[i * RATE :][:RATE]}, RATE, i * RATE, NOW + i), 0)
    taken = streams.take("a", Chunk({"": SIGNAL[100:][:RATE]}, RATE, 0, NOW + 500), 0)
    assert taken.ended is not None
    stream, beats = taken.ended
    assert taken.beats == []
    assert beats
    for beat in beats:
        assert stream.time_of(beat.seq) == pytest.approx(NOW + beat.seq / RATE)


def test_a_rate_that_cannot_be_used_ends_no_stream() -> None:
    streams = Streams()
    beats = send(streams, 0, 20 * RATE)
    with pytest.raises(Rejected):
        streams.take("a", chunk(20 * RATE, 21 * RATE, rate=5), 0)
    stream = streams.find("a")
    assert stream is not None
    assert stream.expected == 20 * RATE
    whole = Segmenter(RATE)
    assert numbers(beats + streams.end("a")[1]) == numbers(
        whole.feed(SIGNAL[: 20 * RATE]) + whole.finish()
    )


def test_the_rate_must_be_known_and_usable() -> None:
    bare = Chunk({"": SIGNAL})
    with pytest.raises(Rejected, match=r"segment\.rate"):
        Streams().take("a", bare, 0)
    with pytest.raises(Rejected, match="sampling rate 5 Hz"):
        Streams(5.0).take("a", bare, 0)
    with pytest.raises(Rejected, match="sampling rate 0 Hz"):
        Streams(RATE).take("a", chunk(0, RATE, rate=0), 0)
    assert len(Streams(RATE).take("a", bare, 0).beats) > 40


# -- the rhythm of a stream


def rhythms(signal: NDArray[np.float64], **leads: NDArray[np.float64]) -> dict[str, float]:
    """Return for each arrhythmia that a stream tells how many seconds after second 30 it does."""
    streams, told = Streams(), dict[str, float]()
    for second in range(len(signal) // RATE):
        part = slice(second * RATE, (second + 1) * RATE)
        every = {"II": signal[part]} | {name: lead[part] for name, lead in leads.items()}
        streams.take("a", Chunk(every, RATE, second * RATE), 0, wall=float(second + 1))
        stream = streams.find("a")
        assert stream is not None
        for finding in stream.rhythm():
            assert finding.since >= 25  # not before it began
            told.setdefault(finding.kind, second + 1 - 30)
    return told


def after_half_a_minute(what: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([heart(30, RATE, seed=3)[0], what, heart(20, RATE, seed=4)[0]])


SECONDS = np.arange(30 * RATE) / RATE
NOISE = 0.01 * np.random.default_rng(5).standard_normal(len(SECONDS))
P_WAVES = NOISE + 0.12 * np.exp(-((SECONDS % 0.8 - 0.4) ** 2) / (2 * 0.025**2))


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (P_WAVES, "asystole"),
        (NOISE + 0.03 * np.sin(2 * np.pi * 0.3 * SECONDS), "asystole"),
        (heart(30, RATE, per_minute=170)[0], "tachycardia"),
        (heart(30, RATE, per_minute=30)[0], "bradycardia"),
        (NOISE + 0.35 * np.sin(2 * np.pi * 4.5 * SECONDS), "ventricular-fibrillation"),
    ],
    ids=["standstill", "wander", "170", "30", "fibrillation"],
)
def test_what_stops_or_races_is_told_within_ten_seconds(
    what: NDArray[np.float64], kind: str
) -> None:
    told = rhythms(after_half_a_minute(what))
    assert kind in told
    assert told[kind] <= 10
    # One event, one kind; only waves may be called a run of beats until they have lasted.
    run = {"ventricular-tachycardia"} if kind == "ventricular-fibrillation" else set()
    assert set(told) - {kind} <= run


@pytest.mark.parametrize("lost", [0.0, 5.0, np.nan], ids=["flat", "rail", "lost"])
def test_a_lead_that_is_off_is_no_arrhythmia(lost: float) -> None:
    assert rhythms(after_half_a_minute(np.full(30 * RATE, lost))) == {}


def test_one_lead_of_two_that_falls_off_is_no_arrhythmia() -> None:
    whole = after_half_a_minute(heart(30, RATE, seed=9)[0])
    holed = after_half_a_minute(np.zeros(30 * RATE))
    other = np.concatenate([whole[: 30 * RATE], whole[30 * RATE :]])
    assert rhythms(holed, V1=0.8 * other) == {}


@pytest.mark.parametrize("lost", [0.0, 5.0, np.nan], ids=["flat", "rail", "lost"])
@pytest.mark.parametrize("offset", [0.0, 0.7, 1.4])
def test_a_lead_that_is_off_is_told_within_ten_seconds(lost: float, offset: float) -> None:
    first = round((20 + offset) * RATE)
    signal = np.concatenate([SIGNAL[:first], np.full(20 * RATE, lost)])
    streams, poor = Streams(), 0
    for second in range(len(signal) // RATE):
        part = signal[second * RATE : (second + 1) * RATE]
        for beat in streams.take("a", Chunk({"": part}, RATE, second * RATE), 0).beats:
            poor += int(quality.assess(beat.samples[None])[0] != quality.GOOD)
        if poor >= Policy().raise_at:
            break
    assert second + 1 - first / RATE <= 10
