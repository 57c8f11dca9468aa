"""Three nodes of NATS and a daemon for each partition of the devices, of which one thing fails at
a time.

`make cluster` prints what became of the beats and alarms; `tests/daemon/test_cluster.py` tests it.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table

from monitor.batch import datasets
from monitor.errors import Failure
from monitor.mqtt import client
from monitor.settings import MqttSettings
from tests.harness.brokers import program, wait_for
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_json
from tests.harness.ports import free_port
from tests.harness.waiting import wait_until

NODES = 3
DEVICES = 60
RATE = 300
"""Messages a second, one beat each: 240 patients at 75 beats a minute."""

PERIOD = 0.5
"""Seconds between two beats of a device, at most: a gap may begin so long before what caused it."""

LEADERLESS = 60.0
"""Seconds that the nodes may take, on a busy machine, until they have a leader again."""

ACK_WAIT = 5
"""Seconds after which NATS delivers again what was not acknowledged. Its default is 30."""

CONF = f"""
server_name: $NODE
listen: "0.0.0.0:4222"
jetstream {{ store_dir: "/data" }}
cluster {{
  name: "ecg", listen: "0.0.0.0:6222"
  routes: ["nats://nats-0:6222", "nats://nats-1:6222", "nats://nats-2:6222"]
}}
mqtt {{ listen: "0.0.0.0:8883", ack_wait: "{ACK_WAIT}s", max_ack_pending: 1000 }}
mappings {{ "ecg.*.beats": "beats.{{{{partition(3,1)}}}}.{{{{wildcard(1)}}}}" }}
"""
"""As docker/cluster/nats.conf, without encryption and logins."""

STANDBY = "standby" in MqttSettings.model_fields


class Cluster:
    """Nodes of NATS that replicate sessions and messages, and hash each device to a partition.

    Attributes:
        urls: their addresses for `mqtt.broker`.
    """

    def __init__(
        self, folder: Path, partitions: int, conf: str = CONF, login: MqttSettings | None = None
    ) -> None:
        """Write the configurations; no node is started yet.

        Args:
            folder: where configurations, logs and stores are kept.
            partitions: how many there are.
            conf: what each node is configured with, addresses and paths as in docker/cluster.
            login: with which the nodes accept clients; None for none.
        """
        self._folder, self._template = folder, conf
        self._login = login or MqttSettings()
        self._ports = [[free_port() for _ in range(4)] for _ in range(NODES)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * NODES
        scheme = "mqtts" if self._login.tls else "mqtt"
        self.urls = [f"{scheme}://127.0.0.1:{ports[3]}" for ports in self._ports]
        self._write(partitions)

    def port(self, node: int) -> int:
        """Return the port on which a node speaks MQTT."""
        return self._ports[node][3]

    def start(self, node: int) -> None:
        """Start a node and wait until it listens."""
        log_file = self._folder / f"node-{node}.log"
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [program("nats-server"), "-c", str(self._conf(node))],
                env=os.environ | {"NODE": f"nats-{node}"},
                stdout=log,
                stderr=log,
            )
        self._processes[node] = process
        wait_for(self.port(node), process, log_file)

    def kill(self, node: int) -> None:
        """Kill a node."""
        process = self._processes[node]
        assert process is not None
        process.kill()
        process.wait()
        self._processes[node] = None

    def divide(self, partitions: int) -> None:
        """Change the number of partitions, without a restart."""
        self._write(partitions)
        for process in self._processes:
            if process is not None:
                process.send_signal(signal.SIGHUP)

    def __enter__(self) -> Self:
        try:
            for node in range(NODES):
                self.start(node)
            wait_until(self._accepts, LEADERLESS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node, process in enumerate(self._processes):
            if process is not None:
                self.kill(node)

    def _accepts(self) -> bool:
        """Return whether each node accepts a client: it does once there is a leader."""
        try:
            for url in self.urls:
                own = {**self._login.model_dump(), "broker": url, "protocol": "3.1.1"}
                client.leave(client.join(MqttSettings.model_validate(own), "probe"))
        except Failure:
            return False
        return True

    def _conf(self, node: int) -> Path:
        return self._folder / f"node-{node}.conf"

    def _write(self, partitions: int) -> None:
        names = {f"nats-{i}:6222": f"127.0.0.1:{ports[2]}" for i, ports in enumerate(self._ports)}
        for node, (own, http, route, mqtt) in enumerate(self._ports):
            replaced = names | {
                "0.0.0.0:4222": f"127.0.0.1:{own}",
                "127.0.0.1:8222": f"127.0.0.1:{http}",
                "0.0.0.0:6222": f"127.0.0.1:{route}",
                "0.0.0.0:8883": f"127.0.0.1:{mqtt}",
                '"/data"': f'"{self._folder}/store-{node}"',
                "partition(3,1)": f"partition({partitions},1)",
            }
            text = self._template
            for shipped, ours in replaced.items():
                text = text.replace(shipped, ours)
            self._conf(node).write_text(text)


class Partition:
    """The daemon of a partition, and its standby where there are standbys."""

    def __init__(self, folder: Path, cluster: Cluster, number: int) -> None:
        self.members: list[RunningDaemon] = []
        urls = cluster.urls[number % NODES :] + cluster.urls[: number % NODES]
        for member in range(2 if STANDBY else 1):
            own = folder / f"partition-{number}-{member}"
            own.mkdir()
            settings = {
                "MQTT__CLIENT_ID": f"ward-{number}",
                "MQTT__PROTOCOL": "3.1.1",
                "INPUT__TOPIC": f"beats/{number}/{{device}}",
                "OUTPUT__SCORES": "true",
                "ALARM__SILENT_AFTER": "30",
            }
            if STANDBY:
                settings["MQTT__STANDBY"] = "true"
            broker = json.dumps(urls) if STANDBY else urls[0]
            self.members.append(RunningDaemon(own, broker, **settings))

    def start(self) -> None:
        """Start the daemons and wait until one is active: before, nodes keep nothing for it."""
        for daemon in self.members:
            daemon.start()
            wait_until(daemon.healthy, said=daemon.log.read_text)
        wait_until(lambda: any(_watches(each) and each.healthy() for each in self.members))

    @property
    def active(self) -> RunningDaemon:
        """The member that watches the devices."""
        watching = [each for each in self.members if _watches(each)]
        return watching[0] if watching else self.members[0]

    def stop(self) -> None:
        """End all members, also one that stands still."""
        for daemon in reversed(self.members):
            daemon.process.send_signal(signal.SIGCONT)
            daemon.stop()


def _watches(daemon: RunningDaemon) -> bool:
    if daemon.process.poll() is not None:
        return False
    try:
        return not STANDBY or daemon.value("ecg_monitor_standby") == 0
    except (OSError, StopIteration):
        return False


@dataclass
class Outcome:
    """What became of the beats and the alarms.

    Attributes:
        sent: beats.
        lost: beats that were never scored.
        repeated: beats that were scored again.
        late: beats that were scored after later ones of their device.
        alarms: devices whose alarm was raised once and cleared once, by the ids.
        other: alerts of another kind, which nothing has caused but a fault.
        back: retained alarms that were older than the one before.
        unwatched: by fault, the longest time in which a device had no score, in seconds.
    """

    sent: int = 0
    lost: int = 0
    repeated: int = 0
    late: int = 0
    alarms: int = 0
    other: int = 0
    back: int = 0
    unwatched: dict[str, float] = field(default_factory=dict)


class Load(threading.Thread):
    """Devices that send until they are told to stop; their alarms stand meanwhile."""

    def __init__(self, port: int, hearts: Hearts, devices: int, rate: float) -> None:
        super().__init__(daemon=True)
        self._port, self._hearts, self._rate = port, hearts, rate
        self._beds = [f"bed-{i}" for i in range(devices)]
        self.anomalous, self.sent = False, 0
        self._over = threading.Event()

    def run(self) -> None:
        begun = time.monotonic()
        with Ward(self._port, "devices", listen=False, protocol="3.1.1", within=LEADERLESS) as ward:
            while not self._over.is_set():
                number = self.sent // len(self._beds)
                take = self._hearts.anomalous if self.anomalous else self._hearts.normal
                for bed, beat in zip(self._beds, take(len(self._beds)), strict=True):
                    time.sleep(max(0.0, begun + self.sent / self._rate - time.monotonic()))
                    (message,) = as_json(bed, beat[None], first=number)
                    ward.publish(f"ecg/{bed}/beats", message.payload)
                    self.sent += 1
            ward.flush()

    def wait(self, rounds: int) -> None:
        """Wait until each device has sent so many beats more."""
        enough = self.sent + (rounds + 1) * len(self._beds)
        wait_until(lambda: self.sent >= enough or not self.is_alive(), 300)
        assert self.is_alive()

    def finish(self) -> int:
        """Stop and return how many beats were sent."""
        self._over.set()
        self.join()
        return self.sent


def faults(cluster: Cluster, partitions: list[Partition], load: Load, second: int) -> Iterator[str]:
    """Let one thing fail after the other; yield the name of each as it begins.

    Each device sends `second` beats in a second.
    """
    yield "nothing fails"
    load.wait(5 * second)
    yield "a node is killed"
    cluster.kill(NODES - 1)
    load.wait(10 * second)
    yield "the node comes back"
    cluster.start(NODES - 1)
    load.wait(10 * second)
    yield "a daemon is killed"
    daemon = partitions[0].active
    daemon.process.kill()
    daemon.process.wait()
    load.wait(second)
    daemon.start()  # as a service manager does
    load.wait(10 * second)
    yield "a daemon stands still"
    daemon = partitions[1].active
    daemon.process.send_signal(signal.SIGSTOP)
    load.wait(12 * second)
    yield "it comes back"
    daemon.process.send_signal(signal.SIGCONT)
    load.wait(10 * second)
    yield "3 partitions become 2"
    cluster.divide(2)
    load.wait(10 * second)
    yield "2 partitions become 3"
    cluster.divide(3)
    load.wait(10 * second)


Faults = Callable[[Cluster, list[Partition], Load, int], Iterator[str]]


def run(
    folder: Path,
    hearts: Hearts,
    faults: Faults = faults,
    devices: int = DEVICES,
    rate: float = RATE,
) -> Outcome:
    """Let things fail in turn while alarms stand, and count."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(folder, 3))
        ward = stack.enter_context(Ward(cluster.port(0), protocol="3.1.1", within=LEADERLESS))
        partitions = [Partition(folder, cluster, number) for number in range(3)]
        for partition in partitions:
            stack.callback(partition.stop)
            partition.start()
        load = Load(cluster.port(0), hearts, devices, rate)
        load.start()
        load.wait(12)
        load.anomalous = True
        ward.wait(lambda: _ids(ward, "raised") >= devices, 60)
        begun: dict[str, float] = {}
        for fault in faults(cluster, partitions, load, round(rate / devices)):
            begun[fault] = time.monotonic()
        begun[""] = time.monotonic()
        load.anomalous = False
        load.wait(30)  # beats that were late may stand behind the first of these
        outcome = Outcome(load.finish())
        _settle(ward, outcome.sent)
    _count(ward, outcome)
    times = list(begun.values())
    for fault, (start, end) in zip(begun, pairwise(times), strict=False):
        outcome.unwatched[fault] = _longest_gap(ward, start, end)
    return outcome


def _ids(ward: Ward, event: str) -> int:
    return len({each["id"] for each in ward.alerts() if each["event"] == event})


def _settle(ward: Ward, sent: int) -> None:
    """Wait until all is scored and what was raised is cleared, or nothing has come for longer than
    the nodes may take to elect a leader and to send it again."""
    while sum(len(set(of)) for of in ward.scored().values()) < sent or (
        _ids(ward, "cleared") < _ids(ward, "raised")
    ):
        if time.monotonic() - ward.seen[-1][0] > LEADERLESS + ACK_WAIT:
            return
        time.sleep(0.5)  # each look counts all that came
    ward.catch_up()


def _count(ward: Ward, outcome: Outcome) -> None:
    for numbers in ward.scored().values():
        highest, seen = -1, set[int]()
        for number in numbers:
            outcome.late += number not in seen and number < highest
            seen.add(number)
            highest = max(highest, number)
        outcome.repeated += len(numbers) - len(seen)
        outcome.lost -= len(seen)
    outcome.lost += outcome.sent
    events: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for alert in ward.alerts():
        if alert["kind"] == "anomaly":
            events[alert["device"]][alert["event"]].add(alert["id"])
        else:
            outcome.other += 1
    once = [
        {event: len(ids) for event, ids in of.items()}
        == {"raised": 1, "escalated": 1, "cleared": 1}
        for of in events.values()
    ]
    outcome.alarms = sum(once)
    last: dict[str, tuple[int, int]] = {}
    for device, state in ward.on("alarm"):
        if state is not None:
            order = state["handovers"], state["seq"] or 0
            outcome.back += order < last.get(device, order)
            last[device] = order


def _longest_gap(ward: Ward, start: float, end: float) -> float:
    arrivals: dict[str, list[float]] = defaultdict(list)
    for at, topic, _, _ in list(ward.seen):
        if topic.endswith("/scores"):
            arrivals[topic].append(at)
    return max(
        (
            after - before
            for of in arrivals.values()
            for before, after in pairwise(of)
            if start - PERIOD <= before < end - PERIOD
        ),
        default=0.0,
    )


def main() -> None:
    """Run all faults and print the figures."""
    hearts = Hearts(datasets.ecg())
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), hearts)
    counts = Table("sent", "lost", "repeated", "out of order", "alarms", "others", "went back")
    counts.add_row(
        *map(str, (outcome.sent, outcome.lost, outcome.repeated, outcome.late)),
        f"{outcome.alarms}/{DEVICES}",
        *map(str, (outcome.other, outcome.back)),
    )
    unwatched = Table("fault", "seconds unwatched")
    for fault, seconds in outcome.unwatched.items():
        unwatched.add_row(fault, f"{seconds:.1f}")
    console = Console()
    console.print(counts)
    console.print(unwatched)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        raise SystemExit(f"error: {failure}") from None
