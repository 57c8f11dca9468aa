"""The signal around an alarm: from the samples, over `segment` and the monitor, to the history."""

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.alarms import strips
from monitor.errors import Rejected
from monitor.times import from_rfc3339
from tests.daemon.test_rhythm import BEGUN, CALM, RATE, STORIES, chunks
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Ward
from tests.harness.waiting import WITHIN, wait_until

STANDSTILL = STORIES["standstill"][2]


def get(daemon: RunningDaemon, path: str) -> Any:
    with urllib.request.urlopen(f"http://{daemon.address}{path}", timeout=WITHIN) as answer:
        return json.load(answer)


def strip_of(daemon: RunningDaemon, alarm: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = get(daemon, f"/api/strip?id={alarm}")
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return None
    return found


def until_the_alarm(
    ward: Ward, segment: RunningDaemon, payloads: list[bytes]
) -> tuple[dict[str, Any], list[bytes]]:
    """Send chunks until a standstill is told of; return its alert, and the chunks that are left."""

    def told() -> list[dict[str, Any]]:
        return [each for each in ward.alerts("bed-1") if each["kind"] == "asystole"]

    left = list(payloads)
    while not told():
        for _ in range(2):
            ward.publish("ecg/bed-1/samples", left.pop(0))
        segment.wait_until("ecg_monitor_chunks_received_total", len(payloads) - len(left))
        try:
            ward.wait(told, 0.3)
        except pytest.fail.Exception:
            continue
    return told()[0], left


def test_the_signal_around_an_alarm_is_kept_with_it(tmp_path: Path) -> None:
    other = 0.5 * np.concatenate([CALM, STANDSTILL, CALM])
    sent = chunks(CALM, STANDSTILL, CALM, V1=other)
    with (
        Mosquitto(tmp_path, ANYBODY) as broker,
        RunningDaemon(tmp_path, broker.url) as daemon,
        RunningDaemon(tmp_path, broker.url, command="segment") as segment,
        Ward(broker.port) as ward,
    ):
        alert, left = until_the_alarm(ward, segment, sent)
        # Killed before the ten seconds after it are over, it goes on with its journal.
        for payload in left[:4]:
            ward.publish("ecg/bed-1/samples", payload)
        ward.flush()
        segment.process.send_signal(signal.SIGKILL)
        segment.process.wait()
        segment.start()
        for payload in left[4:]:
            ward.publish("ecg/bed-1/samples", payload)
        wait_until(lambda: strip_of(daemon, alert["alarm"]))
        strip = strip_of(daemon, alert["alarm"])
        assert strip is not None
        assert (strip["rate"], strip["unit"]) == (RATE, "mV")
        assert list(strip["leads"]) == ["II", "V1"]
        first = sample(strip["time"])
        assert strip["at"] == pytest.approx((sample(alert["time"]) - first) / RATE, abs=0.01)
        assert strip["at"] == pytest.approx(10, abs=0.01)
        whole: NDArray[np.float64] = np.concatenate([CALM, STANDSTILL, CALM])
        at = round(first)
        for name, signal_ in (("II", whole), ("V1", other)):
            drawn = np.array(strip["leads"][name], float)
            assert len(drawn) == 20 * RATE
            np.testing.assert_allclose(drawn, signal_[at : at + 20 * RATE], atol=6e-4)
        beats = strip["beats"]
        assert len(beats) > 3
        for each in beats:
            assert each["seq"] == at + round(RATE * each["at"])
        assert {each["label"] for each in beats} <= {"N", "A", "V", None}
        assert any(each["label"] for each in beats)
        (past,) = [each for each in get(daemon, "/api/alarms") if each["id"] == alert["alarm"]]
        assert past["strip"] is True


def sample(time: str) -> float:
    """Return the number of the sample at a time."""
    return RATE * (from_rfc3339(time) - BEGUN)


HOSTILE = [
    b"",
    b"nothing",
    b"\xff\xfe",
    b"[" * 100_000,
    b"{}",
    b'{"alarm": "' + b"0" * 32 + b'"}',
    b" " * (strips.MAX_BYTES + 1),
]


def fitting(**changed: Any) -> bytes:
    strip: dict[str, Any] = {
        "alarm": "0" * 32,
        "time": "2026-11-21T12:00:00Z",
        "rate": 250,
        "leads": {"II": [0.0, None, 1.5]},
        "at": 0,
        "unit": "mV",
        "beats": [{"seq": 7, "at": 0.004}],
    }
    return json.dumps(strip | changed).encode()


@pytest.mark.parametrize(
    "payload",
    [
        *HOSTILE,
        fitting(alarm="x"),
        fitting(time="yesterday"),
        fitting(rate=0),
        fitting(rate=1e9),
        fitting(leads={}),
        fitting(leads={name: [0] for name in "abcd"}),
        fitting(leads={"II": []}),
        fitting(leads={"II": [0], "V1": [0, 1]}),
        fitting(leads={"\x1b[2J": [0]}),
        fitting(leads={"II": [0] * 30_001}),
        fitting(beats=[{"seq": -1, "at": 0}]),
        fitting(beats=[{"seq": 1, "at": 0}] * 601),
        fitting(unit="furlongs"),
    ],
    ids=lambda payload: str(payload[:60]),
)
def test_a_strip_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(Rejected):
        strips.decode(payload)


def test_a_strip_is_taken_and_labelled() -> None:
    strip = strips.labelled(strips.decode(fitting()), {7: 4})
    assert strip.beats == [strips.Mark(7, 0.004, "V")]
    assert strips.labelled(strip, {}).beats[0].label is None


def test_strips_that_are_none_or_of_no_alarm_are_counted_and_not_kept(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path, ANYBODY) as broker,
        RunningDaemon(tmp_path, broker.url) as daemon,
        Ward(broker.port) as ward,
    ):
        for payload in (*HOSTILE, fitting()):
            ward.publish("ecg/bed-1/strip", payload)
        ward.flush()
        rejected = 'ecg_monitor_messages_rejected_total{reason="%s"}'
        daemon.wait_until(rejected % "length", 1)
        daemon.wait_until(rejected % "shape", 3)
        daemon.wait_until(rejected % "json", 3)
        assert strip_of(daemon, "0" * 32) is None
        wait_until(daemon.healthy)
