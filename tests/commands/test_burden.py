"""`ecg-monitor alarms --burden`: what a night asked of people, as a table and as JSON."""

import re
import time
from pathlib import Path

import msgspec
import pytest

from monitor.alarms.burden import Burden
from monitor.commands import burden
from monitor.errors import UsageError
from monitor.history.store import Action
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings
from monitor.times import rfc3339
from tests.harness.histories import alert, keep, lost_counter
from tests.harness.waiting import WITHIN


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A history with thirteen alarms of the last hour: twelve of [bed]-7, one of bed-8."""
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    begun = time.time() - 3600
    for i in range(13):
        device = "[bed]-7" if i < 12 else "bed-8"
        keep(kept, alert(i, "raised", begun + 20 * i, since=rfc3339(begun + 20 * i), device=device))
    kept.note(Action("acknowledged", "[bed]-7", "Anna", begun + 75, f"{0:032x}"))
    kept.close(WITHIN)
    return file


def test_it_is_shown_as_a_table(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    burden.show(file, "2h", None, as_json=False)
    lines = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    rows = {name: rest for name, *rest in lines}
    assert rows["alarms"] == ["13"]
    assert rows["alarms in ten minutes"] == ["1.08", "1, at most 2"]
    assert rows["floods"] == ["1"]
    assert rows["acknowledged within, median"] == ["1 min 15 s"]
    assert rows["never acknowledged"] == ["92.3 %"]
    assert rows["[bed]-7"] == ["12, 92.3 %"]


def test_it_is_shown_as_json_for_some_devices(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    burden.show(file, None, "bed-*", as_json=True)
    night = msgspec.json.decode(capsys.readouterr().out, type=Burden)
    assert (night.alarms, night.floods, night.worst[0].device) == (1, 0, "bed-8")
    burden.show(file, None, "bed-9", as_json=False)
    assert capsys.readouterr().out == "no alarms\n"


def test_alarms_that_were_only_withheld_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    begun = time.time() - 60
    keep(kept, alert(1, "raised", begun, since=rfc3339(begun)), shelved_by="Anna")
    kept.close(WITHIN)
    burden.show(file, "2h", None, as_json=False)
    assert re.search(r"withheld by shelving +1\b", capsys.readouterr().out)


def test_a_time_to_come_is_refused(file: Path) -> None:
    for since in ("2999-01-01", "yesterday"):
        with pytest.raises(UsageError, match="--since"):
            burden.show(file, since, None, as_json=False)
