"""The commands in the operating guide and the runbook do what they say."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monitor import client
from monitor.settings import Mqtt
from tests.brokers import Mosquitto, program
from tests.daemons import RunningDaemon

TOP = Path(__file__).parent.parent
PAGES = [TOP / "docs" / "operating.md", TOP / "docs" / "runbook.md"]


def commands(fence: str) -> list[str]:
    """The lines of all code blocks of a kind; `sh docker` needs Docker or root, `sh` does not."""
    texts = "".join(page.read_text() for page in PAGES)
    blocks = re.findall(rf"^```{fence}\n(.*?)^```", texts, re.M | re.S)
    return list(dict.fromkeys(line for block in blocks for line in block.splitlines()))


@pytest.mark.parametrize("command", commands("sh"))
def test_a_command_can_be_run(command: str, tmp_path: Path) -> None:
    name = shlex.split(command)[0]
    if "/" not in name and name != "ecg-monitor":
        program(name)
    if name == "docker/passwords.sh":
        program("mosquitto_passwd")
    for folder in ("docker", "docs"):
        shutil.copytree(TOP / folder, tmp_path / folder)
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "ecg-monitor").write_text(f'#!/bin/sh\nexec {sys.executable} -m monitor "$@"\n')
    (scripts / "ecg-monitor").chmod(0o755)
    with Mosquitto(tmp_path) as broker, RunningDaemon(tmp_path, broker.url) as daemon:
        device = client.join(Mqtt(broker=broker.url), "device")
        device.publish("ecg/bed-7/beats", bytes(560), qos=1, retain=True).wait_for_publish(5)
        device.publish("$SYS/broker/publish/messages/dropped", "0", qos=1)
        here = command.replace("127.0.0.1:9464", daemon.address)
        here = here.replace("-h localhost -p 1883", f"-h localhost -p {broker.port}")
        path = f"{scripts}:{os.environ['PATH']}:/usr/sbin"
        outcome = subprocess.run(
            ["sh", "-euc", here],
            cwd=tmp_path,
            env={"PATH": path, "PYTHONPATH": str(TOP)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        device.disconnect()
        device.loop_stop()
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert outcome.stdout


@pytest.mark.parametrize("command", commands("sh docker"))
def test_what_a_command_that_cannot_be_run_here_names_exists(command: str) -> None:
    for file in re.findall(r"(?<!\S)(?:docker|systemd)/\S+", command):
        assert (TOP / file).exists()
    for service in re.findall(r"\b(monitor|mosquitto|passwords)\b(?!/)", command):
        assert f"\n  {service}:" in (TOP / "docker" / "compose.yaml").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
        assert not anchor or anchor in {h.lower().replace(" ", "-") for h in headings}


def test_the_limits_of_the_broker_are_those_in_the_guide() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGES[0].read_text(), re.M)
    assert len(rows) == 5
    conf = (TOP / "docker" / "mosquitto" / "mosquitto.conf").read_text().splitlines()
    assert {f"{name} {value}" for name, value in rows} <= set(conf)
