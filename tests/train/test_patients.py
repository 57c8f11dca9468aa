"""The table of patients' own detectors, held against a count by hand on half of a real record."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monitor.ecg import quality, records
from monitor.settings import Settings
from train.cli import app
from train.detectors import patient, score_graph

with warnings.catch_warnings(action="ignore"):
    import wfdb

MINUTES = 12
FITTED = 300  # seconds


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one record, the first minutes of 119: isolated ventricular beats and runs."""
    path = tmp_path_factory.mktemp("records")
    with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
        whole = wfdb.rdrecord(str(data / "mitdb" / "119"), channels=[0])
        marks = wfdb.rdann(str(data / "mitdb" / "119"), "atr")
        length = round(60 * MINUTES * whole.fs)
        wfdb.wrsamp(
            "119",
            fs=whole.fs,
            units=whole.units,
            sig_name=whole.sig_name,
            p_signal=whole.p_signal[:length],
            fmt=["212"],
            write_dir=str(path),
        )
        kept = marks.sample < length
        symbols = [symbol for symbol, keep in zip(marks.symbol, kept, strict=True) if keep]
        wfdb.wrann("119", "atr", marks.sample[kept], symbols, write_dir=str(path))
    return path


def test_the_row_of_a_record_says_what_a_count_by_hand_says(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["evaluate", "--mitdb", str(folder), "--out", str(tmp_path)], catch_exceptions=False
    )
    (row,) = json.loads((tmp_path / "mitdb.json").read_text())
    lines = map(str.split, result.stdout.splitlines())
    told = next(words for words in lines if words[:1] == ["119"])

    ecg = records.read(folder / "119")
    cut = records.beats(ecg)
    beats = np.array([beat.samples for beat in cut])
    at = np.array([beat.seq for beat in cut]) / ecg.rate
    good = quality.assess(beats) == quality.GOOD
    first = records.beats(ecg, 0, FITTED)
    fitted = patient.fit(np.array([beat.samples for beat in first]), 0)
    scores = score_graph.outputs(fitted.fitted.graph, beats)["score"]

    # Peaks: each annotation has one within 100 ms, or has none.
    marked = ecg.positions / ecg.rate
    near = [any(abs(second - peak) <= 0.1 for peak in at) for second in marked]
    assert row["sensitivity"] == pytest.approx(np.mean(near))
    assert told[1] == f"{np.mean(near):.4f}"

    # Classes: that of the nearest annotation within 150 ms.
    classes = []
    for peak in at:
        i = int(np.argmin(abs(marked - peak)))
        classes.append(str(ecg.classes[i]) if abs(marked[i] - peak) <= 0.15 else "-")
    judged = [i for i in range(len(at)) if at[i] >= FITTED]
    ventricular = [scores[i] for i in judged if classes[i] == "V"]
    normal = [scores[i] for i in judged if classes[i] == "N"]
    assert len(ventricular) > 50
    above = np.mean([(v > n) + (v == n) / 2 for v in ventricular for n in normal])
    assert row["auc"] == pytest.approx(above, abs=0.002)
    assert row["found"] == pytest.approx(
        np.mean(np.array(ventricular) > fitted.threshold), abs=0.02
    )
    assert row["flagged"] == pytest.approx(np.mean(np.array(normal) > fitted.threshold), abs=0.005)

    # Alarms, from the daemon's settings.
    policy = Settings().alarm
    window: list[bool] = []
    spans: list[tuple[float, float]] = []
    begin = None
    for i in judged:
        if not good[i]:
            continue
        window = [*window, bool(scores[i] > fitted.threshold)][-policy.window :]
        if begin is None and window[-1] and sum(window) >= policy.raise_at:
            begin = at[i]
        elif begin is not None and sum(window) <= policy.clear_at and len(window) == policy.window:
            spans.append((begin, at[i]))
            begin = None
    if begin is not None:
        spans.append((begin, float("inf")))
    assert spans

    # Episodes: three V among ten annotated beats, raised until ten beats after the third.
    late = [i for i in range(len(marked)) if marked[i] >= FITTED]
    inside = [i for i in late if sum(ecg.classes[j] == "V" for j in late if i - 10 < j <= i) >= 3]
    thirds = [i for i in inside if i - 1 not in inside]
    raised = 0
    for third in thirds:
        last = third
        while last + 1 in inside:
            last += 1
        earliest, due = marked[max(late[0], third - 9)], marked[min(late[-1], third + 10)]
        raised += any(b <= due and e >= earliest for b, e in spans)
    assert len(thirds) > 3
    assert (row["alarms"]["episodes"], row["alarms"]["raised"]) == (len(thirds), raised)
    assert told[6:8] == [str(len(thirds)), str(raised)]
    assert row["alarms"]["hours"] == pytest.approx((60 * MINUTES - FITTED) / 3600, abs=0.001)
