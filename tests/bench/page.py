"""What an open page costs the loop: throughput with and without one, in turns, in the same run.

`python -m tests.bench.page` prints it. The page is asked for as a browser asks for it, three times
a second, and looks at a device whose beats come.
"""

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from monitor.alarms.decisions import Alarms, Policy
from monitor.batch import datasets
from monitor.detector.per_device import Detectors
from monitor.ecg.beat import Beats
from monitor.errors import Failure
from monitor.settings import ModelSettings
from monitor.web.live_feed import MAX_WATCHED, REFRESH_INTERVAL, WATCH_TIMEOUT, LiveFeed
from tests.bench.streaming import BeatPublisher, busy, daemon_speed, running, stream
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts
from tests.harness.faults import OPEN

PAGES = (0, 1, MAX_WATCHED)
TURNS = 4
MESSAGES = 60_000
DEVICES = 100
RATE = 5000
"""Messages a second, one beat each, at which the processor's time is measured."""

BATCH = 25
"""Messages that come between two turns at that rate."""

SECONDS = 6
POLL = 0.3
"""Seconds between two questions, as in monitor/page/main.js."""


@contextmanager
def looked_at(daemon: RunningDaemon, pages: int) -> Iterator[None]:
    """So many pages ask, each for a device of its own."""
    over = threading.Event()

    def look(device: int) -> None:
        connection = HTTPConnection(daemon.address)
        while not over.wait(POLL):
            connection.request("GET", f"/api/live?device=bed-{device}")
            connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=look, args=(device,)) for device in range(pages)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()
    time.sleep(WATCH_TIMEOUT if pages else 0.0)  # until the loop knows that nobody looks any more


def shares(daemon: RunningDaemon, port: int, packets: list[bytes]) -> NDArray[np.float64]:
    """The shares of a processor, in percent, that both need at `RATE`: float64 [2]."""
    publisher = BeatPublisher(port)
    begun, before = time.perf_counter(), busy(daemon.process.pid)
    for i in range(0, RATE * SECONDS, 50):
        time.sleep(max(0.0, begun + i / RATE - time.perf_counter()))
        publisher.send(packets[i : i + 50], 1)
    return 100 * (busy(daemon.process.pid) - before) / (time.perf_counter() - begun)


def measure(folder: Path, hearts: Hearts) -> Table:
    """Both figures for no page, for one, and for as many as can look at devices."""
    title = f"What open pages cost ({TURNS} turns: median, lowest to highest)"
    at = f"of a processor at {RATE:,}/s,"
    table = Table("pages", "messages/s, to none", f"{at} the loop", f"{at} all of it", title=title)
    packets = stream(hearts, MESSAGES, DEVICES, 1, 1)
    rates: dict[int, list[float]] = {pages: [] for pages in PAGES}
    needs: dict[int, list[NDArray[np.float64]]] = {pages: [] for pages in PAGES}
    with Mosquitto(folder, OPEN) as broker, running(folder, broker.url) as daemon:
        for _ in range(TURNS):
            for pages in PAGES:
                with looked_at(daemon, pages):
                    rates[pages].append(daemon_speed(daemon, broker.port, packets, 1).rate)
                    needs[pages].append(shares(daemon, broker.port, packets))
    for pages in PAGES:
        ratios = [rate / none for rate, none in zip(rates[pages], rates[0], strict=True)]
        loop, whole = np.array(needs[pages]).T
        table.add_row(
            str(pages), _spread(ratios, ".2f"), _spread(loop, ".1f"), _spread(whole, ".1f")
        )
    return table


def alone(hearts: Hearts) -> float:
    """The share of a second, in percent, that the loop spends on one page at `RATE`, by itself.

    What `measure` finds on a machine that does nothing else; the least of ten runs.
    """
    live, alarms, detectors = LiveFeed([]), Alarms(Policy()), Detectors(ModelSettings())
    names = [f"bed-{device}" for device in range(DEVICES)]
    for name in names:
        alarms.hear(name, 0.0)
    batch = hearts.normal(BATCH)
    outcome = detectors.score(batch, [("bed-0", 0, BATCH)])
    heard = [(names[i % DEVICES], Beats(batch[i].tobytes()), i) for i in range(BATCH)]
    spent = []
    for _ in range(10):
        second = 0.0
        begun = time.monotonic()
        while time.monotonic() < begun + 1:  # in real time, as room for beats comes with it
            threading.Thread(target=live.snapshot, args=("bed-0",)).start()
            for turn in range(RATE // BATCH // 5):
                if turn == 0:
                    time.sleep(REFRESH_INTERVAL)
                before = time.perf_counter()
                live.take_beats(heard, batch, outcome, bytes(BATCH), time.time())
                live.refresh(alarms, detectors, time.monotonic())
                second += time.perf_counter() - before
        spent.append(100 * second / (time.monotonic() - begun))
    return min(spent)


def _spread(values: Sequence[float] | NDArray[np.float64], how: str) -> str:
    return f"{np.median(values):{how}} ({min(values):{how}} to {max(values):{how}})"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        hearts = Hearts(datasets.ecg())
        console = Console(width=100)
        console.print(f"of the loop's time at {RATE:,}/s, one page takes {alone(hearts):.2f} %")
        console.print(measure(Path(folder), hearts))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        raise SystemExit(f"error: {failure}") from None
