"""How fast files of beats are scored, beside onnxruntime alone, in the same run.

`python -m tests.bench.files` prints it, and `make bench` after the daemon's tables. The machine's
speed drifts, so all take turns and the ratios are what counts. The files are in memory by then.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from monitor.batch import datasets, score_file, spark
from monitor.detector.model_file import Detector, shipped
from monitor.ecg import beat_files
from monitor.errors import Failure
from tests.harness.devices import Hearts

TURNS = 5
BEATS = 250_000
ROW_GROUP = 50_000
FILES = 8
"""Names of one and the same file: two million beats are to be read, and 140 MB stored."""

CORES = os.cpu_count() or 1
MASTERS = (f"local[{CORES}]", "local-cluster[2,1,1024]")


def write(folder: Path, hearts: Hearts) -> None:
    """Write the files: a list of numbers for each beat, its device, and its number."""
    beats = np.concatenate([hearts.normal(BEATS * 9 // 10), hearts.anomalous(BEATS // 10)])
    np.random.default_rng(0).shuffle(beats)
    columns = {
        "device": [f"bed-{i % 50}" for i in range(BEATS)],
        "seq": np.arange(BEATS),
        "beat": pa.FixedSizeListArray.from_arrays(pa.array(beats.ravel()), beats.shape[1]),
    }
    first = folder / "0.parquet"
    pq.write_table(pa.table(columns), first, row_group_size=ROW_GROUP)
    for file in range(1, FILES):
        (folder / f"{file}.parquet").hardlink_to(first)


def alone(hearts: Hearts) -> Callable[[], object]:
    """Return what scores as many beats that are in memory, with onnxruntime's own threads."""
    detector = Detector(shipped("ecg"), CORES)
    beats = hearts.normal(beat_files.ROWS)

    def score() -> None:
        for _ in range(BEATS * FILES // len(beats)):
            detector.score(beats)

    return score


class Spent(NamedTuple):
    """Seconds by the clock on the wall, and of the processors in this process."""

    wall: float
    processors: float


def spent_on(work: Callable[[], object]) -> Spent:
    """Return what the work takes."""
    wall, processors = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - processors)


def measure(folder: Path, hearts: Hearts) -> Table:
    """Print beats a second of each way, and their ratio to onnxruntime alone."""
    beats = folder / "beats"
    beats.mkdir()
    write(beats, hearts)
    detector = Detector(shipped("ecg"))
    ways: dict[str, Callable[[], object]] = {
        "onnxruntime alone": alone(hearts),
        "read the files alone": lambda: [0 for _ in beat_files.read(beats)],
        "batch ecg": lambda: score_file.score(detector, beats, folder, CORES),
    }
    for master in MASTERS:
        ways[f"--spark '{master}', start and all"] = partial(
            spark.score, shipped("ecg"), master, beats, folder / "spark"
        )
    (folder / "spark").mkdir()
    spent: dict[str, list[Spent]] = {way: [] for way in ways}
    for _ in range(TURNS):
        for way, work in ways.items():
            spent[way].append(spent_on(work))
    title = f"{BEATS * FILES:,} beats in Parquet, {CORES} cores ({TURNS} turns, median)"
    table = Table("", "beats/s", "ratio", "lowest", "highest", "CPU µs a beat", title=title)
    for way, turns in spent.items():
        pairs = zip(spent["onnxruntime alone"], turns, strict=True)
        ratios = [alone.wall / turn.wall for alone, turn in pairs]
        processors = statistics.median(turn.processors for turn in turns)
        table.add_row(
            way,
            f"{BEATS * FILES / statistics.median(turn.wall for turn in turns):,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
            "" if "spark" in way else f"{processors / (BEATS * FILES) * 1e6:.2f}",
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
