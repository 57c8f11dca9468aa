"""A beat: 140 samples, and what tells it from others."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.ecg.rhythm import Finding

SAMPLES = 140
"""Samples in a beat."""

BYTES = 4 * SAMPLES
"""Bytes of a beat as float32."""


class Beats(msgspec.Struct, frozen=True, gc=False):
    """The beats of one message.

    Attributes:
        data: little-endian float32, 560 bytes a beat.
        seq: the number of the first beat; the next one has the next number. None where not given.
        seqs: the number of each beat, where they do not follow one another. None where they do.
        rhythm: the arrhythmias that were there with the last beat, the most serious first, their
            times in seconds since 1970. None where whoever sent it does not follow the rhythm.
        time: when the first beat was, or the rhythm where there is no beat, in seconds since 1970
            UTC. None where not given.
        rr_ms: for each beat the RR interval before it, in milliseconds. None where not given.
    """

    data: bytes
    seq: int | None = None
    time: float | None = None
    rr_ms: list[float] | None = None
    seqs: list[int] | None = None
    rhythm: list[Finding] | None = None

    def __len__(self) -> int:
        return len(self.data) // BYTES

    def times(self, arrival: float) -> list[float]:
        """When each beat was, in seconds since 1970 UTC; `arrival` where the message is silent."""
        times = [arrival if self.time is None else self.time] * len(self)
        if self.time is not None and self.rr_ms:
            for i, interval in enumerate(self.rr_ms[1:], start=1):
                times[i] = times[i - 1] + interval / 1000
        return times

    def keys(self, fingerprints: list[int], times: list[float]) -> list[int]:
        """What tells each beat from others: its fingerprint, and number and time where given."""
        if self.seq is None and self.time is None:
            return fingerprints
        return [
            key(fingerprint, self.number(i), None if self.time is None else times[i])
            for i, fingerprint in enumerate(fingerprints)
        ]

    def number(self, beat: int) -> int | None:
        """The number of a beat, counted from 0 within the message; None where not given."""
        if self.seqs is not None:
            return self.seqs[beat]
        return None if self.seq is None else self.seq + beat


_WEIGHTS = np.cumprod(np.full(SAMPLES // 2, 0x9E3779B97F4A7C15, np.uint64))

_SPREAD, _SPREAD_TIMES = 0xD1342543DE82EF95, 0xDA942042E4DD58B5


def fingerprints(beats: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A number for the samples of each beat, the same in every process: uint64 [N].

    The sum of the beat's 70 eight-byte words, each times an odd weight of its own, modulo 2^64.
    """
    words = np.ascontiguousarray(beats).view(np.uint64)
    return np.asarray((words * _WEIGHTS).sum(axis=1, dtype=np.uint64))


def key(fingerprint: int, seq: int | None, time: float | None) -> int:
    """What tells a beat from others: its samples, and its number and time where they were given.

    The same in every process, and so not from `hash`: that of None is an address.
    """
    number = 0 if seq is None else seq + 1
    moment = 0 if time is None else round(time * 1000) + 1
    return (fingerprint + number * _SPREAD + moment * _SPREAD_TIMES) % 2**64


def samples(data: bytes) -> NDArray[np.float32]:
    """The float32 [n, 140] view of beats that were joined."""
    return np.frombuffer(data, "<f4").reshape(-1, SAMPLES)


Floats = NDArray[np.float32]
