"""Which of the daemon's promises each broker lets it keep, found out with real brokers.

`make brokers` prints the table that stands in docs/brokers.md, and what that page says is kept and
was not. Names of brokers as arguments restrict it to these.
"""

import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import msgspec
import pytest
from paho.mqtt.client import Client

from monitor.batch import datasets
from monitor.ecg.streams import SILENT_AFTER
from monitor.mqtt import client
from monitor.settings import MqttSettings
from tests.harness import faults, synthetic
from tests.harness.brokers import Aedes, Amqtt, Broker, Mosquitto, Nats, RabbitMQ
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Sent, Ward, as_json, in_turn
from tests.harness.faults import SCORED, SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "brokers.md"

BROKERS: dict[str, Callable[[Path], Broker]] = {
    "mosquitto": lambda folder: Mosquitto(
        folder, faults.OPEN + faults.PERSISTENT.format(folder=folder)
    ),
    "NATS": lambda folder: Nats(folder, ack_wait="30s"),  # as it comes
    "RabbitMQ": RabbitMQ,
    "aedes": Aedes,
    "amqtt": Amqtt,
}

HELD = ("mosquitto", "NATS")
"""The brokers that the tests run on: here a promise that is not kept fails the run. What the others
keep depends on their version and on how busy the machine is; it is printed."""

NOT_HERE = "not here"
"""The cell of a broker that is not installed."""

AT_ONCE = 3
"""Brokers that are tried at once: most of the time each waits."""

DEVICES, BEATS = 10, 30
"""Devices that send while the daemon is away, and beats of each."""

IN_FLIGHT = 200
"""Beats that are under way to a daemon that is killed: more than any of these brokers sends at once
unless it is told to, and fewer than mosquitto's queue of 1,000."""


class Trial:
    """A broker that was just started, and what is tried with it."""

    def __init__(self, broker: Broker, folder: Path, hearts: Hearts) -> None:
        self.broker, self.folder, self.hearts = broker, folder, hearts

    def daemon(self) -> RunningDaemon:
        """Return a daemon for this broker."""
        own = {"MQTT__PROTOCOL": self.broker.protocol}  # some hang up on another
        return RunningDaemon(self.folder, self.broker.url, **SETTINGS, **own)

    def ward(self, name: str = "ward", listen: bool = True) -> Ward:
        """Return a client of this broker that keeps what the daemon publishes."""
        return Ward(self.broker.port, name, listen, protocol=self.broker.protocol)

    def wait(self, ready: Callable[[], object]) -> None:
        """Wait until `ready`, as long as the broker may take; what is missing then is a result."""
        deadline = time.monotonic() + self.broker.patience
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.1)

    def send(self, messages: list[Sent]) -> int:
        """Publish for devices, and return how many messages."""
        with self.ward("devices", listen=False) as devices:
            return devices.send(messages)

    def send_normal(self, devices: int = DEVICES, beats: int = BEATS, first: int = 0) -> int:
        """Publish normal beats of some devices, and return how many."""
        return self.send(
            in_turn([as_json(f"bed-{i}", self.hearts.normal(beats), first) for i in range(devices)])
        )


def protocol(trial: Trial) -> tuple[str, str]:
    """What is spoken, and what the broker announces when it accepts a connection."""
    with trial.daemon() as daemon:
        spoken = str(_said(daemon, "connected")[0]["protocol"])
    return spoken, _limits(trial) if spoken == "5" else "none"


def _limits(trial: Trial) -> str:
    """Return the properties of the CONNACK that answers a client of MQTT 5."""
    limits: dict[str, object] = {}
    answered = threading.Event()

    def accepted(_client: Client, _data: object, _flags: object, _: object, given: object) -> None:
        limits.update(given.json() if hasattr(given, "json") else {})
        answered.set()

    asking = client.make(Client, MqttSettings(), "limits", "5", False)
    asking.on_connect = accepted
    asking.connect("127.0.0.1", trial.broker.port)
    asking.loop_start()
    answered.wait(10)
    client.leave(asking)
    words = {name: re.sub("(?<!^)(?=[A-Z])", " ", name).lower() for name in sorted(limits)}
    return ", ".join(f"{words[name]} {limits[name]}" for name in words) or "none"


def away(trial: Trial) -> str:
    """What is published while the daemon is stopped arrives when it is back."""
    with trial.daemon() as daemon:
        daemon.stop()
        sent = trial.send_normal()
        daemon.start()
        trial.wait(lambda: _value(daemon, SCORED) >= sent)
        return _all_but(sent - _value(daemon, SCORED), sent)


def killed(trial: Trial) -> str:
    """A daemon that is killed three times in mid-stream loses nothing."""
    outcome = faults.kill_thrice(trial.folder, trial.broker, trial.hearts, trial.broker.patience)
    return _judged(outcome)


def standing(trial: Trial) -> tuple[str, str, str]:
    """A daemon is killed while an alarm stands: its last will, the reading back, the alarm."""
    with trial.ward() as ward, trial.daemon() as daemon:
        trial.send(as_json("bed-1", trial.hearts.episode(8, 4, 0)))
        ward.wait(lambda: ward.alerts() and ward.on("alarm"))
        time.sleep(1)  # the history is written behind the alert
        daemon.process.kill()
        daemon.process.wait()
        trial.wait(lambda: "offline" in ward.statuses())
        will = "yes" if "offline" in ward.statuses() else "no"
        daemon.start()
        faults.until_healthy(daemon)
        problems = _said(daemon, "not all retained alarms were read")
        trial.send(as_json("bed-1", trial.hearts.anomalous(3), 12))
        trial.send(as_json("bed-1", trial.hearts.normal(12), 15))
        trial.wait(lambda: "cleared" in _events(ward))
    read = f"no: {problems[0]['from_history']} from the history" if problems else "yes"
    return will, read, "yes" if _events(ward) == ["raised", "cleared"] else f"no: {_events(ward)}"


def broker_restarted(trial: Trial) -> tuple[str, str]:
    """The broker goes and comes back: under a daemon with an alarm, and while none is there."""
    with trial.daemon() as daemon:
        sent = trial.send(as_json("ill", trial.hearts.episode(8, 4, 0)))
        trial.wait(lambda: _value(daemon, SCORED) >= sent)
        trial.broker.stop()
        time.sleep(1)
        trial.broker.start()
        found = f"yes, in {faults.until_healthy(daemon):.0f} s"
        trial.send(as_json("ill", trial.hearts.anomalous(3), 12))
        trial.send(as_json("ill", trial.hearts.normal(12), 15))
        cleared = f'{faults.ALERTS}{{event="cleared",kind="anomaly",priority="medium"}}'
        trial.wait(lambda: _value(daemon, cleared) == 1)
        raised = _value(daemon, cleared.replace("cleared", "raised"))
        if (raised, _value(daemon, cleared)) != (1, 1):
            found = f"no: raised {raised} times, cleared {_value(daemon, cleared)} times"
        daemon.stop()
        sent = trial.send_normal()
        trial.broker.stop()
        trial.broker.start()
        daemon.start()
        trial.wait(lambda: _value(daemon, SCORED) >= sent)
        return found, _all_but(sent - _value(daemon, SCORED), sent)


def redelivered(trial: Trial) -> str:
    """What was under way to a daemon that is killed comes again in the order of its numbers."""
    with trial.ward() as ward, trial.daemon() as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        sent = trial.send_normal(1, IN_FLIGHT)
        time.sleep(1)  # as many of them are under way as the broker sends at once
        daemon.process.kill()
        daemon.process.wait()
        sent += trial.send_normal(1, IN_FLIGHT, first=IN_FLIGHT)
        daemon.start()
        trial.wait(lambda: len(set(ward.scored()["bed-0"])) >= sent)
        numbers = ward.scored()["bed-0"]
    late = sum(now < most for now, most in zip(numbers, accumulate(numbers, max), strict=True))
    lost = sent - len(set(numbers))
    return f"no: {lost} of {sent} lost" if lost else _all_but(late, sent, "late")


def taken_over(trial: Trial) -> str:
    """A second connection with the daemon's client id costs it its own, until that one leaves."""
    with trial.daemon() as daemon:
        before = len(_said(daemon, "disconnected"))  # it may have tried another version of MQTT
        with trial.ward("test", listen=False):  # the client id of the daemon
            trial.wait(lambda: _said(daemon, "disconnected")[before:])
        trial.wait(daemon.healthy)
        sent = trial.send_normal(1)
        trial.wait(lambda: _value(daemon, SCORED) >= sent)
        lost = sent - _value(daemon, SCORED)
        said = _said(daemon, "disconnected")[before:]
    reasons = [str(line["reason"]).partition(";")[0] for line in said]
    if not reasons or lost:
        return f"no: {lost} of {sent} lost, disconnected {len(reasons)} times"
    return f"yes: “{reasons[0]}”"


def chain(trial: Trial) -> str:
    """Raw samples become beats and alarms, although `segment` is killed half-way."""
    pause = max(trial.broker.patience, SILENT_AFTER + faults.QUIET)
    return _judged(faults.chain(trial.folder, trial.broker, "segment", pause))


def _said(daemon: RunningDaemon, event: str) -> list[dict[str, object]]:
    """Return the lines of the daemon's log about an event."""
    lines = (msgspec.json.decode(line) for line in daemon.log.read_bytes().splitlines())
    return [line for line in lines if line["event"] == event]


def _events(ward: Ward) -> list[str]:
    return [alert["event"] for alert in ward.alerts()]


def _value(daemon: RunningDaemon, series: str) -> int:
    """Return the value of a series; 0 while the daemon does not answer."""
    try:
        return int(daemon.value(series))
    except OSError:
        return 0


def _judged(outcome: faults.Outcome) -> str:
    if outcome.raised != outcome.devices and not outcome.lost:
        return f"no: {outcome.raised} of {outcome.devices} alarms"
    return _all_but(outcome.lost, outcome.sent)


def _all_but(missing: int, sent: int, how: str = "lost") -> str:
    return f"no: {missing} of {sent} {how}" if missing else "yes"


RUNS: dict[Callable[[Trial], str | tuple[str, ...]], tuple[str, ...]] = {
    protocol: ("MQTT", "limits announced in CONNACK"),
    away: ("what is published while the daemon is stopped arrives",),
    killed: ("`kill -9` of the daemon loses nothing",),
    redelivered: ("what is delivered again comes in order",),
    standing: (
        "the last will is published",
        "retained alarms are read back at the start",
        "an alarm that stands is not raised again after a restart",
    ),
    broker_restarted: (
        "a restart of the broker costs no alarm",
        "what waits for the daemon outlives a restart of the broker",
    ),
    taken_over: ("a second client with the daemon's id takes its place for a while only",),
    chain: ("from raw samples to the alert, `segment` killed: nothing is lost",),
}
"""What each run finds out: the titles of its rows."""

ROWS = [row for rows in RUNS.values() for row in rows]


def column(make: Callable[[Path], Broker], hearts: Hearts) -> dict[str, str]:
    """Try everything with a broker, each run on a new one; return the cells by row."""
    cells: dict[str, str] = {}
    for run, rows in RUNS.items():
        with tempfile.TemporaryDirectory() as name:
            try:
                with make(Path(name)) as broker:
                    found = run(Trial(broker, Path(name), hearts))
            except pytest.skip.Exception:
                return dict.fromkeys(ROWS, NOT_HERE)
            except (AssertionError, OSError, pytest.fail.Exception) as failure:
                text = str(failure).partition("\n")[0][:100]
                found = (f"no: {text}",) * len(rows)
        cells |= zip(rows, (found,) if isinstance(found, str) else found, strict=True)
    return cells


def table(columns: dict[str, dict[str, str]]) -> list[str]:
    """Return the lines of a table in Markdown, of cells by broker and row."""
    rows = [[row, *(cells[row] for cells in columns.values())] for row in ROWS]
    head = ["", *columns]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def read_table(page: str) -> dict[str, dict[str, str]]:
    """Return the cells of the table on a page, by broker and row."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    head, rows = lines[0], lines[2:]
    return {broker: {row[0]: row[i] for row in rows} for i, broker in enumerate(head, start=1)}


def broken(said: dict[str, dict[str, str]], found: dict[str, dict[str, str]]) -> list[str]:
    """Return a line for each promise that is said to be kept, and was not."""
    return [
        f"{broker}: {row}: {cell}"
        for broker, cells in found.items()
        for row, cell in cells.items()
        if said[broker][row].startswith("yes") and not cell.startswith("yes") and cell != NOT_HERE
    ]


def main() -> None:
    """Print the table, and where the page promises more: `HELD` brokers fail then."""
    with tempfile.TemporaryDirectory() as folder:
        hearts = Hearts(datasets.ecg(synthetic.ecg(Path(folder))))
    named = [broker for broker in BROKERS if broker in (sys.argv[1:] or BROKERS)]
    with ThreadPoolExecutor(AT_ONCE) as workers:
        found = workers.map(lambda broker: column(BROKERS[broker], hearts), named)
        columns = dict(zip(named, found, strict=True))
    print("\n".join(table(columns)))
    failures = broken(read_table(PAGE.read_text()), columns)
    if failures:  # on a busy machine a broker may be late: what fails twice is broken
        print("\n".join(failures), "\nonce more:")
        again = [broker for broker in named if any(each.startswith(broker) for each in failures)]
        columns |= {broker: column(BROKERS[broker], hearts) for broker in again}
        failures = broken(read_table(PAGE.read_text()), columns)
    print("\n".join(failures))
    if any(failure.startswith(HELD) for failure in failures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
