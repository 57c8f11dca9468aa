"""A beat: 140 samples, and what distinguishes it from other beats."""

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
        seq: the number of the first beat; each further beat has the next number. None if not given.
        seqs: the number of each beat, if they are not consecutive; None if they are.
        rhythm: the arrhythmias present at the last beat, most serious first, with times in seconds
            since 1970. None if the sender does not follow the rhythm.
        time: of the first beat, or of the rhythm if there is no beat, in seconds since 1970 UTC.
            None if not given.
        rr_ms: the RR interval before each beat, in milliseconds. None if not given.
        credible: whether `time` may be true; if not, the time of arrival takes its place.
    """

    data: bytes
    seq: int | None = None
    time: float | None = None
    rr_ms: list[float] | None = None
    seqs: list[int] | None = None
    rhythm: list[Finding] | None = None
    credible: bool = True

    def __len__(self) -> int:
        return len(self.data) // BYTES

    def times(self, arrival: float) -> list[float]:
        """Return the time of each beat in seconds since 1970 UTC.

        It is `arrival` if none was given, or none that is credible.
        """
        if self.time is None or not self.credible:
            return [arrival] * len(self)
        return self._given_times(self.time)

    def moment(self, arrival: float) -> float:
        """Return the time of the message, in seconds since 1970 UTC."""
        return self.time if self.time is not None and self.credible else arrival

    def _given_times(self, first: float) -> list[float]:
        times = [first] * len(self)
        for i, interval in enumerate((self.rr_ms or ())[1:], start=1):
            times[i] = times[i - 1] + interval / 1000
        return times

    def keys(self, fingerprints: list[int], times: list[float]) -> list[int]:
        """Return a key for each beat from its fingerprint, and its number and time if given.

        A time that is not credible counts, too: it is the same when the beat is delivered again.
        """
        if self.seq is None and self.time is None:
            return fingerprints
        if self.time is not None and not self.credible:
            times = self._given_times(self.time)
        return [
            key(fingerprint, self.number(i), None if self.time is None else times[i])
            for i, fingerprint in enumerate(fingerprints)
        ]

    def number(self, beat: int) -> int | None:
        """Return the number of the beat at this index of the message; None if not given."""
        if self.seqs is not None:
            return self.seqs[beat]
        return None if self.seq is None else self.seq + beat


_WEIGHTS = np.cumprod(np.full(SAMPLES // 2, 0x9E3779B97F4A7C15, np.uint64))

_SPREAD, _SPREAD_TIMES = 0xD1342543DE82EF95, 0xDA942042E4DD58B5


def fingerprints(beats: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a hash of the samples of each beat, the same in every process: uint64 [N].

    It is the sum of the beat's 70 eight-byte words, each times its own odd weight, modulo 2^64.
    """
    words = np.ascontiguousarray(beats).view(np.uint64)
    return np.asarray(np.einsum("ij,j->i", words, _WEIGHTS))


def key(fingerprint: int, seq: int | None, time: float | None) -> int:
    """Return a key that identifies a beat by its samples, and its number and time if given.

    It is the same in every process, unlike `hash`: that of None is an address.
    """
    number = 0 if seq is None else seq + 1
    moment = 0 if time is None else round(time * 1000) + 1
    return (fingerprint + number * _SPREAD + moment * _SPREAD_TIMES) % 2**64


def samples(data: bytes) -> NDArray[np.float32]:
    """Return a float32 [n, 140] view of the bytes of n beats."""
    return np.frombuffer(data, "<f4").reshape(-1, SAMPLES)


Floats = NDArray[np.float32]
