"""Decode and encode chunks of raw samples, as devices publish them. No network, no clock.

A chunk is JSON, `{"samples": [...], "rate": 250, "seq": 72000, "time": "..."}`, with `"leads":
{"II": [...], "V1": [...]}` instead of `samples` if a device has several; or little-endian float32,
one lead of unknown rate. `null`, NaN, infinity and what is larger than any ECG are lost samples.
"""

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from monitor.ecg.codec import nan_as_null
from monitor.ecg.rpeaks import Signal
from monitor.errors import Rejected
from monitor.times import seconds

MAX_SAMPLES: Final = 100_000
"""Most samples of a chunk, over all leads: six minutes of one lead at 250 Hz. Others wait while it
is worked on: 15 µs a sample on a busy core, and 30 if it is only noise."""

LARGEST: Final = 1e15
"""Largest sample that is believed. No ECG comes near in any unit (5 mV are 5e9 pV), and the squares
of as many such samples as a beat has can still be added up in float32."""

MAX_LEADS: Final = 16
"""Most leads of a chunk: the twelve of a standard ECG, and some more."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive samples of one device.

    Attributes:
        leads: the samples of each lead by name, float64 [n] of equal length, NaN for lost samples;
            the name is empty if the device has one lead and does not name it.
        rate: in Hz; None if not given.
        seq: the number of the first sample; None if the device does not number them.
        time: of the first sample, in seconds since 1970; None if not given.
    """

    leads: dict[str, Signal]
    rate: float | None = None
    seq: int | None = None
    time: float | None = None

    def __len__(self) -> int:
        return len(next(iter(self.leads.values())))


def encode_json(chunk: Chunk) -> bytes:
    """Return a chunk as JSON, without its time; lost samples are `null`."""
    message: dict[str, object] = {"rate": chunk.rate, "seq": chunk.seq}
    if list(chunk.leads) == [""]:
        message["samples"] = chunk.leads[""].tolist()
    else:
        message["leads"] = {name: samples.tolist() for name, samples in chunk.leads.items()}
    return msgspec.json.encode(message)  # which writes NaN as null


def encode_float32(chunk: Chunk) -> bytes:
    """Return the samples of a chunk's first lead as little-endian float32."""
    return next(iter(chunk.leads.values())).astype("<f4").tobytes()


_Samples = list[float | None]


class _Message(msgspec.Struct):
    samples: _Samples | None = None
    leads: dict[str, _Samples] | None = None
    rate: float | None = None
    seq: int | None = None
    time: str | int | float | None = None


_decode = msgspec.json.Decoder(_Message).decode


def decode(payload: bytes) -> Chunk:
    """Return the chunk in a payload.

    Raises:
        Rejected: the payload cannot be decoded; the exception has the reason.
    """
    if not payload:
        raise Rejected("empty", "the payload is empty")
    text = payload.isascii() and b"\0" not in payload
    if payload.lstrip()[:1] == b"{":
        # One float32 chunk in 256 begins so; it is float32 if it is neither JSON nor text.
        try:
            return _from_json(payload)
        except Rejected as rejected:
            if rejected.reason != "json" or len(payload) % 4 or text:
                raise
    elif payload.lstrip()[:1] == b"[" and text:
        raise Rejected("shape", "a chunk must be a JSON object or float32, not a JSON array")
    if len(payload) % 4:
        raise Rejected("length", f"{len(payload)} bytes are not a whole number of float32 samples")
    with np.errstate(invalid="ignore"):  # converting a signalling NaN would warn
        samples = np.frombuffer(payload, "<f4").astype(np.float64)
    return _checked(Chunk({"": samples}))


def _from_json(payload: bytes) -> Chunk:
    try:
        try:
            message = _decode(payload)
        except msgspec.DecodeError:
            message = _decode(nan_as_null(payload))
    except msgspec.ValidationError as error:
        raise Rejected("shape", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("json", str(error)) from None
    if (message.samples is None) == (message.leads is None):
        raise Rejected("shape", "a chunk must contain either `samples` or `leads`")
    leads = message.leads if message.leads is not None else {"": message.samples or []}
    arrays = {name: np.array(samples, np.float64) for name, samples in leads.items()}
    return _checked(Chunk(arrays, message.rate, message.seq, seconds(message.time)))


def _checked(chunk: Chunk) -> Chunk:
    lengths = {len(samples) for samples in chunk.leads.values()}
    if not 1 <= len(chunk.leads) <= MAX_LEADS:
        raise Rejected("shape", f"{len(chunk.leads)} leads; 1 to {MAX_LEADS} are allowed")
    if len(lengths) > 1:
        raise Rejected("shape", "the leads have different numbers of samples")
    if not all(name.isprintable() for name in chunk.leads):
        raise Rejected("shape", "a lead's name contains a character that is not printable")
    number = lengths.pop() * len(chunk.leads)
    if not 0 < number <= MAX_SAMPLES:
        raise Rejected("shape", f"{number} samples; 1 to {MAX_SAMPLES:,} are allowed")
    if chunk.seq is not None and not 0 <= chunk.seq < 2**53:
        raise Rejected("shape", f"seq {chunk.seq} is not in 0 … 2^53")
    for samples in chunk.leads.values():
        samples[np.abs(samples) > LARGEST] = np.nan
    return chunk
