"""What somebody may send who means harm: payloads, names, alerts and model files."""

import ast
import json
import os
import pickle
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from monitor.alarms import messages
from monitor.detector.model_file import LARGEST, Detector, ModelError, shipped
from monitor.ecg import chunks
from monitor.ecg.simulator import Simulator
from monitor.errors import Rejected
from monitor.mqtt import client
from monitor.settings import MqttSettings
from monitor.text import printable
from tests.detector.test_model_file import CARD_OF_A_DETECTOR, graph, write
from tests.harness import fuzz
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.waiting import WITHIN, wait_until

TOP = Path(__file__).parents[2]
SOURCES = sorted([*(TOP / "monitor").rglob("*.py"), *(TOP / "train").rglob("*.py")])

ESCAPES = "\x1b[2J\x1b]0;mine\x07\x9b31m\u202e\r\n"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>[bold red]{{ 7 * 7 }}[/]"


# -- nothing runs what it reads


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_source_runs_what_it_reads(source: Path) -> None:
    refused = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch"}
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            assert not {name.name.partition(".")[0] for name in node.names} & refused
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in refused
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert name not in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
        assert not name.endswith(("read_pickle", "to_pickle", "yaml.load", "yaml.unsafe_load"))
        assert given.get("shell", "False") == "False"
        if name in {"np.load", "numpy.load"}:
            assert given.get("allow_pickle", "False") == "False"


class Malice:
    """What it does when it is read back would be seen."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_model_file_that_is_none_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    files = {name: tmp_path / name for name in ("pickle", "loop", "pipe", "huge", "zero")}
    files["pickle"].write_bytes(pickle.dumps(Malice(mark)))
    files["loop"].symlink_to("loop")
    os.mkfifo(files["pipe"])
    with files["huge"].open("wb") as huge:
        huge.truncate(LARGEST + 1)  # a sparse file: nothing is written
    files["zero"].symlink_to("/dev/zero")
    for file in files.values():
        with pytest.raises(ModelError, match=rf"^{file}: ") as refused:
            Detector(file)
        assert "\n" not in str(refused.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../../../../etc/passwd", "beside", "/dev/zero", "*/_ORT_MEM_ADDR_/*"],
)
def test_a_model_reads_nothing_outside_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    (tmp_path / "beside").write_bytes(np.ones(140, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    model = graph()
    weights = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[140])
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "560"}.items():
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    model.graph.initializer.append(weights)
    model.graph.node[0].input[1] = "outside"
    with pytest.raises(ModelError, match="is not an ONNX file that can be run") as refused:
        Detector(write(tmp_path / "model.onnx", model, CARD_OF_A_DETECTOR))
    assert "\n" not in str(refused.value)


def test_a_model_with_an_operator_of_its_own_is_refused(tmp_path: Path) -> None:
    model = graph()
    model.graph.node[0].domain, model.graph.node[0].op_type = "theirs", "Run"
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    with pytest.raises(ModelError, match="theirs:Run"):
        Detector(write(tmp_path / "model.onnx", model, CARD_OF_A_DETECTOR))


def test_what_a_card_says_reaches_a_terminal_as_text(tmp_path: Path) -> None:
    card = CARD_OF_A_DETECTOR | {"name": ESCAPES, "split": MARKUP + ESCAPES}
    file = write(tmp_path / "model.onnx", graph(), card)
    for more in ([], ["--json"]):
        shown = run(["model", str(file), *more]).stdout
        assert all(line.isprintable() for line in shown.splitlines())
        assert "<script>" in shown


def test_a_card_that_nobody_can_read_is_refused(tmp_path: Path) -> None:
    for card in ('{"x":' + "[" * 100_000, "[" * 100_000, MARKUP, ""):
        with pytest.raises(ModelError, match="its card cannot be used: "):
            Detector(write(tmp_path / "model.onnx", graph(), card))


def test_a_chunk_of_samples_that_nobody_can_read_is_rejected() -> None:
    for payload in [*UNREADABLE, b""]:
        if payload[:1] == b"{" or len(payload) % 4 or not payload:  # else they are float32 samples
            with pytest.raises(Rejected):
                chunks.decode(payload)


def test_the_sha256_of_what_runs_is_in_the_metrics_and_on_the_card(tmp_path: Path) -> None:
    card = json.loads(run(["model", str(shipped("ecg")), "--json"]).stdout)
    series = f'ecg_monitor_model_info{{name="ecg",sha256="{card["sha256"]}"}}'
    with Mosquitto(tmp_path) as broker, RunningDaemon(tmp_path, broker.url) as daemon:
        assert daemon.value(series) == 1


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monitor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN,
    )


# -- payloads

GOOD = [0.5] * 140
ONE = json.dumps(GOOD).encode()
HOSTILE = [
    *(b"", b"\0" * 559, b"\xff" * 560, b"[" * 100_000, b"{" * 100_000, b"[[" + b"[]," * 200_000),
    b'{"beats":' + b"[" * 1_000_000,
    b'{"x":' + b"[" * 1_000_000,
    b'{"beats":[' + ONE + b'],"seq":' + b"9" * 100_000 + b"}",
    b'{"beats":[' + ONE + b'],"seq":-1}',
    b'{"beats":[' + ONE + b'],"time":' + b"9" * 100_000 + b"}",
    b"[" + b"1e999," * 139 + b"1e999]",
    b"[" + b"9" * 100_000 + b"]",
    *(
        json.dumps({"beats": [GOOD], name: value}).encode()
        for name in ("seq", "time", "rr_ms", MARKUP, ESCAPES)
        for value in (MARKUP, ESCAPES, [MARKUP], {MARKUP: ESCAPES}, 1e308, -1, True)
    ),
    json.dumps([MARKUP] * 140).encode(),
    json.dumps({"beats": MARKUP}).encode(),
    ESCAPES.encode(),
    MARKUP.encode(),
    os.urandom(1120),
    b"[" + b"[0]," * 200_000 + b"[0]]",
    b"[[" + b"0," * 500_000 + b"0]]",
]


def test_no_payload_stops_the_daemon_or_writes_a_line_of_its_own(tmp_path: Path) -> None:
    (beat,) = Simulator(1).normal(1)
    devices = ["bed-7", MARKUP, "'; DROP TABLE alarms; --", "../../etc"]
    devices = [name.replace("/", "|") for name in devices]
    with (
        Mosquitto(tmp_path, ANYBODY) as broker,
        RunningDaemon(tmp_path, broker.url, OUTPUT__HOME_ASSISTANT="true") as daemon,
    ):
        attacker = client.join(MqttSettings(broker=broker.url), "attacker")
        for device in devices:
            for payload in HOSTILE:
                attacker.publish(f"ecg/{device}/beats", payload, qos=1)
        for device in devices:
            last = attacker.publish(f"ecg/{device}/beats", beat.tobytes(), qos=1)
        last.wait_for_publish(WITHIN)
        client.leave(attacker)
        daemon.wait_until("ecg_monitor_beats_scored_total", len(devices))
        wait_until(lambda: daemon.value("ecg_monitor_unacknowledged_messages") == 0)
        wait_until(daemon.healthy)
        metrics = daemon.metrics()
        assert daemon.stop() == 0
    assert "<script>" not in metrics
    log = daemon.log.read_bytes().decode()
    assert "Traceback" not in log
    for line in log.splitlines():
        assert isinstance(json.loads(line), dict)
        assert line.isprintable()


def test_a_log_line_is_one_line_of_text_on_a_terminal_and_in_a_file() -> None:
    script = (
        "import structlog; from monitor import logs; logs.set_up();"
        f"structlog.get_logger().warning('rejected', topic={ESCAPES!r}, detail={MARKUP!r})"
    )
    piped = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    (line,) = piped.stderr.decode().splitlines()
    assert line.isprintable()
    assert json.loads(line)["topic"] == printable(ESCAPES)
    terminal, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", script], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert shown.count("\n") == 1
    for harm in ("\x1b[2J", "\x1b]0", "\x07", "\x9b", "\u202e"):
        assert harm not in shown
    assert printable(ESCAPES) in shown


def test_what_libraries_say_is_a_log_line_like_ours() -> None:
    script = (
        "import logging, warnings; from monitor import logs; logs.set_up();"
        f"warnings.warn({ESCAPES!r});"
        f"logging.getLogger('theirs').error({ESCAPES!r}, exc_info=ValueError({MARKUP!r}))"
    )
    piped = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    lines = [json.loads(line) for line in piped.stderr.decode().splitlines()]
    assert [(line["level"], line["kind"]) for line in lines] == [
        ("warning", "UserWarning"),
        ("error", "theirs"),
    ]
    assert all(printable(ESCAPES) in line["detail"] for line in lines)


def test_a_flood_of_hostile_messages_costs_a_patient_no_alarm(tmp_path: Path) -> None:
    """`make fuzz` sends a million."""
    outcome = fuzz.run(tmp_path, 1500)
    assert outcome.failures == []
    assert len(outcome.delays) == 3
    assert np.median(outcome.delays) < fuzz.IN_TIME
    assert {"json", "shape", "length", "not_finite"} <= set(outcome.lives["run"].rejected)
    assert outcome.lives["segment"].rejected["json"] > 0


# -- alerts and alarms that are not ours


UNREADABLE = [
    *(b"\x1b[2J", b"\xff\xfe", b"[" * 100_000, b"{}", MARKUP.encode()),
    *(b'{"x":' + b"[" * 100_000, b'{"device":"\xff"}', b'{"device":' + b"[" * 100_000),
]


def hostile_alerts() -> list[bytes]:
    fields: dict[str, Any] = {
        "id": "0" * 32,
        "device": "bed-7",
        "event": "raised",
        "kind": "anomaly",
        "priority": "high",
        "time": "2026-11-21T12:00:00.250Z",
        "since": "2026-11-21T12:00:00.250Z",
        "score": 1.5,
        "threshold": 0.75,
        "beats_anomalous": 3,
        "beats_seen": 10,
        "model": "ecg",
        "beat": GOOD,
        "reconstruction": GOOD,
    }
    texts = [name for name, value in fields.items() if isinstance(value, str)]
    changes: list[dict[str, Any]] = [{name: MARKUP + ESCAPES} for name in texts]
    changes += [{name: ESCAPES + "x" * 20} for name in texts]
    changes += [
        {"time": "2026-11-21T[/nothing]"},
        {"device": "[/]\\"},
        {"beat": [1.0]},
        {"beat": []},
    ]
    changes += [{"reconstruction": [1.0] * 139}, {"beat": [1e308, -1e308] * 70}, {"score": 1e308}]
    changes += [{"beats_seen": 10**18}, {"threshold": None}, {MARKUP: ESCAPES}]
    alerts = [json.dumps(fields | change).encode() for change in changes]
    raw = [json.dumps(fields | {"device": ESCAPES}, ensure_ascii=False).encode()]
    pretty = [json.dumps(fields, indent=2).encode()]
    return [*alerts, *raw, *pretty, *UNREADABLE]


@pytest.mark.parametrize("as_json", [False, True])
def test_watching_shows_nothing_but_text(tmp_path: Path, as_json: bool) -> None:
    alerts = hostile_alerts()
    with Mosquitto(tmp_path) as broker:
        out, said = tmp_path / "out", tmp_path / "err"
        command = [sys.executable, "-m", "monitor", "watch", "--broker", broker.url]
        with out.open("wb") as stdout, said.open("wb") as stderr:
            watcher = subprocess.Popen(
                [*command, *(["--json"] if as_json else [])], stdout=stdout, stderr=stderr
            )
        attacker = client.join(MqttSettings(broker=broker.url), "attacker")
        try:
            last = json.dumps(json.loads(alerts[0]) | {"id": "", "device": "the-last-one"})
            deadline = time.monotonic() + WITHIN
            while b"the-last-one" not in out.read_bytes() and time.monotonic() < deadline:
                for payload in [*alerts, last.encode()]:
                    attacker.publish("ecg/bed-7/alerts", payload, qos=1)
                time.sleep(0.3)
            assert watcher.poll() is None, said.read_text()
        finally:
            watcher.kill()
            watcher.wait()
            client.leave(attacker)
    lines = out.read_bytes().decode().split("\n")
    assert "the-last-one" in "".join(lines)
    if as_json:
        for line in lines[:-2]:
            assert line.isascii()
            assert isinstance(json.loads(line), dict)
    for line in [*lines, *said.read_bytes().decode().split("\n")]:
        assert line.isprintable(), line
    assert "Traceback" not in said.read_text()


def test_a_retained_alarm_that_names_another_device_is_left_alone(tmp_path: Path) -> None:
    """The name in it becomes a topic: `#` there would end the daemon, now and at each start."""
    standing = [messages.OpenAlarm("0" * 32, "anomaly", "medium", "2026-11-21T12:00:00.000Z")]
    with Mosquitto(tmp_path) as broker:
        attacker = client.join(MqttSettings(broker=broker.url), "attacker")
        for at, name in enumerate(["#", "+", "bed-2", "a/b", "", MARKUP, ESCAPES]):
            alarm = messages.RetainedAlarm(
                device=name,
                state="alarm",
                priority="medium",
                time="2026-11-21T12:00:00.000Z",
                alarms=standing,
                anomalous="x" * 10,
                poor="." * 10,
                seq=None,
                counted=[],
                changes=1,
            )
            attacker.publish(f"ecg/at-{at}/alarm", messages.encode(alarm), qos=1, retain=True)
        for at, payload in enumerate(UNREADABLE):
            sent = attacker.publish(f"ecg/no-{at}/alarm", payload, qos=1, retain=True)
        sent.wait_for_publish(WITHIN)
        client.leave(attacker)
        with RunningDaemon(tmp_path, broker.url, ALARM__SILENT_AFTER="0.5") as daemon:
            time.sleep(2)  # four times as long as a device may be silent
            wait_until(daemon.healthy)
            assert daemon.value('ecg_monitor_alarms{kind="anomaly",priority="medium"}') == 0
            assert daemon.value('ecg_monitor_alarms{kind="silent",priority="medium"}') == 0
            assert daemon.stop() == 0
        log = daemon.log.read_text()
    assert log.count("a retained alarm is another device's") == 7
    assert log.count("a retained alarm cannot be read") == len(UNREADABLE)
    assert all(line.isprintable() for line in log.splitlines())
