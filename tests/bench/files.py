"""How fast files of beats are scored, beside onnxruntime alone, in the same run.

`python -m tests.bench.files` prints it, and `make bench` after the daemon's tables. The machine's
speed drifts, so all take turns and the ratios are what counts. The files are in memory by then.
`batch ecg` writes its file and draws its pictures; the rows of Spark include its start.
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
from monitor.ecg.beat import BYTES, SAMPLES, Floats
from monitor.errors import Failure
from tests.harness.devices import Hearts

TURNS = 5
BEATS = 250_000
ROW_GROUP = 50_000
FILES = 8
"""Names of one and the same file: two million beats are to be read, and 140 MB stored a layout."""

AT_ONCE = 4096
"""Beats in one run of onnxruntime alone: with fewer its threads wait for each other more often, and
more of them leave the cache."""

CORES = os.cpu_count() or 1
MASTERS = (f"local[{CORES}]", "local-cluster[2,1,1024]")


def layouts(beats: Floats) -> dict[str, tuple[pa.Array, bool]]:
    """Return the column of beats in each layout, by name, and whether it may have nulls."""
    samples = pa.array(beats.ravel())
    number = pa.field("element", pa.float32(), nullable=False)
    packed = [None, pa.py_buffer(beats.astype("<f4").tobytes())]
    return {
        "lists": (pa.FixedSizeListArray.from_arrays(samples, SAMPLES), True),
        "lists without nulls": (
            pa.FixedSizeListArray.from_arrays(samples, type=pa.list_(number, SAMPLES)),
            False,
        ),
        "bytes": (pa.FixedSizeBinaryArray.from_buffers(pa.binary(BYTES), BEATS, packed), True),
    }


def write(folder: Path, hearts: Hearts) -> list[str]:
    """Write the beats, their devices and numbers; return the layouts, whose folders are so called.

    "lists" is what people have whose writer was told nothing else.
    """
    beats = np.concatenate([hearts.normal(BEATS * 9 // 10), hearts.anomalous(BEATS // 10)])
    np.random.default_rng(0).shuffle(beats)
    named = layouts(beats)
    for name, (column, nullable) in named.items():
        table = pa.table({"device": [f"bed-{i % 50}" for i in range(BEATS)], "seq": range(BEATS)})
        field = pa.field("beat", column.type, nullable)
        (folder / name).mkdir()
        first = folder / name / "0.parquet"
        pq.write_table(table.append_column(field, column), first, row_group_size=ROW_GROUP)
        for file in range(1, FILES):
            first.with_name(f"{file}.parquet").hardlink_to(first)
    return list(named)


def alone(hearts: Hearts) -> Callable[[], object]:
    """Return what scores as many beats that are in memory, with onnxruntime's own threads."""
    detector = Detector(shipped("ecg"), CORES)
    beats = hearts.normal(AT_ONCE)

    def score() -> None:
        for _ in range(BEATS * FILES // len(beats)):
            detector.score(beats)

    return score


def read(files: Path) -> None:
    """Read the beats, and do nothing with them."""
    for _ in beat_files.read(files):
        pass


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
    beats, spark_out = folder / "beats", folder / "spark"
    beats.mkdir()
    spark_out.mkdir()
    detector = Detector(shipped("ecg"))
    ways: dict[str, Callable[[], object]] = {"onnxruntime alone": alone(hearts)}
    for layout in write(beats, hearts):
        ways[f"{layout}: read alone"] = partial(read, beats / layout)
        ways[f"{layout}: batch ecg"] = partial(
            score_file.score, detector, beats / layout, folder, CORES
        )
    for master in MASTERS:
        ways[f"lists: --spark '{master}'"] = partial(
            spark.score, shipped("ecg"), master, beats / "lists", spark_out
        )
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
