"""What people said of alarms: kept with their alarms, revised, and forgotten with them."""

import sqlite3
import time
from pathlib import Path

import pytest
from prometheus_client import Counter

from monitor.errors import Failure
from monitor.history import query, store, writer
from monitor.history.store import Judgement
from monitor.history.writer import HistoryWriter, JudgedAlarm
from monitor.settings import HistorySettings
from monitor.times import rfc3339
from tests.harness.histories import NIGHT, alert, keep, lost_counter
from tests.harness.waiting import WITHIN


@pytest.fixture
def lost() -> Counter:
    return lost_counter()


def said(
    number: int, verdict: bool, note: str = "", device: str | None = "bed-7", after: float = 0
) -> Judgement:
    """A judgement of the alarm of that number."""
    return Judgement(f"{number:032x}", device, verdict, note, "Anna", NIGHT + after)


def test_a_judgement_can_be_revised_and_the_last_one_counts(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    escalated = alert(1, "escalated", NIGHT + 10, priority="high")
    keep(kept, alert(1, "raised", NIGHT), escalated, alert(2, "raised", NIGHT, device="bed-8"))
    judged = JudgedAlarm(f"{1:032x}", "bed-7", "anomaly")
    assert kept.judge(said(1, True, "five in a row", after=20)).result(WITHIN) == judged
    by_escalation = Judgement(escalated.id, None, False, "washed", "Ben", NIGHT + 30)
    assert kept.judge(by_escalation).result(WITHIN) == judged
    kept.close(WITHIN)
    (first,) = query.alarms(file, judged=True)
    assert first.judgements == [
        query.JudgedAs(True, "five in a row", "Anna", rfc3339(NIGHT + 20)),
        query.JudgedAs(False, "washed", "Ben", rfc3339(NIGHT + 30)),
    ]
    assert first.judged == first.judgements[1]
    assert [each.judged is None for each in query.alarms(file)] == [True, False]


def test_an_alarm_that_is_not_there_or_another_device_s_is_not_judged(
    tmp_path: Path, lost: Counter
) -> None:
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    keep(kept, alert(1, "raised", NIGHT))
    assert kept.judge(said(2, True)).result(WITHIN) is None
    assert kept.judge(said(1, True, device="bed-8")).result(WITHIN) is None
    given_up = kept.judge(said(1, True))
    assert given_up.cancel()
    kept.close(WITHIN)
    assert not list(query.alarms(file, judged=True))
    nothing = HistoryWriter(HistorySettings(days=0), tmp_path / "other.db", lost)
    with pytest.raises(Failure, match="no history is kept"):
        nothing.judge(said(1, True)).result(0)
    assert lost._value.get() == 0


def test_a_judgement_waits_for_a_disk_that_is_full(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETRY_INTERVAL", 0.05)
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    keep(kept, alert(1, "raised", NIGHT))
    assert kept.judge(said(1, True)).result(WITHIN) is not None
    with sqlite3.connect(file) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON judgements BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    stored = kept.judge(said(1, False))
    with pytest.raises(TimeoutError):
        stored.result(1.5)
    with other:
        other.execute("DROP TRIGGER full")
    other.close()
    assert stored.result(WITHIN) is not None
    kept.close(WITHIN)
    (alarm,) = query.alarms(file)
    assert [each.verdict for each in alarm.judgements] == [True, False]


def test_judgements_go_with_their_alarms_and_do_not_push_them_out(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "TRIM_INTERVAL", 0.0)
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file, megabytes=1), file, lost)
    for number in (1, 2, 3):
        keep(kept, alert(number, "raised", NIGHT))
    kept.judge(said(1, False))
    kept.judge(said(2, False))
    for i in range(2000):
        kept.judge(said(3, bool(i % 2), "\N{OLD ITALIC LETTER A}" * 1000))
        while kept._waiting.qsize() > 400:
            time.sleep(0.001)
    kept.close(WITHIN)
    third, second, first = query.alarms(file)
    assert len(third.judgements) == store.SUPERSEDED_PER_MEGABYTE
    assert third.judged is not None and third.judged.verdict is True
    assert first.judged is not None and second.judged is not None  # though long ago
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alerts SET kept = kept - 3 * 86400 WHERE alarm LIKE '%1'")
    again = HistoryWriter(HistorySettings(file=file, days=2), file, lost)
    keep(again, alert(4, "raised", NIGHT))
    again.close(WITHIN)
    left = database.execute("SELECT DISTINCT alarm FROM judgements ORDER BY alarm").fetchall()
    database.close()
    assert [int(alarm, 16) for (alarm,) in left] == [2, 3]
    assert lost._value.get() == 0
