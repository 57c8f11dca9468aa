"""Replay: a file or a record as a device would send it, over a real broker."""

import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import edfio
import msgspec
import numpy as np
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from monitor.ecg import chunks, records
from monitor.errors import USAGE
from monitor.mqtt import client
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.signals import heart
from tests.harness.waiting import WITHIN, wait_until

RATE = 250
SECONDS = 30
SIGNAL, _ = heart(SECONDS, RATE)
OTHER, _ = heart(SECONDS, RATE, per_minute=60, seed=3)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WFDB record of two ECG leads behind a channel that is none."""
    folder = tmp_path_factory.mktemp("record")
    with warnings.catch_warnings(action="ignore"):
        import wfdb

        wfdb.wrsamp(
            "r",
            RATE,
            ["mmHg", "mV", "mV"],
            ["ABP", "II", "V1"],
            np.column_stack([np.linspace(60, 120, len(SIGNAL)), SIGNAL, OTHER]),
            fmt=["16"] * 3,
            write_dir=str(folder),
        )
    return folder / "r"


@pytest.fixture(scope="module")
def edf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edf") / "r.edf"
    signal = edfio.EdfSignal(1000 * SIGNAL, RATE, label="ECG II", physical_dimension="uV")
    edfio.Edf([signal]).write(path)
    return path


class Heard:
    """What came on the topics of a device."""

    def __init__(self, broker: Mosquitto) -> None:
        self.messages: list[tuple[str, bytes]] = []
        subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = self._take
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", broker.port)
        self.client.subscribe("ecg/#", 1)
        self.client.loop_start()
        assert subscribed.wait(WITHIN)

    def _take(self, _client: object, _data: object, message: MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload)))

    def wait(self, number: int) -> list[bytes]:
        """Return the payloads once there are so many; they must be on one topic."""
        wait_until(lambda: len(self.messages) >= number, said=lambda: self.messages[-1:])
        assert len(self.messages) == number
        return [payload for _, payload in self.messages]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def heard(broker: Mosquitto) -> Iterator[Heard]:
    listener = Heard(broker)
    yield listener
    client.leave(listener.client)


def replay(broker: Mosquitto | None, source: Path, *options: str) -> tuple[int, str]:
    """Replay as `bed-1`; the exit code and what was said on stderr."""
    command = [sys.executable, "-m", "monitor", "replay", str(source), "--device", "bed-1"]
    if broker:
        command += ["--broker", broker.url]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def joined(payloads: list[bytes], lead: str = "") -> Any:
    """The samples of chunks that follow one another."""
    found = [chunks.decode(payload) for payload in payloads]
    for one, next_ in pairwise(found):
        assert one.seq is not None
        assert next_.seq == one.seq + len(one)
    return np.concatenate([chunk.leads[lead] for chunk in found])


def test_a_record_s_samples_are_sent_a_second_a_chunk_with_every_ecg_lead(
    broker: Mosquitto, heard: Heard, record: Path
) -> None:
    code, said = replay(broker, record, "--raw", "--rate", "max")
    assert code == 0, said
    assert "using 'II', 'V1'" in said
    assert f"published {2 * len(SIGNAL)} samples in {SECONDS} messages on ecg/bed-1/samples" in said
    payloads = heard.wait(SECONDS)
    assert {topic for topic, _ in heard.messages} == {"ecg/bed-1/samples"}
    first = msgspec.json.decode(payloads[0])
    assert first.keys() == {"leads", "rate", "seq"}
    assert list(first["leads"]) == ["II", "V1"]
    assert (first["rate"], first["seq"], len(first["leads"]["II"])) == (RATE, 0, RATE)
    read = records.read(record)
    assert np.array_equal(joined(payloads, "II"), read.signal)
    assert np.array_equal(joined(payloads, "V1"), read.leads["V1"])


def test_a_lead_that_is_named_is_sent_alone(broker: Mosquitto, heard: Heard, record: Path) -> None:
    options = ("--raw", "--rate", "max", "--lead", "v1", "--start", "10.5", "--stop", "13")
    code, said = replay(broker, record, *options)
    assert (code, "using" in said) == (0, False)
    payloads = heard.wait(3)
    assert msgspec.json.decode(payloads[0]).keys() == {"samples", "rate", "seq"}
    assert chunks.decode(payloads[0]).seq == 10.5 * RATE
    whole = records.read(record, "V1").signal
    assert np.array_equal(joined(payloads), whole[round(10.5 * RATE) : 13 * RATE])


def test_float32_is_one_lead_without_rate_and_number(
    broker: Mosquitto, heard: Heard, edf: Path
) -> None:
    options = ("--raw", "--rate", "max", "--payload", "float32", "--stop", "2")
    assert replay(broker, edf, *options)[0] == 0
    payloads = heard.wait(2)
    whole = records.read(edf).signal
    sent = np.frombuffer(b"".join(payloads), "<f4")
    assert np.array_equal(sent, whole[: 2 * RATE].astype("<f4"))


def test_chunks_go_out_when_their_last_sample_was(
    broker: Mosquitto, heard: Heard, edf: Path
) -> None:
    begun = time.monotonic()
    assert replay(broker, edf, "--raw", "--rate", "10", "--start", "3", "--stop", "23")[0] == 0
    assert time.monotonic() - begun > 2
    assert chunks.decode(heard.wait(20)[0]).seq == 3 * RATE


@pytest.mark.parametrize("lead", [None, "V1"])
def test_segment_cuts_the_beats_that_replay_would_have_cut(
    tmp_path: Path, broker: Mosquitto, heard: Heard, record: Path, lead: str | None
) -> None:
    options = ("--rate", "max", *(() if lead is None else ("--lead", lead)))
    code, said = replay(broker, record, *options)
    assert code == 0
    assert ("using 'II'; --lead selects another: 'V1'" in said) == (lead is None)
    numbers = [beat.seq for beat in records.beats(records.read(record, lead))]
    assert [msgspec.json.decode(each)["seq"] for each in heard.wait(len(numbers))] == numbers
    heard.messages.clear()
    with RunningDaemon(tmp_path, broker.url, command="segment"):
        assert replay(broker, record, "--raw", *options)[0] == 0

        def cut() -> list[int]:
            found: list[int] = []
            for topic, payload in list(heard.messages):
                if topic == "ecg/bed-1/beats":
                    message = msgspec.json.decode(payload)
                    first = message.get("seq", 0)
                    count = range(first, first + len(message["beats"]))
                    found += message.get("seqs", count)
            return found

        # The last ones when it has been silent for 10 s.
        wait_until(lambda: cut() == numbers, said=lambda: (cut(), numbers))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("beats.csv", "--raw"), "--raw: beats.csv is not a WFDB or EDF record"),
        (("beats.csv", "--lead", "II"), "--lead: beats.csv is not a WFDB or EDF record"),
        (("RECORD", "--lead", "aVF"), "--lead 'aVF': "),
        (
            ("RECORD", "--raw", "--beats-per-message", "2"),
            "not with --raw, which publishes no beats",
        ),
        (("RECORD", "--raw", "--start", "1000"), "there are no samples between --start and --stop"),
    ],
)
def test_what_does_not_fit_together_is_wrong_usage(
    record: Path, options: tuple[str, ...], said: str
) -> None:
    source, *others = options
    code, text = replay(None, record if source == "RECORD" else Path(source), *others)
    assert code == USAGE
    assert said in text
