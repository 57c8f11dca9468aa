"""A heart that stops, races or flutters is heard of: from its samples, or from its beats alone."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.ecg.simulator import Simulator
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Ward
from tests.harness.signals import heart

RATE = 250
SECONDS = np.arange(20 * RATE) / RATE
NOISE = 0.01 * np.random.default_rng(5).standard_normal(len(SECONDS))
CALM = heart(30, RATE, seed=3)[0]
BEGUN = int(time.time()) - 600


def chunks(*parts: NDArray[np.float64], **more: NDArray[np.float64]) -> list[bytes]:
    """Give a signal as chunks of a second, from ten minutes ago on; `more` are further leads."""
    signal = np.concatenate(parts)
    found = []
    for first in range(0, len(signal) - RATE + 1, RATE):
        leads = {"II": signal} | more
        content: dict[str, Any] = {
            "rate": RATE,
            "seq": first,
            "time": 1000 * BEGUN + 4 * first,
        }
        content["leads"] = {
            name: lead[first : first + RATE].round(4).tolist() for name, lead in leads.items()
        }
        found.append(json.dumps(content).encode())
    return found


STORIES = {
    "standstill": (
        "asystole",
        "high",
        NOISE + 0.12 * np.exp(-((SECONDS % 0.8 - 0.4) ** 2) / (2 * 0.025**2)),
    ),
    "racing": ("tachycardia", "medium", heart(20, RATE, per_minute=170)[0]),
    "slow": ("bradycardia", "high", heart(20, RATE, per_minute=30)[0]),
    "fibrillation": (
        "ventricular-fibrillation",
        "high",
        NOISE + 0.35 * np.sin(2 * np.pi * 4.5 * SECONDS),
    ),
}


def test_from_the_samples_to_the_alert_and_its_end(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path, ANYBODY) as broker,
        RunningDaemon(tmp_path, broker.url, command="segment"),
        RunningDaemon(tmp_path, broker.url) as daemon,
        Ward(broker.port) as ward,
    ):
        for name, (_, _, signal) in STORIES.items():
            for payload in chunks(CALM, signal, CALM):
                ward.publish(f"ecg/{name}/samples", payload)
        for name, (kind, priority, _) in STORIES.items():

            def alert(event: str, name: str = name, kind: str = kind) -> list[dict[str, Any]]:
                return [a for a in ward.alerts(name) if (a["event"], a["kind"]) == (event, kind)]

            ward.wait(lambda alert=alert: alert("cleared"))
            (raised,) = alert("raised")
            assert raised["priority"] == priority
            begun = BEGUN + 30
            told = np.datetime64(raised["time"].rstrip("Z")).astype("datetime64[ms]").astype(int)
            assert begun - 2 <= told / 1000 <= begun + 10
            about = "pause_s" if kind == "asystole" else "heart_rate"
            if kind != "ventricular-fibrillation":
                assert raised[about] > 0
        assert daemon.process.poll() is None


@pytest.mark.parametrize("lost", [0.0, 5.0])
def test_a_lead_that_is_off_is_a_matter_of_quality(tmp_path: Path, lost: float) -> None:
    off = np.full(20 * RATE, lost)
    with (
        Mosquitto(tmp_path, ANYBODY) as broker,
        RunningDaemon(tmp_path, broker.url, command="segment"),
        RunningDaemon(tmp_path, broker.url),
        Ward(broker.port) as ward,
    ):
        for payload in chunks(CALM, off, CALM):
            ward.publish("ecg/off/samples", payload)
        whole = np.concatenate([CALM, heart(20, RATE)[0], CALM])
        for payload in chunks(CALM, off, CALM, V1=whole):  # one of two leads
            ward.publish("ecg/two/samples", payload)
        ward.wait(lambda: ("signal-quality", "raised") in kinds(ward, "off"))
        ward.wait(lambda: ("signal-quality", "cleared") in kinds(ward, "off"))
        rhythmic = {"asystole", "bradycardia", "tachycardia", "ventricular-fibrillation"}
        for device in ("off", "two"):
            assert not {kind for kind, _ in kinds(ward, device)} & rhythmic


def kinds(ward: Ward, device: str) -> list[tuple[str, str]]:
    return [(alert["kind"], alert["event"]) for alert in ward.alerts(device)]


@pytest.mark.parametrize(
    ("per_minute", "kind", "within"), [(170, "tachycardia", 17), (30, "bradycardia", 5)]
)
def test_from_the_intervals_of_beats(
    tmp_path: Path, per_minute: float, kind: str, within: int
) -> None:
    beat = Simulator(seed=1).normal(1)[0].tolist()
    with (
        Mosquitto(tmp_path, ANYBODY) as broker,
        RunningDaemon(tmp_path, broker.url) as daemon,
        Ward(broker.port) as ward,
    ):
        number = 0

        def send(count: int, rate: float) -> None:
            nonlocal number
            for _ in range(count):
                content = {"beats": [beat], "seq": number, "rr_ms": [60_000 / rate]}
                ward.publish("ecg/a/beats", json.dumps(content).encode())
                number += 1
            ward.flush()

        def heard(event: str) -> list[dict[str, Any]]:
            return [a for a in ward.alerts("a") if (a["event"], a["kind"]) == (event, kind)]

        send(30, 75)
        daemon.wait_until("ecg_monitor_beats_received_total", 30)
        assert not heard("raised")
        send(within, per_minute)
        ward.wait(lambda: heard("raised"))
        (raised,) = heard("raised")
        assert raised["heart_rate"] == pytest.approx(per_minute, rel=0.3)
        ward.wait(
            lambda: any(
                kind in [alarm["kind"] for alarm in state["alarms"]]
                for device, state in ward.on("alarm")
                if device == "a" and state
            )
        )
        send(40, 75)
        ward.wait(lambda: heard("cleared"))
        assert len(heard("raised")) == 1
