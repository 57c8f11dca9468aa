"""Score Parquet files of beats on a Spark cluster, exactly as `score_file` does on one machine.

Spark hands row groups to its workers and collects what was scored, both by Arrow (`mapInArrow`).
The workers read the row groups themselves, by `beat_files`: the same blocks, the same scores, the
same words for what is wrong. (Spark's own Parquet reader takes a list apart number by number: on
two cores 64,000 beats a second reached Python, and 2,200,000 by pyarrow on one.)
"""

import os
import re
import shutil
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.batch import score_file
from monitor.detector import model_file
from monitor.detector.model_file import Detector
from monitor.ecg import beat_files
from monitor.ecg.beat import SAMPLES
from monitor.errors import Failure, UsageError

MASTERS: Final = "local[N], local-cluster[WORKERS,CORES,MB], spark://HOST:PORT, yarn or k8s://URL"
"""What `--spark` allows: https://spark.apache.org/docs/latest/submitting-applications.html"""

_MASTER: Final = re.compile(
    r"local(\[(\d+|\*)(,\d+)?\])?|local-cluster\[\d+,\d+,\d+\]|spark://[^,]+:\d+(,[^,]+:\d+)*|yarn"
    r"|k8s://.+"
)

TASKS_PER_CORE: Final = 4
"""So that no core waits long for the slowest one."""

LARGEST_TASK: Final = 1 << 20
"""Beats of a task, where the row groups are no larger: 590 MB to read, some seconds to score."""

REACHED_WITHIN: Final = 5.0
"""Seconds in which a master must accept a connection; Spark itself would try for a minute."""


class RowGroups(NamedTuple):
    """Consecutive row groups of one file."""

    file: Path
    groups: range


class Work(NamedTuple):
    """What every worker is sent, once."""

    model: Path
    """The model file's name; a worker need not have it."""
    content: bytes
    """Its bytes."""
    tasks: list[list[RowGroups]]


def score(model: Path, master: str, path: Path, out: Path) -> tuple[Detector, dict[str, Any]]:
    """Score the beats of `path`; write the folder `scored.parquet`, and Spark's log, to `out`.

    Return the detector, and the figures of `score_file.score` without the area under the curve,
    for which all scores would have to come to one place.

    Args:
        model: file of the detector.
        master: one of `MASTERS`.
        path: a Parquet file, or a folder of them, that all workers can read under this name.
        out: folder to write to, which all workers can write to under this name.

    Raises:
        Failure: PySpark or Java is missing, the master does not answer, or a row is not a beat.
        UsageError: `master` or `path` is none.
    """
    if not _MASTER.fullmatch(master):
        raise UsageError(f"--spark {master!r}: not a master; allowed are {MASTERS}")
    content = model_file.read(model)
    detector = Detector(model, content=content)
    files = beat_files.files(path)
    if files[0].suffix.lower() != ".parquet":
        raise UsageError(f"{path}: --spark reads Parquet files alone")
    # Absolute, because a worker has a folder of its own
    groups = {file.absolute(): beat_files.row_groups(file) for file in files}
    if not any(map(sum, groups.values())):
        raise Failure(f"{path}: contains no beats; expected rows of {SAMPLES} numbers")
    try:
        with _session(master, out / "spark.log") as spark:
            tasks = divide(groups, TASKS_PER_CORE * spark.sparkContext.defaultParallelism)
            work = spark.sparkContext.broadcast(Work(model, content, tasks))
            called, labelled = _run(spark, work, out / "scored.parquet")
    except Failure as failure:  # a worker's names the file in full, unlike that of one machine
        raise Failure(str(failure).replace(str(path.absolute()), str(path))) from failure
    return detector, score_file.counts(called, detector.threshold, labelled)


def divide(groups: dict[Path, list[int]], number: int) -> list[list[RowGroups]]:
    """Divide the row groups of files, given by their rows, into about as many tasks, in order."""
    size = min(LARGEST_TASK, sum(map(sum, groups.values())) / number)
    tasks: list[list[RowGroups]] = [[]]
    held = 0
    for file, rows in groups.items():
        begun = 0
        for group, here in enumerate(rows, 1):
            held += here
            if held >= size or group == len(rows):
                tasks[-1].append(RowGroups(file, range(begun, group)))
                begun = group
            if held >= size:
                tasks.append([])
                held = 0
    return [task for task in tasks if task]


@contextmanager
def _session(master: str, log: Path) -> Iterator[Any]:
    """Start a Spark application, whose log goes to a file; stop it in the end."""
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ModuleNotFoundError:
        raise Failure("--spark needs PySpark: pip install 'ecg-monitor[spark]'") from None
    java = os.environ.get("JAVA_HOME", "") and os.environ["JAVA_HOME"] + "/bin/java"
    if not shutil.which(java or "java"):
        where = f"no {java}, where JAVA_HOME says" if java else "no java on PATH"
        raise Failure(f"--spark needs Java 17 or later: {where}")
    if master.startswith("spark://"):
        _reach(master)
    if master.startswith("local"):  # or else as Spark is set up there
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    settings = {
        "spark.app.name": "ecg-monitor",
        "spark.ui.enabled": "false",  # a page at all addresses, for everybody
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "WARN",
    }
    builder = SparkSession.builder.master(master)
    for name, value in settings.items():
        builder = builder.config(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of pandas, which is not used here
        try:
            with _standard_error_to(log):  # for Java, until it ends
                spark = builder.getOrCreate()
            try:
                yield spark
            finally:
                spark.stop()
        except (PySparkException, Py4JError) as error:
            raise Failure(_reason(str(error), log)) from error


def _reach(master: str) -> None:
    """Refuse a master of which no address answers."""
    problems = []
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACHED_WITHIN).close()
        except OSError as error:
            problems.append(f"{address}: {error.strerror or error}")
        else:
            return
    raise Failure(f"--spark {master}: no master answers: {'; '.join(problems)}")


@contextmanager
def _standard_error_to(file: Path) -> Iterator[None]:
    """Let programs that are started meanwhile write their errors to a file."""
    kept = os.dup(2)
    try:
        with file.open("wb") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _reason(error: str, log: Path) -> str:
    """Return in one line what went wrong: a worker's own, or the one that says it to Spark."""
    if told := re.search(r"^monitor\.errors\.Failure: (.+)$", error, re.MULTILINE):
        return told[1]
    lines = error.strip().splitlines()
    if "Python worker:" in lines[0]:  # its traceback follows, and ends with the reason
        return f"a worker of Spark failed: {lines[-1]} ({log} has more)"
    java = re.search(r"^: [\w.$]+: (.+)$", error, re.MULTILINE)
    return f"Spark failed: {java[1] if java else lines[0]} ({log} has more)"


def _run(spark: Any, work: Any, scored: Path) -> tuple[NDArray[np.int64], bool]:
    """Score and write everything in one pass.

    Return how many beats were [labelled normal, called anomalous], int64 [2, 2], and whether all
    have a label.
    """
    from pyspark.sql import Observation
    from pyspark.sql import functions as sql

    number = len(work.value.tasks)
    rows = spark.range(0, number, 1, number).mapInArrow(
        _worker(work),
        "device string, seq long, score float, anomalous boolean, normal boolean",
    )
    normal = sql.coalesce("normal", sql.lit(True))
    kinds = [(False, False), (False, True), (True, False), (True, True)]
    counted = Observation("beats")
    rows.observe(
        counted,
        sql.count("normal").alias("labelled"),
        *(
            sql.count_if((normal == is_normal) & (sql.col("anomalous") == verdict)).alias(str(i))
            for i, (is_normal, verdict) in enumerate(kinds)
        ),
    ).drop("normal").write.mode("overwrite").parquet(f"file:{scored.absolute()}")
    counts = counted.get
    called = np.array([counts[str(i)] for i in range(4)], np.int64).reshape(2, 2)
    return called, counts["labelled"] == called.sum()


def _worker(work: Any) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return what a worker does with batches of numbers of tasks; `work` is broadcast."""

    def score(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        model, content, tasks = work.value
        detector = _detector(model, content)
        for batch in batches:
            for task in batch.column("id").to_pylist():
                for file, groups in tasks[task]:
                    for block in beat_files.read_row_groups(file, groups):
                        scores = score_file.scores(detector, block.beats)
                        columns = score_file.columns(block, scores, scores > detector.threshold)
                        normal = pa.array(
                            [None] * len(scores) if block.labels is None else block.labels,
                            pa.bool_(),
                        )
                        yield columns.append_column("normal", normal)

    return score


@lru_cache(maxsize=1)
def _detector(model: Path, content: bytes) -> Detector:
    """Open the model once in each worker's process: Spark gives it one task after another."""
    return Detector(model, content=content)
