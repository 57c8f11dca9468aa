"""Publish the beats of a file, or the samples of a recording, as a device would."""

import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from monitor.ecg import beat_files, chunks, codec, records
from monitor.errors import Failure, UsageError
from monitor.mqtt import client
from monitor.settings import Settings
from monitor.topics import topic_to_publish

INTERVAL = 1.0
"""Seconds between the beats of a file, which contains no times."""

MAX_UNACKNOWLEDGED = 20
"""Messages at QoS 1 that may wait for the broker's acknowledgement: mosquitto's default limit."""

PATIENCE = 60.0
"""Seconds for which a connection that was lost is made again: as long as the nodes of a cluster may
be without a leader on a busy machine."""

CHUNK = 1.0
"""Seconds of samples in a message, as devices send them."""

Payload = Literal["json", "float32"]


class RecordedBeat(NamedTuple):
    """A beat of a recording.

    Attributes:
        samples: float32 [140], in the recording's units.
        seq: the row's number in a table, the R peak's sample number in a record; both from 0.
        time: in seconds from the beginning of the recording.
        rr_ms: the RR interval before it; None where it is not known.
    """

    samples: NDArray[np.float32]
    seq: int
    time: float
    rr_ms: float | None


def from_file(path: Path, start: float = 0, stop: float | None = None) -> Iterator[RecordedBeat]:
    """Return the beats of a `.csv` or `.parquet` file from second `start` to `stop`, one a second.

    Raises:
        Failure: the file cannot be read; the message names the row and column.
    """
    first = int(np.ceil(start / INTERVAL))
    last = None if stop is None else int(np.ceil(stop / INTERVAL))
    rows = (
        RecordedBeat(samples, int(seq), number * INTERVAL, None)
        for number, (samples, seq) in enumerate(
            pair
            for block in beat_files.read(path)
            for pair in zip(block.beats, block.seq, strict=True)
        )
    )
    return islice(rows, first, last)


def read_record(path: Path, lead: str | None = None, every_lead: bool = False) -> records.Record:
    """Read a record without its annotations; if no lead is named, print which one is used.

    Raises:
        Failure: the record cannot be read.
        UsageError: it has no such lead.
    """
    record = records.read(path, lead, annotated=False)
    if lead is None:
        others = [name for name in record.leads if name != record.lead]
        taken = [record.lead, *others] if every_lead else [record.lead]
        left = "" if every_lead or not others else f"; --lead selects another: {_quoted(others)}"
        print(f"{path}: using {_quoted(taken)}{left}", file=sys.stderr)
    return record


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def from_record(
    record: records.Record, start: float = 0, stop: float | None = None
) -> Iterator[RecordedBeat]:
    """Yield the beats of a record from second `start` to `stop`, each at the time of its R peak."""
    for beat in records.beats(record, start, stop):
        yield RecordedBeat(beat.samples, beat.seq, beat.seq / record.rate, beat.rr_ms)


def chunks_of(
    record: records.Record, start: float = 0, stop: float | None = None, every_lead: bool = False
) -> Iterator[chunks.Chunk]:
    """Yield the samples of a record from second `start` to `stop`, in chunks of `CHUNK` seconds.

    They are in millivolts, without a time, and `seq` counts from the record's start. With
    `every_lead` a chunk contains all ECG leads by name, the one that beats are cut from first.

    Raises:
        UsageError: there are more leads than a chunk can contain.
    """
    leads = {"": record.signal}
    if every_lead and len(record.leads) > 1:
        leads = {record.lead: record.signal} | record.leads
    if len(leads) > chunks.MAX_LEADS:
        raise UsageError(
            f"{len(leads)} ECG leads, at most {chunks.MAX_LEADS} allowed: choose one with --lead"
        )
    n = max(1, round(CHUNK * record.rate))
    last = len(record.signal)
    if stop is not None:
        last = min(last, round(stop * record.rate))
    for first in range(round(start * record.rate), last, n):
        samples = {name: signal[first : min(first + n, last)] for name, signal in leads.items()}
        yield chunks.Chunk(samples, record.rate, first)


def publish(
    settings: Settings,
    source: Iterable[RecordedBeat],
    device: str,
    pace: float | None,
    beats_per_message: int = 1,
    payload: Payload = "json",
    qos: int = 1,
) -> None:
    """Publish beats at `pace` times their original speed; as fast as possible if that is None.

    Raises:
        UsageError: the device cannot have that name.
        Failure: the broker cannot be reached, also after a connection was lost, or refuses us.
    """
    topic = topic_to_publish(settings.input.topic[0], device)
    _send(settings, _beat_messages(source, beats_per_message, payload), topic, pace, qos, "beats")


def publish_samples(
    settings: Settings,
    source: Iterable[chunks.Chunk],
    device: str,
    pace: float | None,
    payload: Payload = "json",
    qos: int = 1,
) -> None:
    """Publish chunks of samples at `pace` times their original speed; without pauses if it is None.

    As float32 a chunk contains its first lead only, and neither rate nor number.

    Raises:
        UsageError: the device cannot have that name.
        Failure: the broker cannot be reached, also after a connection was lost, or refuses us.
    """
    topic = topic_to_publish(settings.segment.topic[0], device)
    _send(settings, _sample_messages(source, payload), topic, pace, qos, "samples")


class _Message(NamedTuple):
    """An encoded message.

    Attributes:
        payload: as it is published.
        end: the time of the end of its content, in seconds after the first message's.
        content: the number of beats or samples in it.
    """

    payload: bytes
    end: float
    content: int


def _beat_messages(
    source: Iterable[RecordedBeat], beats_per_message: int, payload: Payload
) -> Iterator[_Message]:
    recording = iter(source)
    begun: float | None = None
    while group := list(islice(recording, beats_per_message)):
        begun = group[0].time if begun is None else begun
        yield _Message(_encode_beats(group, payload), group[-1].time - begun, len(group))


def _sample_messages(source: Iterable[chunks.Chunk], payload: Payload) -> Iterator[_Message]:
    encode = chunks.encode_float32 if payload == "float32" else chunks.encode_json
    end = 0.0
    for chunk in source:
        assert chunk.rate is not None
        end += len(chunk) / chunk.rate
        leads = 1 if payload == "float32" else len(chunk.leads)
        yield _Message(encode(chunk), end, len(chunk) * leads)


def _encode_beats(group: list[RecordedBeat], payload: Payload) -> bytes:
    samples = np.stack([beat.samples for beat in group])
    if payload == "float32":
        return codec.encode_float32(samples)
    intervals = [beat.rr_ms for beat in group if beat.rr_ms is not None]
    numbers = [beat.seq for beat in group]
    return codec.encode_json(samples, numbers, intervals if len(intervals) == len(group) else None)


def _send(
    settings: Settings,
    source: Iterator[_Message],
    topic: str,
    pace: float | None,
    qos: int,
    content: str,
) -> None:
    """Publish each message at the time of its end; `content` is "beats" or "samples"."""
    try:
        ahead = next(source)  # an unreadable file fails before anything is published
    except StopIteration:
        raise UsageError(f"there are no {content} between --start and --stop") from None
    publisher = _Publisher(settings, topic, qos)
    number = messages = 0
    begun = time.monotonic()
    try:
        with _progress(content) as progress:
            task = progress.add_task(f"replaying on {topic}", total=None, number=0)
            for message in chain([ahead], source):
                if pace:
                    time.sleep(max(0.0, begun + message.end / pace - time.monotonic()))
                publisher.publish(message.payload)
                number += message.content
                messages += 1
                progress.update(task, number=number)
        publisher.finish()
    finally:
        publisher.close()
    seconds = time.monotonic() - begun
    print(
        f"published {number} {content} in {messages} messages on {topic} in {seconds:.1f} s",
        file=sys.stderr,
    )


class _Publisher:
    """Publishes no faster than the broker accepts messages, and again what it has not accepted."""

    def __init__(self, settings: Settings, topic: str, qos: int) -> None:
        self._mqtt, self._topic, self._qos = settings.mqtt, topic, qos
        self._answers: SimpleQueue[tuple[object, int, str]] = SimpleQueue()
        self._unacknowledged: dict[int, bytes] = {}  # by packet identifier
        self._client = client.join(self._mqtt, "replay")
        self._client.on_publish = self._on_publish

    def _on_publish(
        self, publisher: object, _data: object, mid: int, reason: object, _: object
    ) -> None:
        refusal = str(reason).lower() if getattr(reason, "is_failure", False) else ""
        self._answers.put((publisher, mid, refusal))

    def publish(self, payload: bytes) -> None:
        """Publish one message, as soon as fewer than `MAX_UNACKNOWLEDGED` are waiting."""
        while len(self._unacknowledged) >= MAX_UNACKNOWLEDGED:
            self._take_answer()
        self._send(payload)

    def finish(self) -> None:
        """Wait until the broker has acknowledged everything."""
        while self._unacknowledged:
            self._take_answer()

    def _send(self, payload: bytes) -> None:
        self._unacknowledged[self._client.publish(self._topic, payload, self._qos).mid] = payload

    def _take_answer(self) -> None:
        try:
            publisher, mid, refusal = self._answers.get(timeout=1.0)
        except Empty:
            if not self._client.is_connected():
                self._connect_again()
            return
        if publisher is not self._client:
            return  # over the connection that was lost
        if refusal:
            raise Failure(f"{self._mqtt.where} refused a message on {self._topic}: {refusal}")
        self._unacknowledged.pop(mid, None)

    def _connect_again(self) -> None:
        print(f"lost the connection to {self._mqtt.where}; connecting again", file=sys.stderr)
        client.leave(self._client)
        self._client = client.join_again(self._mqtt, "replay", PATIENCE)
        self._client.on_publish = self._on_publish
        waiting, self._unacknowledged = self._unacknowledged, {}
        for payload in waiting.values():
            self._send(payload)

    def close(self) -> None:
        client.leave(self._client)


def _progress(content: str) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn(f"{{task.description}}: {{task.fields[number]}} {content}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
