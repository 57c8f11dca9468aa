"""What becomes of the beats when something breaks: real brokers, real signals.

Each scenario states what the user is promised and gives its figures. `make faults` prints them;
`tests/daemon/test_faults.py` holds them to the promises.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from monitor.batch import datasets
from monitor.errors import Failure
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.wards import Hearts, Sent, Ward, as_json, in_turn

DEVICES = 60
EPISODE = (20, 8, 32)
"""Normal, anomalous, and again normal beats of each device: one alarm, raised and cleared."""

RATE = 1000
"""Messages a second, one beat each."""

SETTINGS = {"OUTPUT__SCORES": "true", "ALARM__SILENT_AFTER": "0"}
ALERTS = "ecg_monitor_alerts_total"
PERSISTENT = "persistence true\npersistence_location {folder}/\nautosave_interval 1\n"
OPEN = "allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n"


@dataclass
class Outcome:
    """What became of the beats of one scenario.

    Attributes:
        sent: beats that the broker took.
        lost: beats that were never scored.
        repeated: beats that were scored again.
        raised: devices with exactly one id among their `raised` alerts, of `DEVICES`.
        recovered: seconds until the daemon was well again; None where it never was unwell.
    """

    sent: int = 0
    lost: int = 0
    repeated: int = 0
    raised: int = 0
    recovered: float | None = None


def streams(hearts: Hearts) -> list[Sent]:
    """The beats of all devices in turn; each has one episode."""
    return in_turn([as_json(f"bed-{i}", hearts.episode(*EPISODE)) for i in range(DEVICES)])


def judge(ward: Ward, sent: int, within: float = 30) -> Outcome:
    """Wait until every beat was scored, or nothing more comes, and count by what was published."""
    deadline = time.monotonic() + within
    before = -1
    while sum(len(set(of)) for of in ward.scored().values()) < sent:
        if time.monotonic() > deadline or len(ward.seen) == before:
            break
        before = len(ward.seen)
        time.sleep(2)
    time.sleep(0.5)  # for the alerts behind the last scores
    numbers = ward.scored()
    distinct = sum(len(set(of)) for of in numbers.values())
    total = sum(len(of) for of in numbers.values())
    return Outcome(sent, sent - distinct, total - distinct, raised_once(ward))


def raised_once(ward: Ward) -> int:
    """How many devices raised their alarm under exactly one id."""
    ids: dict[str, set[str]] = {}
    for alert in ward.alerts():
        if alert["event"] == "raised" and alert["kind"] == "anomaly":
            ids.setdefault(alert["device"], set()).add(alert["id"])
    return sum(len(of) == 1 for of in ids.values())


def judge_by_metrics(daemon: RunningDaemon, sent: int) -> Outcome:
    """The same where the broker was gone, which keeps neither scores nor, without a store, us.

    A message that comes again over a new connection is known again while it is in hand; what was
    acknowledged, but not to the broker's knowledge, is scored again. So `lost` is the least, and
    `repeated` the most that it can have been.
    """
    deadline = time.monotonic() + 10
    while (taken := int(daemon.value("ecg_monitor_beats_scored_total"))) < sent:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    time.sleep(1)
    repeated = int(daemon.value("ecg_monitor_messages_redelivered_total"))
    raised = sum(
        int(daemon.value(f'{ALERTS}{{event="raised",kind="anomaly",priority="{priority}"}}'))
        for priority in ("medium", "high")
    )
    return Outcome(sent, max(0, sent - taken), repeated, raised)


def until_healthy(daemon: RunningDaemon, within: float = 30) -> float:
    """Seconds until the daemon says that it is well."""
    begun = time.monotonic()
    while not daemon.healthy():
        assert time.monotonic() - begun < within, daemon.log.read_text()
        time.sleep(0.02)
    return time.monotonic() - begun


def killed(folder: Path, hearts: Hearts) -> Outcome:
    """A daemon that is killed three times in mid-stream loses no beat and no alarm."""
    with Mosquitto(folder, OPEN) as broker, Ward(broker.port) as ward:
        with RunningDaemon(folder, broker.url, **SETTINGS) as daemon:
            sender = _Sender(broker.port, streams(hearts))
            recovered = 0.0
            for _ in range(3):
                time.sleep(0.7)
                os.kill(daemon.process.pid, signal.SIGKILL)
                daemon.process.wait()
                daemon.start()
                recovered = max(recovered, until_healthy(daemon))
            outcome = judge(ward, sender.finish())
    outcome.recovered = recovered
    return outcome


def restarted(folder: Path, hearts: Hearts) -> Outcome:
    """A daemon that is stopped and started again goes on where it stood."""
    with Mosquitto(folder, OPEN) as broker, Ward(broker.port) as ward:
        with RunningDaemon(folder, broker.url, **SETTINGS) as daemon:
            sender = _Sender(broker.port, streams(hearts))
            time.sleep(1)
            assert daemon.stop() == 0
            time.sleep(1)
            daemon.start()
            recovered = until_healthy(daemon)
            outcome = judge(ward, sender.finish())
    outcome.recovered = recovered
    return outcome


def stalled(folder: Path, hearts: Hearts) -> Outcome:
    """A daemon that stands still for five seconds catches up; the broker keeps what comes."""
    with Mosquitto(folder, OPEN) as broker, Ward(broker.port) as ward:
        with RunningDaemon(folder, broker.url, **SETTINGS) as daemon:
            sender = _Sender(broker.port, streams(hearts))
            time.sleep(0.5)
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(5)
            daemon.process.send_signal(signal.SIGCONT)
            return judge(ward, sender.finish())


def broker_restarted(folder: Path, hearts: Hearts) -> Outcome:
    """A broker that restarts with its store costs no beat."""
    return _broker_away(folder, hearts, OPEN + PERSISTENT.format(folder=folder), Mosquitto.stop, 1)


def broker_forgets(folder: Path, hearts: Hearts) -> Outcome:
    """A broker that restarts without a store costs none of the beats that the daemon had."""
    return _broker_away(folder, hearts, OPEN, Mosquitto.forget, 1)


def broker_killed(folder: Path, hearts: Hearts) -> Outcome:
    """A broker that is killed may lose what it had not stored yet: that cannot be mended here."""
    return _broker_away(folder, hearts, OPEN + PERSISTENT.format(folder=folder), Mosquitto.kill, 1)


def broker_away(folder: Path, hearts: Hearts) -> Outcome:
    """A broker that is away for a while is found again within two seconds of its return."""
    return _broker_away(folder, hearts, OPEN + PERSISTENT.format(folder=folder), Mosquitto.stop, 15)


def _broker_away(
    folder: Path, hearts: Hearts, conf: str, end: Callable[[Mosquitto], None], seconds: float
) -> Outcome:
    """The broker goes between two halves of the beats, with the first half still under way."""
    messages = streams(hearts)
    half = len(messages) // 2
    with Mosquitto(folder, conf) as broker, Ward(broker.port) as ward:
        with RunningDaemon(folder, broker.url, **SETTINGS) as daemon:
            with Ward(broker.port, "first", listen=False) as devices:
                sent = devices.send(messages[:half])
            if end is Mosquitto.forget:
                daemon.wait_until("ecg_monitor_beats_received_total", sent)
            end(broker)
            time.sleep(seconds)
            assert not daemon.healthy()
            broker.start()
            recovered = until_healthy(daemon)
            ward.wait(lambda: ward.connected)
            with Ward(broker.port, "second", listen=False) as devices:
                sent += devices.send(messages[half:])
            outcome = judge_by_metrics(daemon, sent)
    outcome.recovered = recovered
    return outcome


def overflowed(folder: Path, hearts: Hearts) -> Outcome:
    """mosquitto as it comes keeps 1,000 messages for a daemon that is away, and drops the rest."""
    with Mosquitto(folder) as broker, Ward(broker.port) as ward:
        with RunningDaemon(folder, broker.url, **SETTINGS) as daemon:
            daemon.stop()
            with Ward(broker.port, "devices", listen=False) as devices:
                sent = devices.send(streams(hearts))
            daemon.start()
            recovered = until_healthy(daemon)
            outcome = judge(ward, sent)
    outcome.recovered = recovered
    return outcome


class _Sender:
    """Sends beats at `RATE` from a thread of its own."""

    def __init__(self, port: int, messages: list[Sent]) -> None:
        self._sent = 0

        def send() -> None:
            with Ward(port, "devices", listen=False) as devices:
                self._sent = devices.send(messages, RATE)

        self._thread = threading.Thread(target=send)
        self._thread.start()

    def finish(self) -> int:
        """Wait until all are sent; how many they were."""
        self._thread.join()
        return self._sent


SCENARIOS: tuple[Callable[[Path, Hearts], Outcome], ...] = (
    killed,
    restarted,
    stalled,
    broker_restarted,
    broker_forgets,
    broker_away,
    broker_killed,
    overflowed,
)


def main() -> None:
    """Run every scenario and print its figures."""
    hearts = Hearts(datasets.ecg())
    table = Table("promise", "sent", "lost", "repeated", "alarms", "well again")
    for scenario in SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            outcome = scenario(Path(folder), hearts)
        again = "" if outcome.recovered is None else f"{outcome.recovered:.1f} s"
        promise = (scenario.__doc__ or "").strip()
        row = (outcome.sent, outcome.lost, outcome.repeated, f"{outcome.raised}/{DEVICES}", again)
        print(f"{scenario.__name__}: {outcome}", flush=True)
        table.add_row(promise, *map(str, row))
    Console().print(table)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        raise SystemExit(f"error: {failure}") from None
