"""Publishes the beats of a file, as a device would."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from monitor.ecg import beat_files, codec
from monitor.errors import Failure, UsageError
from monitor.mqtt import client
from monitor.settings import Settings
from monitor.topics import topic_to_publish

INTERVAL = 1.0
"""Seconds between the beats of a file that does not tell when they were."""

UNDER_WAY = 20
"""Messages at QoS 1 that the broker has not acknowledged, at most: what mosquitto allows."""


class RecordedBeat(NamedTuple):
    """A beat of a recording.

    Attributes:
        samples: float32 [140], in the recording's units.
        seq: the row's number in a table, the R peak's sample number in a record; both from 0.
        time: when it was, in seconds from the recording's begin.
        rr_ms: the RR interval before it, where it is known.
    """

    samples: NDArray[np.float32]
    seq: int
    time: float
    rr_ms: float | None


def from_file(path: Path, start: float = 0, stop: float | None = None) -> Iterator[RecordedBeat]:
    """The beats of a `.csv` or `.parquet` file from second `start` to `stop`, one a second.

    Raises:
        Failure: names what is wrong with the file, and where.
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


def from_record(path: Path, start: float = 0, stop: float | None = None) -> Iterator[RecordedBeat]:
    """The beats of a WFDB record from second `start` to `stop`, each when its R peak was.

    Raises:
        Failure: the record cannot be read.
    """
    from monitor.ecg import records

    ecg = records.read(path)
    for beat in records.beats(ecg, start, stop):
        yield RecordedBeat(beat.samples, beat.seq, beat.seq / ecg.rate, beat.rr_ms)


def publish(
    settings: Settings,
    source: Iterable[RecordedBeat],
    device: str,
    pace: float | None,
    beats_per_message: int = 1,
    payload: Literal["json", "float32"] = "json",
    qos: int = 1,
) -> None:
    """Publish beats at `pace` times the speed they had; as fast as it goes if that is None.

    Raises:
        UsageError: the device cannot have that name.
        Failure: the broker cannot be reached, or refuses or loses us.
    """
    topic = topic_to_publish(settings.input.topic[0], device)
    recording = iter(source)
    try:
        ahead = next(recording)  # a file that cannot be read says so before anything is published
    except StopIteration:
        raise UsageError("there is no beat between --start and --stop") from None
    publisher = _Publisher(settings, topic, qos)
    number = messages = 0
    begun, first = time.monotonic(), ahead.time
    try:
        with _progress() as progress:
            task = progress.add_task(f"replaying as {device}", total=None, beats=0)
            chunk = [ahead, *islice(recording, beats_per_message - 1)]
            while chunk:
                if pace:  # a message goes out when its last beat is over
                    due = begun + (chunk[-1].time - first) / pace
                    time.sleep(max(0.0, due - time.monotonic()))
                publisher.publish(_message(chunk, payload))
                number += len(chunk)
                messages += 1
                progress.update(task, beats=number)
                chunk = list(islice(recording, beats_per_message))
        publisher.finish()
    finally:
        publisher.close()
    seconds = time.monotonic() - begun
    print(
        f"published {number} beats in {messages} messages on {topic} in {seconds:.1f} s",
        file=sys.stderr,
    )


def _message(chunk: list[RecordedBeat], payload: Literal["json", "float32"]) -> bytes:
    samples = np.stack([beat.samples for beat in chunk])
    if payload == "float32":
        return codec.encode_float32(samples)
    intervals = [beat.rr_ms for beat in chunk if beat.rr_ms is not None]
    numbers = [beat.seq for beat in chunk]
    return codec.encode_json(samples, numbers, intervals if len(intervals) == len(chunk) else None)


class _Publisher:
    """Publishes no faster than the broker takes it."""

    def __init__(self, settings: Settings, topic: str, qos: int) -> None:
        self._where, self._topic, self._qos = settings.mqtt.where, topic, qos
        self._client = client.join(settings.mqtt, "replay")
        self._room = threading.Semaphore(UNDER_WAY)
        self._refusal = ""
        self._client.on_publish = self._on_publish

    def _on_publish(
        self, _client: object, _data: object, _mid: int, reason: object, _: object
    ) -> None:
        if getattr(reason, "is_failure", False):
            self._refusal = str(reason)
        self._room.release()

    def publish(self, payload: bytes) -> None:
        """Publish one message, once there is room for it."""
        self._take_room()
        self._client.publish(self._topic, payload, self._qos)

    def finish(self) -> None:
        """Wait until the broker has acknowledged everything."""
        for _ in range(UNDER_WAY):
            self._take_room()

    def _take_room(self) -> None:
        while not self._room.acquire(timeout=1.0):
            if not self._client.is_connected():
                raise Failure(f"lost the broker at {self._where}")
        if self._refusal:
            raise Failure(f"{self._where} refused a beat on {self._topic}: {self._refusal.lower()}")

    def close(self) -> None:
        client.leave(self._client)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}: {task.fields[beats]} beats"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
