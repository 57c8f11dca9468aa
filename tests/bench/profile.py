"""Where the daemon's time goes, station by station, with a real broker.

`make profile` prints it. The daemon runs in this process, flooded by a publisher in another one;
a clock of the processor's time stands at each station, so what else the machine does counts little.

    python -m tests.bench.profile [RATE]...

With rates, in beats a second, it shows what a beat costs that comes alone, as most do in a ward.
"""

import functools
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from monitor.batch import datasets
from monitor.daemon import pipeline
from monitor.daemon.loop import Daemon
from monitor.detector.per_device import Detectors
from monitor.ecg import codec, quality
from monitor.ecg.beat import Floats
from monitor.errors import Failure
from monitor.metrics import Metrics
from monitor.settings import Settings
from tests.bench.streaming import BeatPublisher, stream
from tests.harness.brokers import Mosquitto
from tests.harness.devices import Hearts
from tests.harness.faults import OPEN

BEATS = 120_000
"""Published for each column, after a tenth as many that warm up."""

SECONDS = 5.0
"""For which beats are published at a rate."""

STATIONS = {
    "receive": "wait, read, take PUBLISH packets apart",
    "decode": "find the device; samples from the payload",
    "score": "run the graph",
    "judge": "signal quality, verdicts",
    "decide": "keys, rhythm, alarms",
    "publish": "alerts and retained alarms",
    "count": "metrics, history, trends, live page",
    "acknowledge": "PUBACK packets",
}


ENCODERS: dict[str, Callable[[Floats], bytes]] = {
    "float32": codec.encode_float32,
    "JSON": lambda beats: codec.encode_json(beats, []),
}


class _Nested(threading.local):
    """The stations that a thread is in: the seconds of each that another has counted."""

    def __init__(self) -> None:
        self.seconds = [0.0]


class Stopwatch:
    """Adds up processor time by station; what is within another station counts once."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._nested = _Nested()
        self._untimed: list[tuple[Any, str, Callable[..., Any]]] = []

    def around(self, owner: Any, name: str, station: str) -> None:
        """Time each call of `owner.name`."""
        work: Callable[..., Any] = getattr(owner, name)
        self._untimed.append((owner, name, work))

        @functools.wraps(work)
        def timed(*args: Any, **kwargs: Any) -> Any:
            nested = self._nested.seconds
            nested.append(0.0)
            begun = time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                spent = time.thread_time() - begun
                self.seconds[station] += spent - nested.pop()
                nested[-1] += spent

        setattr(owner, name, timed)

    def stop(self) -> None:
        """Time nothing any more."""
        for owner, name, work in self._untimed:
            setattr(owner, name, work)


def _publish(port: int, packets: list[bytes], rate: float) -> None:
    publisher = BeatPublisher(port)
    if rate == np.inf:
        publisher.send(packets, 1)
        return
    begun = time.monotonic()
    for number, packet in enumerate(packets):
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        publisher.send([packet], 1)


def profile(
    folder: Path, packets: list[bytes], beats: int, rate: float = np.inf
) -> dict[str, float]:
    """Return microseconds of the processor a beat, by station.

    Each packet has `beats` of them, and `rate` packets are published a second.
    """
    with Mosquitto(folder, OPEN) as broker:
        settings = Settings.model_validate(
            {
                "mqtt": {"broker": broker.url},
                "alarm": {"silent_after": 0},
                "history": {"file": folder / "history.db"},
            }
        )
        metrics = Metrics(CollectorRegistry())
        daemon, watch = Daemon(settings, Detectors(settings.model), metrics), Stopwatch()
        try:
            return _timed(daemon, watch, broker.port, packets, beats, rate)
        finally:
            watch.stop()
            daemon.shutdown()


def _timed(
    daemon: Daemon, watch: Stopwatch, port: int, packets: list[bytes], beats: int, rate: float
) -> dict[str, float]:
    watch.around(daemon, "turn", "the rest")
    for station in ("receive", "publish", "acknowledge"):
        watch.around(daemon, f"_{station}", station)
    watch.around(daemon, "_decide", "decide")
    watch.around(daemon._pipeline, "_decode", "decode")
    watch.around(daemon.detectors, "score", "score")
    watch.around(quality, "assess", "judge")
    watch.around(pipeline, "_verdicts", "judge")
    watch.around(daemon._counted, "count", "count")
    watch.around(daemon._kept, "keep", "count")
    watch.around(daemon._trends, "count", "count")
    watch.around(daemon._shown, "update", "count")
    received = daemon.metrics.received._value.get

    def run(some: list[bytes]) -> None:
        target = received() + beats * len(some)
        publisher = multiprocessing.Process(target=_publish, args=(port, some, rate))
        publisher.start()
        while received() < target or publisher.is_alive():
            daemon.turn()
        publisher.join()

    while not daemon.consumer.connected or not daemon.recovery.begun:
        daemon.turn()
    run(packets[: len(packets) // 10])
    watch.seconds.clear()
    before = time.process_time()
    run(packets)
    number = beats * len(packets)
    spent = {name: watch.seconds[name] / number * 1e6 for name in [*STATIONS, "the rest"]}
    own = time.process_time() - before
    return spent | {"all of it, with other threads": own / number * 1e6}


def measure(folder: Path, hearts: Hearts) -> Table:
    """Return the table: one and 32 beats a message, as float32 and as JSON."""
    columns: dict[str, dict[str, float]] = {}
    for each in (1, 32):
        for form, encode in ENCODERS.items():
            packets = stream(hearts, BEATS // each, 100, each, 1, encode=encode)
            own = folder / f"{each}-{form}"
            own.mkdir()
            columns[f"{each}, {form}"] = profile(own, packets, each)
    return _table("Microseconds of the processor a beat, by beats a message", columns)


def measure_alone(folder: Path, hearts: Hearts, rates: list[float]) -> Table:
    """Return the table: one float32 beat a message, at so many a second."""
    columns: dict[str, dict[str, float]] = {}
    for rate in rates:
        own = folder / f"{rate:g}"
        own.mkdir()
        packets = stream(hearts, round(SECONDS * rate), 100, 1, 1)
        columns[f"{rate:,g}/s"] = profile(own, packets, 1, rate)
    return _table("Microseconds of the processor a beat, by beats a second", columns)


def _table(title: str, columns: dict[str, dict[str, float]]) -> Table:
    table = Table("", *columns, "what it is", title=f"{title} (QoS 1, MQTT 5)")
    for row in next(iter(columns.values())):
        figures = (f"{column[row]:.2f}" for column in columns.values())
        table.add_row(row, *figures, STATIONS.get(row, ""))
    return table


def main() -> None:
    """Print the table."""
    rates = [float(word) for word in sys.argv[1:]]
    hearts = Hearts(datasets.ecg())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = measure_alone(folder, hearts, rates) if rates else measure(folder, hearts)
        Console(width=120).print(table)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        raise SystemExit(f"error: {failure}") from None
