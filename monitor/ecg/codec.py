"""Decode payloads into beats, and encode beats. No network, no clock.

A beat is 140 samples. On the wire it is JSON or little-endian float32; here it is always
little-endian float32, 560 bytes a beat, so that the beats of many messages join without a loop.
"""

from array import array
from collections.abc import Iterable
from typing import Annotated, Literal

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


_decode_beat = msgspec.json.Decoder(_Beat).decode

_decode_beats = msgspec.json.Decoder(list[_Beat]).decode

_decode_message = msgspec.json.Decoder(_Message).decode

LONGEST_INTERVAL = 60_000
"""Longest RR interval that is accepted, in milliseconds."""

JSON_TYPE = "application/json"

FLOAT32_TYPE = "application/octet-stream"

_SPACE = b" \t\r\n"


def decode(payload: bytes, content_type: str | None = None, expected: Payload = "auto") -> Beats:
    """Return the beats of one message.

    The format is `expected`, or else that of MQTT 5's content type, or else it is recognised from
    the payload: anything that parses as JSON is JSON; a multiple of 560 bytes is float32.

    Samples may not be finite: `quality.assess` checks that for many messages at once.

    Raises:
        Rejected: the payload cannot be decoded; the exception has the reason.
    """
    if not payload:
        raise Rejected("empty", "the payload is empty")
    if expected == "json" or (expected == "auto" and content_type == JSON_TYPE):
        return _from_json(payload)
    whole = len(payload) % BYTES == 0
    if expected == "auto" and content_type != FLOAT32_TYPE and _opens_like_json(payload):
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
    opening = payload[:1] if payload[0] not in _SPACE else payload.lstrip(_SPACE)[:1]
    return opening in (b"[", b"{")


def _is_text(payload: bytes) -> bool:
    """Return whether it is text, ASCII without NUL, which happens to be as long as some beats."""
    return payload.isascii() and b"\0" not in payload


def _from_json(payload: bytes) -> Beats:
    text = payload.lstrip(_SPACE)
    try:
        if text[:1] == b"{":
            message = _decode_message(payload)
        elif text[1:].lstrip(_SPACE)[:1] == b"[":
            message = _Message(_decode_beats(payload))
        else:
            message = _Message([_decode_beat(payload)])
    except msgspec.ValidationError as error:
        raise Rejected("shape", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("json", str(error)) from None
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
    for number in seqs or (() if seq is None else (seq,)):
        if not 0 <= number < 2**53:
            raise Rejected("shape", f"seq {number} is not in 0 … 2^53")
    rhythm = None if message.rhythm is None else [_finding(each) for each in message.rhythm]
    return Beats(_float32(beats), seq, seconds(message.time), message.rr_ms, seqs, rhythm)


def _finding(given: _Arrhythmia) -> Finding:
    since = seconds(given.since)
    assert since is not None
    for name, figure in (("heart_rate", given.heart_rate), ("pause_s", given.pause_s)):
        if figure is not None and not 0 <= figure <= LONGEST_INTERVAL:
            raise Rejected("shape", f"{name} {figure} is not in 0 … 60,000")
    return Finding(given.kind, since, since, given.heart_rate, given.pause_s)


def _float32(beats: list[list[float]]) -> bytes:
    # NumPy turns values out of the range of float32 into infinity, which is checked later.
    with np.errstate(over="ignore"):
        return b"".join(np.frombuffer(array("d", beat)).astype("<f4").tobytes() for beat in beats)
