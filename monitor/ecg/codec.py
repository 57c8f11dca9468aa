"""Decode payloads into beats, and encode beats. No network, no clock.

A beat is 140 samples. On the wire it is JSON or little-endian float32; here it is always
little-endian float32, 560 bytes a beat, so that the beats of many messages join without a loop.
"""

import re
import struct
from collections.abc import Callable, Iterable
from math import nan
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from monitor.ecg.beat import BYTES, SAMPLES, Beats, Floats
from monitor.ecg.rhythm import Finding, RhythmKind
from monitor.errors import Rejected
from monitor.times import rfc3339, seconds

Payload = Literal["auto", "json", "float32"]

# Checking the length while decoding keeps 16 MiB of `[0],[0],…` from taking half a gigabyte.
_Beat = Annotated[list[float], Meta(min_length=SAMPLES, max_length=SAMPLES)]


class _Arrhythmia(msgspec.Struct, omit_defaults=True):
    kind: RhythmKind
    since: str | int | float
    heart_rate: float | None = None
    pause_s: float | None = None


class _Message(msgspec.Struct):
    beats: list[_Beat]
    seq: int | None = None
    time: str | int | float | None = None
    rr_ms: list[float] | None = None
    seqs: list[int] | None = None
    rhythm: list[_Arrhythmia] | None = None


class _Decoders(NamedTuple):
    """The decoders of a beat, of several beats, and of a message with beats in it."""

    beat: Callable[[bytes], Any]
    beats: Callable[[bytes], Any]
    message: Callable[[bytes], Any]


_FAST = _Decoders(*(msgspec.json.Decoder(kind).decode for kind in (_Beat, list[_Beat], _Message)))

_BeatWithGaps = Annotated[list[float | None], Meta(min_length=SAMPLES, max_length=SAMPLES)]


class _MessageWithGaps(_Message, kw_only=True):
    beats: list[_BeatWithGaps]  # type: ignore[assignment]
    rr_ms: list[float | None] | None = None  # type: ignore[assignment]


_WITH_GAPS = _Decoders(
    *(
        msgspec.json.Decoder(kind).decode
        for kind in (_BeatWithGaps, list[_BeatWithGaps], _MessageWithGaps)
    )
)
"""They also take `null` for a sample or an interval. With the attempt that failed before it, such a
message takes five times as long as another: 70 instead of 15 µs a beat."""

_NAN = re.compile(
    rb"(?<=[\[,:\s])[+-]?(?:nan(?:\(\w*\))?|inf(?:inity)?|1\.#[a-z]+\d*)(?=[\s,\]}])", re.IGNORECASE
)
"""NaN and infinity as programs write them: `NaN`, `-Infinity`; in C `-nan`, `inf`, `1.#QNAN`."""

LONGEST_INTERVAL = 60_000
"""Longest RR interval that is accepted, in milliseconds."""

_PACK = struct.Struct(f"<{SAMPLES}f").pack
"""It rounds as NumPy does, in 0.9 µs a beat; NumPy takes 4 for a list, and 3 for an `array`."""

JSON_TYPE = "application/json"

FLOAT32_TYPE = "application/octet-stream"

_SPACE = b" \t\r\n"

_OPENINGS = _SPACE + b"[{"


def decode(payload: bytes, content_type: str | None = None, expected: Payload = "auto") -> Beats:
    """Return the beats of one message.

    The format is `expected`, or else that of MQTT 5's content type, or else it is recognised from
    the payload: anything that parses as JSON is JSON; a multiple of 560 bytes is float32.

    Samples may not be finite: `quality.assess` checks that for many messages at once. In JSON
    `null`, NaN and infinity are such samples.

    Raises:
        Rejected: the payload cannot be decoded; the exception has the reason.
    """
    if not payload:
        raise Rejected("empty", "the payload is empty")
    if expected == "json" or (expected == "auto" and content_type == JSON_TYPE):
        return _from_json(payload)
    whole = len(payload) % BYTES == 0
    unknown = expected == "auto" and content_type != FLOAT32_TYPE
    if unknown and payload[0] in _OPENINGS and _opens_like_json(payload):
        # One float32 beat in a hundred begins like JSON; it is float32 if it is not valid JSON.
        try:
            return _from_json(payload)
        except Rejected:
            if not whole or _is_text(payload):
                raise
    if not whole:
        raise Rejected("length", f"{len(payload)} bytes are not a multiple of {BYTES}")
    return Beats(payload)


def encode_float32(samples: Floats) -> bytes:
    """Return a message of beats, float32 [n, 140], as little-endian float32."""
    return samples.astype("<f4").tobytes()


def encode_json(
    samples: Floats,
    numbers: list[int],
    rr_ms: list[float] | None = None,
    time: str | None = None,
    rhythm: Iterable[Finding] | None = None,
) -> bytes:
    """Return a message of beats as JSON.

    Args:
        samples: float32 [n, 140]; [0, 140] for a message that contains only the rhythm.
        numbers: the number of each beat, [n].
        rr_ms: the RR interval before each beat, in milliseconds, [n].
        time: of the first beat, RFC 3339.
        rhythm: the arrhythmias present, with times in seconds since 1970.
    """
    message: dict[str, object] = {"beats": samples.tolist()}
    if numbers:
        message["seq"] = numbers[0]
    if rhythm is not None:
        message["rhythm"] = [
            _Arrhythmia(each.kind, rfc3339(each.since), each.heart_rate, each.pause_s)
            for each in rhythm
        ]
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        message["seqs"] = numbers
    if rr_ms is not None:
        message["rr_ms"] = rr_ms
    if time is not None:
        message["time"] = time
    return msgspec.json.encode(message)


def _opens_like_json(payload: bytes) -> bool:
    return payload.lstrip(_SPACE)[:1] in (b"[", b"{")


def _is_text(payload: bytes) -> bool:
    """Return whether it is text, ASCII without NUL, which happens to be as long as some beats."""
    return payload.isascii() and b"\0" not in payload


def nan_as_null(payload: bytes) -> bytes:
    """Return JSON in which NaN and infinity, which RFC 8259 does not have, are `null`."""
    return _NAN.sub(b"null", payload)


def _from_json(payload: bytes) -> Beats:
    try:
        message = _parsed(payload, _FAST)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = _with_gaps(payload)
    beats = message.beats
    if not beats and message.rhythm is None:
        raise Rejected("shape", "the message contains no beat")
    if message.rr_ms is not None and len(message.rr_ms) != len(beats):
        raise Rejected("shape", f"{len(message.rr_ms)} RR intervals for {len(beats)} beats")
    for interval in message.rr_ms or ():
        if not 0 <= interval <= LONGEST_INTERVAL:
            raise Rejected("time", f"an RR interval of {interval} ms is not in 0 … 60,000")
    seqs = message.seqs
    if seqs is not None and len(seqs) != len(beats):
        raise Rejected("shape", f"{len(seqs)} numbers for {len(beats)} beats")
    seq = message.seq if seqs is None else seqs[0]
    for number in seqs or (() if seq is None else (seq, seq + len(beats) - 1)):
        if not 0 <= number < 2**53:
            raise Rejected("shape", f"seq {number} is not in 0 … 2^53")
    rhythm = None if message.rhythm is None else [_finding(each) for each in message.rhythm]
    return Beats(_float32(beats), seq, seconds(message.time), message.rr_ms, seqs, rhythm)


def _parsed(payload: bytes, decoders: _Decoders) -> _Message:
    text = payload.lstrip(_SPACE)
    if text[:1] == b"{":
        message: _Message = decoders.message(payload)
        return message
    if text[1:].lstrip(_SPACE)[:1] == b"[":
        return _Message(decoders.beats(payload))
    return _Message([decoders.beat(payload)])


def _with_gaps(payload: bytes) -> _Message:
    """Parse a message with samples or intervals that are `null`, NaN or infinite.

    Such samples become NaN, and such intervals 0, which is an interval that is not known.

    Raises:
        Rejected: something else is wrong with it.
    """
    try:
        message = _parsed(nan_as_null(payload), _WITH_GAPS)
    except msgspec.ValidationError as error:
        raise Rejected("shape", str(error).replace(" | null", "")) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("json", str(error)) from None
    message.beats = [
        [nan if each is None else each for each in beat] if None in beat else beat
        for beat in message.beats
    ]
    if message.rr_ms is not None:
        message.rr_ms = [each or 0.0 for each in message.rr_ms]
    return message


def _finding(given: _Arrhythmia) -> Finding:
    since = seconds(given.since)
    assert since is not None
    for name, figure in (("heart_rate", given.heart_rate), ("pause_s", given.pause_s)):
        if figure is not None and not 0 <= figure <= LONGEST_INTERVAL:
            raise Rejected("shape", f"{name} {figure} is not in 0 … 60,000")
    return Finding(given.kind, since, since, given.heart_rate, given.pause_s)


def _float32(beats: list[list[float]]) -> bytes:
    try:
        return b"".join([_PACK(*beat) for beat in beats])
    except OverflowError:  # NumPy makes infinity of it, which is checked later
        with np.errstate(over="ignore"):
            return np.array(beats, np.float64).astype("<f4").tobytes()
