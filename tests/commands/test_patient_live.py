"""A patient's model on the live path: fitted by the command, replayed or segmented over mosquitto.

What is held against the recording is what a subscriber hears: beats and alerts.
"""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from monitor.alarms import evaluation
from monitor.ecg import records
from monitor.ecg.rpeaks import Signal
from monitor.mqtt import client
from monitor.settings import Settings
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.waiting import WITHIN, wait_until
from train.evaluation.perturbations import CHANGES
from train.evaluation.rpeaks import resampled

SHIPPED = {
    f"ALARM__{name.upper()}": str(getattr(Settings().alarm, name))
    for name in ("window", "raise_at", "clear_at")
}

NOISE, OFF = 380, 500
"""When 30 seconds of noise begin, and when a lead is off for as long; all is calm before them."""
END = 570


@pytest.fixture(scope="module")
def source(data: Path) -> Path:
    return data / "mitdb" / "106"


@pytest.fixture(scope="module")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted")
    command = [sys.executable, "-m", "train", "ecg", "--record", str(source), "--minutes", "5"]
    subprocess.run(
        [*command, "--epochs", "30", "--out", str(out)],
        check=True,
        capture_output=True,
        timeout=5 * WITHIN,
    )
    return out / "ecg.onnx"


class Heard:
    """What a subscriber heard of the device `bed-1`.

    Attributes:
        at: the number of each beat, by its samples.
        alerts: in their order.
        scored: the numbers of the beats that were scored.
    """

    def __init__(self) -> None:
        self.at: dict[tuple[float, ...], int] = {}
        self.alerts: list[dict[str, Any]] = []
        self.scored: list[int] = []

    def take(self, _client: object, _data: object, message: MQTTMessage) -> None:
        content = msgspec.json.decode(message.payload)
        if message.topic.endswith("/alerts"):
            self.alerts.append(content)
        elif message.topic.endswith("/scores"):
            self.scored += [score["seq"] for score in content["scores"]]
        elif content["beats"]:
            numbers = content.get("seqs") or [content["seq"]]
            for beat, number in zip(content["beats"], numbers, strict=True):
                self.at[tuple(beat)] = number

    def events(self, kind: str, event: str, rate: float) -> list[float]:
        """When the beats were that caused such alerts, in seconds of the recording."""
        return [
            self.at[tuple(alert["beat"])] / rate
            for alert in self.alerts
            if (alert["kind"], alert["event"]) == (kind, event)
        ]


@contextmanager
def ward(tmp_path: Path, model: Path) -> Iterator[tuple[Mosquitto, RunningDaemon, Heard]]:
    """A broker, the daemon with the patient's model for `bed-*`, and a subscriber."""
    devices = {"MODEL__DEVICES": msgspec.json.encode({"bed-*": str(model)}).decode()}
    heard = Heard()
    conf = "allow_anonymous true\nmax_queued_messages 100000\n"
    with (
        Mosquitto(tmp_path, conf) as broker,
        RunningDaemon(tmp_path, broker.url, {}, **SHIPPED, **devices, OUTPUT__SCORES="1") as daemon,
    ):
        listener = Client(CallbackAPIVersion.VERSION2)
        listener.on_message = heard.take
        listener.connect("127.0.0.1", broker.port)
        listener.subscribe([(f"ecg/bed-1/{what}", 1) for what in ("beats", "alerts", "scores")])
        listener.loop_start()
        try:
            yield broker, daemon, heard
        finally:
            client.leave(listener)


def replay(broker: Mosquitto, source: Path, *options: str) -> int:
    """Replay a record as `bed-1` as fast as it goes; the number of beats it says it published."""
    command = [sys.executable, "-m", "monitor", "replay", str(source), "--device", "bed-1"]
    done = subprocess.run(
        [*command, "--rate", "max", "--broker", broker.url, *options],
        check=True,
        capture_output=True,
        text=True,
        timeout=3 * WITHIN,
    )
    return int(done.stderr.split("published ")[1].split()[0])


def spoilt(source: Path, rate: float) -> Signal:
    """The record's first minutes at a sampling rate, with 30 s of noise and 30 s of a lead off."""
    ecg = resampled(records.read(source), rate)
    signal = ecg.signal[: round(END * rate)].copy()
    random = np.random.default_rng(0)
    for start, change in ((NOISE, "white noise, -6 dB"), (OFF, "lead off: faint hum")):
        seconds = slice(round(start * rate), round((start + 30) * rate))
        signal[seconds] = CHANGES[change](signal[seconds], rate, random)
    return signal


def assert_a_matter_of_the_signal(heard: Heard, rate: float) -> None:
    """Noise and the lead that is off raised signal-quality and nothing else, and it cleared."""
    raised, cleared = (
        heard.events("signal-quality", event, rate) for event in ("raised", "cleared")
    )
    assert len(raised) == 2
    assert NOISE < raised[0] < NOISE + 15
    assert OFF < raised[1] < OFF + 15
    assert NOISE + 30 < cleared[0] < OFF
    for start in (NOISE, OFF):
        assert not [at for at in heard.events("anomaly", "raised", rate) if 0 < at - start < 32]


def test_ventricular_episodes_are_raised(source: Path, model: Path, tmp_path: Path) -> None:
    ecg = records.read(source)
    with ward(tmp_path, model) as (broker, daemon, heard):
        number = replay(broker, source, "--start", "300")
        daemon.wait_until("ecg_monitor_beats_received_total", number)
        wait_until(lambda: len(heard.at) == number, WITHIN)
    begins = heard.events("anomaly", "raised", ecg.rate)
    ends = [*heard.events("anomaly", "cleared", ecg.rate), np.inf][: len(begins)]
    spans = [evaluation.Span(begin, end, begin) for begin, end in zip(begins, ends, strict=True)]
    rest = ecg.positions >= 300 * ecg.rate
    judged = evaluation.judge(spans, ecg.positions[rest] / ecg.rate, ecg.classes[rest], 25 / 60)
    assert judged.episodes > 10
    assert judged.raised >= 0.8 * judged.episodes
    assert judged.false <= 2


@pytest.mark.parametrize("each", [1, 8])
def test_every_beat_has_the_number_of_its_r_peak(
    source: Path, model: Path, tmp_path: Path, each: int
) -> None:
    expected = [beat.seq for beat in records.beats(records.read(source), 300, 360)]
    with ward(tmp_path, model) as (broker, _, heard):
        options = ("--start", "300", "--stop", "360", "--beats-per-message", str(each))
        assert replay(broker, source, *options) == len(expected)
        wait_until(lambda: len(heard.scored) == len(expected), WITHIN)
    assert heard.scored == list(heard.at.values()) == expected


@pytest.mark.parametrize(
    ("rate", "unit", "gain", "ending"), [(128, "uV", 0.173, ""), (500, "mV", 57.3, ".hea")]
)
def test_noise_and_a_lead_that_is_off_are_a_matter_of_the_signal(
    source: Path, model: Path, tmp_path: Path, rate: int, unit: str, gain: float, ending: str
) -> None:
    signal = spoilt(source, rate) * (1000 if unit == "uV" else 1)
    with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
        import wfdb

        wfdb.wrsamp(
            "spoilt",
            fs=rate,
            units=[unit],
            sig_name=["II"],
            p_signal=signal[:, np.newaxis],
            fmt=["16"],
            adc_gain=[gain],
            baseline=[-321],
            write_dir=str(tmp_path),
        )
    with ward(tmp_path, model) as (broker, daemon, heard):
        number = replay(broker, tmp_path / f"spoilt{ending}", "--start", "300")
        daemon.wait_until("ecg_monitor_beats_received_total", number)
        wait_until(lambda: len(heard.at) == number, WITHIN)
        wait_until(lambda: len(heard.events("signal-quality", "cleared", rate)) == 2, WITHIN)
    assert_a_matter_of_the_signal(heard, rate)


def test_so_they_are_live(source: Path, model: Path, tmp_path: Path) -> None:
    rate = 250
    signal = spoilt(source, rate)
    with (
        ward(tmp_path, model) as (broker, _, heard),
        RunningDaemon(tmp_path, broker.url, {}, command="segment") as segment,
    ):
        device = Client(CallbackAPIVersion.VERSION2)
        device.connect("127.0.0.1", broker.port)
        device.loop_start()
        for first in range(300 * rate, len(signal), rate):
            chunk = {"samples": signal[first : first + rate].tolist(), "rate": rate}
            payload = msgspec.json.encode(chunk | {"seq": first})
            device.publish("ecg/bed-1/samples", payload, qos=1).wait_for_publish(WITHIN)
        segment.wait_until("ecg_monitor_samples_received_total", len(signal) - 300 * rate)
        wait_until(lambda: len(heard.events("signal-quality", "cleared", rate)) == 2, WITHIN)
        client.leave(device)
    assert_a_matter_of_the_signal(heard, rate)
