"""Run everything on this machine: a broker, simulated patients, the daemon, and its alerts.

No network, data set or installed service is needed. The daemon is the real one, in its own process;
the patients' beats are drawn by the simulator that was fitted to ECG5000.
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from queue import Empty, Queue
from tempfile import TemporaryDirectory, TemporaryFile
from types import TracebackType
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client, MQTTMessage
from rich.console import Console

from monitor.alarms import messages, patients
from monitor.alarms.operator_requests import Admit
from monitor.commands.watch import show
from monitor.configuration import load
from monitor.ecg import codec
from monitor.ecg.beat import SAMPLES
from monitor.ecg.simulator import Simulator
from monitor.errors import Failure
from monitor.mqtt import client
from monitor.settings import Settings
from monitor.topics import topic_of, topic_to_publish

BEAT_EVERY = 0.8
"""Seconds between two beats of a patient: 75 beats a minute."""

ROUND = 60.0
"""Seconds after which the patients' stories repeat."""

BRISK = {"WINDOW": "10", "RAISE_AT": "3", "CLEAR_AT": "0", "SILENT_AFTER": "6"}
"""Alarm settings that raise and clear alarms sooner than the defaults, as the demo is short."""


@dataclass(frozen=True)
class Patient:
    """A simulated patient whose story repeats every round.

    Attributes:
        story: what happens.
        kind: "ectopic" beats, a "flat" lead, or a "silent" device; None if nothing happens.
        begins, ends: when, in seconds of the round.
        beats: in each message until a model of the patient's own watches; then one, as of others.
    """

    device: str
    story: str
    kind: str | None = None
    begins: float = 0.0
    ends: float = 0.0
    beats: int = 1


PATIENTS = (
    Patient("bed-1", "is well throughout"),
    Patient("bed-2", "has a run of ectopic beats", "ectopic", 8, 16),
    Patient("bed-3", "loses a lead", "flat", 20, 30),
    Patient("bed-4", "loses the connection", "silent", 34, 46),
)

ADMITTED = Patient(
    "bed-5", "is admitted, learnt and watched by a model of its own", "ectopic", 50, 56, beats=20
)
"""Sends twenty beats at a time first: the 375 that a model is fitted to come in 15 seconds."""


def run(seconds: float | None) -> None:
    """Run the demo for `seconds`, or until interrupted if that is None.

    Raises:
        Failure: a part of it does not start, or the daemon exits.
    """
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it all, as Ctrl-C does
    with EmbeddedBroker() as broker:
        settings = load(None, {"mqtt": {"broker": broker.url, "protocol": "3.1.1"}})
        port = _metrics_port(settings.metrics.port)
        token = secrets.token_urlsafe()
        # After the #, it stays in the browser. Anyone with this address may acknowledge alarms.
        console.print(f"page     http://127.0.0.1:{port}/#token={token}", soft_wrap=True)
        console.print(f"broker   {broker.url} (embedded, MQTT 3.1.1)")
        console.print(f"metrics  http://127.0.0.1:{port}/metrics")
        console.print(f"health   http://127.0.0.1:{port}/healthz")
        ward = (*PATIENTS, ADMITTED) if _can_learn() else PATIENTS
        console.print(f"patients simulated, one beat every {BEAT_EVERY:g} s each:")
        for patient in ward:
            when = f" from second {patient.begins:g} to {patient.ends:g}" if patient.kind else ""
            console.print(f"  {patient.device} {patient.story}{when}", soft_wrap=True)
        if ADMITTED not in ward:
            console.print("learning a patient's own model needs pip install 'ecg-monitor\\[train]'")
        console.print("Press Ctrl-C to stop. Alerts:\n")
        over, learnt = threading.Event(), threading.Event()
        wards = client.join(settings.mqtt, "demo")
        heard = _subscribe(wards, settings)
        devices = threading.Thread(
            target=_play, args=(wards, settings, ward, over, learnt), name="devices", daemon=True
        )
        with TemporaryDirectory() as folder, TemporaryFile() as log:
            environment = _environment(broker.url, port, token, folder)
            daemon = _start([sys.executable, "-m", "monitor", "run"], environment, log)
            learner = None
            if ADMITTED in ward:
                learner = _start([sys.executable, "-m", "train", "learn"], environment, log)
            try:
                devices.start()
                _show_heard(console, heard, learnt, daemon, seconds)
                if daemon.poll() is not None:
                    log.seek(0)
                    last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                    raise Failure(f"the daemon exited: {last}")
            except KeyboardInterrupt:
                console.print("\nstopping", style="dim")
            finally:
                over.set()
                _stop(daemon)
                if learner is not None:
                    _stop(learner)
                client.leave(wards)


def _metrics_port(wanted: int) -> int:
    with socket.socket() as probe:
        free = wanted and probe.connect_ex(("127.0.0.1", wanted))
        return wanted if free else free_port()


def _can_learn() -> bool:
    """Whether `ecg-train learn` can run: it is another package, and needs TensorFlow."""
    return all(find_spec(name) is not None for name in ("train", "tensorflow"))


def _environment(url: str, port: int, token: str, folder: str) -> dict[str, str]:
    """Return the environment of the daemon and of the learner."""
    settings = {
        "HISTORY__FILE": f"{folder}/history.db",
        "MODEL__FOLDER": f"{folder}/models",
        "LEARN__JOURNAL": f"{folder}/learn.db",
        "LEARN__PORT": "0",
        "MQTT__BROKER": url,
        "MQTT__PROTOCOL": "3.1.1",
        **{f"ALARM__{name}": value for name, value in BRISK.items()},
        "METRICS__HOST": "127.0.0.1",
        "METRICS__PORT": str(port),
        "METRICS__TOKEN": token,
    }
    own = {name: value for name, value in os.environ.items() if not name.startswith("ECG_MONITOR_")}
    return own | {f"ECG_MONITOR_{name}": value for name, value in settings.items()}


def _start(
    command: list[str], environment: dict[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stderr=log,
        start_new_session=True,  # Ctrl-C is for this process, which then stops the others
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _subscribe(wards: Client, settings: Settings) -> Queue[MQTTMessage]:
    """Return where alerts and patients arrive; admit bed-5 once the learner is there."""
    heard: Queue[MQTTMessage] = Queue()
    topic, name = settings.output.topic, ADMITTED.device
    learner = f"ecg-monitor/{settings.mqtt.client_id}-learn/status"

    def take(_client: Client, _data: object, message: MQTTMessage) -> None:
        if message.topic != learner:
            heard.put(message)
        elif message.payload == b"online":
            admit = messages.encode(Admit(by="the demo"))
            wards.publish(topic_of(topic, name, "admit"), admit, qos=1)

    wards.on_message = take
    patient = topic_of(topic, name, "patient")
    wards.subscribe([(topic_of(topic, "+", "alerts"), 1), (patient, 1), (learner, 1)])
    return heard


OWN = "a model of its own"


def _show_patient(console: Console, payload: bytes, shown: str) -> str:
    """Say how far a patient's own model is, unless it is what was `shown` last; return it."""
    patient = msgspec.json.decode(payload, type=patients.Patient)
    if patient.problem is not None:
        line = patient.problem
    elif patient.state == "learning":
        line = f"learning, {patient.progress}"
    else:
        line = f"watched by {OWN if patient.state == 'own' else 'the shared model'}"
    if line != shown:
        console.print(f"{patient.device} is {line}", markup=False)
    return line


def _show_heard(
    console: Console,
    heard: Queue[MQTTMessage],
    learnt: threading.Event,
    daemon: subprocess.Popen[bytes],
    seconds: float | None,
) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    shown = ""
    while daemon.poll() is None and (end is None or time.monotonic() < end):
        try:
            message = heard.get(timeout=0.2)
        except Empty:
            continue
        if message.topic.endswith("/alerts"):
            show(console, bytes(message.payload))
        elif message.payload:
            shown = _show_patient(console, bytes(message.payload), shown)
            if shown.endswith(OWN):
                learnt.set()


def _play(
    wards: Client,
    settings: Settings,
    ward: Sequence[Patient],
    over: threading.Event,
    learnt: threading.Event,
) -> None:
    """Publish the beats of a ward of patients until `over` is set, one by one once `learnt` is."""
    simulator = Simulator(seed=int(time.time()))
    begun = time.monotonic()
    for number, moment in enumerate(_moments(begun, over)):
        for patient in ward:
            many = 1 if learnt.is_set() else patient.beats
            samples = _beats(simulator, patient, many, (moment - begun) % ROUND)
            if samples is not None:
                topic = topic_to_publish(settings.input.topic[0], patient.device)
                numbers = [patient.beats * number + i for i in range(many)]
                # Of twenty beats at once no interval would be true, and those come with no others.
                rr_ms = [1000 * BEAT_EVERY] if patient.beats == 1 else None
                payload = codec.encode_json(samples, numbers, rr_ms)
                wards.publish(topic, payload, qos=1)


def _moments(begun: float, over: threading.Event) -> Iterator[float]:
    """Wait for the time of each beat and yield it, on the monotonic clock."""
    moment = begun
    while not over.wait(max(0.0, moment - time.monotonic())):
        yield moment
        moment += BEAT_EVERY


def _beats(
    simulator: Simulator, patient: Patient, many: int, second: float
) -> NDArray[np.float32] | None:
    """Return so many beats of a patient at a second of the round; None while it is silent."""
    kind = patient.kind if patient.begins <= second < patient.ends else None
    if kind == "silent":
        return None
    if kind == "flat":
        return np.zeros((many, SAMPLES), np.float32)
    draw = simulator.ectopic if kind == "ectopic" else simulator.normal
    return np.asarray(draw(many)[:many], np.float32)


def free_port() -> int:
    """Return a TCP port of the loopback address that is free at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedBroker:
    """Runs amqtt in a thread; use it in a `with` statement.

    Attributes:
        port: on the loopback address.
        url: for `mqtt.broker`.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._stop: Callable[[], object]
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def __enter__(self) -> "EmbeddedBroker":
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise Failure(f"the embedded broker cannot be started: {self._error}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # raised in the thread that is waiting
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        try:
            from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
            from amqtt.broker import Broker
        except ModuleNotFoundError:
            raise Failure("amqtt is not installed: pip install 'ecg-monitor[demo]'") from None
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        broker = Broker(
            {
                "listeners": {"default": {"type": "external", "bind": f"127.0.0.1:{self.port}"}},
                "plugins": {
                    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
                },
            }
        )

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Let amqtt speak, which leaves connections open that end before CONNACK."""
            try:
                with suppress(OSError):  # who asked is gone
                    await broker.external_connected(
                        StreamReaderAdapter(reader), StreamWriterAdapter(writer), "default"
                    )
            finally:
                writer.close()

        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
        await broker.start()
        server = await asyncio.start_server(connected, "127.0.0.1", self.port)
        self._ready.set()
        await stopping.wait()
        server.close()
        await broker.shutdown()
