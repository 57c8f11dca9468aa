"""The wrong way in: passwords, rights, addresses; and where no secret may be."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paho.mqtt.client import MQTTMessage

from monitor.commands import acknowledge
from monitor.configuration import load
from monitor.ecg.simulator import Simulator
from monitor.errors import CONFIGURATION, ConfigurationError
from monitor.history import query
from monitor.mqtt import client
from monitor.settings import MqttSettings, Settings
from tests.harness.brokers import Mosquitto, program
from tests.harness.daemons import RunningDaemon, ending
from tests.harness.shipped import as_user, login, password, shipped
from tests.harness.waiting import wait_until

SECRET = "correct-horse/battery"  # noqa: S105


# -- passwords


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_line_s_end_is_no_part_of_a_password(
    tmp_path: Path, secrets: Path, broker: Mosquitto, end: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes((password(secrets, "viewer").read_text().strip() + end).encode())
    joined = client.join(
        MqttSettings(broker=broker.url, username="viewer", password_file=file), "x"
    )
    client.leave(joined)


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\n", b"\xff\xfe" + SECRET.encode(), b"a\0b"])
def test_a_file_that_holds_no_password_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        load(None, {"mqtt": {"username": "a", "password_file": file}})
    said = str(refused.value)
    assert said.startswith("mqtt.password_file = ")
    assert str(file) in said
    assert "must be a file that contains a secret as text" in said
    assert SECRET not in said


@pytest.mark.parametrize("kind", ["missing", "folder", "unreadable"])
def test_a_password_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    file = {"folder": tmp_path, "unreadable": Path("/proc/self/mem")}.get(kind, tmp_path / "none")
    with pytest.raises(ConfigurationError, match="must be a readable file"):
        load(None, {"mqtt": {"username": "a", "password_file": file}})


@pytest.mark.parametrize(
    ("user", "secret"), [("bed-1", "wrong"), ("nobody", SECRET), ("bed-1", ""), (None, None)]
)
def test_a_login_that_the_broker_does_not_know_ends_the_daemon_with_one_line(
    tmp_path: Path, broker: Mosquitto, user: str | None, secret: str | None
) -> None:
    settings = {"MQTT__BROKER": broker.url}
    if user is not None and secret is not None:
        settings |= {"MQTT__USERNAME": user, "MQTT__PASSWORD": secret}
    code, line = ending(tmp_path, settings)
    assert code == CONFIGURATION
    assert "refused the login" in line
    assert SECRET not in line


def test_a_password_that_is_being_exchanged_does_not_end_the_daemon(
    tmp_path: Path, secrets: Path
) -> None:
    file = tmp_path / "password"
    shutil.copy(password(secrets, "monitor"), file)
    settings = {"MQTT__USERNAME": "monitor", "MQTT__PASSWORD_FILE": str(file)}
    with (
        shipped(tmp_path, secrets) as broker,
        RunningDaemon(tmp_path, broker.url, **settings) as daemon,
    ):
        for between in (None, "", "wrong"):
            if between is None:
                file.unlink()
            else:
                file.write_text(between)
            broker.stop()
            wait_until(lambda: not daemon.healthy())
            broker.start()
            time.sleep(1)  # it tries the password several times
            assert not daemon.healthy()
            assert daemon.process.poll() is None
            shutil.copy(password(secrets, "monitor"), file)
            wait_until(daemon.healthy, said=daemon.log.read_text)


# -- rights


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, secrets: Path) -> Any:
    with shipped(tmp_path_factory.mktemp("broker"), secrets) as running:
        yield running


def refusals(mqtt: MqttSettings, topics: list[str], payload: bytes) -> dict[str, str]:
    """What the broker answers to each publish at QoS 1."""
    publisher = client.join(mqtt, "publisher")
    answers: dict[int, str] = {}

    def on_publish(_c: object, _d: object, mid: int, reason: object, _p: object) -> None:
        answers[mid] = str(reason)

    publisher.on_publish = on_publish
    mids = {publisher.publish(topic, payload, qos=1).mid: topic for topic in topics}
    wait_until(lambda: len(answers) == len(mids), said=lambda: f"answers: {answers}")
    client.leave(publisher)
    return {topic: answers[mid] for mid, topic in mids.items()}


def test_the_rights_suffice_to_read_alarms_back_to_their_end(
    tmp_path: Path, secrets: Path, broker: Mosquitto
) -> None:
    beat = np.full(140, np.nan, "<f4").tobytes()
    device = client.join(as_user(broker, secrets, "bed-1"), "device")
    alarms = tmp_path / "history.db"
    for _ in range(2):  # it stands across a restart
        with RunningDaemon(tmp_path, broker.url, **login(secrets, "monitor")) as daemon:
            for _ in range(3):
                device.publish("ecg/bed-1/beats", beat, qos=1)
            daemon.wait_until('ecg_monitor_alarms{kind="signal-quality",priority="low"}', 1)
            wait_until(lambda: list(query.alarms(alarms)))
        assert "not all retained alarms" not in daemon.log.read_text()
    client.leave(device)
    (alarm,) = query.alarms(alarms)
    with RunningDaemon(tmp_path, broker.url, **login(secrets, "monitor")):
        attendant = Settings(mqtt=as_user(broker, secrets, "attendant"))
        acknowledge.acknowledge(attendant, alarm.id, "Anna")


def test_a_device_speaks_for_nobody_else_and_never_for_the_monitor(
    tmp_path: Path, broker: Mosquitto, secrets: Path
) -> None:
    (beat,) = Simulator(1).normal(1)
    others = [
        *("ecg/bed-2/beats", "ecg/bed-2/samples", "ecg/viewer/beats", "ecg/monitor/beats"),
        *("ecg/bed-1/alerts", "ecg/bed-1/alarm", "ecg/bed-1/scores", "ecg/bed-1/beats/x"),
        *("ecg/bed-1/alarm/acknowledge", "ecg-monitor/ward/status", "ecg-monitor/bed-1/status"),
        *("homeassistant/device/x/config", "$share/x/ecg/bed-2/beats", "ecg/bed-1", "beats"),
    ]
    with RunningDaemon(tmp_path, broker.url, **login(secrets, "monitor")) as daemon:
        for user in ("bed-1", "viewer"):
            answers = refusals(as_user(broker, secrets, user), others, beat.tobytes())
            for topic, answer in answers.items():
                assert answer == "Not authorized", topic
        own = ["ecg/bed-1/beats"]
        assert refusals(as_user(broker, secrets, "viewer"), own, beat.tobytes()) == {
            own[0]: "Not authorized"
        }
        allowed = refusals(as_user(broker, secrets, "bed-1"), own, beat.tobytes())
        assert allowed == {own[0]: "Success"}
        daemon.wait_until("ecg_monitor_beats_received_total", 1)
        assert daemon.value("ecg_monitor_beats_received_total") == 1
        daemon.wait_until("ecg_monitor_devices", 1)  # told twice a second
        assert daemon.value("ecg_monitor_devices") == 1


@pytest.mark.parametrize("name", ["+", "#", "$share", "bed/1", "%u", "%c", "..", "bed-1 "])
def test_a_name_that_looks_like_a_pattern_gives_no_rights_over_others(
    tmp_path: Path, name: str
) -> None:
    """`passwords.sh` makes no such login; somebody's own tool may."""
    own = tmp_path / "secrets"
    (own / "broker").mkdir(parents=True)
    (own / "broker" / "passwords").write_text(f"{name}:{SECRET}\n")
    hash_it = [program("mosquitto_passwd"), "-U", str(own / "broker" / "passwords")]
    subprocess.run(hash_it, check=True, capture_output=True)
    with shipped(tmp_path, own) as broker:
        mqtt = MqttSettings.model_validate(
            {"broker": broker.url, "username": name, "password": SECRET},
        )
        topics = ["ecg/bed-1/beats", "ecg/bed-2/beats", "ecg/viewer/beats", "ecg/bed-1/alarm"]
        try:
            answers = refusals(mqtt, topics, b"x")
        except ConfigurationError as refused:  # mosquitto does not even take the login
            assert "refused the login" in str(refused)
            assert name in ("#", "bed-1 ")
        else:
            assert set(answers.values()) == {"Not authorized"}


# -- where no secret may be


def test_a_password_is_in_nothing_that_others_can_read(
    tmp_path: Path, secrets: Path, broker: Mosquitto
) -> None:
    secret = password(secrets, "monitor").read_text().strip()
    for given in (
        login(secrets, "monitor"),
        {"MQTT__USERNAME": "monitor", "MQTT__PASSWORD": secret},
    ):
        with RunningDaemon(tmp_path, broker.url, **given) as daemon:
            process = Path("/proc", str(daemon.process.pid))
            seen = [daemon.health(), daemon.metrics()]
            seen.append((process / "cmdline").read_text())
            # Its environment is the user's own; a file is better still.
            assert stat.S_IMODE((process / "environ").stat().st_mode) & 0o077 == 0
            environment = os.environ | {f"ECG_MONITOR_{name}": text for name, text in given.items()}
            printed = subprocess.run(
                [sys.executable, "-m", "monitor", "run", "--print-config"],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            assert "[mqtt]" in printed.stdout
            seen += [printed.stdout, printed.stderr, retained(broker, secrets)]
        seen.append(daemon.log.read_text())
        for text in seen:
            assert secret not in text


def retained(broker: Mosquitto, secrets: Path) -> str:
    """All that stands retained, and all that the broker says of itself."""
    heard: list[str] = []
    viewer = client.join(as_user(broker, secrets, "viewer"), "reader")

    def on_message(_c: object, _d: object, message: MQTTMessage) -> None:
        heard.append(f"{message.topic} {message.payload!r}")

    viewer.on_message = on_message
    viewer.subscribe([("#", 1), ("$SYS/#", 1)])
    wait_until(lambda: any("/status" in line for line in list(heard)))
    client.leave(viewer)
    assert any("ecg-monitor/test/status" in line for line in heard)
    return "\n".join(heard)


@pytest.mark.parametrize(
    "url",
    [
        f"mqtt://ward:{SECRET}@host:1883",
        f"mqtts://:{SECRET}@host",
        f"ward:{SECRET}@host",
        f"mqtt:/ward:{SECRET}@host",
        f"mqtt://a@b:{SECRET}@host",
    ],
)
def test_a_login_within_an_address_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    file = tmp_path / "monitor.toml"
    file.write_text(f"[mqtt]\nbroker = {json.dumps(url)}\n")
    for arguments in (
        ["--broker", url],
        ["--config", str(file)],
        ["--broker", url, "--print-config"],
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "monitor", "run", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == CONFIGURATION
        assert ran.stdout == ""
        assert ran.stderr.startswith("error: mqtt.broker = ")
        assert ran.stderr.count("\n") == 1
        assert SECRET not in ran.stderr


@pytest.mark.parametrize("end", [f"?password={SECRET}", f"#{SECRET}", "/topic", "\n", "\x1b[2J"])
def test_an_address_is_a_host_and_a_port_and_no_more(end: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^mqtt\.broker = ") as refused:
        load(None, {"mqtt": {"broker": f"mqtt://host{end}"}})
    assert str(refused.value).isprintable()


# -- addresses


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def test_metrics_are_served_on_the_loopback_address_alone_unless_set_otherwise(
    tmp_path: Path,
) -> None:
    others = {"127.0.0.2"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent; it tells our address
            others.add(probe.getsockname()[0])
        except OSError:
            pass  # this machine has no other address
    with Mosquitto(tmp_path) as broker, RunningDaemon(tmp_path, broker.url) as daemon:
        port = int(daemon.address.rpartition(":")[2])
        for other in others:
            assert not listens(other, port)
        wait_until(daemon.healthy)
    everywhere = RunningDaemon(tmp_path, broker.url, METRICS__HOST="0.0.0.0")  # noqa: S104
    everywhere.start()
    try:
        port = int(everywhere.address.rpartition(":")[2])
        wait_until(lambda: listens("127.0.0.2", port), said=everywhere.log.read_text)
    finally:
        everywhere.stop()
