"""What is kept of alarms: by the writer, within bounds, and as it is read again."""

import csv
import io
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter

from monitor.alarms import messages
from monitor.commands import alarms
from monitor.errors import ConfigurationError, Failure, UsageError
from monitor.history import store
from monitor.history.store import Action, History
from monitor.settings import HistorySettings
from monitor.times import rfc3339

NIGHT = 1_795_300_000.0
BEAT = [0.25] * 140


@pytest.fixture
def lost() -> Counter:
    return Counter("lost", "Lost.", registry=CollectorRegistry())


def alert(number: int, event: messages.Event, at: float, **changed: Any) -> messages.Alert:
    """An alert of the alarm of that number."""
    alarm = f"{number:032x}"
    fields: dict[str, Any] = {
        "id": alarm if event == "raised" else f"{event}{alarm}",
        "alarm": alarm,
        "device": "bed-7",
        "event": event,
        "kind": "anomaly",
        "priority": "medium",
        "time": rfc3339(at),
        "since": rfc3339(NIGHT + 100 * number),
        "score": 2.5,
        "threshold": 1.0,
        "beats_anomalous": 5,
        "beats_seen": 20,
        "model": "ecg",
        "beat": BEAT,
        "reconstruction": BEAT,
    }
    return messages.Alert(**{**fields, **changed})


def keep(to: History, *alerts: messages.Alert, shelved_by: str | None = None) -> None:
    for one in alerts:
        to.keep(one, messages.encode(one), shelved_by)


def test_an_alarm_is_read_from_its_raising_to_its_clearing(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "folder" / "history.db"
    kept = History(HistorySettings(file=file), file, lost)
    raised = alert(1, "raised", NIGHT + 100)
    keep(kept, raised, raised)  # twice, as after a redelivery
    keep(kept, alert(1, "escalated", NIGHT + 110, priority="high", beats_anomalous=20))
    kept.note(Action("acknowledged", "bed-7", "Anna", NIGHT + 120, raised.id))
    keep(kept, alert(1, "cleared", NIGHT + 130, priority="high"))
    keep(kept, alert(2, "raised", NIGHT + 200, device="bed-8", beat=None, score=None))
    keep(kept, alert(3, "raised", NIGHT + 300), shelved_by="Ben")
    kept.note(Action("shelved", "bed-7", "Ben", NIGHT + 290, until=NIGHT + 900))
    kept.close(5)

    third, second, first = store.alarms(file)
    assert first == store.PastAlarm(
        id=raised.id,
        device="bed-7",
        kind="anomaly",
        priority="high",
        raised=rfc3339(NIGHT + 100),
        escalated=rfc3339(NIGHT + 110),
        cleared=rfc3339(NIGHT + 130),
        acknowledged=messages.Acknowledged("Anna", rfc3339(NIGHT + 120)),
        score=2.5,
        threshold=1.0,
        model="ecg",
        beats_anomalous=5,
        beats_seen=20,
        beat=BEAT,
        reconstruction=BEAT,
    )
    assert (second.device, second.cleared, second.beat) == ("bed-8", None, None)
    assert third.shelved_by == "Ben" and third.acknowledged is None

    def ids(**limits: Any) -> list[int]:
        return [int(alarm.id, 16) for alarm in store.alarms(file, **limits)]

    assert ids(device="bed-7") == [3, 1]
    assert ids(since=NIGHT + 130) == [3, 2, 1]  # open ones stand still
    assert ids(since=NIGHT + 131) == [3, 2]
    assert ids(most=1) == [3]
    assert [a.by for a in store.shelvings(file, since=NIGHT + 900)] == ["Ben"]
    assert not store.shelvings(file, since=NIGHT + 901)
    assert not store.shelvings(file, device="bed-8")
    assert lost._value.get() == 0


def test_an_alarm_that_the_broker_has_forgotten_ends_at_the_restart(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "history.db"
    clock = [NIGHT]
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def restart(standing: list[str], *alerts: messages.Alert) -> list[tuple[str | None, bool]]:
        """What became of the alarms 1 to 4, the first one first."""
        clock[0] += 1000
        kept = History(HistorySettings(file=file), file, lost)
        kept.end_others(standing)
        clock[0] += 10
        keep(kept, *alerts)
        kept.close(5)
        return [(alarm.cleared, alarm.lost) for alarm in store.alarms(file)][::-1]

    raised = [alert(number, "raised", NIGHT) for number in (1, 2, 3, 4)]
    over = alert(1, "cleared", NIGHT + 7, since=raised[0].since)
    assert restart([], *raised, over) == [
        (rfc3339(NIGHT + 7), False), (None, False), (None, False), (None, False)
    ]  # fmt: skip
    first = rfc3339(NIGHT + 2010)
    ends = [(rfc3339(NIGHT + 7), False), (None, False), (first, True), (first, True)]
    assert restart([raised[1].id]) == ends
    # Of the fourth the beats come again, for they were never acknowledged.
    ends[3] = None, False
    assert restart([raised[1].id], raised[3]) == ends
    assert restart([raised[1].id, raised[3].id]) == ends
    assert not store.shelvings(file)


def test_only_its_owner_may_read_it(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "folder" / "history.db"
    kept = History(HistorySettings(file=file), file, lost)
    keep(kept, alert(1, "raised", NIGHT))
    kept.close(5)
    for path in (file.parent, *file.parent.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_file_that_is_named_must_be_one_that_can_be_used(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no history, " * 100)
    with pytest.raises(ConfigurationError, match=r"history.file = '.*notes.txt'.*not a database"):
        History(HistorySettings(file=file), file, lost)
    with pytest.raises(ConfigurationError, match=r"history\.file"):
        History(HistorySettings(file=file / "x"), file / "x", lost)
    assert file.read_text() == "no history, " * 100


def test_a_file_that_is_locked_is_no_reason_not_to_start(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        kept = History(HistorySettings(file=file), file, lost)
        keep(kept, alert(1, "raised", NIGHT))
        other.rollback()
    time.sleep(2 * store.GATHERED)
    kept.close(5)
    assert len(list(store.alarms(file))) == 1


def test_without_a_place_of_its_own_the_monitor_goes_on(
    tmp_path: Path, lost: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("a file, where a folder should be")
    kept = History(HistorySettings(), tmp_path / "state" / "history.db", lost)
    assert kept.file is None
    keep(kept, alert(1, "raised", NIGHT))
    kept.close(1)
    assert "no history is kept" in capsys.readouterr().out


def test_nothing_is_kept_for_no_days(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = History(HistorySettings(days=0), file, lost)
    keep(kept, alert(1, "raised", NIGHT))
    kept.close(1)
    assert not file.exists()
    with pytest.raises(Failure, match="no monitor has kept a history there"):
        list(store.alarms(file))


def test_the_oldest_goes_where_it_is_too_much(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "TRIM_EVERY", 0.0)
    file = tmp_path / "history.db"
    kept = History(HistorySettings(file=file, megabytes=1), file, lost)
    for number in range(3000):
        keep(kept, alert(number, "raised", NIGHT))
        while kept._waiting.qsize() > 400:
            time.sleep(0.001)
    kept.close(20)
    numbers = [int(alarm.id, 16) for alarm in store.alarms(file)]
    assert numbers == list(range(2999, min(numbers) - 1, -1))
    assert 100 < len(numbers) < 1500
    assert file.stat().st_size < 2_500_000  # a batch of 500 may come on top, until the next look
    assert lost._value.get() == 0


def test_actions_do_not_push_alerts_out(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "TRIM_EVERY", 0.0)
    file = tmp_path / "history.db"
    kept = History(HistorySettings(file=file, megabytes=1), file, lost)
    keep(kept, alert(1, "raised", NIGHT))
    for number in range(10_000):
        kept.note(Action("shelved", "bed-7", "Anna" * 25, NIGHT + number))
        while kept._waiting.qsize() > 400:
            time.sleep(0.001)
    kept.close(20)
    assert len(list(store.alarms(file))) == 1
    times = [action.time - NIGHT for action in store.shelvings(file)]
    assert times[-1] == 9999 and len(times) == store.ACTIONS


def test_what_is_too_old_goes(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = History(HistorySettings(file=file), file, lost)
    keep(kept, alert(1, "raised", NIGHT), alert(2, "raised", NIGHT))
    kept.note(Action("shelved", "bed-7", "Ben", NIGHT, until=NIGHT + 60))
    kept.close(5)
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alerts SET kept = kept - 3 * 86400 WHERE alarm LIKE '%1'")
        database.execute("UPDATE actions SET kept = kept - 3 * 86400")
    database.close()
    again = History(HistorySettings(file=file, days=2), file, lost)
    keep(again, alert(3, "raised", NIGHT))
    again.close(5)
    assert [int(alarm.id, 16) for alarm in store.alarms(file)] == [3, 2]
    assert not store.shelvings(file)


def test_what_cannot_be_written_is_counted_and_nobody_waits(
    tmp_path: Path, lost: Counter, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "history.db"
    kept = History(HistorySettings(file=file), file, lost)
    file.unlink()
    file.mkdir()  # nobody can write a database there
    begun = time.perf_counter()
    for number in range(3 * store.WAITING):
        kept.note(Action("acknowledged", "bed-7", "Anna", NIGHT, str(number)))
    assert time.perf_counter() - begun < 5
    assert lost._value.get() >= 2 * store.WAITING - store.AT_ONCE
    begun = time.perf_counter()
    kept.close(5)
    assert time.perf_counter() - begun < 5
    assert capsys.readouterr().out.count("reason=") == 1


def test_what_could_not_be_written_is_written_later(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "AGAIN_AFTER", 0.05)
    file = tmp_path / "history.db"
    kept = History(HistorySettings(file=file), file, lost)
    file.rename(tmp_path / "away")
    file.mkdir()
    keep(kept, alert(1, "raised", NIGHT))
    time.sleep(0.2)
    file.rmdir()
    (tmp_path / "away").rename(file)
    time.sleep(0.5)
    kept.close(5)
    assert len(list(store.alarms(file))) == 1
    assert lost._value.get() == 0


@pytest.fixture
def shown(tmp_path: Path, lost: Counter, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command over a history with two alarms, one of a device with an odd name."""
    file = tmp_path / "history.db"
    kept = History(HistorySettings(file=file), file, lost)
    keep(kept, alert(1, "raised", NIGHT + 100), alert(1, "cleared", NIGHT + 165))
    kept.note(Action("acknowledged", "bed-7", "[b]Anna[/b]", NIGHT + 120, f"{1:032x}"))
    keep(kept, alert(2, "raised", NIGHT + 200, device="=cmd()"))
    kept.note(Action("shelved", "bed-7", "Ben", NIGHT + 290, until=NIGHT + 900))
    kept.close(5)

    def show(**given: Any) -> str:
        options = {"since": None, "device": None, "as_json": False, "as_csv": False}
        alarms.show(file, **{**options, **given})
        return capsys.readouterr().out

    return show


def test_it_is_shown_as_a_table(shown: Callable[..., str]) -> None:
    text = shown()
    heading, first, second, shelf = text.splitlines()
    assert heading.split()[:3] == ["raised", "stood", "device"]
    assert "0:01:05" in first and "[b]Anna[/b]" in first and "00000000" in first
    assert "open" in second and "=cmd()" in second
    assert "bed-7 shelved by Ben until" in shelf
    assert shown(device="bed-9") == "no alarms\n"


def test_it_is_shown_as_json_and_csv(shown: Callable[..., str]) -> None:
    alarms = msgspec.json.decode(shown(as_json=True), type=list[store.PastAlarm])
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
