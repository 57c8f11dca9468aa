"""A flood of hostile messages at both daemons, beside a patient whose alarm must come in time.

`make fuzz` sends a million; `make fuzz MESSAGES=10000 SEED=7` fewer, of another seed. It prints
what became of them, and ends with exit code 1 if an alarm came late, a daemon ended or stood still,
or its log holds a traceback or a line that is not JSON.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import msgspec
import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from rich.console import Console
from rich.table import Table

from monitor.ecg.simulator import Simulator
from monitor.mqtt import client
from monitor.settings import MqttSettings
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import as_json
from tests.harness.faults import OPEN
from tests.harness.hostile import Generator, Hostile
from tests.harness.waiting import WITHIN, wait_until

MESSAGES = 1_000_000

BATCH = 500
"""Hostile messages around each alarm of the patient. The next batch is sent when the alarm has come
and gone: else its delay would be that of the broker's queue, and no daemon's fault."""

IN_TIME = 2.0
"""Seconds within which the patient's alarm must come."""

LOST_AFTER = WITHIN
"""Seconds after which an alarm is not waited for any more."""

SETTLE_EVERY = 20
"""Batches after which `segment`, which has more to do, is waited for as well."""

REJECTED = "ecg_monitor_messages_rejected_total{reason="


@dataclass
class Life:
    """What was seen of a daemon, killed and started again several times.

    Attributes:
        rejected: messages by the reason that they were rejected for.
        start, peak, end: resident memory of its last process in MB: when it was healthy, at most,
            and after the last message.
        slowest: seconds of its slowest turn, of all processes.
        code: that it exited with.
        lines: of its log.
        bad_lines: those that are a traceback's, or not JSON, or hold what cannot be printed.
    """

    rejected: Counter[str] = field(default_factory=Counter)
    start: float = 0.0
    peak: float = 0.0
    end: float = 0.0
    slowest: float = 0.0
    code: int = 0
    lines: int = 0
    bad_lines: list[bytes] = field(default_factory=list)


class Watched(RunningDaemon):
    """A daemon that is under attack."""

    def __init__(self, folder: Path, broker: str, command: str) -> None:
        self.life = Life()
        self._slowest = folder / f"{command}.slowest"
        super().__init__(
            folder,
            broker,
            {"SLOWEST_TURN": str(self._slowest)},
            command=command,
            module="tests.harness.timed",
            ALARM__SILENT_AFTER="0",
            OUTPUT__HOME_ASSISTANT="true",
            SEGMENT__RATE="250",
        )

    def await_health(self) -> None:
        """Wait until it is healthy, and take its memory as that of the start."""
        wait_until(self.healthy, 60, lambda: self.log.read_bytes()[-2000:])
        self.life.start = self._memory("VmRSS")

    def look(self) -> None:
        """Take down what a killed process could not tell any more."""
        self.life.peak, self.life.end = self._memory("VmHWM"), self._memory("VmRSS")
        self.life.slowest = max(self.life.slowest, float(self._slowest.read_text()))

    def rejections(self) -> Counter[str]:
        """Return how many messages this process rejected, by reason."""
        lines = (line.split('"') for line in self.metrics().splitlines())
        return Counter(
            {words[1]: int(float(words[2][1:])) for words in lines if words[0] == REJECTED}
        )

    def restart(self) -> None:
        """Kill it and start it again."""
        self.look()
        self.life.rejected += self.rejections()
        self.process.kill()
        self.process.wait()
        self.start()
        self.await_health()

    def finish(self) -> None:
        """Stop it if it has not ended by itself, and read its log."""
        if self.process.poll() is None:
            self.look()
            self.life.rejected += self.rejections()
        self.life.code = self.stop()
        for line in self.log.read_bytes().split(b"\n")[:-1]:
            self.life.lines += 1
            if not _is_log_line(line):
                self.life.bad_lines.append(line)

    def _memory(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) / 1000


def _is_log_line(line: bytes) -> bool:
    try:
        content = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and line.decode().isprintable() and b"Traceback" not in line


class Patient:
    """A patient of the ward who is well, but for three beats now and then."""

    def __init__(self, broker: str) -> None:
        simulator = Simulator(1)
        self._normal, self._ectopic = simulator.normal(10), simulator.ectopic(3)
        self._number = 0
        self._client = client.join(MqttSettings(broker=broker), "patient")
        self._alerts: Queue[tuple[float, dict[str, Any]]] = Queue()
        self._client.on_message = lambda _client, _data, message: self._alerts.put(
            (time.monotonic(), msgspec.json.decode(message.payload))
        )
        self._client.subscribe("ecg/well/alerts", 1)

    def falls_ill(self) -> float:
        """Send the beats that raise the alarm, and return the time."""
        self._send(self._ectopic)
        return time.monotonic()

    def is_helped(self, since: float) -> float:
        """Wait for the alarm, send normal beats until it is cleared; return the alarm's delay."""
        raised = self._next_alert("raised")
        self._send(self._normal)
        self._next_alert("cleared")
        return raised - since

    def leave(self) -> None:
        """Disconnect."""
        client.leave(self._client)

    def _send(self, beats: np.ndarray[Any, Any]) -> None:
        for message in as_json("well", beats, self._number):
            self._client.publish("ecg/well/beats", message.payload, 1)
        self._number += len(beats)

    def _next_alert(self, event: str) -> float:
        while True:
            try:
                at, alert = self._alerts.get(timeout=LOST_AFTER)
            except Empty:
                raise AssertionError(f"the patient's alarm is not {event}") from None
            if alert["event"] == event and alert["kind"] == "anomaly":
                return at


@dataclass
class Outcome:
    """What became of a flood.

    Attributes:
        sent: hostile messages, by kind.
        delays: seconds to each of the patient's alarms.
        lives: of the two daemons, by command.
        seconds: that it took.
        ended: why not everything was sent; empty if it was.
    """

    sent: Counter[str] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    lives: dict[str, Life] = field(default_factory=dict)
    seconds: float = 0.0
    ended: str = ""

    @property
    def late(self) -> list[str]:
        """How many alarms came late, in words; on a busy machine one or the other may."""
        late = sum(delay > IN_TIME for delay in self.delays)
        return [f"{late} of {len(self.delays)} alarms took more than {IN_TIME:g} s"] if late else []

    @property
    def failures(self) -> list[str]:
        """What must not be, in words, but for alarms that came late."""
        said = [self.ended] if self.ended else []
        for command, life in self.lives.items():
            said += [f"{command} exited with code {life.code}"] if life.code else []
            said += [f"{command} logged: {line[:300]!r}" for line in life.bad_lines[-20:]]
        return said


def run(folder: Path, messages: int, seed: int = 0) -> Outcome:
    """Send hostile messages, and return what became of them."""
    outcome, generator, begun = Outcome(), Generator(seed), time.monotonic()
    with Mosquitto(folder, f"{OPEN}max_packet_size 1048576\n") as broker:
        with _running(folder, broker.url) as (monitor, segment), _attacker(broker.url) as attacker:
            outcome.lives = {"run": monitor.life, "segment": segment.life}
            patient = Patient(broker.url)
            try:
                _flood(outcome, generator, messages, attacker, patient, monitor, segment)
            except (AssertionError, OSError, pytest.fail.Exception) as failure:
                outcome.ended = f"after {outcome.sent.total():,} messages: {failure}"
            patient.leave()
            monitor.finish()
            segment.finish()
    outcome.seconds = time.monotonic() - begun
    return outcome


def _flood(
    outcome: Outcome,
    generator: Generator,
    messages: int,
    attacker: Client,
    patient: Patient,
    monitor: Watched,
    segment: Watched,
) -> None:
    """Send batch after batch, and have the patient fall ill in the middle of each."""
    batches = -(-messages // BATCH)
    for number in range(batches):
        batch = [generator.message() for _ in range(min(BATCH, messages - number * BATCH))]
        outcome.sent.update(message.kind for message in batch)
        half = len(batch) // 2
        _publish(attacker, batch[:half])
        fell_ill = patient.falls_ill()
        _publish(attacker, batch[half:])
        outcome.delays.append(patient.is_helped(fell_ill))
        # What is retained, and what stands in the journal, is read at the start only. Ever rarer,
        # so that the last processes grow as old as the others together.
        restart = number & (number - 1) == 0 and number < batches - 1
        if restart or number % SETTLE_EVERY == 0 or number == batches - 1:
            _settle(segment)
        if restart:
            monitor.restart()
            segment.restart()


@contextmanager
def _running(folder: Path, broker: str) -> Iterator[tuple[Watched, Watched]]:
    with Watched(folder, broker, "run") as monitor, Watched(folder, broker, "segment") as segment:
        monitor.await_health()
        segment.await_health()
        yield monitor, segment


@contextmanager
def _attacker(broker: str) -> Iterator[Client]:
    attacker = client.join(MqttSettings(broker=broker), "attacker")
    yield attacker
    client.leave(attacker)


def _publish(attacker: Client, batch: list[Hostile]) -> None:
    """Publish, and wait until the broker has all of it."""
    sent = []
    for message in batch:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        for name, value in message.properties.items():
            setattr(properties, name, value)
        sent.append(attacker.publish(message.topic, message.payload, 1, message.retain, properties))
    for info in sent:
        info.wait_for_publish(LOST_AFTER)
        assert info.is_published(), "the broker does not take what the attacker sends"


def _settle(segment: Watched) -> None:
    """Wait until nothing is in hand: the gauge is set twice a second."""
    for _ in range(2):
        time.sleep(0.6)
        wait_until(lambda: segment.value("ecg_monitor_unacknowledged_messages") == 0, 120)


def tables(outcome: Outcome) -> list[Table]:
    """Return the tables that `make fuzz` prints."""
    sent = Table("hostile messages", "sent", title="What was sent")
    for kind, number in outcome.sent.most_common():
        sent.add_row(kind, f"{number:,}")
    became = Table("rejected for", *outcome.lives, title="What became of it")
    rejected = [life.rejected for life in outcome.lives.values()]
    for reason in sorted(set().union(*rejected)):
        became.add_row(reason, *(f"{counts[reason]:,}" for counts in rejected))
    cost = Table("", *outcome.lives, title="What it cost")
    lives = outcome.lives.values()
    for name in ("start", "peak", "end"):
        cost.add_row(f"memory, {name}, MB", *(f"{getattr(life, name):.0f}" for life in lives))
    cost.add_row("slowest turn, ms", *(f"{1000 * life.slowest:.0f}" for life in lives))
    cost.add_row("log, lines", *(f"{life.lines:,}" for life in lives))
    cost.add_row("log, bad lines", *(str(len(life.bad_lines)) for life in lives))
    delays = np.array(outcome.delays or [np.nan])
    p50, p99 = np.quantile(delays, (0.5, 0.99))
    cost.caption = (
        f"{len(delays)} alarms of the patient came after {p50:.2f} s (median), {p99:.2f} s (99 %), "
        f"{delays.max():.2f} s (longest); all took {outcome.seconds:.0f} s"
    )
    return [sent, became, cost]


def main() -> None:
    """Send as many messages as the command line says, and print what became of them."""
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = os.environ.get("FUZZ_FOLDER")
    with tempfile.TemporaryDirectory() as temporary:
        outcome = run(Path(folder or temporary), messages, seed)
    for table in tables(outcome):
        Console().print(table)
    if failures := outcome.late + outcome.failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
