"""The wire format: payloads into beats, alerts and alarms into payloads. No network, no clock.

A beat is 140 samples. On the wire it is JSON or little-endian float32; in here it is always
little-endian float32, 560 bytes a beat, so that the beats of many messages join without a loop.
"""

import contextlib
from array import array
from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

SAMPLES = 140
"""Samples in a beat."""

BYTES = 4 * SAMPLES
"""Bytes of a beat as float32."""

Reason = Literal["empty", "length", "json", "shape", "not_finite", "time", "topic", "retained"]
"""Why a message was rejected."""
REASONS: tuple[Reason, ...] = get_args(Reason)

Payload = Literal["auto", "json", "float32"]

Kind = Literal["anomaly", "signal-quality", "silent"]
Event = Literal["raised", "escalated", "cleared"]
Withheld = Literal["raised", "escalated"]
Priority = Literal["high", "medium", "low"]


class Rejected(ValueError):
    """A message that cannot be understood; a redelivery would not mend it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Beats(msgspec.Struct, frozen=True, gc=False):
    """The beats of one message.

    Attributes:
        data: little-endian float32, 560 bytes a beat.
        seq: the number of the first beat; the next one has the next number. None where not given.
        seqs: the number of each beat, where they do not follow one another. None where they do.
        time: when the first beat was, in seconds since 1970 UTC. None where not given.
        rr_ms: for each beat the RR interval before it, in milliseconds. None where not given.
    """

    data: bytes
    seq: int | None = None
    time: float | None = None
    rr_ms: list[float] | None = None
    seqs: list[int] | None = None

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


# Held to their length as they are read: 16 MiB of `[0],[0],…` would else take half a gigabyte.
_Beat = Annotated[list[float], Meta(min_length=SAMPLES, max_length=SAMPLES)]


class _Message(msgspec.Struct):
    beats: list[_Beat]
    seq: int | None = None
    time: str | int | float | None = None
    rr_ms: list[float] | None = None
    seqs: list[int] | None = None


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an alarm, as it is published on `ecg/<device>/alerts`.

    Attributes:
        id: the same whenever the same beats cause the same event.
        alarm: the id of the alert that raised the alarm: the same in all alerts of it.
        time: when the beat was that caused the event, or the shelf over that withheld the alert;
            RFC 3339, UTC.
        since: when the alarm was raised; RFC 3339, UTC.
        score: of the beat that caused the event; None where it was not scored.
        threshold: a score above it is anomalous.
        beats_anomalous: of the beats in the window, how many speak for the alarm.
        beats_seen: how many beats are in the window.
        beat: float32 [140]; None where no beat caused the event, or it holds what is no number.
        reconstruction: float32 [140]; None where the beat was not scored.
    """

    id: str
    alarm: str = ""
    device: str
    event: Event
    kind: Kind
    priority: Priority
    time: str
    since: str
    score: float | None
    threshold: float
    beats_anomalous: int
    beats_seen: int
    model: str
    beat: list[float] | None
    reconstruction: list[float] | None


class Acknowledged(msgspec.Struct, frozen=True):
    """Who has seen an alarm, and when."""

    by: str
    time: str

    def __post_init__(self) -> None:
        """Refuse a time that is none, and a name that cannot be printed."""
        _check_time(self.time)
        _check_name(self.by)


class StandingAlarm(msgspec.Struct, frozen=True):
    """One open alarm of a device.

    Attributes:
        id: of the alert that raised it.
        acknowledged: None until somebody has seen it, and again once it escalates.
        escalation: the id of the alert that escalated it.
        withheld: the event that nobody was alerted of, for the device is shelved.
    """

    id: str
    kind: Kind
    priority: Priority
    since: str
    acknowledged: Acknowledged | None = None
    escalation: str | None = None
    withheld: Withheld | None = None

    def __post_init__(self) -> None:
        """Refuse a time that is none."""
        _check_time(self.since)


class Shelved(msgspec.Struct, frozen=True):
    """Until when nobody is alerted of a device, and who wanted it so."""

    by: str
    since: str
    until: str

    def __post_init__(self) -> None:
        """Refuse times that are none, and a name that cannot be printed."""
        _check_time(self.since)
        _check_time(self.until)
        _check_name(self.by)


def _check_time(time: str) -> None:
    if not EARLIEST <= from_rfc3339(time) <= LATEST:
        raise ValueError("a time that cannot be written as RFC 3339")


def _check_name(name: str) -> None:
    if not name.isprintable():
        raise ValueError("a character that cannot be printed")


Window = Annotated[str, Meta(pattern="^[.x]*$", max_length=1000)]
Key = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class DeviceAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """The alarm of a device as it stands, retained on `ecg/<device>/alarm`.

    It holds all that is needed to go on after a restart: which of the last beats were anomalous
    or of poor quality (`x`, oldest first, `.` for the others), which beats were counted, and how
    often an alarm of this device has changed.
    """

    device: str
    state: Literal["alarm", "ok"]
    priority: Priority | None
    time: str
    alarms: list[StandingAlarm]
    shelved: Shelved | None = None
    anomalous: Window
    poor: Window
    seq: Annotated[int, Meta(ge=0, lt=2**53)] | None
    counted: Annotated[list[Key], Meta(max_length=1000)]
    changes: int


class Score(msgspec.Struct, frozen=True):
    """The score of one beat."""

    seq: int | None
    time: str
    score: float
    anomalous: bool


class Scores(msgspec.Struct, frozen=True):
    """Scores of a device, as they are published on `ecg/<device>/scores`."""

    device: str
    scores: list[Score]


encode = msgspec.json.Encoder().encode
decode_alarm = msgspec.json.Decoder(DeviceAlarm).decode
decode_alert = msgspec.json.Decoder(Alert).decode

_decode_beat = msgspec.json.Decoder(_Beat).decode
_decode_beats = msgspec.json.Decoder(list[_Beat]).decode
_decode_message = msgspec.json.Decoder(_Message).decode

LONGEST_INTERVAL = 60_000
"""Milliseconds of the longest RR interval that is taken."""

EARLIEST, LATEST = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2, 9999))
"""The times that are taken, in seconds since 1970: those that can be written as RFC 3339."""

JSON_TYPE = "application/json"
FLOAT32_TYPE = "application/octet-stream"
_SPACE = b" \t\r\n"


def decode(payload: bytes, content_type: str | None = None, expected: Payload = "auto") -> Beats:
    """Read the beats of one message.

    `expected` comes first, then MQTT 5's content type, then the payload itself: what opens and
    closes like JSON and is JSON, is JSON; what is a multiple of 560 bytes long is float32.

    Whether the samples are finite is not looked at here: `quality.assess` does it for many
    messages at once.

    Raises:
        Rejected: with the reason.
    """
    if not payload:
        raise Rejected("empty", "the payload is empty")
    if expected == "json" or (expected == "auto" and content_type == JSON_TYPE):
        return _from_json(payload)
    whole = len(payload) % BYTES == 0
    if expected == "auto" and content_type != FLOAT32_TYPE and _opens_like_json(payload):
        # One float32 beat in a hundred opens like JSON; it is one if it cannot be read as JSON.
        try:
            return _from_json(payload)
        except Rejected:
            if not whole or _is_text(payload):
                raise
    if not whole:
        raise Rejected("length", f"{len(payload)} bytes are no multiple of {BYTES}")
    return Beats(payload)


def _opens_like_json(payload: bytes) -> bool:
    opening = payload[:1] if payload[0] not in _SPACE else payload.lstrip(_SPACE)[:1]
    return opening in (b"[", b"{")


def _is_text(payload: bytes) -> bool:
    """Whether it is text that happens to be as long as some beats: no NUL and nothing above 127."""
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
    if not beats:
        raise Rejected("shape", "there is no beat in the message")
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
    return Beats(_float32(beats), seq, _seconds(message.time), message.rr_ms, seqs)


def _float32(beats: list[list[float]]) -> bytes:
    # numpy turns what float32 cannot hold into infinity, which is looked for later on.
    with np.errstate(over="ignore"):
        return b"".join(np.frombuffer(array("d", beat)).astype("<f4").tobytes() for beat in beats)


def _seconds(time: str | float | None) -> float | None:
    if time is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        seconds = _moment(time) if isinstance(time, str) else time / 1000
        if EARLIEST <= seconds <= LATEST:
            return seconds
    raise Rejected("time", f"{str(time)[:40]!r} is neither RFC 3339 nor epoch milliseconds")


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment.timestamp()


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, to the millisecond.

    >>> rfc3339(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def from_rfc3339(text: str) -> float:
    """The inverse of `rfc3339`."""
    return datetime.fromisoformat(text).timestamp()


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


LONGEST_NAME = 256
"""Bytes of the longest device name that is taken."""


class Topics:
    """Finds the device in the topic of a message.

    >>> Topics(["ecg/{device}/beats"]).device(b"ecg/bed-7/beats")
    'bed-7'
    """

    def __init__(self, filters: list[str]) -> None:
        """Take filters with one level that is `{device}`; others may be `+`, the last ones `#`."""
        self._filters: list[tuple[list[bytes], int]] = []
        for text in filters:
            levels = text.split("/")
            if levels[0] == "$share":
                levels = levels[2:]
            at = levels.index("{device}")
            self._filters.append(([level.encode() for level in levels], at))
        self._only = self._filters[0][1] if len(filters) == 1 else None

    def device(self, topic: bytes) -> str:
        """The device; the broker has seen to it that the topic fits one of the filters.

        Raises:
            Rejected: the topic names no device that alerts could be published for.
        """
        levels = topic.split(b"/")
        at = self._only
        if at is None:
            at = next((at for own, at in self._filters if _fits(levels, own, at)), None)
        name = levels[at] if at is not None and at < len(levels) else b""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            text = "\0"  # which is not printable
        if not text.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise Rejected("topic", f"no device can be named {name[:40]!r}")
        return text


def _fits(levels: list[bytes], own: list[bytes], at: int) -> bool:
    if own[-1] == b"#":
        own = own[:-1] + levels[len(own) - 1 :]
    return len(levels) == len(own) and all(
        i == at or mine in (b"+", level)
        for i, (mine, level) in enumerate(zip(own, levels, strict=True))
    )


def samples(data: bytes) -> NDArray[np.float32]:
    """The float32 [n, 140] view of beats that were joined."""
    return np.frombuffer(data, "<f4").reshape(-1, SAMPLES)
