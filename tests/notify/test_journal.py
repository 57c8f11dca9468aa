from contextlib import closing
from pathlib import Path

import pytest

from monitor.notify import journal as journal_module
from monitor.notify.duty import UnansweredAlarm
from monitor.notify.journal import Journal


def alarm(alert: str) -> UnansweredAlarm:
    return UnansweredAlarm(alert, "bed-7", "asystole", "high", 1.5, pause_s=4.0)


def test_what_is_written_is_there_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "new" / "notify.db"
    journal = Journal(file)
    assert (journal.waiting(), journal.told("nurse")) == ({}, [])
    journal.wait({"a": 1.0, "b": 2.0})
    journal.wait({"b": 2.0, "c": 3.0})
    journal.tell("nurse", [alarm("b"), alarm("a")], [], 5.0)
    journal.tell("duty", [alarm("b"), alarm("c")], [], 5.0)
    journal.tell("duty", [], [alarm("b")], 6.0)
    journal.close()
    with closing(Journal(file)) as again:
        assert again.waiting() == {"b": 2.0, "c": 3.0}
        assert again.told("nurse") == [alarm("b"), alarm("a")]
        assert again.told("duty") == [alarm("c")]
    assert file.stat().st_mode & 0o077 == 0


def test_the_oldest_are_forgotten_unless_they_still_want_somebody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_REMEMBERED", 3)
    with closing(Journal(tmp_path / "notify.db")) as journal:
        journal.wait({"a": 1.0})
        for alert in "abcdef":
            journal.tell("nurse", [alarm(alert)], [], 5.0)
            journal.tell("doctor", [alarm("x")], [], 5.0)
        assert [each.alert for each in journal.told("nurse")] == ["a", "d", "e", "f"]
        assert journal.told("doctor") == [alarm("x")]
