"""The tables of the rhythm and of the alarms of intensive care, on records that were made."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monitor.ecg import records
from monitor.ecg.rpeaks import Positions, Signal
from monitor.errors import Failure
from tests.harness.signals import heart, write
from train.cli import app
from train.evaluation import challenge, rhythm

RATE = 125


def hearts(*parts: tuple[float, float]) -> tuple[Signal, Positions]:
    """Return one signal and its R peaks of hearts of (seconds, beats a minute), 0 for none."""
    signals: list[Signal] = []
    peaks: list[Positions] = []
    begin = 0
    for i, (seconds, per_minute) in enumerate(parts):
        count = round(seconds * RATE)
        if per_minute:
            signal, at = heart(seconds, RATE, per_minute, seed=i)
            peaks.append(at + begin)
        else:
            signal = 0.01 * np.random.default_rng(i).standard_normal(count)
        signals.append(signal)
        begin += count
    return np.concatenate(signals), np.concatenate(peaks)


def run_of_wide_beats() -> tuple[Signal, Positions]:
    """Return a steady heart with eight wide beats in a row, from 4:52 to 4:55."""
    signal, peaks = hearts((292, 75), (3.2, 0), (35, 75))
    at = np.arange(len(signal)) / RATE
    for beat in 292 + 0.4 * np.arange(8):
        signal += 1.6 * np.exp(-(((at - beat) / 0.04) ** 2) / 2)
        signal -= 0.6 * np.exp(-(((at - beat - 0.1) / 0.04) ** 2) / 2)
    return signal, peaks


def test_episodes_found_and_false_alarms_are_counted(tmp_path: Path) -> None:
    signal, peaks = hearts((60, 75), (12, 0), (60, 75), (40, 170), (60, 75))
    write(tmp_path, "told", RATE, {"II": signal}, (peaks, ["N"] * len(peaks)))
    steady = hearts((232, 75))[1]  # as if nothing had happened: the same alarms are false
    write(tmp_path, "untold", RATE, {"II": signal}, (steady, ["N"] * len(steady)))
    write(tmp_path, "nothing", RATE, {"II": signal})
    command = ["evaluate", "--records", str(tmp_path), "--table", "rhythm", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    rows = json.loads((tmp_path / "rhythm.json").read_text())
    assert list(rows) == ["told", "untold"]
    known = {"asystole": 1, "tachycardia": 1, "bradycardia": 1}  # a pause is slow, too
    assert rows["told"]["episodes"] == known
    assert rows["told"]["found"] == known
    assert rows["told"]["false"] == {}
    assert rows["untold"]["episodes"] == {}
    assert rows["untold"]["false"] == {"asystole": 1, "tachycardia": 1}
    assert rows["untold"]["high"] == 1
    assert "skipped nothing" in result.stderr


def test_episodes_by_the_marks_of_a_record(tmp_path: Path) -> None:
    at = [*range(0, 2000, 100), 2000, *range(2040, 2240, 40), 2300, 3000, 3900, 4000]
    symbols = ["N"] * 20 + ["N"] + ["V"] * 5 + ["[", "]", "N", "N"]
    signal = np.zeros(5000)
    write(tmp_path, "made", 100, {"II": signal}, (at, symbols))
    known = rhythm.episodes(tmp_path / "made.hea", 100, 50)
    assert known["ventricular-tachycardia"] == [(20.4, 22.0)]
    assert known["ventricular-fibrillation"] == [(23.0, 30.0)]
    assert known["asystole"] == [(22.0, 39.0)]
    with pytest.raises(Failure, match="no annotations"):
        rhythm.episodes(tmp_path / "none.hea", 100, 50)


def test_the_alarms_of_intensive_care_are_judged_by_what_came_before_them(tmp_path: Path) -> None:
    cases = {
        "fast": (hearts((270, 75), (60, 170)), "Tachycardia", "True alarm"),
        "steady": (hearts((330, 75)), "Asystole", "False alarm"),
        "run": (run_of_wide_beats(), "Ventricular_Tachycardia", "True alarm"),
        "late": (hearts((301, 75), (29, 0)), "Asystole", "True alarm"),  # it is not to be heard
    }
    for name, ((signal, _), *comments) in cases.items():
        write(tmp_path, name, RATE, {"II": signal, "V": 0.5 * signal}, comments=comments)
    write(tmp_path, "other", RATE, {"II": signal})
    command = ["evaluate", "--challenge", str(tmp_path), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    answers = json.loads((tmp_path / "challenge.json").read_text())
    assert {name: each["told"] for name, each in answers.items()} == {
        "fast": True, "late": False, "run": True, "steady": False
    }  # fmt: skip
    assert "skipped other" in result.stderr
    without, with_model = result.stdout.split("With a model")
    for part in (without, with_model):
        rows = {words[0]: words for words in map(str.split, part.splitlines()) if words}
        assert rows["tachycardia"][1:4] == ["1", "of", "1"]
        assert rows["asystole"][1:7] == ["0", "of", "1", "1", "of", "1"]
        assert rows["all"][7] == f"{100 * 3 / 8:.1f}"  # two true, one false, one missed


def test_the_score_is_the_challenges() -> None:
    true, told = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert challenge.score(true, told) == pytest.approx(100 * 2 / (2 + 1 + 5))


def test_nothing_is_heard_after_the_time_that_is_given() -> None:
    signal, _ = hearts((60, 75), (20, 0))
    ecg = records.Record(signal, RATE, np.empty(0, np.int64), np.empty(0, "<U1"), "II")
    assert [alarm.kind for alarm in rhythm.listen(ecg).alarms] == ["asystole"]
    assert rhythm.listen(ecg, 60).alarms == []
    with pytest.raises(Failure, match="at least 100 Hz"):
        rhythm.listen(ecg._replace(rate=50.0))
