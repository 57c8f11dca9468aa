"""The broker as docker/ ships it: configuration, access rights, logins and certificates."""

import re
import subprocess
from pathlib import Path

from monitor.settings import MqttSettings
from tests.harness.brokers import Mosquitto, program
from tests.harness.ports import free_port

DOCKER = Path(__file__).parents[2] / "docker"


def make_passwords(folder: Path, *devices: str) -> subprocess.CompletedProcess[str]:
    """Run `docker/passwords.sh` and return how it ended."""
    program("mosquitto_passwd")
    command = [str(DOCKER / "passwords.sh"), str(folder), *devices]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def make_certificates(*arguments: str | Path) -> None:
    """Run `docker/certificates.sh`."""
    program("openssl")
    command = [str(DOCKER / "certificates.sh"), *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.PIPE)


def password(secrets: Path, user: str) -> Path:
    """Return the file of a user's password."""
    return secrets / "devices" / user if "bed" in user else secrets / user / "password"


def shipped(
    folder: Path,
    secrets: Path,
    conf: str = "mosquitto.conf",
    more: str = "",
    tls: Path | None = None,
) -> Mosquitto:
    """Return the shipped broker, with its port and its paths replaced by ours."""
    port = free_port()
    text = (DOCKER / "mosquitto" / conf).read_text() + more
    text, replaced = re.subn(r"^listener \d+$", f"listener {port}", text, flags=re.M)
    assert replaced == 1
    for there, here in {
        "/secrets": secrets,
        "/tls": tls or secrets / "tls",
        "/mosquitto/config": DOCKER / "mosquitto",
        "/mosquitto/data": folder,
    }.items():
        text = re.sub(rf"(?<= ){there}(?=/)", str(here), text)
    return Mosquitto(folder, text, port)


def as_user(broker: Mosquitto, secrets: Path, user: str) -> MqttSettings:
    """Return the settings with which a user logs in."""
    return MqttSettings(broker=broker.url, username=user, password_file=password(secrets, user))


def login(secrets: Path, user: str) -> dict[str, str]:
    """Return the settings with which a daemon logs in as a user."""
    return {"MQTT__USERNAME": user, "MQTT__PASSWORD_FILE": str(password(secrets, user))}


def over_tls(broker: Mosquitto, secrets: Path, **more: Path | str) -> dict[str, str]:
    """Return the settings with which a daemon connects over TLS; `more` overrides them."""
    settings: dict[str, Path | str] = {
        "BROKER": f"mqtts://127.0.0.1:{broker.port}",
        "USERNAME": "monitor",
        "PASSWORD_FILE": password(secrets, "monitor"),
        "CA_FILE": secrets / "tls" / "ca.crt",
    }
    return {f"MQTT__{name}": str(value) for name, value in (settings | more).items()}
