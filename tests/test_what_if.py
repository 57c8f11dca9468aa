"""The grid of alarm settings, on ECG5000 with its labels."""

import os
from pathlib import Path

import pytest

from monitor import what_if
from monitor.model import Detector, shipped


def test_stricter_settings_raise_fewer_alarms_and_every_choice_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = os.environ.get("ECG_DATA")
    if not folder:
        if os.environ.get("CI"):
            pytest.fail("ECG_DATA is not set")
        pytest.skip("ECG_DATA is not set")
    source = Path(folder, "ecg.csv")
    recording = what_if.read(source, 4000)
    assert len(recording.beats) == len(recording.annotated) == 1000
    outcomes = list(what_if.outcomes(recording, Detector(shipped("ecg"))))
    found = {(outcome.rate, outcome.policy): outcome.alarms_per_hour for outcome in outcomes}
    grid = len(what_if.WINDOWS) * len(what_if.RAISE_AT) * len(what_if.CLEAR_AT)
    assert len(found) == grid * (1 + len(what_if.RATES))
    what_if.main(source, shipped("ecg"), tmp_path, 4000)
    assert (tmp_path / "what-if.png").read_bytes().startswith(b"\x89PNG")
    assert "false/h" in capsys.readouterr().out
    strict, loose = min(what_if.RATES), max(what_if.RATES)
    raised = {
        rate: max(o.judged.raised for o in outcomes if o.rate == rate) for rate in (strict, loose)
    }
    assert 0 < raised[strict] <= raised[loose]
