"""The daemon over a real broker, looked at from outside."""

import gc
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.batch.datasets import Beats
from monitor.commands.demo import EmbeddedBroker
from monitor.detector.model_file import Detector, shipped
from tests.harness.brokers import Mosquitto, program
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_float32, as_json, in_turn
from tests.harness.ports import free_port
from tests.harness.waiting import WITHIN, wait_until

UNBOUNDED = "allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n"

REJECTED = "ecg_monitor_messages_rejected_total"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path, UNBOUNDED) as broker:
        yield broker


@pytest.fixture(scope="module")
def hearts(ecg: Beats) -> Hearts:
    return Hearts(ecg)


def confusion(is_normal: NDArray[np.bool_], anomalous: NDArray[np.bool_]) -> list[list[int]]:
    """How many beats were what, and were taken for what."""
    table = np.zeros((2, 2), int)
    np.add.at(table, (is_normal.astype(int), anomalous.astype(int)), 1)
    rows: list[list[int]] = table.tolist()
    return rows


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_every_beat_is_scored_as_it_is_offline(
    tmp_path: Path, broker: Mosquitto, ecg: Beats, protocol: str
) -> None:
    beats, is_normal = ecg.beats[:4000], ecg.labels[:4000]
    detector = Detector(shipped("ecg"))
    expected = detector.score(beats).scores > detector.threshold
    messages = as_json("a", beats[:2000]) + as_float32("b", beats[2000:])
    settings = {"MQTT__PROTOCOL": protocol, "OUTPUT__SCORES": "true"}
    with RunningDaemon(tmp_path, broker.url, **settings) as daemon, Ward(broker.port) as ward:
        ward.send(messages)
        daemon.wait_until("ecg_monitor_beats_scored_total", 4000)
        assert daemon.value("ecg_monitor_beats_received_total") == 4000
        assert daemon.value("ecg_monitor_beats_anomalous_total") == expected.sum()
        daemon.wait_until("ecg_monitor_score_ratio_count", 4000)
        ward.wait(lambda: sum(len(m["scores"]) for _, m in ward.on("scores")) == 4000)
    found = {
        device: [
            s["anomalous"] for name, m in ward.on("scores") if name == device for s in m["scores"]
        ]
        for device in "ab"
    }
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (is_normal.astype(int), np.array(found["a"] + found["b"], int)), 1)
    offline = np.zeros((2, 2), int)
    np.add.at(offline, (is_normal.astype(int), expected.astype(int)), 1)
    assert confusion.tolist() == offline.tolist()


def test_an_alarm_is_raised_escalated_and_cleared(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    with RunningDaemon(tmp_path, broker.url) as daemon, Ward(broker.port) as ward:
        ward.send(as_json("bed-1", hearts.episode(12, 12, 12)))
        ward.wait(lambda: len(ward.alerts()) == 3)
        raised, escalated, cleared = ward.alerts("bed-1")
        assert [a["event"] for a in (raised, escalated, cleared)] == [
            "raised",
            "escalated",
            "cleared",
        ]
        assert (raised["priority"], escalated["priority"]) == ("medium", "high")
        assert raised["beats_anomalous"] == 3
        assert escalated["beats_anomalous"] == 10
        assert cleared["beats_anomalous"] == 0
        assert raised["since"] == escalated["since"] == cleared["since"]
        assert raised["score"] > raised["threshold"]
        assert len(raised["beat"]) == len(raised["reconstruction"]) == 140
        assert len({a["id"] for a in (raised, escalated, cleared)}) == 3
        ward.wait(lambda: [alarm["state"] for _, alarm in ward.on("alarm")][-1:] == ["ok"])
        alerts = "ecg_monitor_alerts_total"
        raisings = f'{alerts}{{event="raised",kind="anomaly",priority="medium"}}'
        daemon.wait_until(raisings, 1)
        assert daemon.value(raisings) == 1
        high = 'ecg_monitor_alarms{kind="anomaly",priority="high"}'
        wait_until(lambda: daemon.value(high) == 0)
    with Ward(broker.port, "late") as late:  # whoever comes later finds how it stands
        late.wait(lambda: late.on("alarm"))
        assert late.on("alarm")[0][1]["alarms"] == []


def test_a_flat_or_clipped_beat_is_never_a_cardiac_alarm(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    flat = np.zeros((12, 140), np.float32)
    clipped = np.clip(50 * hearts.normal(12), -3, 3)
    broken = hearts.normal(12)
    broken[:, 70] = np.nan
    with RunningDaemon(tmp_path, broker.url) as daemon, Ward(broker.port) as ward:
        for name, beats in (("flat", flat), ("clipped", clipped), ("broken", broken)):
            ward.send(as_float32(name, hearts.normal(12)))
            ward.send(as_float32(name, beats))
            ward.send(as_float32(name, hearts.normal(12)))
        ward.wait(lambda: len(ward.alerts()) == 9)
        for name in ("flat", "clipped", "broken"):
            events = [(a["kind"], a["event"]) for a in ward.alerts(name)]
            assert events == [
                ("signal-quality", "raised"),
                ("signal-quality", "escalated"),
                ("signal-quality", "cleared"),
            ]
            assert all(a["score"] is None for a in ward.alerts(name)[:2])
        for series in (
            f'{REJECTED}{{reason="not_finite"}}',
            'ecg_monitor_beats_poor_total{fault="flat"}',
        ):
            daemon.wait_until(series, 12)
            assert daemon.value(series) == 12


def test_a_silent_device_is_noticed_and_welcomed_back(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    quick = {"ALARM__SILENT_AFTER": "1"}
    with RunningDaemon(tmp_path, broker.url, **quick) as daemon, Ward(broker.port) as ward:
        ward.send(as_json("bed-1", hearts.normal(2)))
        ward.wait(lambda: ward.alerts())
        wait_until(lambda: daemon.value("ecg_monitor_devices") == 0)
        ward.send(as_json("bed-1", hearts.normal(2), first=2))
        ward.wait(lambda: len(ward.alerts()) >= 2)  # and soon it is silent again
    assert [(a["kind"], a["event"]) for a in ward.alerts()[:2]] == [
        ("silent", "raised"),
        ("silent", "cleared"),
    ]
    assert ward.alerts()[0]["beat"] is None


BEAT = [0.5] * 70 + [-0.5] * 70
NONSENSE: dict[str, tuple[str, bytes]] = {
    "empty": ("empty", b""),
    "another length": ("length", b"\0" * 561),
    "text": ("length", b"hello"),
    "10 MB of noise": ("length", np.random.default_rng(0).bytes(10_000_001)),
    "half a JSON": ("json", b'{"beats": [[1, 2'),
    "NaN": ("not_finite", msgspec.json.encode([BEAT]).replace(b"0.5", b"NaN", 1)),
    "139 samples": ("shape", msgspec.json.encode(BEAT[1:])),
    "null": ("not_finite", msgspec.json.encode([None, *BEAT[1:]])),
    "true": ("shape", msgspec.json.encode([True, *BEAT[1:]])),
    "a number as text": ("shape", msgspec.json.encode(["1.5", *BEAT[1:]])),
    "another object": ("shape", b'{"heartbeat": [1, 2, 3]}'),
    "deeply nested": ("shape", b"[" * 100_000 + b"]" * 100_000),
    "beyond float32": ("not_finite", msgspec.json.encode([1e39, *BEAT[1:]])),
    "infinite": ("not_finite", np.full(140, np.inf, "<f4").tobytes()),
    "no time": ("time", msgspec.json.encode({"beats": [BEAT], "time": "yesterday"})),
}


def test_thirty_seconds_of_noise_are_a_matter_of_the_signal(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    draw = np.random.default_rng(0)
    noise = draw.normal(size=(38, 140)).astype(np.float32)  # 75 beats a minute
    drowned = hearts.normal(38)
    drowned += 2 * drowned.std(axis=1, keepdims=True) * noise  # -6 dB
    with RunningDaemon(tmp_path, broker.url) as daemon, Ward(broker.port) as ward:
        for name, beats in (("noise", noise), ("drowned", drowned)):
            ward.send(as_float32(name, np.concatenate([hearts.normal(12), beats])))
            ward.send(as_float32(name, hearts.normal(12)))
        ward.wait(lambda: sum(alert["event"] == "cleared" for alert in ward.alerts()) == 2)
        daemon.wait_until('ecg_monitor_beats_poor_total{fault="noise"}', 71)
    assert {alert["kind"] for alert in ward.alerts()} == {"signal-quality"}


def test_nonsense_is_counted_and_harms_nobody_else(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    """More nonsense than slots: a message that cannot be read must give its slot back."""
    few = {"MQTT__RECEIVE_MAXIMUM": "5"}
    with RunningDaemon(tmp_path, broker.url, **few) as daemon, Ward(broker.port) as ward:
        before = ward.send(as_json("well", hearts.episode(12, 3, 0)))
        for i, (_, payload) in enumerate(NONSENSE.values()):
            ward.publish(f"ecg/odd{i}/beats", payload)
            ward.publish("ecg//beats", as_json("", hearts.normal(1))[0].payload)
        after = ward.send(as_json("well", hearts.normal(12), first=before))
        ward.wait(lambda: len(ward.alerts("well")) == 2)
        daemon.wait_until("ecg_monitor_beats_scored_total", before + after)
        expected = Counter(reason for reason, _ in NONSENSE.values())
        for reason, number in (expected | Counter(topic=len(NONSENSE))).items():
            series = f'{REJECTED}{{reason="{reason}"}}'
            daemon.wait_until(series, number)
            assert daemon.value(series) == number, reason
        wait_until(lambda: daemon.value("ecg_monitor_unacknowledged_messages") == 0)
        wait_until(daemon.healthy)
    said = daemon.log.read_text()
    assert "Traceback" not in said
    assert said.count('"rejected"') <= 2 * len(NONSENSE)  # not once for each message


def test_names_of_devices_may_be_odd(tmp_path: Path, broker: Mosquitto, hearts: Hearts) -> None:
    names = ['"quoted"', "{device}", "<b>bold<b>", "bed 7", "Ω", "$x", "a" * 200]
    with RunningDaemon(tmp_path, broker.url), Ward(broker.port) as ward:
        ward.send(in_turn([as_float32(name, hearts.anomalous(3)) for name in names]))
        ward.wait(lambda: {a["device"] for a in ward.alerts()} == set(names))
    assert sorted(a["device"] for a in ward.alerts()) == sorted(names)


def test_a_beat_that_the_broker_kept_from_earlier_is_not_taken_for_a_new_one(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    with Ward(broker.port) as ward:
        ward.publish("ecg/old/beats", as_json("old", hearts.anomalous(1))[0].payload, retain=True)
        ward.flush()
        old = {"MQTT__PROTOCOL": "3.1.1"}  # MQTT 5 does not even send it
        with RunningDaemon(tmp_path, broker.url, **old) as daemon:
            daemon.wait_until(f'{REJECTED}{{reason="retained"}}', 1)
            assert daemon.value("ecg_monitor_beats_received_total") == 0


def test_sigterm_finishes_what_is_there_and_says_stopped(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    with RunningDaemon(tmp_path, broker.url) as daemon, Ward(broker.port) as ward:
        messages = in_turn([as_json(f"bed-{i}", hearts.episode(5, 5, 5)) for i in range(40)])
        ward.send(messages)
        daemon.process.terminate()
        assert wait_until(lambda: daemon.process.poll() is not None) < 5
        assert daemon.stop() == 0
        ward.wait(lambda: ward.statuses()[-1:] == ["stopped"])
        assert ward.statuses() == ["online", "stopped"]
        assert "Traceback" not in daemon.log.read_text()
        with RunningDaemon(tmp_path, broker.url):
            # What it had not taken up before it stopped, it takes up now.
            ward.wait(lambda: len({device for device, _ in ward.on("alerts")}) == 40)


def test_the_last_will_says_offline(tmp_path: Path, broker: Mosquitto) -> None:
    with RunningDaemon(tmp_path, broker.url) as daemon, Ward(broker.port) as ward:
        ward.wait(lambda: ward.statuses() == ["online"])
        daemon.process.kill()
        ward.wait(lambda: ward.statuses() == ["online", "offline"])
    with Ward(broker.port, "late") as late:
        late.wait(lambda: late.statuses() == ["offline"])


def run(*arguments: str, **settings: str) -> tuple[int, str]:
    """Run the daemon to its end; its exit code and what it wrote to standard error."""
    own = {name: value for name, value in os.environ.items() if "ECG_MONITOR_" not in name}
    given = {f"ECG_MONITOR_{name}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", "monitor", "run", *arguments],
        env=own | {"ECG_MONITOR_METRICS__PORT": "0"} | given,
        capture_output=True,
        text=True,
        timeout=WITHIN,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_refused_login_ends_with_one_clear_line(tmp_path: Path, protocol: str) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(
        [program("mosquitto_passwd"), "-b", "-c", str(passwords), "monitor", "right"], check=True
    )
    conf = f"allow_anonymous false\npassword_file {passwords}\n"
    login = {"MQTT__USERNAME": "monitor", "MQTT__PROTOCOL": protocol}
    with Mosquitto(tmp_path, conf) as broker:
        wrong = {"MQTT__PASSWORD": "wrong-secret"}
        code, said = run("--broker", broker.url, **login, **wrong)
        assert code == 78
        assert re.fullmatch(
            r"error: mqtt\.username = 'monitor': .*refused the login.*", _last(said)
        )
        assert "wrong-secret" not in said
        file = tmp_path / "password"
        file.write_text("right\n")
        right = {"MQTT__PASSWORD_FILE": str(file)}
        with RunningDaemon(tmp_path, broker.url, **login, **right) as daemon:
            wait_until(daemon.healthy)


def _last(text: str) -> str:
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


def test_a_model_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for name, content in (("text", b"not a model"), ("cut", shipped("ecg").read_bytes()[:1000])):
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(content)
        code, said = run("--model", str(file))
        assert code == 78
        assert _last(said).startswith(f"error: model.path = {file}: ")
    code, said = run("--model", str(tmp_path / "missing.onnx"))
    assert (code, "No such file" in _last(said)) == (78, True)


def test_an_address_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = run(METRICS__PORT=str(port))
    assert code == 78
    assert f"metrics.port = {port}" in _last(said)


def test_a_broker_that_is_not_there_yet_is_waited_for(tmp_path: Path, hearts: Hearts) -> None:
    port = free_port()
    waiting = RunningDaemon(tmp_path, f"mqtt://127.0.0.1:{port}").start()
    try:
        wait_until(lambda: "Connection refused" in waiting.log.read_text())
        assert waiting.process.poll() is None
        assert not waiting.healthy()
        conf = f"listener {port} 127.0.0.1\nallow_anonymous true\n"
        with Mosquitto(tmp_path, conf, port=port), Ward(port) as ward:
            assert wait_until(waiting.healthy) < 2
            ward.send(as_json("bed-1", hearts.anomalous(3)))
            ward.wait(lambda: ward.alerts())
    finally:
        assert waiting.stop() == 0


def test_what_hangs_up_is_called_again_with_pauses_and_said_once(tmp_path: Path) -> None:
    """So does a proxy in front of a broker that is not there yet."""
    calls = 1
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        daemon = RunningDaemon(tmp_path, f"mqtt://127.0.0.1:{proxy.getsockname()[1]}").start()
        try:
            proxy.settimeout(WITHIN)
            proxy.accept()[0].close()
            proxy.settimeout(0.1)
            end = time.monotonic() + 5
            while calls < 2 or time.monotonic() < end:
                with suppress(TimeoutError):
                    proxy.accept()[0].close()
                    calls += 1
        finally:
            code = daemon.stop()
    assert code == 0
    assert calls < 30  # of two connections
    assert daemon.log.read_text().count("\n") < 8


def test_a_wrong_certificate_is_named_at_the_start(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("no certificate\n")
    code, said = run("--broker", "mqtts://127.0.0.1:1", MQTT__CA_FILE=str(authority))
    assert code == 78
    assert _last(said).startswith("error: mqtt.ca_file = ")


def test_it_works_with_a_broker_that_knows_only_mqtt_3(tmp_path: Path, hearts: Hearts) -> None:
    pytest.importorskip("amqtt")
    with EmbeddedBroker() as broker, RunningDaemon(tmp_path, broker.url) as daemon:
        from monitor.configuration import load
        from monitor.mqtt import client

        device = client.join(load(None, {"mqtt": {"broker": broker.url}}).mqtt, "device")
        for message in as_json("bed-1", hearts.episode(5, 5, 0)):
            device.publish(f"ecg/{message.device}/beats", message.payload, 1)
        daemon.wait_until("ecg_monitor_beats_scored_total", 10)
        client.leave(device)
    del broker
    gc.collect()


def test_ctrl_c_ends_it_like_sigterm(tmp_path: Path, broker: Mosquitto) -> None:
    with RunningDaemon(tmp_path, broker.url) as daemon:
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.process.wait(WITHIN) == 0


def test_scores_that_are_not_finite_are_not_believed() -> None:
    huge = np.full((1, 140), 3e38, np.float32)
    huge[0, ::2] = -3e38
    score = float(Detector(shipped("ecg")).score(huge).scores[0])
    assert math.isnan(score) or score > 0
