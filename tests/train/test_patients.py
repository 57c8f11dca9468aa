"""The tables of patients' own detectors, held against a count by hand on half of a real record."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monitor.detector import rr_history
from monitor.detector.model_file import VENTRICULAR_ABOVE
from monitor.ecg import quality, records
from monitor.errors import UsageError
from monitor.settings import Settings
from tests.harness.signals import heart, write
from train.cli import app
from train.detectors import patient, score_graph, second_opinion
from train.evaluation import patients, recordings

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
        app, ["evaluate", "--records", str(folder), "--out", str(tmp_path)], catch_exceptions=False
    )
    row = json.loads((tmp_path / "records.json").read_text())["119"]
    lines = map(str.split, result.stdout.splitlines())
    *_, beat_by_beat, told = [words for words in lines if words[:1] == ["119"]]

    ecg = records.read(folder / "119")
    cut = records.beats(ecg)
    beats = np.array([beat.samples for beat in cut])
    at = np.array([beat.seq for beat in cut]) / ecg.rate
    good = quality.assess(beats) == quality.GOOD
    networks = second_opinion.Taught.load().networks
    fitted = patient.fit_record(records.beats(ecg, 0, FITTED), networks, 0)
    rr = rr_history.whole([beat.rr_ms for beat in cut])
    outputs = score_graph.outputs(fitted.fitted.graph, beats, rr)
    scores, likely = outputs["score"], outputs["ventricular"]
    called = scores > fitted.threshold
    called |= likely > VENTRICULAR_ABOVE

    # Peaks: each annotated beat has one within 150 ms, or has none.
    marked = ecg.positions / ecg.rate
    near = [any(abs(beat - peak) <= 0.15 for peak in at) for beat in marked if beat >= FITTED]
    assert row["ec57"]["Q Se"] == pytest.approx(np.mean(near), abs=0.002)

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
    for name, kind, off in (("found", "V", 0.02), ("flagged", "N", 0.005)):
        of = [called[i] for i in judged if classes[i] == kind]
        assert row[name] == pytest.approx(np.mean(of), abs=off)

    # Beat by beat: what is flagged is right if it is annotated as anything but normal.
    flagged = [i for i in judged if good[i] and called[i]]
    abnormal = sum(ecg.classes[i] != "N" for i in range(len(marked)) if marked[i] >= FITTED)
    right = sum(classes[i] not in "N-" for i in flagged)
    precision, recall = right / sum(classes[i] != "-" for i in flagged), right / abnormal
    assert row["beats"]["precision"] == pytest.approx(precision, abs=0.01)
    assert row["beats"]["recall"] == pytest.approx(recall, abs=0.01)
    f1 = 2 * precision * recall / (precision + recall)
    assert float(beat_by_beat[6]) == pytest.approx(f1, abs=0.01)

    # Alarms, from the daemon's settings.
    policy = Settings().alarm
    window: list[tuple[bool, bool]] = []  # anomalous, ventricular
    spans: list[tuple[float, float]] = []
    begin = None
    for i in judged:
        if not good[i]:
            continue
        window = [*window, (bool(called[i]), bool(likely[i] > 0.6))][-policy.window :]
        anomalous, ventricles = zip(*window, strict=True)
        run = ventricles[-1] and sum(ventricles[-10:]) >= 3
        together = anomalous[-1] and sum(anomalous) >= 9 and sum(anomalous[-10:]) >= 5
        if begin is None and (run or together):
            begin = at[i]
        elif begin is not None and not any(anomalous) and len(window) == policy.window:
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
    assert told[4:6] == [str(len(thirds)), str(raised)]
    assert row["alarms"]["hours"] == pytest.approx((60 * MINUTES - FITTED) / 3600, abs=0.001)


def test_what_cannot_be_judged_is_said_and_skipped(folder: Path, tmp_path: Path) -> None:
    for name in ("119.hea", "119.dat", "119.atr"):
        (tmp_path / name).symlink_to(folder / name)
    rate, (signal, peaks) = 128, heart(400, 128)
    paced = ["/" if i % 2 else "N" for i in range(len(peaks))]
    write(tmp_path, "paced", rate, {"II": signal}, (peaks, paced))
    write(tmp_path, "silent", rate, {"II": signal})
    write(tmp_path, "still", rate, {"II": 0 * signal}, (peaks, ["N"] * len(peaks)))
    write(tmp_path, "short", rate, {"II": signal[: 200 * rate]}, (peaks[:200], ["N"] * 200))
    (tmp_path / "torn.hea").write_text("torn 1 128")
    rows = dict(
        recordings.judged(recordings.headers(tmp_path), lambda path: patients.judge_record(path, 0))
    )
    assert list(rows) == ["119"]


def test_labels_are_of_the_kind_where_a_detector_tells_kinds() -> None:
    scores = np.array([2, 2, 0.5, 0.5, 2], np.float32)
    believed = np.array([True, True, True, True, False])
    likely = np.array([0.9, 0.1, 0.1, 0.9, 0.9], np.float32)
    for ventricular, expected in ((None, "VVNNQ"), (likely, "VSNVQ")):
        heard = patient.Heard(scores, believed, ventricular)
        assert "".join(patients.labels(heard.verdicts(1))) == expected


@pytest.mark.parametrize("option", ["--records", "--mitdb", "--challenge"])
def test_a_folder_without_records_is_refused_in_a_line(option: str, tmp_path: Path) -> None:
    for folder, reason in ((tmp_path / "none", "no such folder"), (tmp_path, "no WFDB records")):
        result = CliRunner().invoke(app, ["evaluate", option, str(folder)])
        assert isinstance(result.exception, UsageError)
        assert reason in str(result.exception)
        assert "\n" not in str(result.exception)


def test_options_that_do_not_go_together_are_refused_in_a_line(tmp_path: Path) -> None:
    folder = str(tmp_path)
    for arguments, reason in (
        (["--records", folder, "--challenge", folder], "exclude each other"),
        (["--challenge", folder, "--table", "rhythm"], "not with --challenge"),
        (["--table", "rhythm"], "needs --records"),
        (["--records", folder, "--table", "file"], "not with --records"),
    ):
        result = CliRunner().invoke(app, ["evaluate", *arguments])
        assert isinstance(result.exception, UsageError), arguments
        assert reason in str(result.exception)
