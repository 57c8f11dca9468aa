"""The grid of alarm settings, on ECG5000 with its labels and on an annotated record."""

from pathlib import Path

import pytest

from monitor.commands import what_if
from monitor.detector.model_file import Detector, Quantiles, shipped
from monitor.ecg import records
from monitor.errors import Failure
from tests.harness import signals
from tests.harness.signals import heart


def test_stricter_settings_raise_fewer_alarms_and_every_choice_is_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = data / "ecg.csv"
    recording = what_if.read(source, 4000)
    assert len(recording.beats) == len(recording.annotated) == 1000
    outcomes = list(what_if.outcomes(recording, Detector(shipped("ecg"))))
    found = {(outcome.rate, outcome.policy): outcome.alarms_per_hour for outcome in outcomes}
    grid = len(what_if.WINDOWS) * len(what_if.RAISE_AT) * len(what_if.CLEAR_AT)
    assert len(found) == grid * (1 + len(what_if.RATES))
    what_if.main(source, Detector(shipped("ecg")), tmp_path, 4000)
    assert (tmp_path / "what-if.png").read_bytes().startswith(b"\x89PNG")
    told = capsys.readouterr().out
    assert "false/h" in told
    assert "rate 0.01: 0.0067 to 0.015 by 2,347 held-out beats" in told
    strict, loose = min(what_if.RATES), max(what_if.RATES)
    raised = {
        rate: max(o.judged.raised for o in outcomes if o.rate == rate) for rate in (strict, loose)
    }
    assert 0 < raised[strict] <= raised[loose]


def test_a_record_is_judged_by_its_annotations_from_where_it_starts(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = data / "mitdb" / "119"
    recording = what_if.read(source, 1500)
    ecg = records.read(source)
    late = ecg.positions >= 1500 * ecg.rate
    assert len(recording.annotated) == late.sum()
    assert (recording.classes == "V").sum() == (ecg.classes[late] == "V").sum() > 50
    assert recording.hours == pytest.approx((len(ecg.signal) / ecg.rate - 1500) / 3600)
    assert recording.times[0] >= 1500
    what_if.main(source, Detector(shipped("ecg")), tmp_path, 1500)
    assert "missed" in capsys.readouterr().out


def test_a_record_without_annotations_gives_alarms_an_hour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signals.write(tmp_path, "r", 250, {"RESP": 0 * (ecg := heart(60)[0]), "V1": ecg})
    what_if.main(tmp_path / "r", Detector(shipped("ecg")), tmp_path)
    told = capsys.readouterr()
    assert "alarms/h" in told.out
    assert "missed" not in told.out
    assert told.err == f"{tmp_path / 'r'}: using 'V1'\n"
    with pytest.raises(Failure, match="contains no beat after second 3600"):
        what_if.main(tmp_path / "r", Detector(shipped("ecg")), tmp_path, start=3600)


def test_an_interval_holds_the_rate_and_shrinks_with_the_beats() -> None:
    def quantiles(beats: int) -> Quantiles:
        return Quantiles(beats=beats, probabilities=[0.5, 0.9], scores=[1, 2])

    few, many = quantiles(100).interval(0.01), quantiles(10_000).interval(0.01)
    assert few == pytest.approx((0.0018, 0.0545), abs=1e-4)  # scipy's binomtest, method "wilson"
    assert few[0] < many[0] < 0.01 < many[1] < few[1]
