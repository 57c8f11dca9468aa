"""README and docs are followed word by word: each block of code and each command is run."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from typer.main import get_command

from monitor.batch import datasets
from monitor.cli import app as monitor_app
from monitor.detector.model_file import shipped
from monitor.mqtt import client
from monitor.settings import AlarmSettings, MqttSettings
from tests.harness.brokers import ANYBODY, Mosquitto, program
from tests.harness.daemons import RunningDaemon
from tests.harness.pages import PAGES, README, TOP, Block, blocks, named
from tests.harness.ports import free_port
from tests.harness.waiting import wait_until
from train.cli import app as train_app

APPS = {"ecg-monitor": monitor_app, "ecg-train": train_app}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@every_page
def test_there_is_no_code_that_no_test_runs(page: Path) -> None:
    """What else stands in a block is what a program printed, or a drawing (tests/alarms)."""
    run = {"sh", "sh docker", "toml", "json", "python", "cpp"}
    kinds = {block.kind for block in blocks() if block.page == page}
    assert kinds <= run | {"text", "mermaid"}
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    assert not re.search(
        r"^(    |\t)\S", re.sub(r"^[ \t]*[-*\d].*(\n +.*)*", "", prose, flags=re.M)
    )


# -- commands

LATEST = 'ecg-monitor alarms --json | grep -o \'"id":"[0-9a-f]*\' | head -1 | cut -c 7-14'
"""Prints the id of the last alarm."""

INSTEAD = {
    # It was done: these tests run in such an environment.
    "python3 -m venv .venv && . .venv/bin/activate": "true",
    "pip install .": "true",
    "sudo /opt/ecg-monitor/bin/pip install .": "cp bin/ecg-monitor opt/ecg-monitor/bin/",
    "sudo /opt/ecg-monitor/bin/pip install '.[segment]'": "true",
    "sudo /opt/ecg-monitor/bin/pip install '.[train]'": "true",
    f"curl -fsSO {datasets.FOLDERS[''][0]}ecg.csv": "test -s ecg.csv",
    # They would go on for ever, or for long.
    # A busy machine may start the daemon after the first run of ectopic beats.
    "make demo": "ecg-monitor demo --seconds 150 | sed '/raised.*bed-2/q'",
    "ecg-monitor what-if mitdb/119 --model bed-7/ecg.onnx --start 300": "ecg-monitor what-if "
    "mitdb/119 --model bed-7/ecg.onnx --start 1500",
    **{f"make {target}": f"make --dry-run {target}" for target in ("test", "lint", "train")},
    "ecg-train all": "ecg-train all --help",
    **{
        line: f"{line} --epochs 1"
        for line in ("ecg-train basic", "ecg-train denoise", "ecg-train basic --recipe tutorial")
    },
    "ecg-monitor batch vae --model out/vae/vae-encoder.onnx": "ecg-monitor batch vae --model "
    f"{shipped('vae-encoder')}",
    # tests/daemon/test_standby.py lets one stand by and take over.
    "ecg-monitor run --standby --config monitor.toml": "ecg-monitor run --standby --print-config",
    # There is no such cluster; tests/batch scores on a local one.
    "ecg-monitor batch ecg --data archive --out scored --spark spark://HOST:7077": "ecg-monitor "
    "batch --help",
    # A model takes the learner minutes; tests/daemon/test_patients.py admits and discharges.
    "ecg-monitor admit bed-7 --by Anna --wait": "ecg-monitor admit --help",
    "ecg-monitor choose bed-7 new --by Anna": "ecg-monitor choose --help",
    "ecg-monitor discharge bed-7 --by Anna": "ecg-monitor discharge --help",
    # An id of an alarm that there is.
    "ecg-monitor acknowledge 3f9a17c2 --by Anna": f"ecg-monitor acknowledge --by Anna $({LATEST})",
    'ecg-monitor judge 3f9a17c2 false --note "being washed" --by Anna': "ecg-monitor judge --by "
    f"Anna $({LATEST}) false --note 'being washed'",
    # There is no systemd that could start it; tests/deployment/test_systemd.py looks at the unit.
    **{
        f"sudo systemctl enable --now {unit}": f"test -s etc/systemd/system/{unit}.service"
        for unit in ("ecg-monitor", "ecg-monitor-segment", "ecg-monitor-learn")
    },
}
"""Commands that are replaced, and by what."""

STAY = {
    "ecg-monitor run --broker": b'"connected"',
    "ecg-monitor watch": b"listening",
    "ecg-monitor segment": b'"connected"',
}
"""Commands that run until they are ended, and what they print when they have begun."""


class Terminals:
    """Somebody's terminals in a folder with what a clone of the repository has, and a broker."""

    def __init__(self, folder: Path, broker: Mosquitto, places: dict[str, str], data: Path) -> None:
        self.folder = folder
        self.said = ""
        self._places = places
        self._staying: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        scripts = folder / "bin"
        scripts.mkdir()
        for name, module in {"ecg-monitor": "monitor", "ecg-train": "train"}.items():
            (scripts / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (scripts / "sudo").write_text('#!/bin/sh\nexec env "$@"\n')
        for script in scripts.iterdir():
            script.chmod(0o755)
        own = {name: text for name, text in os.environ.items() if "ECG_MONITOR_" not in name}
        self._environment = own | {
            "PATH": f"{scripts}:{os.environ['PATH']}:/usr/sbin",
            "HOME": str(folder),
            "PYTHONPATH": str(TOP),
            "ECG_DATA": str(data),
            "ECG_MONITOR_MQTT__BROKER": broker.url,
            "ECG_MONITOR_METRICS__PORT": str(free_port()),
            "ECG_MONITOR_SEGMENT__PORT": str(free_port()),
            "SYSTEMD_PAGER": "cat",
        }

    def type(self, line: str) -> None:
        """Run a command until its end; one that stays, until it has begun."""
        command = INSTEAD.get(line, line)
        for there, here in self._places.items():
            command = command.replace(there, here)
        log = self.folder / f"terminal-{time.monotonic_ns()}"
        with log.open("wb") as out:
            running = subprocess.Popen(
                ["bash", "-euc", f"exec {command}" if line.startswith(tuple(STAY)) else command],
                cwd=self.folder,
                env=self._environment,
                stdout=out,
                stderr=out,
            )
        for start, begun in STAY.items():
            if line.startswith(start):
                self._staying.append((line, running, log))
                wait_until(lambda begun=begun: begun in log.read_bytes(), said=log.read_text)
                return
        try:
            code = running.wait(300)
        finally:
            running.kill()
        assert code == 0, f"{line}\n{log.read_text(errors='replace')[-2000:]}"
        self.said += log.read_text(errors="replace")

    def close(self) -> None:
        """End what stayed; it must have stayed."""
        for line, running, log in self._staying:
            gone = running.poll()
            running.terminate()
            running.wait(20)
            self.said += log.read_text(errors="replace")
            assert gone is None, f"{line}\n{log.read_text(errors='replace')[-2000:]}"


@contextlib.contextmanager
def clone(
    folder: Path, ecg: datasets.Beats, data: Path, small: Path, monitored: bool = True
) -> Iterator[Terminals]:
    """A clone of the repository with a broker, perhaps a monitor, and the data sets, images few."""
    for part in ("docker", "docs", "systemd"):
        shutil.copytree(TOP / part, folder / part)
    for part in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(TOP / part, folder)
    (folder / "mitdb").symlink_to(data / "mitdb")
    chosen = np.concatenate([ecg.beats[ecg.labels][:30], ecg.beats[~ecg.labels][:30]])
    np.savetxt(folder / "ecg.csv", chosen, delimiter=",")
    _write_parquet(folder / "beats.parquet", chosen)
    (folder / "etc" / "systemd" / "system").mkdir(parents=True)
    conf = f"sys_interval 1\n{ANYBODY}"
    with contextlib.ExitStack() as running:
        broker = running.enter_context(Mosquitto(folder, conf))
        # Whoever reads the page has the defaults, not the short window of the other tests.
        alarm = AlarmSettings()
        daemon = RunningDaemon(
            folder,
            broker.url,
            ALARM__WINDOW=str(alarm.window),
            ALARM__RAISE_AT=str(alarm.raise_at),
        )
        if monitored:
            running.enter_context(daemon)
        places = {
            "mqtt://localhost:1883": broker.url,
            "-h localhost -p 1883": f"-h localhost -p {broker.port}",
            "127.0.0.1:9464": daemon.address,
            "/var/lib/ecg-monitor/": f"{folder}/",
            " /etc/": f" {folder}/etc/",
            "/opt/": f"{folder}/opt/",
        }
        device = client.join(MqttSettings(broker=broker.url), "device")
        beat = ecg.beats[0].tobytes()
        device.publish("ecg/bed-1/beats", beat, qos=1, retain=True).wait_for_publish(20)
        client.leave(device)
        terminals = Terminals(folder, broker, places, small)
        try:
            yield terminals
        finally:
            terminals.close()


def _write_parquet(path: Path, beats: np.ndarray) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {f"v{i}": pa.array(beats[:, i]) for i in range(beats.shape[1])}
    parquet.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (
            "README.md",
            [
                *(
                    "▲ raised    anomaly        medium bed-2",
                    "▲ raised    anomaly        medium bed-7",
                ),
                *("is acknowledged by Anna", "is judged false by Anna", "bed-7: shelved until "),
                *("wrote bed-7/ecg.onnx", "wrote out/what-if/what-if.png"),
            ],
        ),
        ("brokers.md", []),
        ("cluster.md", []),
        ("detector.md", []),
        ("devices.md", ['"kind":"signal-quality"', "published 60 beats", "segmentation: "]),
        ("images.md", []),
        ("operating.md", ["SUCCESS", "made a login for bed-7", "made tls/monitor.crt", "[mqtt]"]),
        ("speed.md", []),
        ("runbook.md", ["ok\n", "ecg_monitor_build_info", "ecg/bed-1/beats 560"]),
    ],
)
def test_the_commands_of_a_page_do_what_it_says(
    tmp_path: Path, ecg: datasets.Beats, data: Path, small: Path, page: str, says: list[str]
) -> None:
    lines = [line for block in blocks("sh") if block.page.name == page for line in block.lines]
    for name in {shlex.split(line)[0] for line in lines} & {"mosquitto_sub", "promtool", "curl"}:
        program(name)
    brings_its_own = any(line.startswith("ecg-monitor run --broker") for line in lines)
    with clone(tmp_path, ecg, data, small, not brings_its_own) as terminals:
        for line in lines:
            terminals.type(line)
    for said in says:
        assert said in terminals.said, terminals.said[-3000:]


def test_no_page_and_no_replaced_command_is_forgotten() -> None:
    marks = test_the_commands_of_a_page_do_what_it_says.pytestmark  # type: ignore[attr-defined]
    assert {page for page, _ in marks[0].args[1]} == {page.name for page in PAGES}
    lines = {line for block in blocks("sh", "sh docker") for line in block.lines}
    assert set(INSTEAD) <= lines


@pytest.mark.parametrize("block", blocks("sh docker"), ids=named)
def test_what_needs_docker_or_root_is_spelled_right(
    tmp_path: Path, ecg: datasets.Beats, data: Path, small: Path, block: Block
) -> None:
    others = [line for line in block.lines if not re.search("docker compose|kubectl", line)]
    for line in block.lines:
        if "docker compose" in line:
            check_compose(line)
        elif line not in others:
            check_kubectl(line)
    if others:
        with clone(tmp_path, ecg, data, small) as terminals:
            for line in others:
                terminals.type(line)


def check_kubectl(line: str) -> None:
    """That files and StatefulSets of a `kubectl` command exist; tests/deployment knows the rest."""
    folder = TOP / "docker" / "kubernetes"
    for file in re.findall(r"docker/[\w./-]+", line):
        assert (TOP / file).exists(), file
    for name in re.findall(r"statefulset/([\w-]+)", line):
        texts = [file.read_text() for file in folder.rglob("*.yaml")]
        assert any(f"kind: StatefulSet\nmetadata:\n  name: {name}\n" in text for text in texts)


COMPOSE = {
    "up": {"--build", "--detach"},
    "exec": set[str](),
    "run": {"--rm", "--entrypoint"},
    "kill": {"--signal"},
    "logs": {"--since"},
    "ps": set[str](),
    "stop": set[str](),
    "cp": set[str](),
}
"""Subcommands and options, from https://docs.docker.com/reference/cli/docker/compose/."""

TAKE = {"-f", "--profile", "--entrypoint", "--signal", "--since"}
"""Options that take a value."""


def check_compose(line: str) -> None:
    """That files, services and options of a `docker compose` command exist."""
    words = shlex.split(line)
    words = words[words.index("docker") + 2 :]
    services: dict[str, object] = {}
    subcommand, names = "", list[str]()
    while words and not (names and subcommand in ("exec", "run")):  # what follows is not Compose's
        word = words.pop(0)
        if not word.startswith("-"):
            names += [word] if subcommand else []
            subcommand = subcommand or word
            continue
        assert word in (COMPOSE[subcommand] if subcommand else {"-f", "--profile"}), line
        value = words.pop(0) if word in TAKE else ""
        if word == "-f":
            text = (TOP / value).read_text().replace("!override", "")
            services |= yaml.safe_load(text)["services"]
        if word == "--profile":
            assert any(value in dict(s).get("profiles", []) for s in services.values())  # type: ignore[call-overload]
    assert subcommand in COMPOSE, line
    if subcommand == "cp":
        names = [names[0].partition(":")[0]]
    assert set(names) <= set(services), line


@every_page
def test_every_command_and_option_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    lines = [
        line for block in blocks("sh", "sh docker") if block.page == page for line in block.lines
    ]
    for span in [*spans, *lines]:
        if span.startswith("docker compose"):
            check_compose(span)
        for name, command, rest in re.findall(
            r"\b(ecg-monitor|ecg-train) ([a-z][a-z-]+)([^|;]*)", span
        ):
            known = getattr(get_command(APPS[name]), "commands", {})
            assert command in known, span
            options = {option for part in known[command].params for option in part.opts}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= options, span
    for target in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", text, re.M):
        assert re.search(rf"^{''.join(target)}:", (TOP / "Makefile").read_text(), re.M), target


def commands(app: typer.Typer) -> list[str]:
    return list(getattr(get_command(app), "commands", {}))


@pytest.mark.parametrize("command", commands(monitor_app))
def test_every_command_of_the_daemon_is_in_the_readme(command: str) -> None:
    assert f"ecg-monitor {command}" in README.read_text()


# -- links, names and figures


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
            assert anchor in {h.lower().replace(" ", "-") for h in headings}, link
    for file in re.findall(
        r"`((?:docker|systemd|monitor|train|tests|docs)/[\w./-]+)`", page.read_text()
    ):
        assert (TOP / file).exists(), file


def test_no_figure_is_left_open() -> None:
    assert not re.search(r"@[a-z]+@", README.read_text())


def test_the_limits_of_the_broker_are_those_in_the_guide() -> None:
    guide = (TOP / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| `(\w+_\w+)` \| (\S+) \|", guide, re.M)
    assert len(rows) == 5
    conf = (TOP / "docker" / "mosquitto" / "mosquitto.conf").read_text().splitlines()
    assert {f"{name} {value}" for name, value in rows} <= set(conf)
