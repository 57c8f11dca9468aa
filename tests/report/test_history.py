"""The report on a device: what the history has is in it, and nothing that it does not have."""

import re
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitor.alarms import burden
from monitor.cli import app
from monitor.errors import UsageError
from monitor.history import query
from monitor.history.store import Action, Judgement
from monitor.history.writer import HistoryWriter
from monitor.report import history
from monitor.report.page import page
from monitor.settings import HistorySettings, Settings
from monitor.times import rfc3339
from tests.harness.histories import alert, day, keep, lost_counter
from tests.harness.waiting import WITHIN

NOW = time.time() // 60 * 60


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "history.db"
    day(file, NOW)
    writer = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    writer.judge(Judgement(f"{1:032x}", "bed-7", True, "<b>arrest</b>", "Ben", NOW - 3000))
    writer.note(Action("acknowledged", "bed-7", "Anna", NOW - 3500, alarm=f"{1:032x}"))
    writer.note(Action("shelved", "bed-7", "Anna", NOW - 1800, until=NOW - 600))
    writer.note(Action("shelved", "bed-8", "Carl", NOW - 1800, until=NOW - 600))
    writer.close(WITHIN)
    return file


def test_all_that_is_kept_is_told(file: Path) -> None:
    content = history.report(file, "bed-7", NOW - 86_400, NOW, Settings())
    assert (content.title, content.begin, content.end) == ("bed-7", NOW - 86_400, NOW)
    assert len(content.minutes) == 1410
    (event,) = content.events
    assert (event.kind, event.priority) == ("asystole", "high")
    assert event.told - event.begin == pytest.approx(4)
    assert event.end is not None and event.end - event.told == pytest.approx(200)
    assert "acknowledged by Anna" in event.remark
    assert "judged true by Ben: <b>arrest</b>" in event.remark
    assert event.strip is not None
    assert list(event.strip.leads) == ["II", "V1"]
    assert event.strip.begin == pytest.approx(NOW - 3610)
    letters = [letter for _, letter in event.strip.marks]
    assert letters.count("V") == 1
    assert content.notes == ["In 30 minutes since then no beat was heard."]
    people = [text for _, text in content.facts if "Anna" in text or "Carl" in text]
    assert len(people) == 1 and people[0].startswith("shelved until")
    html = page(content)
    assert "&lt;b&gt;arrest&lt;/b&gt;" in html and "<b>arrest" not in html
    assert html.count('class="paper"') == 4


def test_a_part_of_the_time(file: Path) -> None:
    content = history.report(file, "bed-7", NOW - 1800, NOW, Settings())
    assert len(content.minutes) == 30
    assert content.events == []
    html = page(content)
    assert "No alarm was raised" in html and "Nobody was alerted" in html


def test_the_burden_is_that_of_this_device(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    writer = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    for number, (device, ago) in enumerate(
        [("bed-*", 90_000), ("bed-*", 3000), ("bed-*", 2900), ("bed-*", 2000), ("bed-7", 2950)]
    ):
        raised = alert(number, "raised", NOW - ago, since=rfc3339(NOW - ago), device=device)
        keep(writer, raised, shelved_by="Anna" if ago == 2000 else None)
        keep(writer, alert(number, "cleared", NOW - ago + 60, since=raised.since, device=device))
    writer.note(Action("acknowledged", "bed-*", "Anna", NOW - 2925, alarm=f"{1:032x}"))
    writer.judge(Judgement(f"{2:032x}", "bed-*", False, "", "Ben", NOW - 1000))
    writer.close(WITHIN)
    content = history.report(file, "bed-*", NOW - 86_400, NOW, Settings())
    own = [each for each in query.episodes(file) if each.device == "bed-*"]
    measured = burden.measure(own, NOW - 86_400, NOW)
    assert content.burden == measured
    assert (measured.alarms, measured.withheld, measured.most_in_ten_minutes) == (2, 1, 2)
    section = page(content).split("<h2>Burden on people</h2>")[1].split("<h2>")[0]
    cells = re.findall("<td[^>]*>(.*?)</td>", section)
    rows = list(zip(cells[::3], cells[1::3], cells[2::3], strict=True))
    assert rows == burden.lines(measured)
    assert ("alarms", "2", "") in rows and ("withheld by shelving", "1", "") in rows
    assert ("most in any ten minutes", "2", "10") in rows
    assert ("acknowledged within, median", "1 min 15 s", "") in rows
    assert ("never acknowledged", "50.0 %", "") in rows
    assert ("judged false", "100.0 % of 1", "") in rows
    assert "worst" not in section


def test_a_device_that_is_not_known_is_named(file: Path) -> None:
    with pytest.raises(UsageError, match="--device 'bed-9': nothing is kept of it since"):
        history.report(file, "bed-9", NOW - 86_400, NOW, Settings())


def test_the_command_writes_a_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_MONITOR_HISTORY__FILE", str(file))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["report", "--device", "bed-7", "--since", "12h"])
    assert done.exit_code == 0, done.output
    assert done.output == "wrote bed-7.html: 1 alarms\n"
    assert "<h1>bed-7</h1>" in (tmp_path / "bed-7.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["record", "--device", "bed-7"],
        ["record", "--since", "24h"],
        ["--device", "bed-7", "--lead", "II"],
        ["--device", "bed-7", "--since", "yesterday"],
        ["--device", "bed-7", "--since", "9999-01-01"],
    ],
)
def test_what_cannot_be_asked_is_refused(
    arguments: list[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_MONITOR_HISTORY__FILE", str(file))
    done = CliRunner().invoke(app, ["report", *arguments])
    assert isinstance(done.exception, UsageError), done.output
