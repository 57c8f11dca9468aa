"""Simulated devices, and a subscriber that keeps what the daemon publishes for them."""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from monitor.batch.datasets import Beats
from monitor.detector.model_file import Detector, shipped
from monitor.mqtt import client
from monitor.settings import Protocol
from tests.harness.waiting import WITHIN, wait_until


class Sent(NamedTuple):
    """A message that a device sends."""

    device: str
    payload: bytes


class Ward:
    """A client that publishes for devices and keeps all that the daemon publishes.

    Attributes:
        seen: (arrival on the monotonic clock, topic, payload, retained), in order of arrival.
    """

    def __init__(
        self,
        port: int,
        name: str = "ward",
        listen: bool = True,
        device: str = "+",
        protocol: Protocol = "5",
        within: float = WITHIN,
    ) -> None:
        self.seen: list[tuple[float, str, bytes, bool]] = []
        self._device, self._within = device, within
        self._room = threading.Semaphore(100)
        # Not `client.make`, whose clients of 3.1.1 do not connect again.
        version = MQTTProtocolVersion.MQTTv5 if protocol == "5" else MQTTProtocolVersion.MQTTv311
        clean = None if protocol == "5" else False
        self._client = Client(CallbackAPIVersion.VERSION2, name, clean, protocol=version)
        self._client.max_inflight_messages_set(100)
        self._client.on_message = self._on_message
        self._client.on_publish = lambda *_: self._room.release()
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        if listen:  # in `on_connect`, to subscribe again where the broker has lost our session
            self._client.on_connect = self._on_connect
        self._client.reconnect_delay_set(1, 1)
        if protocol == "5":
            session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            session.SessionExpiryInterval = 3600  # the broker keeps what comes while we are away
            self._client.connect("127.0.0.1", port, clean_start=False, properties=session)
        else:
            self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if listen:
            assert subscribed.wait(WITHIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        client.leave(self._client)

    def _on_connect(self, *_: object) -> None:
        ends = ("alerts", "alarm", "alarm/judged", "scores", "patient")
        topics = [f"ecg/{self._device}/{end}" for end in ends]
        self._client.subscribe([(topic, 1) for topic in (*topics, "ecg-monitor/+/status")])

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        row = (time.monotonic(), message.topic, bytes(message.payload), message.retain)
        self.seen.append(row)

    def subscribe(self, topic: str, hear: Callable[[bytes], None]) -> None:
        """Have what comes on a topic heard, beside what is kept."""
        self._client.message_callback_add(
            topic, lambda _c, _d, message: hear(bytes(message.payload))
        )
        self._client.subscribe(topic, 1)

    @property
    def connected(self) -> bool:
        """Whether the client is connected."""
        return bool(self._client.is_connected())

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        """Publish one message, once fewer than 100 are unacknowledged."""
        assert self._room.acquire(timeout=self._within)
        self._client.publish(topic, payload, qos, retain)

    def send(self, messages: Iterable[Sent], rate: float | None = None, qos: int = 1) -> int:
        """Publish beats, `rate` messages a second or as fast as they are taken; return how many."""
        begun = time.monotonic()
        number = 0
        for message in messages:
            if rate:
                time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            self.publish(f"ecg/{message.device}/beats", message.payload, qos)
            number += 1
        self.flush()
        return number

    def flush(self) -> None:
        """Wait until the broker has acknowledged everything."""
        for _ in range(100):
            assert self._room.acquire(timeout=self._within)
        self._room.release(100)

    def on(self, end: str) -> list[tuple[str, Any]]:
        """Return device and message of all that was published on `ecg/<device>/<end>`."""
        return [
            (topic.split("/")[1], msgspec.json.decode(payload) if payload else None)
            for _, topic, payload, _ in list(self.seen)
            if topic.endswith(f"/{end}") and topic.startswith("ecg/")
        ]

    def alerts(self, device: str | None = None) -> list[dict[str, Any]]:
        """Return the alerts, of one device or of all."""
        return [alert for name, alert in self.on("alerts") if device in (None, name)]

    def scored(self) -> dict[str, list[int]]:
        """Return by device the numbers of the scored beats, each as often as it was scored."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for device, message in self.on("scores"):
            numbers[device] += [score["seq"] for score in message["scores"]]
        return numbers

    def statuses(self) -> list[str]:
        """Return each status of the daemon, in order."""
        return [p.decode() for _, topic, p, _ in list(self.seen) if topic.endswith("/status")]

    def wait(self, ready: Callable[..., object], within: float = WITHIN) -> None:
        """Wait until `ready()` is true."""
        wait_until(ready, within, lambda: self.seen[-3:])

    def catch_up(self) -> None:
        """Wait until all has come that the broker holds for us now: a message to ourselves has."""
        echo, asked = f"harness/{uuid.uuid4()}", 0.0

        def came() -> bool:
            nonlocal asked
            if time.monotonic() > asked + 5:  # and again, as a connection is lost with what it asks
                asked = time.monotonic()
                self._client.subscribe(echo, 1)
                self.publish(echo, b"")
            return any(topic == echo for _, topic, _, _ in list(self.seen))

        self.wait(came, max(WITHIN, self._within))


class Hearts:
    """Normal and abnormal beats of a data set that the shipped detector scores as such."""

    def __init__(self, ecg: Beats, seed: int = 0) -> None:
        detector = Detector(shipped("ecg"))
        scores = detector.score(ecg.beats).scores
        self._normal = ecg.beats[ecg.labels & (scores < detector.threshold)]
        self._anomalous = ecg.beats[~ecg.labels & (scores > detector.threshold)]
        self._draw = np.random.default_rng(seed)

    def normal(self, n: int) -> NDArray[np.float32]:
        """Return normal beats below the threshold, float32 [n, 140]."""
        return np.asarray(self._draw.choice(self._normal, n))

    def anomalous(self, n: int) -> NDArray[np.float32]:
        """Return abnormal beats above the threshold, float32 [n, 140]."""
        return np.asarray(self._draw.choice(self._anomalous, n))

    def episode(self, before: int, during: int, after: int) -> NDArray[np.float32]:
        """Return a run of anomalous beats between normal ones, float32 [n, 140]."""
        return np.concatenate([self.normal(before), self.anomalous(during), self.normal(after)])


def as_json(device: str, beats: NDArray[np.float32], first: int | None = 0) -> list[Sent]:
    """Return a JSON message for each beat, numbered from `first`, or not at all if None."""
    return [
        Sent(
            device,
            msgspec.json.encode(
                {"beats": [beat.tolist()]} | ({} if first is None else {"seq": first + i})
            ),
        )
        for i, beat in enumerate(beats)
    ]


def as_float32(device: str, beats: NDArray[np.float32], each: int = 1) -> list[Sent]:
    """Return binary messages of `each` beats."""
    data = beats.astype("<f4")
    return [Sent(device, data[i : i + each].tobytes()) for i in range(0, len(data), each)]


def in_turn(streams: Sequence[Sequence[Sent]]) -> list[Sent]:
    """Return the first message of each stream, then the second of each, and so on."""
    longest = max(map(len, streams))
    return [stream[i] for i in range(longest) for stream in streams if i < len(stream)]
