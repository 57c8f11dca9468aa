"""Chunks of samples become the beats that the whole signal has, across gaps and repetitions."""

import json
from pathlib import Path

import numpy as np
import pytest

from monitor.commands.segment import SILENT_AFTER, Rejected, Streams, decode
from monitor.ecg import records
from monitor.ecg.segmenter import CutBeat

RATE = 360
SECONDS = 40


@pytest.fixture(scope="module")
def ecg(data: Path) -> records.Record:
    return records.read(data / "mitdb" / "106")


def chunk(ecg: records.Record, start: int, stop: int) -> bytes:
    samples = ecg.signal[start:stop].tolist()
    return json.dumps({"samples": samples, "rate": RATE, "seq": start}).encode()


def send(streams: Streams, ecg: records.Record, start: int, stop: int) -> list[CutBeat]:
    beats: list[CutBeat] = []
    for first in range(start, stop, RATE):
        beats += streams.take("a", chunk(ecg, first, min(first + RATE, stop)), 0)
    return beats


def test_chunks_give_the_beats_of_the_whole(ecg: records.Record) -> None:
    streams = Streams(None)
    beats = send(streams, ecg, 0, SECONDS * RATE)
    assert streams.end_silent(SILENT_AFTER - 1) == []
    ((device, last),) = streams.end_silent(SILENT_AFTER + 1)
    whole = records.beats(ecg, 0, SECONDS)
    assert device == "a"
    assert [beat.seq for beat in beats + last] == [beat.seq for beat in whole]
    assert streams.end_silent(2 * SILENT_AFTER + 2) == []


def test_a_chunk_that_comes_twice_counts_once(ecg: records.Record) -> None:
    once, twice = Streams(None), Streams(None)
    expected = send(once, ecg, 0, SECONDS * RATE)
    beats = send(twice, ecg, 0, 20 * RATE)
    beats += twice.take("a", chunk(ecg, 18 * RATE, 20 * RATE), 0)
    beats += send(twice, ecg, 20 * RATE, SECONDS * RATE)
    assert [beat.seq for beat in beats] == [beat.seq for beat in expected]


def test_no_beat_and_no_interval_spans_a_gap(ecg: records.Record) -> None:
    streams = Streams(None)
    beats = send(streams, ecg, 0, 15 * RATE) + send(streams, ecg, 25 * RATE, SECONDS * RATE)
    at = np.array([beat.seq for beat in beats])
    assert not ((at > 15 * RATE) & (at < 25 * RATE)).any()
    assert (at < 15 * RATE).sum() > 10
    first = beats[int((at >= 25 * RATE).argmax())]
    assert first.rr_ms is None


def test_binary_chunks_take_the_rate_of_the_command_line(ecg: records.Record) -> None:
    payload = ecg.signal[: 20 * RATE].astype("<f4").tobytes()
    assert len(Streams(RATE).take("a", payload, 0)) > 10
    with pytest.raises(Rejected, match="--rate"):
        Streams(None).take("a", payload, 0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"abc",
        b"{}",
        b'{"samples": "x"}',
        b'{"samples": []}',
        b'{"samples": [1, null]}',
        b'{"samples": [1, 2], "rate": 5}',
        b'{"samples": [1, 2], "seq": -1}',
        np.array([np.nan], "<f4").tobytes(),
    ],
)
def test_what_is_no_chunk_is_rejected(payload: bytes) -> None:
    with pytest.raises(Rejected):
        Streams(360.0).take("a", payload, 0)


def test_a_chunk_is_read() -> None:
    samples, rate, seq = decode(b'{"samples": [1, 2.5], "rate": 250, "seq": 7}', None)
    assert (samples.tolist(), rate, seq) == ([1, 2.5], 250, 7)
