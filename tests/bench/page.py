"""What an open page costs the loop: throughput with and without one, in turns, in the same run.

`python -m tests.bench.page` prints it. The page is asked for as a browser asks for it, three times
a second, and looks at a device whose beats come.
"""

import os
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

from monitor import datasets
from monitor.live import ATTENTION, EYES
from monitor.program import Failure
from tests.bench.streaming import Publisher, daemon_rate, running, stream
from tests.brokers import Mosquitto
from tests.daemons import RunningDaemon
from tests.faults import OPEN
from tests.wards import Hearts

PAGES = (0, 1, EYES)
TURNS = 4
MESSAGES = 60_000
DEVICES = 100
RATE = 5000
"""Messages a second, one beat each, at which the processor's time is measured."""

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
    time.sleep(ATTENTION if pages else 0.0)  # until the loop knows that nobody looks any more


def busy(daemon: RunningDaemon) -> NDArray[np.float64]:
    """Seconds of the processor that the loop's thread, and all threads, have had: float64 [2]."""
    process = Path(f"/proc/{daemon.process.pid}")
    spent = []
    for stat in (process / "task" / str(daemon.process.pid) / "stat", process / "stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        spent.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    return np.array(spent)


def shares(daemon: RunningDaemon, port: int, packets: list[bytes]) -> NDArray[np.float64]:
    """The shares of a processor, in percent, that both need at `RATE`: float64 [2]."""
    publisher = Publisher(port)
    begun, before = time.perf_counter(), busy(daemon)
    for i in range(0, RATE * SECONDS, 50):
        time.sleep(max(0.0, begun + i / RATE - time.perf_counter()))
        publisher.send(packets[i : i + 50], 1)
    return 100 * (busy(daemon) - before) / (time.perf_counter() - begun)


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
                    rates[pages].append(daemon_rate(daemon, broker.port, packets, 1, MESSAGES))
                    needs[pages].append(shares(daemon, broker.port, packets))
    for pages in PAGES:
        ratios = [rate / none for rate, none in zip(rates[pages], rates[0], strict=True)]
        loop, whole = np.array(needs[pages]).T
        table.add_row(
            str(pages), _spread(ratios, ".2f"), _spread(loop, ".1f"), _spread(whole, ".1f")
        )
    return table


def _spread(values: Sequence[float] | NDArray[np.float64], how: str) -> str:
    return f"{np.median(values):{how}} ({min(values):{how}} to {max(values):{how}})"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        Console(width=100).print(measure(Path(folder), Hearts(datasets.ecg())))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        raise SystemExit(f"error: {failure}") from None
