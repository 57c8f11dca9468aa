"""The messages in which the beats of a stream are published."""

import numpy as np

from monitor.ecg import codec
from monitor.ecg.beat import SAMPLES
from monitor.ecg.segmenter import CutBeat
from monitor.ecg.streams import Stream
from monitor.times import rfc3339

MOST_BEATS = 32
"""Beats of one message: 96 kB, with 3 kB a beat. Brokers hang up on what is too large for them, and
one chunk may hold hundreds of beats; the smallest limit that is met is 128 kB (AWS IoT Core)."""


def messages(beats: list[CutBeat], stream: Stream, rhythm_alone: bool) -> list[bytes]:
    """Return beats of a stream with its present rhythm, in as few messages as possible.

    All beats of a message have an RR interval, or it holds one alone that has none.

    Args:
        beats: in order.
        stream: that they were cut from.
        rhythm_alone: whether the rhythm is to be told if there is no beat.
    """
    return [_message(group, stream) for group in _alike(beats) or ([[]] if rhythm_alone else [])]


def _alike(beats: list[CutBeat]) -> list[list[CutBeat]]:
    """Return beats in groups of `MOST_BEATS` at most, of which all have an RR interval, or one
    alone has none."""
    groups: list[list[CutBeat]] = []
    for beat in beats:
        last = groups[-1] if groups else []
        timed = beat.rr_ms is not None and last and last[0].rr_ms is not None
        if timed and len(last) < MOST_BEATS:
            last.append(beat)
        else:
            groups.append([beat])
    return groups


def _message(beats: list[CutBeat], stream: Stream) -> bytes:
    intervals = [beat.rr_ms for beat in beats if beat.rr_ms is not None]
    first = stream.time_of(beats[0].seq if beats else stream.expected)
    return codec.encode_json(
        np.array([beat.samples for beat in beats], np.float32).reshape(-1, SAMPLES),
        [beat.seq for beat in beats],
        intervals if beats and len(intervals) == len(beats) else None,
        None if first is None else rfc3339(first),
        stream.rhythm(),
    )
