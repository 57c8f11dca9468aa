"""Certificates, right and wrong: the broker's, the client's, and none at all."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from monitor.configuration import load
from monitor.errors import CONFIGURATION
from tests.harness.daemons import RunningDaemon, ending
from tests.harness.shipped import make_certificates, over_tls, password, shipped
from tests.harness.waiting import wait_until

TLS = "mosquitto.tls.conf"


def watching(settings: dict[str, str]) -> tuple[int, str]:
    """How `ecg-monitor watch` ends, and its last line."""
    environment = {f"ECG_MONITOR_{name}": value for name, value in settings.items()}
    ran = subprocess.run(
        [sys.executable, "-m", "monitor", "watch"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "Traceback" not in ran.stderr
    return ran.returncode, ran.stderr.splitlines()[-1]


def test_certificates_are_kept_and_their_keys_are_for_the_owner(certificates: Path) -> None:
    before = {path: path.read_bytes() for path in certificates.iterdir()}
    make_certificates(certificates, "localhost")
    assert before == {path: path.read_bytes() for path in certificates.iterdir()}
    for path in before:
        if path.suffix == ".key":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_daemon_connects_over_tls_and_to_nobody_else(
    tmp_path: Path, secrets: Path, certificates: Path
) -> None:
    encrypted = tmp_path / "encrypted.key"
    encrypt = ["openssl", "pkey", "-aes128", "-passout", "pass:x", "-out", str(encrypted)]
    subprocess.run([*encrypt, "-in", str(certificates / "monitor.key")], check=True)
    certificate = certificates / "monitor.crt"
    with shipped(tmp_path, secrets, TLS) as broker:
        with RunningDaemon(tmp_path, broker.url, **over_tls(broker, secrets)):
            pass
        wrong: list[tuple[dict[str, Path | str], str]] = [
            ({"CA_FILE": secrets / "other" / "ca.crt"}, "cannot be verified ("),
            ({"CA_FILE": certificates / "monitor.key"}, "mqtt.ca_file"),
            ({"BROKER": f"mqtts://127.0.0.2:{broker.port}"}, "IP address mismatch"),
            ({"BROKER": f"mqtt://127.0.0.1:{broker.port}"}, "mqtt.ca_file = "),
            (
                {"CERT_FILE": certificate, "KEY_FILE": secrets / "other" / "monitor.key"},
                "mqtt.cert_file",
            ),
            ({"CERT_FILE": certificate, "KEY_FILE": encrypted}, "mqtt.key_file its key, without a"),
            ({"CERT_FILE": certificate}, "mqtt.cert_file"),
        ]
        for changed, said in wrong:
            code, line = ending(tmp_path, over_tls(broker, secrets, **changed))
            assert code == CONFIGURATION, line
            assert said in line
            assert password(secrets, "monitor").read_text().strip() not in line
        settings = over_tls(broker, secrets)
        del settings["MQTT__CA_FILE"]  # then it asks the CAs of the system
        code, line = ending(tmp_path, settings)
        assert code == CONFIGURATION
        assert "cannot be verified (" in line


@pytest.mark.parametrize(
    ("hosts", "days", "said"),
    [
        (["localhost", "127.0.0.1"], "-1", "certificate has expired"),
        (["elsewhere.example.org"], "30", "IP address mismatch"),
    ],
)
def test_a_broker_with_a_certificate_that_is_not_its_own_or_not_any_more_is_refused(
    tmp_path: Path, secrets: Path, certificates: Path, hosts: list[str], days: str, said: str
) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    for name in ("ca.crt", "ca.key"):
        shutil.copy(certificates / name, folder)
    make_certificates(folder, *hosts)
    if days == "-1":  # sign the same names again, for a time that is over
        names = folder / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        request = ["openssl", "req", "-new", "-key", "broker.key", "-subj", "/CN=localhost"]
        sign = ["openssl", "x509", "-req", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", days]
        sign += ["-extfile", "names", "-out", "broker.crt"]
        asked = subprocess.run(request, cwd=folder, check=True, capture_output=True)
        subprocess.run(sign, input=asked.stdout, cwd=folder, check=True, capture_output=True)
    with shipped(tmp_path, secrets, TLS, tls=folder) as broker:
        code, line = ending(tmp_path, over_tls(broker, secrets))
        assert code == CONFIGURATION
        assert said in line
        code, line = watching(over_tls(broker, secrets))
        assert code == CONFIGURATION
        assert said in line


def test_a_broker_that_asks_for_certificates_takes_those_of_its_ca(
    tmp_path: Path, secrets: Path, certificates: Path
) -> None:
    def shown(folder: Path) -> dict[str, Path | str]:
        return {"CERT_FILE": folder / "monitor.crt", "KEY_FILE": folder / "monitor.key"}

    with shipped(tmp_path, secrets, TLS, "\nrequire_certificate true\n") as broker:
        right = over_tls(broker, secrets, **shown(certificates))
        with RunningDaemon(tmp_path, broker.url, **right):
            pass
        for changed, said in (
            (shown(secrets / "other"), "refused us (unknown ca)"),
            ({}, "refused us (certificate required)"),
        ):
            code, line = ending(tmp_path, over_tls(broker, secrets, **changed))
            assert code == CONFIGURATION, line
            assert said in line
            assert "mqtt.cert_file" in line


@pytest.mark.usefixtures("certificates")
def test_plain_against_tls_and_tls_against_plain_come_to_nothing(
    tmp_path: Path, secrets: Path
) -> None:
    for conf, wrong in ((TLS, "mqtt"), ("mosquitto.conf", "mqtts")):
        with shipped(tmp_path, secrets, conf) as broker:
            url = f"{wrong}://127.0.0.1:{broker.port}"
            settings = over_tls(broker, secrets, BROKER=url)
            if wrong == "mqtt":
                del settings["MQTT__CA_FILE"]
            code, line = watching(settings)
            assert code == 1
            assert line.startswith("error: ")
            daemon = RunningDaemon(tmp_path, url, **settings)
            daemon.log.unlink(missing_ok=True)  # of the one before
            daemon.start()
            wait_until(lambda log=daemon.log: "disconnected" in log.read_text())
            assert not daemon.healthy()
            assert daemon.stop() == 0  # it might have been the broker's mistake: it went on trying
            assert "Traceback" not in daemon.log.read_text()


def test_capital_letters_do_not_turn_encryption_off() -> None:
    assert load(None, {"mqtt": {"broker": "MQTTS://host"}}).mqtt.tls
    assert load(None, {"mqtt": {"broker": "MQTTS://host"}}).mqtt.addresses == [("host", 8883)]
