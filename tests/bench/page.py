"""What an open page costs the loop: throughput with and without one, in turns, in the same run.

`python -m tests.bench.page` prints it. The page is asked for as a browser asks for it, three times
a second, and looks at a device whose beats come.
"""

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from rich.console import Console
from rich.table import Table

from monitor import datasets
from monitor.program import Failure
from tests.bench.streaming import Publisher, daemon_rate, running, stream
from tests.brokers import Mosquitto
from tests.daemons import RunningDaemon
from tests.faults import OPEN
from tests.wards import Hearts

TURNS = 7
MESSAGES = 60_000
DEVICES = 100
RATE = 5000
"""Messages a second, one beat each, at which the processor's time is measured."""

SECONDS = 8
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


def busy(daemon: RunningDaemon) -> float:
    """Seconds of the processor that the daemon has had."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(daemon: RunningDaemon, port: int, packets: list[bytes]) -> float:
    """The share of a processor that the daemon needs at `RATE`."""
    publisher = Publisher(port)
    begun, before = time.perf_counter(), busy(daemon)
    for i in range(0, RATE * SECONDS, 50):
        time.sleep(max(0.0, begun + i / RATE - time.perf_counter()))
        publisher.send(packets[i : i + 50], 1)
    return (busy(daemon) - before) / (time.perf_counter() - begun)


def measure(folder: Path, hearts: Hearts) -> Table:
    """Both figures for no page, for one, and for as many as are shown beats."""
    table = Table("pages", "messages/s", "to none", "lowest", "highest", f"processor at {RATE}/s")
    packets = stream(hearts, MESSAGES, DEVICES, 1, 1)
    rates: dict[int, list[float]] = {0: [], 1: [], 8: []}
    shares: dict[int, list[float]] = {pages: [] for pages in rates}
    with Mosquitto(folder, OPEN) as broker, running(folder, broker.url) as daemon:
        for _ in range(TURNS):
            for pages in rates:
                with looked_at(daemon, pages):
                    rates[pages].append(daemon_rate(daemon, broker.port, packets, 1, MESSAGES))
        for _ in range(TURNS // 2):
            for pages in shares:
                with looked_at(daemon, pages):
                    shares[pages].append(share(daemon, broker.port, packets))
    for pages, of in rates.items():
        ratios = [with_it / without for with_it, without in zip(of, rates[0], strict=True)]
        table.add_row(
            str(pages),
            f"{statistics.median(of):,.0f}",
            *(f"{ratio:.2f}" for ratio in (statistics.median(ratios), min(ratios), max(ratios))),
            f"{100 * statistics.median(shares[pages]):.1f} %",
        )
    return table


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        Console(width=100).print(measure(Path(folder), Hearts(datasets.ecg())))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        raise SystemExit(f"error: {failure}") from None
