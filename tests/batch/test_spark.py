"""Parquet on a Spark cluster: the scores of one machine, to the last bit, and its words."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from monitor.batch import datasets, score_file, spark
from monitor.batch.spark import RowGroups
from monitor.detector.model_file import Detector, shipped
from monitor.errors import Failure, UsageError
from tests.harness.brokers import program

TOP = Path(__file__).parents[2]


@pytest.fixture
def has_spark() -> None:
    """Skip the test without PySpark and Java, or fail it where `CI` is set."""
    program("java")
    if importlib.util.find_spec("pyspark") is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("pyspark is not installed")


def batch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a folder; the workers have folders of their own."""
    return subprocess.run(
        [sys.executable, "-m", "monitor", "batch", "ecg", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=False,
    )


def write(path: Path, beats: NDArray[np.float32], rows: int, **columns: object) -> None:
    """Write beats as lists, with so many rows in a row group."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(beats.ravel()), beats.shape[1])
    pq.write_table(pa.table({"beat": lists} | columns), path, row_group_size=rows)


@pytest.mark.usefixtures("has_spark")
def test_workers_give_the_scores_of_one_machine(ecg: datasets.Beats, tmp_path: Path) -> None:
    folder = tmp_path / "ward"
    folder.mkdir()
    beats, labels = np.tile(ecg.beats, (3, 1)), np.tile(ecg.labels, 3)
    half = len(beats) // 2 + 1  # no multiple of anything
    write(folder / "a.parquet", beats[:half], 901, label=labels[:half])
    named = {"device": [f"bed-{i % 7}" for i in range(len(beats) - half)]}
    numbers = pa.array(range(half, len(beats)), pa.int32())
    write(folder / "b.parquet", beats[half:], 1_000, seq=numbers, label=labels[half:], **named)

    expected = score_file.score(Detector(shipped("ecg")), folder, tmp_path, threads=3)
    out = tmp_path / "out"
    # Two workers of one Java: those of local-cluster[2,1,1024] need three
    ran = batch(tmp_path, "--data", "ward", "--out", "out", "--json", "--spark", "local[2]")
    assert ran.returncode == 0, ran.stderr + (out / "spark.log").read_text()
    assert not ran.stderr
    del expected["roc_auc"]
    assert json.loads(ran.stdout)["figures"] == expected
    assert len(list((out / "scored.parquet").glob("part-*"))) > 4
    scored = pq.read_table(out / "scored.parquet")
    assert scored.equals(pq.read_table(tmp_path / "scored.parquet"))
    assert len(scored) == len(beats)


@pytest.mark.usefixtures("has_spark")
def test_a_bad_beat_is_told_in_the_words_of_one_machine(tmp_path: Path) -> None:
    beats = np.random.default_rng(0).standard_normal((50, 140), np.float32)
    beats[37, 4] = np.nan
    write(tmp_path / "bad.parquet", beats, 20)
    ran = [
        batch(tmp_path, "--data", "bad.parquet", "--out", "out", *options)
        for options in ((), ("--spark", "local[1]"))
    ]
    assert [process.returncode for process in ran] == [1, 1]
    assert {process.stderr for process in ran} == {
        "error: bad.parquet: row 38, column 5: nan is not a finite number\n"
    }


def test_tasks_are_consecutive_row_groups_of_about_one_size() -> None:
    a, b, c = map(Path, "abc")
    assert spark.divide({a: [4, 4, 4], b: [4], c: [1] * 8}, 3) == [
        [RowGroups(a, range(2))],
        [RowGroups(a, range(2, 3)), RowGroups(b, range(1))],
        [RowGroups(c, range(8))],
    ]
    assert spark.divide({a: [0], b: [2 * spark.LARGEST_TASK, 1]}, 1) == [
        [RowGroups(a, range(1)), RowGroups(b, range(1))],
        [RowGroups(b, range(1, 2))],
    ]


@pytest.mark.parametrize("master", ["here", "local[x]", "spark://host", "", "mesos://host:1"])
def test_what_is_no_master_is_refused(tmp_path: Path, master: str) -> None:
    with pytest.raises(UsageError, match="not a master; allowed are local"):
        spark.score(shipped("ecg"), master, tmp_path, tmp_path)


def test_what_spark_needs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet", np.ones((1, 140), np.float32), 1)

    def refused(path: Path = tmp_path, master: str = "local") -> str:
        with pytest.raises(Failure) as failure:
            spark.score(shipped("ecg"), master, path, tmp_path)
        return str(failure.value)

    (tmp_path / "a.csv").touch()
    assert "--spark reads Parquet files alone" in refused(tmp_path / "a.csv")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert refused() == (
        f"--spark needs Java 17 or later: no {tmp_path}/bin/java, where JAVA_HOME says"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").touch(0o755)
    assert "127.0.0.1:1: Connection refused" in refused(master="spark://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    assert refused() == "--spark needs PySpark: pip install 'ecg-monitor[spark]'"
