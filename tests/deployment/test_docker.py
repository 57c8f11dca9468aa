"""What stands in docker/: the files fit together, and the broker grants the rights it should."""

import json
import re
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from paho.mqtt.client import MQTTMessage

from monitor.configuration import load
from monitor.errors import ConfigurationError
from monitor.mqtt import client
from monitor.settings import MqttSettings
from tests.harness.brokers import Mosquitto, end, program
from tests.harness.daemons import RunningDaemon
from tests.harness.shipped import DOCKER, as_user, login, make_passwords, password, shipped
from tests.harness.signals import heart
from tests.harness.waiting import WITHIN, wait_until

TOP = Path(__file__).parents[2]
USERS = ("attendant", "bed-1", "bed-2", "learner", "monitor", "segmenter", "viewer")


class _Loader(yaml.SafeLoader):
    """Knows the tag of Compose that says how files are merged."""


def _override(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> list[Any]:
    return list(loader.construct_sequence(node))


_Loader.add_constructor("!override", _override)


def compose(name: str) -> dict[str, Any]:
    found = yaml.load((DOCKER / name).read_text(), _Loader)  # noqa: S506 - it is a SafeLoader
    assert isinstance(found, dict)
    return found


def canonical(name: str) -> str:
    """Return the name of a package as an index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(python: str) -> dict[str, str]:
    """Return the version of each package that the lock gives to a Python on Linux."""
    place = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    lines = (TOP / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(place)]
    versions = {canonical(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins), f"a package has two versions on Python {python}"
    return versions


def needs(package: str, extras: set[str]) -> Iterator[Requirement]:
    """Yield what an installed package needs with these extras."""
    for text in requires(package) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


# -- the images


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_lock_has_all_that_the_project_asks_for(python: str) -> None:
    versions = locked(python)
    pyproject = tomllib.loads((TOP / "pyproject.toml").read_text())
    project = pyproject["project"]
    asked = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    asked += [text for extra in project["optional-dependencies"].values() for text in extra]
    for requirement in map(Requirement, asked):
        if requirement.name != "ecg-monitor":
            version = versions[canonical(requirement.name)]
            assert requirement.specifier.contains(version), requirement


def test_the_lock_has_all_that_its_packages_ask_for() -> None:
    """Read from those that are installed as locked, for what a release needs never changes."""
    versions = locked(f"{sys.version_info.major}.{sys.version_info.minor}")
    read = 0
    for package, version in versions.items():
        try:
            as_locked = distribution(package).version == version
        except PackageNotFoundError:
            continue
        for requirement in needs(package, set()) if as_locked else ():
            name = canonical(requirement.name)
            assert requirement.specifier.contains(versions[name], prereleases=True), package
            read += 1
    print(f"{read} requirements read")


def everything_behind(package: str, extras: set[str]) -> set[str]:
    """Return the names of all that an installed package brings."""
    found: set[str] = set()
    ahead = [(package, extras)]
    while ahead:
        for requirement in needs(*ahead.pop()):
            if (name := canonical(requirement.name)) not in found:
                found.add(name)
                ahead.append((name, requirement.extras))
    return found


def extras_of(service: str) -> set[str]:
    """Return the extras that the image of a service in compose.yaml is built with."""
    build = compose("compose.yaml")["services"][service]["build"]
    text = (DOCKER / "Dockerfile").read_text()
    assert "\nARG EXTRAS=\n" in text
    assert '".${EXTRAS}"' in text
    return set(Requirement(f"ecg-monitor{build.get('args', {}).get('EXTRAS', '')}").extras)


def test_the_image_of_segment_has_what_cuts_beats() -> None:
    assert {"scipy", "sleepecg"} <= everything_behind("ecg-monitor", extras_of("segment"))
    services = compose("compose.yaml")["services"]
    images = {
        name: (it["image"], str(it["build"])) for name, it in services.items() if "build" in it
    }
    assert len(set(images.values())) == len({image for image, _ in images.values()})


def test_the_image_of_the_daemon_has_room_to_spare_below_400_mb() -> None:
    """What it installs, compiled; the base image, python:3.11-slim, has less than 150."""
    names = everything_behind("ecg-monitor", extras_of("monitor"))
    assert not {"tensorflow", "pandas", "scikit-learn", "scipy", "matplotlib"} & names
    packages = [distribution(name) for name in names]
    files = {Path(str(file.locate())) for package in packages for file in package.files or ()}
    files |= {file for file in (TOP / "monitor").rglob("*") if file.suffix != ".pyc"}
    size = sum(file.stat().st_size for file in files if file.is_file())
    print(f"{size / 1e6:.0f} MB besides the base image")
    assert 100e6 < size < 250e6


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.train"])
def test_an_image_copies_what_exists_and_runs_as_nobody_special(name: str) -> None:
    text = (DOCKER / name).read_text()
    *_, last = text.split("\nFROM ")
    assert int(re.findall(r"^USER (\d+):", last, re.M)[-1]) > 0
    ignored = (TOP / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        for source in sources.split():
            assert (TOP / source).exists(), source
            assert f"!{source}" in ignored


@pytest.mark.parametrize("command", ["run", "segment"])
def test_a_daemon_writes_nothing_in_the_environment_of_the_image(
    tmp_path: Path, command: str
) -> None:
    text = (DOCKER / "Dockerfile").read_text()
    (given,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", text, re.M)
    environment = dict(pair.split("=", 1) for pair in given.replace("\\\n", " ").split())
    home = tmp_path / "home"
    home.mkdir()
    del environment["PATH"], environment["ECG_MONITOR_METRICS__HOST"]
    with (
        Mosquitto(tmp_path) as broker,
        RunningDaemon(
            tmp_path, broker.url, {**environment, "HOME": str(home)}, command=command
        ) as daemon,
    ):
        daemon.wait_until("ecg_monitor_mqtt_connected", 1)
    assert not list(home.rglob("*"))


def health_check(command: str) -> list[str]:
    """Return the health check of a daemon: the image's, or the one that Compose sets instead."""
    if command == "run":
        text = (DOCKER / "Dockerfile").read_text()
        (check,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*?\])\n", text, re.S)
        _, *arguments = json.loads(check)
    else:
        check = compose("compose.yaml")["services"][command]["healthcheck"]["test"]
        _, _, *arguments = check
    return [str(argument) for argument in arguments]


@pytest.mark.parametrize(("name", "port"), [("run", 9464), ("segment", 9465)])
def test_the_health_check_sees_how_a_daemon_is(tmp_path: Path, name: str, port: int) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        RunningDaemon(tmp_path, broker.url, command=name) as daemon,
    ):
        there = f"127.0.0.1:{port}"
        arguments = [text.replace(there, daemon.address) for text in health_check(name)]
        assert any(daemon.address in argument for argument in arguments)
        command = [sys.executable, *arguments]
        assert subprocess.run(command, check=False).returncode == 0
        broker.stop()
        wait_until(lambda: subprocess.run(command, capture_output=True, check=False).returncode)
        assert subprocess.run(command, capture_output=True, check=False).returncode == 1


# -- compose


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("compose.yaml", "compose.tls.yaml"):
        yield from compose(name)["services"].items()


def test_what_compose_mounts_and_builds_exists() -> None:
    volumes = {v for name in ("compose.yaml", "compose.tls.yaml") for v in compose(name)["volumes"]}
    names = {name for name, _ in services()}
    for name, service in services():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            there = (DOCKER / source).exists() if source.startswith(".") else source in volumes
            assert there, f"{name}: {source}"
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert set(service.get("depends_on", [])) <= names
    assert compose("compose.yaml")["services"].keys() >= compose("compose.tls.yaml")[
        "services"
    ].keys() - {"certificates"}


def test_what_compose_sets_are_settings_of_the_monitor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("a secret that is long")
    for name, service in services():
        for variable, value in service.get("environment", {}).items():
            if variable.startswith("ECG_MONITOR_"):
                monkeypatch.setenv(variable, str(file) if value.startswith("/") else value)
        assert name and load()


def test_nothing_is_reachable_from_outside_and_everything_is_locked_down_unless_asked_for() -> None:
    for name, service in compose("compose.yaml")["services"].items():
        for port in service.get("ports", []):
            assert port.startswith(("127.0.0.1:", "${ECG_BIND:-127.0.0.1}:")), name
        if "passwords" not in name:
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]


def test_prometheus_takes_its_configuration() -> None:
    promtool = program("promtool")
    check = [promtool, "check", "config", str(DOCKER / "prometheus" / "prometheus.yml")]
    subprocess.run(check, check=True, stdout=subprocess.PIPE)


# -- the broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, secrets: Path) -> Iterator[Mosquitto]:
    with shipped(tmp_path_factory.mktemp("broker"), secrets) as running:
        yield running


def test_passwords_are_made_once_and_seen_by_nobody(tmp_path: Path) -> None:
    first = make_passwords(tmp_path, "bed-1")
    assert first.returncode == 0, first.stderr
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert {str(path.relative_to(tmp_path)) for path in before} == {
        "attendant/password",
        "broker/passwords",
        "devices/bed-1",
        "grafana/password",
        "learner/password",
        "monitor/password",
        "page/token",
        "segmenter/password",
        "viewer/password",
    }
    for path, text in before.items():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert text.strip() not in first.stdout + first.stderr
        assert (
            path.name == "passwords"
            or text.strip() not in before[path.parents[1] / "broker" / "passwords"]
        )
    assert len({*before.values()}) == len(before)
    again = make_passwords(tmp_path, "bed-1", "bed-2")
    assert again.stdout == "made a login for bed-2\n"
    assert all(
        path.read_text() == text for path, text in before.items() if path.name != "passwords"
    )
    assert (
        (tmp_path / "broker" / "passwords")
        .read_text()
        .startswith(before[tmp_path / "broker" / "passwords"])
    )


@pytest.mark.parametrize(
    "name",
    [
        "viewer",
        "attendant",
        "learner",
        "monitor",
        "segmenter",
        "+",
        "#",
        "bed/7",
        "bed 7",
        "bed:7",
        "",
    ],
)
def test_no_login_is_made_for_what_is_no_device(tmp_path: Path, name: str) -> None:
    assert make_passwords(tmp_path, name).returncode == 64
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("user", "secret"), [("bed-1", "wrong"), ("nobody", "wrong"), ("bed-1", ""), (None, None)]
)
def test_the_broker_refuses_a_login_that_it_does_not_know(
    broker: Mosquitto, user: str | None, secret: str | None
) -> None:
    with pytest.raises(ConfigurationError, match="refused the login"):
        client.join(
            MqttSettings.model_validate(
                {"broker": broker.url, "username": user, "password": secret}
            ),
            "x",
        )


ASKED = {
    f"ecg/bed-1/{end}"
    for end in ("alarm/acknowledge", "alarm/judge", "alarm/shelve", "admit", "discharge", "model")
}
ABOUT_PATIENTS = {f"ecg/bed-1/{end}" for end in ("admit", "discharge", "model")}
STATUS, ACTIVE, MARK, CONNECTION = (
    f"ecg-monitor/ward/{end}" for end in ("status", "active", "mark", "connection")
)
ANNOUNCED = "homeassistant/device/x/config"
TOLD = {f"ecg/bed-1/{end}" for end in ("alerts", "alarm", "alarm/judged", "scores", "patient")}
SAMPLES = {"ecg/bed-1/samples", "ecg/bed-2/samples"}
STRIP = "ecg/bed-1/strip"


def beats_but_of(user: str) -> set[str]:
    """Return the topics of everybody's beats but of that user's, who is no device."""
    return {f"ecg/{each}/beats" for each in USERS if each != user}


MAY_PUBLISH = {
    "bed-1": {"ecg/bed-1/beats", "ecg/bed-1/samples"},
    "bed-2": {"ecg/bed-2/beats", "ecg/bed-2/samples"},
    "segmenter": {*(f"ecg/{user}/beats" for user in USERS), STRIP, STATUS, ACTIVE},
    "viewer": set(),
    "learner": {"ecg/bed-1/learning", STATUS, ACTIVE},
    "attendant": {*ASKED, MARK},
    "monitor": {
        *beats_but_of("monitor"),
        *TOLD,
        *ABOUT_PATIENTS,
        *(STRIP, STATUS, ACTIVE, MARK, CONNECTION, ANNOUNCED),
    },
}
SEEN = {*TOLD, STRIP, *ASKED, *SAMPLES, "ecg/bed-1/learning", STATUS, CONNECTION}
MAY_READ = {
    "bed-1": set(),
    "bed-2": set(),
    "segmenter": {*SAMPLES, "ecg/bed-1/alerts", STATUS, ACTIVE},
    "learner": {
        *beats_but_of("learner"),
        *ABOUT_PATIENTS,
        *("ecg/bed-1/learning", STATUS, ACTIVE),
    },
    "viewer": {*beats_but_of("viewer"), *SEEN, ANNOUNCED},
    "attendant": {*beats_but_of("attendant"), *SEEN, MARK},
    "monitor": {
        *beats_but_of("monitor"),
        *SAMPLES,
        *ASKED,
        *(f"ecg/bed-1/{end}" for end in ("alarm", "alerts", "learning", "patient")),
        STRIP,
        *(STATUS, ACTIVE, MARK),
    },
}
TRIED = sorted(
    {topic for topics in [*MAY_PUBLISH.values(), *MAY_READ.values()] for topic in topics}
    | {f"ecg/{user}/{end}" for user in USERS for end in ("beats", "samples")}
    | {"ecg/bed-1/beats/more", "ecg-monitor/status", "$SYS/broker/uptime", "elsewhere"}
)


def test_everybody_publishes_and_reads_what_the_shipped_rights_say_and_nothing_else(
    broker: Mosquitto, secrets: Path
) -> None:
    """Each user tries to publish to each topic, before the eyes of each user."""
    heard: dict[str, set[tuple[str, bytes]]] = {user: set() for user in USERS}
    clients = {}
    answered = {user: threading.Semaphore(0) for user in USERS}
    answers: dict[str, dict[int, bool]] = {user: {} for user in USERS}
    for user in USERS:
        each = clients[user] = client.join(as_user(broker, secrets, user), user)

        def on_message(_c: object, _d: object, message: MQTTMessage, user: str = user) -> None:
            heard[user].add((message.topic, bytes(message.payload)))

        def on_publish(
            _c: object, _d: object, mid: int, reason: Any, _p: object, user: str = user
        ) -> None:
            answers[user][mid] = not reason.is_failure

        each.on_message, each.on_publish = on_message, on_publish
        each.on_subscribe = lambda *_, user=user: answered[user].release()
        each.subscribe([(topic, 1) for topic in ("#", *TRIED)])
    for user in USERS:
        assert answered[user].acquire(timeout=WITHIN)

    def own(user: str) -> set[str]:
        return {topic for topic, _ in heard[user].copy() if not topic.startswith("$SYS")}

    granted: dict[str, set[str]] = {}
    for user, each in clients.items():
        mids = {each.publish(topic, user, qos=1).mid: topic for topic in TRIED}
        wait_until(lambda user=user, mids=mids: len(answers[user]) == len(mids))
        granted[user] = {topic for mid, topic in mids.items() if answers[user].get(mid)}
    for user in USERS:
        wait_until(lambda user=user: own(user) >= MAY_READ[user])
    for user, each in clients.items():  # what a user may not read would come before the answer
        each.subscribe("the/end", qos=1)
        assert answered[user].acquire(timeout=WITHIN)
    for each in clients.values():
        client.leave(each)
    assert granted == MAY_PUBLISH
    for user in USERS:
        assert own(user) == MAY_READ[user], user
        publishers = {(t, p.decode()) for t, p in heard[user] if not t.startswith("$SYS")}
        assert all(topic in MAY_PUBLISH[publisher] for topic, publisher in publishers)


def test_a_simulated_device_and_the_daemon_do_their_work_with_their_rights_alone(
    broker: Mosquitto, secrets: Path, tmp_path: Path
) -> None:
    with RunningDaemon(tmp_path, broker.url, **login(secrets, "monitor")) as daemon:
        environment = {
            "ECG_MONITOR_MQTT__BROKER": broker.url,
            "ECG_MONITOR_MQTT__USERNAME": "bed-1",
            "ECG_MONITOR_MQTT__PASSWORD_FILE": str(password(secrets, "bed-1")),
            "PYTHONPATH": str(TOP),
        }
        script = str(DOCKER / "simulated_device.py")
        own = subprocess.Popen([sys.executable, script, "bed-1"], env=environment)
        try:
            stranger = subprocess.run(
                [sys.executable, script, "bed-2"],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=WITHIN,
            )
            daemon.wait_until("ecg_monitor_beats_scored_total", 5)
        finally:
            end(own)
        assert stranger.returncode
        assert "refused a message on ecg/bed-2/beats: not authorized" in stranger.stderr
        daemon.wait_until("ecg_monitor_devices", 1)
        assert daemon.value("ecg_monitor_devices") == 1
        assert daemon.value("ecg_monitor_publishes_refused_total") == 0
        wait_until(daemon.healthy)


@pytest.mark.parametrize("user", ["segmenter", "monitor"])
def test_segment_does_its_work_with_a_login_of_its_own_or_the_monitor_s(
    broker: Mosquitto, secrets: Path, tmp_path: Path, user: str
) -> None:
    signal, _ = heart(20, 250)
    settings = login(secrets, user)
    with RunningDaemon(tmp_path, broker.url, {}, command="segment", **settings) as daemon:
        device = client.join(as_user(broker, secrets, "bed-1"), "device")
        for second in range(20):
            chunk = signal[250 * second : 250 * (second + 1)].tolist()
            text = json.dumps({"samples": chunk, "rate": 250, "seq": 250 * second})
            device.publish("ecg/bed-1/samples", text, qos=1).wait_for_publish(WITHIN)
        client.leave(device)
        daemon.wait_until("ecg_monitor_beats_cut_total", 10)
        daemon.wait_until("ecg_monitor_chunks_received_total", 20)
        assert daemon.value("ecg_monitor_publishes_refused_total") == 0
        wait_until(daemon.healthy)


def test_what_waits_for_the_monitor_is_bounded_far_above_the_default(
    tmp_path: Path, secrets: Path
) -> None:
    """3,000 messages for a monitor that is away: three times what mosquitto keeps by default."""
    with shipped(tmp_path, secrets) as broker:
        with RunningDaemon(tmp_path, broker.url, **login(secrets, "monitor")):
            pass
        device = client.join(as_user(broker, secrets, "bed-1"), "device")
        last = [device.publish("ecg/bed-1/beats", bytes(560), qos=1) for _ in range(3000)][-1]
        last.wait_for_publish(WITHIN)
        client.leave(device)
        broker.stop()  # and through a restart of the broker
        broker.start()
        with RunningDaemon(tmp_path, broker.url, **login(secrets, "monitor")) as daemon:
            daemon.wait_until("ecg_monitor_beats_received_total", 3000)


def test_the_two_configurations_of_the_broker_differ_in_the_listener_alone() -> None:
    plain, encrypted = (
        (DOCKER / "mosquitto" / name).read_text().partition("allow_anonymous")[2]
        for name in ("mosquitto.conf", "mosquitto.tls.conf")
    )
    assert plain == encrypted
