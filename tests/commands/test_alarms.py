"""`ecg-monitor alarms`: the history as a table, as JSON and as CSV."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitor.commands import alarms
from monitor.errors import UsageError
from monitor.history import query
from monitor.history.store import Action
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings
from monitor.times import rfc3339
from tests.harness.histories import BEAT, NIGHT, alert, keep, lost_counter
from tests.harness.waiting import WITHIN


@pytest.fixture
def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command over a history with two alarms, one of a device with an odd name."""
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    keep(kept, alert(1, "raised", NIGHT + 100), alert(1, "cleared", NIGHT + 165))
    kept.note(Action("acknowledged", "bed-7", "[b]Anna[/b]", NIGHT + 120, f"{1:032x}"))
    keep(kept, alert(2, "raised", NIGHT + 200, device="=cmd()"))
    kept.note(Action("shelved", "bed-7", "Ben", NIGHT + 290, until=NIGHT + 900))
    kept.note(Action("chose a model", "bed-7", "Ben", NIGHT + 295, note="new"))
    kept.close(WITHIN)

    def show(**given: Any) -> str:
        options = {"since": None, "device": None, "as_json": False, "as_csv": False}
        alarms.show(file, **{**options, **given})
        return capsys.readouterr().out

    return show


def test_it_is_shown_as_a_table(shown: Callable[..., str]) -> None:
    text = shown()
    heading, first, second, shelf, chosen = text.splitlines()
    assert heading.split()[:3] == ["raised", "duration", "device"]
    assert "0:01:05" in first and "[b]Anna[/b]" in first and "00000000" in first
    assert "open" in second and "=cmd()" in second
    assert "bed-7 shelved by Ben until" in shelf
    assert chosen.endswith("bed-7 new model chosen by Ben")
    assert shown(device="bed-9") == "no alarms\n"


def test_it_is_shown_as_json_and_csv(shown: Callable[..., str]) -> None:
    alarms = msgspec.json.decode(shown(as_json=True), type=list[query.PastAlarm])
    assert [alarm.device for alarm in alarms] == ["=cmd()", "bed-7"]
    assert alarms[1].beat == BEAT
    assert msgspec.json.decode(shown(as_json=True, device="bed-9")) == []
    rows = list(csv.DictReader(io.StringIO(shown(as_csv=True))))
    assert [row["device"] for row in rows] == ["'=cmd()", "bed-7"]
    assert rows[1]["acknowledged_by"] == "[b]Anna[/b]"
    assert rows[1]["cleared"] == rfc3339(NIGHT + 165)


def test_what_is_no_time_is_said(shown: Callable[..., str]) -> None:
    for since in ("yesterday", "12", "-3h", "2026-13-01"):
        with pytest.raises(UsageError, match="--since"):
            shown(since=since)
    with pytest.raises(UsageError, match="exclude"):
        shown(as_json=True, as_csv=True)
    with pytest.raises(UsageError, match="exclude"):
        shown(as_csv=True, as_fhir=True)
