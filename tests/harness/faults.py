"""What becomes of the beats when something breaks, with a real broker and real signals.

Beats come ready cut, or are cut from raw samples by a daemon that breaks, too.

The docstring of each scenario is a promise to the user, and its figures say how it went. `make
faults` prints them; `tests/daemon/test_faults.py` tests the promises.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console
from rich.table import Table

from monitor.batch import datasets
from monitor.ecg import chunks
from monitor.ecg.chunks import Chunk
from monitor.ecg.rpeaks import Signal
from monitor.ecg.segmenter import Segmenter
from monitor.ecg.streams import SILENT_AFTER
from monitor.errors import Failure
from monitor.mqtt import client
from tests.harness.brokers import Broker, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Sent, Ward, as_json, in_turn
from tests.harness.signals import heart
from tests.harness.waiting import WITHIN, wait_until

DEVICES = 60
EPISODE = (20, 8, 32)
"""Normal, anomalous and again normal beats of each device: one alarm, raised and cleared."""

RATE = 1000
"""Messages a second, one beat each."""

RAW_DEVICES, RAW_SECONDS, RAW_RATE = 5, 60, 250
"""Devices that send raw samples: how many, for how long, and Hz."""

RAW_SPEED = 4
"""Times real time at which they send: segment does ten times as much on one core."""

SETTINGS = {"OUTPUT__SCORES": "true", "ALARM__SILENT_AFTER": "0"}
ALERTS = "ecg_monitor_alerts_total"
SCORED = "ecg_monitor_beats_scored_total"
UNDER_WAY = 300
"""Scored beats after which a daemon is in mid-stream: a twelfth of all."""

QUIET = 20.0
"""Seconds without a message after which no more is waited for: more than a busy machine stands
still."""

LONGEST = 120.0
"""Seconds after which no more is waited for, even while messages come."""

PERSISTENT = "persistence true\npersistence_location {folder}/\nautosave_interval 1\n"
OPEN = "allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n"


@dataclass
class Outcome:
    """What became of the beats of one scenario.

    Attributes:
        sent: beats that the broker took; of raw samples, those that an uninterrupted run cuts.
        lost: beats that were never scored, or never cut.
        repeated: beats that were scored again; of raw samples without a monitor, those that were
            published again and differed.
        raised: devices with exactly one id among their `raised` alerts, of `devices`; None where
            there is no monitor.
        recovered: seconds until the daemon was healthy again; None where it always was.
        devices: how many there were.
        again: beats cut from raw samples that were published again, the same to the last bit, by
            which the monitor knows them.
    """

    sent: int = 0
    lost: int = 0
    repeated: int = 0
    raised: int | None = 0
    recovered: float | None = None
    devices: int = DEVICES
    again: int = 0


def streams(hearts: Hearts) -> list[Sent]:
    """Return the beats of all devices in turn; each has one episode."""
    return in_turn([as_json(f"bed-{i}", hearts.episode(*EPISODE)) for i in range(DEVICES)])


def judge(ward: Ward, sent: int, pause: float = QUIET, devices: int = DEVICES) -> Outcome:
    """Wait until every beat was scored or nothing more comes, and count what was published.

    `pause` is how many seconds without anything new are the end; `devices` are those that raise an
    alarm.
    """
    begun = time.monotonic()

    def quiet() -> bool:
        last = ward.seen[-1][0] if ward.seen else 0.0
        return time.monotonic() - max(begun, last) > pause

    _wait(lambda: _distinct(ward) >= sent or quiet(), LONGEST)
    _wait(lambda: raised_once(ward) == devices or quiet(), LONGEST)
    numbers = ward.scored()
    distinct = sum(len(set(of)) for of in numbers.values())
    total = sum(len(of) for of in numbers.values())
    return Outcome(sent, sent - distinct, total - distinct, raised_once(ward), devices=devices)


def _distinct(ward: Ward) -> int:
    return sum(len(set(of)) for of in ward.scored().values())


def _wait(ready: Callable[[], bool], within: float) -> None:
    """Wait until `ready`, but no longer than `within`: what is missing then is a figure."""
    deadline = time.monotonic() + within
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.1)  # each look counts all that came


def raised_once(ward: Ward) -> int:
    """Return how many devices raised their alarm under exactly one id."""
    ids: dict[str, set[str]] = {}
    for alert in ward.alerts():
        if alert["event"] == "raised" and alert["kind"] == "anomaly":
            ids.setdefault(alert["device"], set()).add(alert["id"])
    return sum(len(of) == 1 for of in ids.values())


def judge_by_metrics(daemon: RunningDaemon, sent: int) -> Outcome:
    """Count by the daemon's metrics, where the broker was away and may have lost scores.

    A message that comes again over a new connection is recognised while it is in hand; one whose
    acknowledgement the broker never got is scored again. So `lost` is a lower bound and `repeated`
    an upper one.
    """
    _wait(lambda: daemon.value(SCORED) >= sent, QUIET)
    _wait(lambda: _raised(daemon) == DEVICES, QUIET)
    taken = int(daemon.value(SCORED))
    repeated = int(daemon.value("ecg_monitor_messages_redelivered_total"))
    return Outcome(sent, max(0, sent - taken), repeated, _raised(daemon))


def _raised(daemon: RunningDaemon) -> int:
    return sum(
        int(daemon.value(f'{ALERTS}{{event="raised",kind="anomaly",priority="{priority}"}}'))
        for priority in ("medium", "high")
    )


def until_healthy(daemon: RunningDaemon) -> float:
    """Wait until the daemon is healthy and return the seconds that it took."""
    return wait_until(daemon.healthy, said=daemon.log.read_text)


def killed(folder: Path, hearts: Hearts) -> Outcome:
    """A daemon that is killed three times in mid-stream loses no beat and no alarm."""
    with Mosquitto(folder, OPEN) as broker:
        return kill_thrice(folder, broker, hearts)


def kill_thrice(folder: Path, broker: Broker, hearts: Hearts, pause: float = QUIET) -> Outcome:
    """Kill a daemon three times in mid-stream; `pause` as `judge` has it."""
    own = {"MQTT__PROTOCOL": broker.protocol}
    with Ward(broker.port, protocol=broker.protocol) as ward:
        with RunningDaemon(folder, broker.url, **SETTINGS, **own) as daemon:
            sender = _Sender(broker, streams(hearts))
            recovered = 0.0
            for _ in range(3):
                _wait(lambda: daemon.value(SCORED) >= UNDER_WAY, WITHIN)
                os.kill(daemon.process.pid, signal.SIGKILL)
                daemon.process.wait()
                daemon.start()
                recovered = max(recovered, until_healthy(daemon))
            outcome = judge(ward, sender.finish(), pause)
    outcome.recovered = recovered
    return outcome


def restarted(folder: Path, hearts: Hearts) -> Outcome:
    """A daemon that is stopped and started again goes on where it stood."""
    with Mosquitto(folder, OPEN) as broker, Ward(broker.port) as ward:
        with RunningDaemon(folder, broker.url, **SETTINGS) as daemon:
            sender = _Sender(broker, streams(hearts))
            daemon.wait_until(SCORED, UNDER_WAY)
            assert daemon.stop() == 0
            time.sleep(1)  # the devices go on
            daemon.start()
            recovered = until_healthy(daemon)
            outcome = judge(ward, sender.finish())
    outcome.recovered = recovered
    return outcome


def stalled(folder: Path, hearts: Hearts) -> Outcome:
    """A daemon that stands still for five seconds catches up; the broker keeps what comes."""
    with Mosquitto(folder, OPEN) as broker, Ward(broker.port) as ward:
        with RunningDaemon(folder, broker.url, **SETTINGS) as daemon:
            sender = _Sender(broker, streams(hearts))
            daemon.wait_until(SCORED, UNDER_WAY)
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(5)  # the devices go on
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
    """Take the broker away between two halves of the beats, the first still under way."""
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
            wait_until(lambda: not daemon.healthy())
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


def raw_killed(folder: Path, _hearts: Hearts) -> Outcome:
    """Raw samples: segment is killed three times and cuts every beat."""
    with Mosquitto(folder, OPEN) as broker, _CutBeats(broker.port) as beats:
        with RunningDaemon(folder, broker.url, {}, command="segment") as segment:
            sender = _RawSender(broker, raw_streams())
            recovered = 0.0
            for _ in range(3):
                time.sleep(1.5)
                recovered = max(recovered, _kill(segment))
            sender.finish()
            return beats.judge([raw_signals()], recovered)


def raw_broker_restarted(folder: Path, _hearts: Hearts) -> Outcome:
    """Raw samples: a broker that restarts with its store costs no beat."""
    conf = OPEN + PERSISTENT.format(folder=folder)
    chunks = raw_streams()
    half = len(chunks) // 2
    with Mosquitto(folder, conf) as broker, _CutBeats(broker.port) as beats:
        with RunningDaemon(folder, broker.url, {}, command="segment") as segment:
            _RawSender(broker, chunks[:half]).finish()
            broker.stop()
            time.sleep(1)
            broker.start()
            recovered = until_healthy(segment)
            _RawSender(broker, chunks[half:]).finish()
            return beats.judge([raw_signals()], recovered)


def raw_rebooted(folder: Path, _hearts: Hearts) -> Outcome:
    """Raw samples: a device that restarts, and counts from 0 again, is heard at once."""
    with Mosquitto(folder, OPEN) as broker, _CutBeats(broker.port) as beats:
        with RunningDaemon(folder, broker.url, {}, command="segment") as segment:
            before, after = raw_signals(), raw_signals(seed=100)
            _RawSender(broker, raw_streams()).finish()
            _RawSender(broker, raw_streams(seed=100)).finish()
            outcome = beats.judge([before, after])
            assert segment.value("ecg_monitor_streams_broken_total") == RAW_DEVICES
    return outcome


def chain_segment_killed(folder: Path, _hearts: Hearts) -> Outcome:
    """From raw samples to the alert: segment is killed, and no beat is lost.

    A beat that it published in the instant before, and had not written down as published, comes
    again and is scored again; each alarm is raised once for all that.
    """
    with Mosquitto(folder, OPEN) as broker:
        return chain(folder, broker, "segment")


def chain_monitor_killed(folder: Path, _hearts: Hearts) -> Outcome:
    """From raw samples to the alert: the monitor is killed, and no beat is lost."""
    with Mosquitto(folder, OPEN) as broker:
        return chain(folder, broker, "run")


def chain(
    folder: Path, broker: Broker, victim: str, pause: float = SILENT_AFTER + QUIET
) -> Outcome:
    """Both daemons, one of which is killed half-way; judged by the numbers of the scores.

    `pause` as `judge` has it: the last beats come with the stream's end.
    """
    own = {"MQTT__PROTOCOL": broker.protocol}
    with Ward(broker.port, protocol=broker.protocol) as ward:
        with (
            RunningDaemon(folder, broker.url, **SETTINGS, **own) as monitor,
            RunningDaemon(folder, broker.url, {}, command="segment", **own) as segment,
        ):
            sender = _RawSender(broker, raw_streams())
            time.sleep(RAW_SECONDS / RAW_SPEED / 2)
            recovered = _kill(segment if victim == "segment" else monitor)
            sender.finish()
            sent = sum(len(cut(signal)) for signal in raw_signals().values())
            outcome = judge(ward, sent, pause, RAW_DEVICES)
    outcome.recovered = recovered
    return outcome


def _kill(daemon: RunningDaemon) -> float:
    """Kill a daemon, start it again, and return the seconds until it is well."""
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait()
    daemon.start()
    return until_healthy(daemon)


def raw_signals(seed: int = 0) -> dict[str, Signal]:
    """Return the signal of each device that sends raw samples."""
    return {
        f"raw-{i}": heart(RAW_SECONDS, RAW_RATE, 60 + 10 * i, seed + i)[0]
        for i in range(RAW_DEVICES)
    }


def raw_streams(seed: int = 0) -> list[Sent]:
    """Return the chunks of all devices in turn, one a second, numbered from 0."""
    streams = [
        [
            Sent(device, chunks.encode_json(Chunk({"": signal[at : at + RAW_RATE]}, RAW_RATE, at)))
            for at in range(0, len(signal), RAW_RATE)
        ]
        for device, signal in raw_signals(seed).items()
    ]
    return in_turn(streams)


def cut(signal: Signal) -> list[int]:
    """Return the numbers of the beats that an uninterrupted run cuts from a signal, to its end."""
    segmenter = Segmenter(RAW_RATE)
    return [beat.seq for beat in segmenter.feed(signal) + segmenter.finish()]


class _CutBeats:
    """Hears the beats that segment publishes; those of a time without us are kept for us."""

    def __init__(self, port: int) -> None:
        self._heard: list[tuple[str, int, str]] = []  # device, number and samples
        subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, "beats", clean_session=False)
        self._client.on_message = self._take
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_connect = lambda mqtt, *_: mqtt.subscribe("ecg/+/beats", 1)
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(WITHIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        client.leave(self._client)

    def _take(self, _client: object, _data: object, message: MQTTMessage) -> None:
        content = msgspec.json.decode(message.payload)
        first = content.get("seq", 0)  # a message may be of the rhythm alone
        numbers = content.get("seqs", range(first, first + len(content["beats"])))
        device = message.topic.split("/")[1]
        for number, beat in zip(numbers, content["beats"], strict=True):
            self._heard.append((device, number, repr(beat)))

    def judge(self, runs: list[dict[str, Signal]], recovered: float | None = None) -> Outcome:
        """Wait until nothing more comes, and count; each run numbers its beats from 0 again."""
        expected = Counter(
            (device, number)
            for signals in runs
            for device, signal in signals.items()
            for number in cut(signal)
        )
        before, since = -1, time.monotonic()
        pause = SILENT_AFTER + QUIET  # the last come with the stream's end
        while time.monotonic() - since < pause:
            if len(self._heard) != before:
                before, since = len(self._heard), time.monotonic()
                different = set(self._heard)
                found = Counter((device, number) for device, number, _ in different)
                if found >= expected:  # and what comes again would come as late
                    pause = SILENT_AFTER + 4
            time.sleep(0.1)
        return Outcome(
            sent=expected.total(),
            lost=(expected - found).total(),
            repeated=(found - expected).total(),
            raised=None,
            recovered=recovered,
            devices=RAW_DEVICES,
            again=len(self._heard) - len(different),
        )


class _RawSender:
    """Sends chunks at `RAW_SPEED` from a thread of its own."""

    def __init__(self, broker: Broker, messages: list[Sent]) -> None:
        def send() -> None:
            begun = time.monotonic()
            with Ward(broker.port, "raw-devices", False, protocol=broker.protocol) as devices:
                for number, message in enumerate(messages):
                    due = begun + number / (RAW_DEVICES * RAW_SPEED)
                    time.sleep(max(0.0, due - time.monotonic()))
                    devices.publish(f"ecg/{message.device}/samples", message.payload)
                devices.flush()

        self._thread = threading.Thread(target=send)
        self._thread.start()

    def finish(self) -> None:
        """Wait until all are sent."""
        self._thread.join()


class _Sender:
    """Sends beats at `RATE` from a thread of its own."""

    def __init__(self, broker: Broker, messages: list[Sent]) -> None:
        self._sent = 0

        def send() -> None:
            with Ward(broker.port, "devices", False, protocol=broker.protocol) as devices:
                self._sent = devices.send(messages, RATE)

        self._thread = threading.Thread(target=send)
        self._thread.start()

    def finish(self) -> int:
        """Wait until all are sent, and return how many they were."""
        self._thread.join()
        return self._sent


Scenarios = dict[str, Callable[[Path, Hearts], Outcome]]

WITH_BEATS: Scenarios = {
    "daemon killed three times": killed,
    "daemon stopped and started": restarted,
    "daemon stands still for 5 s": stalled,
    "broker restarts, with its store": broker_restarted,
    "broker restarts without a store": broker_forgets,
    "broker away for 15 s": broker_away,
    "broker killed (store every second)": broker_killed,
    "mosquitto as it comes, daemon away": overflowed,
}

WITH_RAW_SAMPLES: Scenarios = {
    "segment killed three times": raw_killed,
    "broker restarts, with its store": raw_broker_restarted,
    "devices restart and count from 0": raw_rebooted,
    "segment killed, the monitor runs": chain_segment_killed,
    "monitor killed, segment runs": chain_monitor_killed,
}


def main() -> None:
    """Run every scenario, or those that are named, and print what became of the beats."""
    hearts = Hearts(datasets.ecg())
    console = Console(width=100)
    for scenarios in (WITH_BEATS, WITH_RAW_SAMPLES):
        asked = {
            what: scenario
            for what, scenario in scenarios.items()
            if scenario.__name__ in sys.argv[1:] or not sys.argv[1:]
        }
        if asked:
            console.print(table(asked, hearts))


def table(scenarios: Scenarios, hearts: Hearts) -> Table:
    """Run some scenarios, and return their figures as a table."""
    figures = Table("what breaks", box=None, pad_edge=False)
    for column in ("sent", "lost", "repeated", "alarms", "well again"):
        figures.add_column(column, justify="right")
    for what, scenario in scenarios.items():
        with tempfile.TemporaryDirectory() as folder:
            outcome = scenario(Path(folder), hearts)
        print(f"{what}: {outcome}", file=sys.stderr, flush=True)
        alarms = "" if outcome.raised is None else f"{outcome.raised}/{outcome.devices}"
        well = "" if outcome.recovered is None else f"{outcome.recovered:.1f} s"
        row = (outcome.sent, outcome.lost, outcome.repeated, alarms, well)
        figures.add_row(what, *map(str, row))
    return figures


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        raise SystemExit(f"error: {failure}") from None
