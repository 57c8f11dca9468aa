"""The beats of judged alarms, as `ecg-train` and the batch mode take them."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from monitor.alarms.decisions import Policy
from monitor.batch.datasets import Beats
from monitor.commands import alarms, batch, judged_beats, what_if
from monitor.detector.model_file import Detector, shipped
from monitor.ecg import beat_files, records
from monitor.ecg.beat import SAMPLES, Floats
from monitor.ecg.segmenter import Segmenter
from monitor.errors import Failure, UsageError
from monitor.history import query
from monitor.history.store import Judgement
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings
from tests.harness.devices import Hearts
from tests.harness.histories import NIGHT, alert, keep, lost_counter
from tests.harness.signals import heart
from tests.harness.waiting import WITHIN

WRONG = (0, 2, 3, 5)
"""Which of the eight alarms were judged false; the others true, but the last one not at all."""


class Judged(NamedTuple):
    file: Path
    beats: Floats


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    """A history with the alarms of eight beats of a device, and others that are about no shape."""
    signal, _ = heart(60, 250)
    beats = np.array([beat.samples for beat in Segmenter(250).feed(signal)[:8]])
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    for i, beat in enumerate(beats):
        keep(kept, alert(i, "raised", NIGHT + 100 * i, beat=beat.tolist()))
        if i < 7:
            # Each is revised: the last judgement counts.
            for verdict in (i in WRONG, i not in WRONG):
                kept.judge(Judgement(f"{i:032x}", "bed-7", verdict, "=1+1", "Anna", NIGHT))
    keep(kept, alert(20, "raised", NIGHT, kind="silent", beat=None, score=None))
    keep(kept, alert(21, "raised", NIGHT, kind="signal-quality", score=None))
    for i in (20, 21):
        kept.judge(Judgement(f"{i:032x}", "bed-7", False, "", "Anna", NIGHT))
    kept.close(WITHIN)
    return Judged(file, beats)


def test_a_file_of_judged_beats_is_read_with_its_labels(
    judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "judged.csv"
    judged_beats.export(judged.file, None, None, out, None)
    assert capsys.readouterr().out == (
        "7 beats that raised an alarm: 4 normal, of false alarms, 3 abnormal, of true ones\n"
        "2 other judged alarms are not about a beat's shape\n"
    )
    (block,) = beat_files.read(out)
    assert (block.beats == judged.beats[:7]).all()
    assert block.labels is not None
    assert np.flatnonzero(block.labels).tolist() == [*WRONG]
    batch.main("ecg", out, None, tmp_path, as_json=True)
    figures = msgspec.json.decode(capsys.readouterr().out)["figures"]
    assert sum(figures["confusion"].values()) == 7


def test_a_record_of_judged_beats_is_read_with_its_annotations(
    judged: Judged, tmp_path: Path
) -> None:
    judged_beats.export(judged.file, None, "bed-7", None, tmp_path / "judged")
    record = records.read(tmp_path / "judged")
    cut = records.beats(record)
    expected = ["N" if i in WRONG else "Q" for i in range(7)]
    assert records.classes(record, cut).tolist() == record.classes.tolist() == expected
    for beat, was in zip(cut, judged.beats, strict=False):
        assert np.corrcoef(beat.samples, was)[0, 1] > 0.95


def test_what_cannot_be_exported_is_said(judged: Judged, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.csv"):
        judged_beats.export(judged.file, None, None, tmp_path / "judged.parquet", None)
    with pytest.raises(UsageError, match="--record"):
        judged_beats.export(judged.file, None, None, None, tmp_path / "a b")
    with pytest.raises(Failure, match="No such file or directory"):
        judged_beats.export(judged.file, None, None, tmp_path / "none" / "x.csv", None)
    with pytest.raises(Failure, match="none of the judged alarms"):
        judged_beats.export(judged.file, None, "bed-8", tmp_path / "judged.csv", None)
    with pytest.raises(Failure, match="no anomaly of this device was judged"):
        what_if.known_alarms(judged.file, "bed-8")


def test_judged_alarms_are_listed_with_their_verdicts(
    judged: Judged, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(as_json: bool = False, as_csv: bool = False) -> str:
        alarms.show(judged.file, None, None, as_json, as_csv, judged=True)
        return capsys.readouterr().out

    listed = msgspec.json.decode(shown(as_json=True), type=list[query.PastAlarm])
    assert len(listed) == 9
    assert all(len(each.judgements) == 2 for each in listed if each.kind == "anomaly")
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(shown(as_csv=True)))}
    assert [rows[f"{i:032x}"]["verdict"] for i in range(3)] == ["false", "true", "false"]
    assert rows[f"{0:032x}"]["note"] == "'=1+1" and rows[f"{0:032x}"]["judged_by"] == "Anna"
    assert shown().count("false, by Anna") == 6


def test_other_thresholds_are_shown_for_what_the_history_has(
    judged: Judged, capsys: pytest.CaptureFixture[str]
) -> None:
    known = what_if.known_alarms(judged.file, "bed-7")
    assert len(known) == 8
    detector = Detector(shipped("ecg"))
    scores = detector.score(judged.beats).scores
    thresholds = dict(what_if.by_threshold(known, detector))
    assert set(thresholds) == {None, *what_if.RATES}
    for rate, kept in thresholds.items():
        above = scores > (detector.threshold if rate is None else detector.threshold_at(rate))
        wrong = np.isin(np.arange(8), WRONG)
        assert kept == (3, above[[1, 4, 6]].sum(), 4, 4 - above[wrong].sum(), 1, above[7])
    what_if.show_thresholds(known, detector)
    assert "false avoided" in capsys.readouterr().out


def test_in_a_recording_of_the_device_all_settings_are_shown_for_them(
    ecg: Beats, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hearts, detector = Hearts(ecg), Detector(shipped("ecg"))
    normal, anomalous = hearts.normal(250), hearts.anomalous(16)
    scattered = np.zeros(30, bool)
    scattered[::5] = True  # 6 of 26, but never more than 2 of 10
    in_a_row = np.ones(10, bool)
    odd = np.concatenate([np.zeros(60), scattered, np.zeros(80), in_a_row, np.zeros(80)]) > 0
    table = np.empty((len(odd), SAMPLES), np.float32)
    table[odd], table[~odd] = anomalous, normal[: (~odd).sum()]
    source, file = tmp_path / "bed-7.csv", tmp_path / "history.db"
    np.savetxt(source, table, "%.9g", ",")
    kept = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    raising = np.flatnonzero(odd)[[5, 11]]  # the sixth of either sort
    for i, at in enumerate(raising):
        keep(kept, alert(i, "raised", NIGHT + i, beat=table[at].tolist()))
        kept.judge(Judgement(f"{i:032x}", "bed-7", i == 1, "", "Anna", NIGHT))
    keep(kept, alert(99, "raised", NIGHT, beat=(table[0] * 0.5).tolist()))
    kept.close(WITHIN)
    known = what_if.known_alarms(file, "bed-7")
    assert sorted(at or 0 for at in what_if.places(known, what_if.read(source))) == [0, *raising]
    outcomes = {
        each[:2]: each.kept for each in what_if.outcomes(what_if.read(source), detector, known)
    }
    as_it_was, strict = Policy(36, 6, 0), Policy(10, 6, 0)
    assert outcomes[None, as_it_was] == (1, 1, 1, 0, 0, 0)
    assert outcomes[None, strict] == (1, 1, 1, 1, 0, 0)
    what_if.main(source, detector, tmp_path, alarms=known)
    told = capsys.readouterr().out
    assert "2 of 3 alarms in the history have their beat in the recording" in told
    assert {"true", "false", "others"} <= {*told.splitlines()[0].split()}
