"""The daemon for raw samples, a process of its own beside a real broker."""

import json
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client import CollectorRegistry

from monitor.configuration import load
from monitor.ecg.segmenter import Segmenter
from monitor.ecg.streams import SILENT_AFTER
from monitor.metrics import SegmentMetrics
from monitor.mqtt import client
from monitor.segment import loop
from monitor.segment.messages import MOST_BEATS
from monitor.times import rfc3339
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.signals import heart
from tests.harness.waiting import WITHIN, wait_until

RATE = 250
SIGNAL, PEAKS = heart(60, RATE)
STORED = "persistence true\npersistence_location {folder}/\nautosave_interval 1\n"


class Bed:
    """Sends samples, and hears the beats that come back."""

    def __init__(self, broker: Mosquitto) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.statuses: list[str] = []
        self._acknowledged = threading.Semaphore(0)
        self._client = Client(CallbackAPIVersion.VERSION2, "bed", clean_session=False)
        self._client.on_message = self._on_message
        self._client.on_publish = lambda *_: self._acknowledged.release()
        self._client.on_connect = lambda mqtt, *_: mqtt.subscribe(
            [("ecg/+/beats", 1), ("ecg-monitor/+/status", 1)]
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        level = message.topic.split("/")
        if level[-1] == "status":
            self.statuses.append(f"{level[1]} {message.payload.decode()}")
        else:
            self.messages.append((level[1], json.loads(message.payload)))

    def send(self, device: str, samples: NDArray[np.float64], seq: int, **more: object) -> None:
        """Publish a chunk, and wait until the broker has it."""
        content = {"samples": samples.tolist(), "rate": RATE, "seq": seq} | more
        text = json.dumps(content)
        self.raw(f"ecg/{device}/samples", text.encode())

    def raw(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain)
        assert self._acknowledged.acquire(timeout=WITHIN)

    def beats(self, device: str) -> list[int]:
        """The numbers of a device's beats, as they came."""
        numbers: list[int] = []
        for name, message in list(self.messages):
            if name == device:
                first = message.get("seq", 0)  # a message may be of the rhythm alone
                numbers += message.get("seqs", range(first, first + len(message["beats"])))
        return numbers

    def wait_for(self, device: str, numbers: list[int]) -> None:
        """Wait until the beats have come that begin a device's stream; its end may bring more."""
        self.wait(lambda: self.beats(device)[: len(numbers)] == numbers)

    def wait(self, ready: Callable[[], object]) -> None:
        wait_until(
            ready, said=lambda: [(name, message.get("seq")) for name, message in self.messages[-9:]]
        )

    def close(self) -> None:
        client.leave(self._client)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path, ANYBODY + STORED.format(folder=tmp_path)) as running:
        yield running


@pytest.fixture
def bed(broker: Mosquitto) -> Iterator[Bed]:
    bed = Bed(broker)
    yield bed
    bed.close()


def segment(folder: Path, broker: Mosquitto, **settings: str) -> RunningDaemon:
    return RunningDaemon(folder, broker.url, command="segment", **settings)


def all_done(folder: Path) -> bool:
    """Whether the journal has every chunk marked as done."""
    with closing(sqlite3.connect(folder / "journal.db")) as database:
        return bool(database.execute("SELECT min(done) FROM chunks").fetchone() == (1,))


def expected(signal_: NDArray[np.float64] = SIGNAL) -> list[int]:
    """The numbers of the beats that an uninterrupted run has cut by the signal's end."""
    return [beat.seq for beat in Segmenter(RATE).feed(signal_)]


def play(bed: Bed, device: str, start: int = 0, stop: int = 60) -> None:
    """Send the seconds from `start` to `stop`, a chunk a second."""
    for second in range(start, stop):
        bed.send(device, SIGNAL[second * RATE : (second + 1) * RATE], second * RATE)


def test_samples_become_beats(tmp_path: Path, broker: Mosquitto, bed: Bed) -> None:
    with segment(tmp_path, broker) as running:
        bed.wait(lambda: "test-segment online" in bed.statuses)
        play(bed, "a")
        bed.wait_for("a", known := expected())
        running.wait_until("ecg_monitor_chunks_received_total", 60)
        assert running.value("ecg_monitor_chunks_received_total") == 60
        running.wait_until("ecg_monitor_beats_cut_total", len(known))
        running.wait_until("ecg_monitor_streams", 1)  # set twice a second
        assert running.stop() == 0
    bed.wait(lambda: bed.statuses[-1:] == ["test-segment stopped"])


def test_nothing_is_lost_to_three_kills(tmp_path: Path, broker: Mosquitto, bed: Bed) -> None:
    running, known = segment(tmp_path, broker), expected()
    with running:
        for third in range(3):
            play(bed, "a", 15 * third, 15 * third + 12)
            running.process.send_signal(signal.SIGKILL)
            running.process.wait(WITHIN)
            bed.wait(lambda: bed.statuses[-1:] == ["test-segment offline"])
            play(bed, "a", 15 * third + 12, 15 * third + 15)  # kept by the broker
            running.start()
        play(bed, "a", 45, 60)
        bed.wait(lambda: set(bed.beats("a")) >= set(known))
    found = bed.beats("a")
    assert sorted(set(found))[: len(known)] == known
    repeated = {number for number in found if found.count(number) > 1}
    payloads: dict[int, set[str]] = {}
    for _, message in bed.messages:
        for number, beat in zip(
            message.get("seqs", [message.get("seq")])[: len(message["beats"])],
            message["beats"],
            strict=True,
        ):
            payloads.setdefault(number, set()).add(json.dumps(beat))
    # Beats that were published but not acknowledged when the process died come again; they are the
    # same to the last bit, by which the monitor knows them.
    assert all(len(payloads[number]) == 1 for number in repeated)


def test_a_standby_goes_on_from_the_journal_that_it_shares(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    journal = {"SEGMENT__JOURNAL": str(tmp_path / "shared.db")}
    with (
        segment(tmp_path, broker, **journal) as active,
        segment(other, broker, **journal, MQTT__STANDBY="true") as standby,
    ):
        play(bed, "a", 0, 20)
        assert standby.value("ecg_monitor_standby") == 1
        assert standby.value("ecg_monitor_chunks_received_total") == 0
        active.process.kill()
        active.process.wait(WITHIN)
        play(bed, "a", 20, 60)
        known = expected()
        bed.wait(lambda: set(bed.beats("a")) >= set(known))
        assert standby.value("ecg_monitor_standby") == 0
    assert sorted(set(bed.beats("a")))[: len(known)] == known


def test_a_clean_stop_repeats_nothing(tmp_path: Path, broker: Mosquitto, bed: Bed) -> None:
    with segment(tmp_path, broker) as running:
        play(bed, "a", 0, 30)
        assert running.stop() == 0
    with segment(tmp_path, broker):
        play(bed, "a", 30, 60)
        bed.wait_for("a", expected())


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_it_hears_again_after_a_restart_of_the_broker(
    tmp_path: Path, broker: Mosquitto, bed: Bed, protocol: str
) -> None:
    with segment(tmp_path, broker, MQTT__PROTOCOL=protocol) as running:
        play(bed, "a", 0, 20)
        bed.wait(lambda: running.value("ecg_monitor_chunks_received_total") == 20)
        broker.stop()
        broker.start()
        bed.wait(running.healthy)
        play(bed, "a", 20, 60)
        known = expected()
        bed.wait(lambda: set(bed.beats("a")) >= set(known))


def test_a_device_that_reboots_is_heard_at_once(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    with segment(tmp_path, broker) as running:
        play(bed, "a", 0, 30)
        before = len(bed.messages)
        play(bed, "a", 0, 20)  # the same samples again, but nobody could tell: 30 s are past
        bed.wait(lambda: len(bed.messages) >= before)
        other, _ = heart(30, RATE, seed=7)
        for second in range(20):
            bed.send("a", other[second * RATE : (second + 1) * RATE], second * RATE)
        bed.wait(lambda: running.value("ecg_monitor_streams_broken_total") >= 1)
        known = set(expected(other[: 20 * RATE]))
        bed.wait(lambda: known <= set(bed.beats("a")))
        assert running.log.read_text().count("a new stream begins") == 1


def test_one_device_harms_no_other(tmp_path: Path, broker: Mosquitto, bed: Bed) -> None:
    with segment(tmp_path, broker) as running:
        for second in range(60):
            bed.send("a", SIGNAL[second * RATE : (second + 1) * RATE], second * RATE)
            bed.raw("ecg/b\u3000c/samples", b'{"samples": [1], "rate": 250}')
            bed.raw("ecg/d/samples", b'{"samples": "no"}')
            bed.raw("ecg/e/samples", np.ones(100, "<f4").tobytes())  # of unknown rate
            bed.send("f", SIGNAL[:RATE], second, rate=1)
        bed.wait_for("a", expected())
        rejected = 'ecg_monitor_messages_rejected_total{reason="%s"}'
        for reason, number in (("topic", 60), ("shape", 180)):
            running.wait_until(rejected % reason, number)
            assert running.value(rejected % reason) == number
        assert running.process.poll() is None


def test_the_last_beats_of_a_stream_have_its_times_and_not_those_of_the_next(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    """By the numbers of the next, they could be of any year, which would end the daemon."""
    hour = 3600
    begun = time.time() // hour * hour - 24 * hour
    first, second = rfc3339(begun), rfc3339(begun + hour)
    with RunningDaemon(tmp_path, broker.url, command="segment"):
        bed.send("bed-1", SIGNAL[: 20 * RATE], 0, time=first)
        bed.send("bed-1", SIGNAL[: 20 * RATE], 2**52, time=second)
        bed.wait(lambda: any(number >= 2**52 for number in bed.beats("bed-1")))
    times = [
        (message["seq"] >= 2**52, message["time"][:16])
        for _, message in bed.messages
        if message["beats"]
    ]
    assert set(times) == {(False, first[:16]), (True, second[:16])}


def test_the_beats_of_a_long_chunk_come_in_messages_that_a_broker_takes(tmp_path: Path) -> None:
    """Else it would hang up on them, now and after each restart, and nobody would be heard."""
    samples, _ = heart(350, RATE)
    with Mosquitto(tmp_path, f"{ANYBODY}max_packet_size 400000\n") as broker:
        with (
            closing(Bed(broker)) as bed,
            RunningDaemon(tmp_path, broker.url, command="segment", SEGMENT__RATE="250"),
        ):
            bed.raw("ecg/long/samples", samples.astype("<f4").tobytes())
            bed.wait(lambda: len(bed.beats("long")) > 400)
    assert max(len(message["beats"]) for _, message in bed.messages) <= MOST_BEATS


def test_a_retained_chunk_is_not_taken(tmp_path: Path, broker: Mosquitto, bed: Bed) -> None:
    bed.raw("ecg/a/samples", json.dumps({"samples": [1] * 9000, "rate": RATE}).encode(), True)
    with segment(tmp_path, broker) as running:
        play(bed, "a", 0, 20)
        bed.wait_for("a", expected(SIGNAL[: 20 * RATE]))
        assert running.value('ecg_monitor_messages_rejected_total{reason="retained"}') >= 0


def test_the_end_of_a_signal_gives_its_last_beats(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    with segment(tmp_path, broker) as running:
        play(bed, "a", 0, 20)
        whole = Segmenter(RATE)
        beats = whole.feed(SIGNAL[: 20 * RATE]) + whole.finish()
        bed.wait(lambda: bed.beats("a") == [beat.seq for beat in beats])
        bed.wait(lambda: running.value("ecg_monitor_streams") == 0)


def test_a_signal_that_has_ended_does_not_end_again_after_a_restart(
    tmp_path: Path, broker: Mosquitto, bed: Bed
) -> None:
    whole = Segmenter(RATE)
    beats = [beat.seq for beat in whole.feed(SIGNAL[: 20 * RATE]) + whole.finish()]
    running = segment(tmp_path, broker)
    with running:
        play(bed, "a", 0, 20)
        bed.wait(lambda: bed.beats("a") == beats)
        bed.wait(lambda: running.value("ecg_monitor_streams") == 0)
        bed.wait(lambda: all_done(tmp_path))  # in a turn after the broker's answer
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(WITHIN)
        running.start()
        bed.wait(running.healthy)
        time.sleep(SILENT_AFTER + 2)  # in which it would end
        assert bed.beats("a") == beats
        play(bed, "a", 20, 40)  # and it begins again
        bed.wait(lambda: len(bed.beats("a")) > len(beats) + 10)


def test_a_disk_that_takes_nothing_leaves_no_patient_unheard(
    tmp_path: Path, broker: Mosquitto, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for interval in ("CLOCK_INTERVAL", "TRIM_INTERVAL"):
        monkeypatch.setattr(loop, interval, 0.0)
    settings = load(
        None,
        {
            "mqtt": {"broker": broker.url, "client_id": "test"},
            "segment": {"journal": tmp_path / "journal.db"},
        },
    )
    metrics = SegmentMetrics(CollectorRegistry())
    daemon = loop.SegmentDaemon(settings, metrics)
    daemon.startup()

    def until(ready: Callable[[], object]) -> None:
        def turned() -> object:
            daemon.turn()
            return ready()

        wait_until(turned)

    until(lambda: daemon.lifecycle.health() is None)
    daemon._journal._database.execute("PRAGMA query_only = ON")  # deletes fail then, too
    play(bed, "a", stop=20)
    until(lambda: len(bed.beats("a")) > 10 and metrics.unwritten._value.get() > 1)
    daemon._journal._database.execute("PRAGMA query_only = OFF")
    daemon.shutdown()
