"""The history as it is written: beside the loop, within bounds, whatever becomes of the file."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import Counter

from monitor.errors import ConfigurationError, Failure
from monitor.history import query, store, writer
from monitor.history.store import Action
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings
from tests.harness.histories import NIGHT, alert, keep, lost_counter
from tests.harness.waiting import WITHIN


@pytest.fixture
def lost() -> Counter:
    return lost_counter()


def test_a_file_that_is_named_must_be_one_that_can_be_used(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no history, " * 100)
    with pytest.raises(ConfigurationError, match=r"history.file = '.*notes.txt'.*not a database"):
        HistoryWriter(HistorySettings(file=file), file, lost)
    with pytest.raises(ConfigurationError, match=r"history\.file"):
        HistoryWriter(HistorySettings(file=file / "x"), file / "x", lost)
    assert file.read_text() == "no history, " * 100


def test_a_file_that_is_locked_is_no_reason_not_to_start(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        kept = HistoryWriter(HistorySettings(file=file), file, lost)
        keep(kept, alert(1, "raised", NIGHT))
        other.rollback()
    time.sleep(2 * writer.GATHER_TIME)
    kept.close(WITHIN)
    assert len(list(query.alarms(file))) == 1


def test_without_a_place_of_its_own_the_monitor_goes_on(
    tmp_path: Path, lost: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("a file, where a folder should be")
    kept = HistoryWriter(HistorySettings(), tmp_path / "state" / "history.db", lost)
    assert kept.file is None
    keep(kept, alert(1, "raised", NIGHT))
    kept.close(1)
    assert "no history is kept" in capsys.readouterr().out


def test_a_clock_that_steps_ahead_costs_no_history(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, clock = tmp_path / "history.db", time.time
    kept = HistoryWriter(HistorySettings(), file, lost)
    kept.note(Action("admitted", "bed-7", "Anna", NIGHT)).result(WITHIN)
    monkeypatch.setattr(writer, "TRIM_INTERVAL", 0.0)
    monkeypatch.setattr(time, "time", lambda: clock() + 36500 * 86400.0)
    kept._trim_at = 0.0
    kept.note(Action("discharged", "bed-7", "Anna", NIGHT)).result(WITHIN)
    kept.close(WITHIN)  # once that has been trimmed
    assert [each.action for each in query.care(file)] == ["admitted", "discharged"]


def test_nothing_is_kept_for_no_days(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(days=0), file, lost)
    keep(kept, alert(1, "raised", NIGHT))
    kept.close(1)
    assert not file.exists()
    with pytest.raises(Failure, match="there is no history"):
        list(query.alarms(file))


def test_the_oldest_goes_where_it_is_too_much(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "TRIM_INTERVAL", 0.0)
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file, megabytes=1), file, lost)
    for number in range(3000):
        keep(kept, alert(number, "raised", NIGHT))
        while kept._waiting.qsize() > 400:
            time.sleep(0.001)
    kept.close(WITHIN)
    numbers = [int(alarm.id, 16) for alarm in query.alarms(file)]
    assert numbers == list(range(2999, min(numbers) - 1, -1))
    assert 100 < len(numbers) < 1500
    assert file.stat().st_size < 2_500_000  # a batch of 500 may come on top, until the next look
    assert lost._value.get() == 0


def test_actions_do_not_push_alerts_out(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "TRIM_INTERVAL", 0.0)
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file, megabytes=1), file, lost)
    keep(kept, alert(1, "raised", NIGHT))
    for number in range(10_000):
        kept.note(Action("shelved", "bed-7", "Anna" * 25, NIGHT + number))
        while kept._waiting.qsize() > 400:
            time.sleep(0.001)
    kept.close(WITHIN)
    assert len(list(query.alarms(file))) == 1
    times = [action.time - NIGHT for action in query.care(file)]
    assert times[-1] == 9999 and len(times) == store.ACTIONS_PER_MEGABYTE


def test_what_is_too_old_goes(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    keep(kept, alert(1, "raised", NIGHT), alert(2, "raised", NIGHT))
    kept.note(Action("shelved", "bed-7", "Ben", NIGHT, until=NIGHT + 60))
    kept.close(WITHIN)
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alerts SET kept = kept - 3 * 86400 WHERE alarm LIKE '%1'")
        database.execute("UPDATE actions SET kept = kept - 3 * 86400")
    database.close()
    again = HistoryWriter(HistorySettings(file=file, days=2), file, lost)
    keep(again, alert(3, "raised", NIGHT))
    again.close(WITHIN)
    assert [int(alarm.id, 16) for alarm in query.alarms(file)] == [3, 2]
    assert not query.care(file)


def test_what_cannot_be_written_is_counted_and_nobody_waits(
    tmp_path: Path, lost: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    file.unlink()
    file.mkdir()  # nobody can write a database there
    begun = time.perf_counter()
    for number in range(3 * writer.MAX_WAITING):
        kept.note(Action("acknowledged", "bed-7", "Anna", NIGHT, str(number)))
    assert time.perf_counter() - begun < WITHIN
    assert lost._value.get() >= 2 * writer.MAX_WAITING - writer.MAX_BATCH
    begun = time.perf_counter()
    kept.close(3 * WITHIN)
    assert time.perf_counter() - begun < WITHIN
    assert capsys.readouterr().out.count("reason=") == 1


def test_what_could_not_be_written_is_written_later(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETRY_INTERVAL", 0.05)
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    file.unlink()
    file.mkdir()
    keep(kept, alert(1, "raised", NIGHT))
    stored = kept.note(Action("acknowledged", "bed-7", "Anna", NIGHT, f"{1:032x}"))
    with pytest.raises(TimeoutError):
        stored.result(0.5)
    file.rmdir()  # and not back in one step, between which a new file may be written
    assert stored.result(WITHIN) is None
    kept.close(WITHIN)
    assert len(list(query.alarms(file))) == 1
    assert lost._value.get() == 0
