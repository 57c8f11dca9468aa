"""Whole files of beats, scored in batch."""

import itertools
import json
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from sklearn import metrics

from monitor.batch import datasets, score_file
from monitor.commands import batch
from monitor.detector.model_file import Detector, shipped
from monitor.ecg.beat_files import Block
from monitor.errors import Failure


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(shipped("ecg"))


def test_the_figures_are_those_of_scikit_learn(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch.main("ecg", data, None, tmp_path, True)
    figures = json.loads(capsys.readouterr().out)["figures"]
    ecg = datasets.ecg(data)
    table = pa.csv.read_csv(tmp_path / "scored.csv").to_pydict()
    assert list(table) == ["device", "seq", "score", "anomalous"]
    assert set(table["device"]) == {"ecg"}
    assert table["seq"] == list(range(len(ecg.beats)))
    found = np.array(table["anomalous"])
    assert np.array_equal(found, np.array(table["score"], np.float32) > figures["threshold"])
    assert figures["beats"] == len(found)
    assert figures["anomalous"] == found.sum()
    (quiet, false_alarms), (missed, hits) = metrics.confusion_matrix(~ecg.labels, found).tolist()
    assert figures["confusion"] == {
        "found": hits,
        "missed": missed,
        "false_alarms": false_alarms,
        "quiet": quiet,
    }
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(ecg.labels, ~found))
    assert figures["precision"] == pytest.approx(metrics.precision_score(ecg.labels, ~found))
    assert figures["recall"] == pytest.approx(metrics.recall_score(ecg.labels, ~found))
    area = metrics.roc_auc_score(~ecg.labels, table["score"])
    assert figures["roc_auc"] == pytest.approx(area, abs=1e-9)
    for name in ("normal.png", "anomalous.png", "scores.png"):
        assert imread(tmp_path / name)[..., :3].std() > 0.05, f"{name} is blank"


def test_parquet_in_gives_parquet_out(data: Path, tmp_path: Path, detector: Detector) -> None:
    beats = datasets.ecg(data).beats[:500]
    columns = {str(i): beats[:, i] for i in range(140)}
    devices = ["a", "b"] * 250
    pq.write_table(pa.table({"device": devices} | columns), tmp_path / "ward.parquet")
    figures = score_file.score(detector, tmp_path / "ward.parquet", tmp_path)
    assert set(figures) == {"beats", "anomalous", "threshold"}  # it has no labels
    table = pq.read_table(tmp_path / "scored.parquet")
    assert table.schema.types == [pa.string(), pa.int64(), pa.float32(), pa.bool_()]
    assert table["device"].to_pylist() == devices
    assert np.allclose(table["score"].to_numpy(), detector.score(beats).scores, rtol=1e-5)


def test_a_file_of_normal_beats_alone_has_no_area(
    data: Path, tmp_path: Path, detector: Detector
) -> None:
    ecg = datasets.ecg(data)
    normal = np.column_stack([ecg.beats[ecg.labels][:50], np.ones(50)])
    np.savetxt(tmp_path / "rest.csv", normal, delimiter=",")
    figures = score_file.score(detector, tmp_path / "rest.csv", tmp_path)
    assert figures["roc_auc"] is None
    assert figures["detection_rate"] is None
    assert figures["confusion"]["quiet"] + figures["confusion"]["false_alarms"] == 50


def test_a_file_with_a_bad_row_is_named(tmp_path: Path, detector: Detector) -> None:
    (tmp_path / "bad.csv").write_text(",".join(["1"] * 140) + "\n1,2\n")
    with pytest.raises(Failure, match=r"bad\.csv: row 2 has 2 columns, expected 140"):
        score_file.score(detector, tmp_path / "bad.csv", tmp_path)


def test_threads_change_neither_order_nor_a_bit(
    data: Path, tmp_path: Path, detector: Detector
) -> None:
    beats = np.tile(datasets.ecg(data).beats, (12, 1))
    column = pa.FixedSizeListArray.from_arrays(pa.array(beats.ravel()), 140)
    pq.write_table(pa.table({"beat": column}), tmp_path / "many.parquet", row_group_size=10_000)
    written = []
    for threads in (1, 4):
        (out := tmp_path / str(threads)).mkdir()
        score_file.score(detector, tmp_path / "many.parquet", out, threads)
        written.append(pq.read_table(out / "scored.parquet"))
    assert written[0]["seq"].to_pylist() == list(range(len(beats)))
    assert written[0].equals(written[1])


def test_whoever_takes_no_more_ends_the_reading(detector: Detector) -> None:
    read = []

    def blocks() -> Generator[Block]:
        for number in itertools.count():
            read.append(number)
            beats = np.full((8, 140), number, np.float32)
            yield Block(beats, None, ["bed"] * 8, np.arange(8))

    scored = score_file._scored(detector, blocks(), 2)
    assert [next(scored)[0].beats[0, 0] for _ in range(20)] == list(range(20))
    scored.close()  # would wait for ever if a thread still waited for room
    assert len(read) <= 20 + 2 * 2 + 1


def test_ties_count_half() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 5, 1000).astype(np.float32)
    normal = random.random(1000) < 0.7
    area = metrics.roc_auc_score(~normal, scores)
    assert score_file._roc_auc(scores, normal) == pytest.approx(area, abs=1e-12)
