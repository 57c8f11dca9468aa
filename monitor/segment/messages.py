"""The messages in which the beats of a stream are published."""

import numpy as np

from monitor.ecg import codec
from monitor.ecg.beat import SAMPLES
from monitor.ecg.segmenter import CutBeat
from monitor.ecg.streams import Stream
from monitor.times import rfc3339


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
    """Return beats in groups of which all, or one alone and without, have an RR interval."""
    groups: list[list[CutBeat]] = []
    for beat in beats:
        if groups and beat.rr_ms is not None and groups[-1][0].rr_ms is not None:
            groups[-1].append(beat)
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
