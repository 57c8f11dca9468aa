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
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, Queue
from tempfile import TemporaryDirectory, TemporaryFile
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client
from rich.console import Console

from monitor.commands.watch import show
from monitor.configuration import load
from monitor.ecg import codec
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
    """

    device: str
    story: str
    kind: str | None = None
    begins: float = 0.0
    ends: float = 0.0


PATIENTS = (
    Patient("bed-1", "is well throughout"),
    Patient("bed-2", "has a run of ectopic beats", "ectopic", 8, 16),
    Patient("bed-3", "loses a lead", "flat", 20, 30),
    Patient("bed-4", "loses the connection", "silent", 34, 46),
)


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
        console.print(f"patients simulated, one beat every {BEAT_EVERY:g} s each:")
        for patient in PATIENTS:
            when = f" from second {patient.begins:g} to {patient.ends:g}" if patient.kind else ""
            console.print(f"  {patient.device} {patient.story}{when}")
        console.print("Press Ctrl-C to stop. Alerts:\n")
        over = threading.Event()
        wards = client.join(settings.mqtt, "demo")
        alerts = _subscribe(wards, settings)
        devices = threading.Thread(
            target=_play, args=(wards, settings, over), name="devices", daemon=True
        )
        with TemporaryDirectory() as folder, TemporaryFile() as log:
            daemon = _start_daemon(broker.url, port, token, folder, log)
            try:
                devices.start()
                _show_alerts(console, alerts, daemon, seconds)
                if daemon.poll() is not None:
                    log.seek(0)
                    last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                    raise Failure(f"the daemon exited: {last}")
            except KeyboardInterrupt:
                console.print("\nstopping", style="dim")
            finally:
                over.set()
                _stop_daemon(daemon)
                client.leave(wards)


def _metrics_port(wanted: int) -> int:
    with socket.socket() as probe:
        free = wanted and probe.connect_ex(("127.0.0.1", wanted))
        return wanted if free else free_port()


def _start_daemon(
    url: str, port: int, token: str, folder: str, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    settings = {
        "HISTORY__FILE": f"{folder}/history.db",
        "MQTT__BROKER": url,
        "MQTT__PROTOCOL": "3.1.1",
        **{f"ALARM__{name}": value for name, value in BRISK.items()},
        "METRICS__HOST": "127.0.0.1",
        "METRICS__PORT": str(port),
        "METRICS__TOKEN": token,
    }
    own = {name: value for name, value in os.environ.items() if not name.startswith("ECG_MONITOR_")}
    return subprocess.Popen(
        [sys.executable, "-m", "monitor", "run"],
        env=own | {f"ECG_MONITOR_{name}": value for name, value in settings.items()},
        stderr=log,
        start_new_session=True,  # Ctrl-C is for this process, which then stops the daemon
    )


def _stop_daemon(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(timeout=5)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _subscribe(wards: Client, settings: Settings) -> Queue[bytes]:
    alerts: Queue[bytes] = Queue()
    wards.on_message = lambda _client, _data, message: alerts.put(bytes(message.payload))
    wards.subscribe(topic_of(settings.output.topic, "+", "alerts"), qos=1)
    return alerts


def _show_alerts(
    console: Console,
    alerts: Queue[bytes],
    daemon: subprocess.Popen[bytes],
    seconds: float | None,
) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    while daemon.poll() is None and (end is None or time.monotonic() < end):
        try:
            show(console, alerts.get(timeout=0.2))
        except Empty:
            continue


def _play(wards: Client, settings: Settings, over: threading.Event) -> None:
    """Publish the patients' beats until `over` is set."""
    simulator = Simulator(seed=int(time.time()))
    begun = time.monotonic()
    for number, moment in enumerate(_moments(begun, over)):
        for patient in PATIENTS:
            samples = _beat(simulator, patient, (moment - begun) % ROUND)
            if samples is not None:
                topic = topic_to_publish(settings.input.topic[0], patient.device)
                payload = codec.encode_json(samples[None], [number], [1000 * BEAT_EVERY])
                wards.publish(topic, payload, qos=1)


def _moments(begun: float, over: threading.Event) -> Iterator[float]:
    """Wait for the time of each beat and yield it, on the monotonic clock."""
    moment = begun
    while not over.wait(max(0.0, moment - time.monotonic())):
        yield moment
        moment += BEAT_EVERY


def _beat(simulator: Simulator, patient: Patient, second: float) -> NDArray[np.float32] | None:
    """Return a patient's beat at a second of the round; None while the device is silent."""
    kind = patient.kind if patient.begins <= second < patient.ends else None
    if kind == "silent":
        return None
    if kind == "flat":
        return np.zeros(140, np.float32)
    drawn = simulator.ectopic(1) if kind == "ectopic" else simulator.normal(1)
    return np.asarray(drawn[0], np.float32)


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
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
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
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # raised in the thread that is waiting
            self._error = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        try:
            from amqtt.broker import Broker
        except ModuleNotFoundError:
            raise Failure("amqtt is not installed: pip install 'ecg-monitor[demo]'") from None
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}},
                "plugins": {
                    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
                },
            }
        )
        await broker.start()
        self._ready.set()
        await self._stop.wait()
        await broker.shutdown()
