"""Strips and minutes in the history: merged, bounded, and gone with their alarms."""

import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import Counter

from monitor.alarms.trends import Minute
from monitor.history import query, store
from monitor.history.writer import MAX_STRIPS, HistoryWriter
from monitor.settings import HistorySettings
from tests.harness.histories import NIGHT, alert, keep, lost_counter
from tests.harness.waiting import WITHIN

MINUTE = NIGHT // 60 * 60


@pytest.fixture
def lost() -> Counter:
    return lost_counter()


def writer(file: Path, lost: Counter) -> HistoryWriter:
    return HistoryWriter(HistorySettings(file=file), file, lost)


def trim(file: Path, **bounds: float) -> None:
    with closing(store.open_to_write(file)) as database:
        settings = HistorySettings.model_validate({"file": file, "days": 36500} | bounds)
        store.trim(database, settings, time.time())


def count(file: Path, table: str) -> int:
    with closing(sqlite3.connect(file)) as database:
        (found,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        return int(found)


def test_the_parts_of_a_minute_are_added_up(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = writer(file, lost)
    kept.keep_minutes([("bed-7", Minute(MINUTE, 30, 50.0, 60.0, 70.0, 1, 2, 3))])
    kept.keep_minutes([("bed-7", Minute(MINUTE, 10, 40.0, 80.0, 90.0, 1, 0, 1))])
    kept.keep_minutes([("bed-7", Minute(MINUTE + 60, 5, None, None, None, 0, 0, 5))])
    kept.keep_minutes([("bed-7", Minute(MINUTE + 60, 5, 60.0, 61.0, 62.0, 0, 0, 0))])
    kept.keep_minutes([("bed-8", Minute(MINUTE, 7, None, None, None, 0, 0, 0))])
    kept.close(WITHIN)
    assert query.minutes(file, "bed-7", 0) == [
        Minute(MINUTE, 40, 40.0, 65.0, 90.0, 2, 2, 4),
        Minute(MINUTE + 60, 10, 60.0, 61.0, 62.0, 0, 0, 5),
    ]
    assert [each.time for each in query.minutes(file, "bed-7", MINUTE + 61)] == [MINUTE + 60]


def test_minutes_have_a_share_of_their_own(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = writer(file, lost)
    some = 2 * store.MINUTES_PER_MEGABYTE
    kept.keep_minutes(
        (f"bed-{i % 40}", Minute(MINUTE + 60 * (i // 40), 70, 61.5, 62.5, 63.5, 0, 1, 2))
        for i in range(some)
    )
    keep(kept, alert(1, "raised", NIGHT))
    kept.close(WITHIN)
    assert file.stat().st_size / some < 130  # bytes each, the index included
    trim(file, megabytes=1)
    assert count(file, "minutes") == store.MINUTES_PER_MEGABYTE
    assert count(file, "alerts") == 1
    assert query.minutes(file, "bed-0", 0)[-1].time == MINUTE + 60 * (some // 40 - 1)
    trim(file, days=0.0)
    assert count(file, "minutes") == 0


def test_a_strip_is_of_an_alarm_of_its_device_and_the_first_counts(
    tmp_path: Path, lost: Counter
) -> None:
    file = tmp_path / "history.db"
    kept = writer(file, lost)
    raised = alert(1, "raised", NIGHT)
    keep(kept, raised)
    kept.keep_strip(raised.id, "bed-8", b'"of another device"')
    kept.keep_strip("f" * 32, "bed-7", b'"of no alarm"')
    kept.keep_strip(raised.id, "bed-7", b'"the first"')
    kept.keep_strip(raised.id, "bed-7", b'"again"')
    kept.close(WITHIN)
    found = query.strip(file, raised.id)
    assert found is not None and json.loads(found) == "the first"
    assert query.strip(file, "f" * 32) is None
    assert [each.strip for each in query.alarms(file)] == [True]


def test_strips_are_bounded_and_go_with_their_alarms(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = writer(file, lost)
    alarms = [alert(i, "raised", NIGHT) for i in range(20)]
    keep(kept, *alarms)
    for each in alarms:
        kept.keep_strip(each.id, "bed-7", os.urandom(50_000))  # which nothing compresses
    kept.close(WITHIN)
    assert count(file, "strips") == 20
    trim(file, megabytes=1)
    with closing(sqlite3.connect(file)) as database:
        left = {row[0] for row in database.execute("SELECT alarm FROM strips")}
    assert left == {each.id for each in alarms[-len(left) :]}  # the newest
    assert 8 <= len(left) <= 10  # half a megabyte
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DELETE FROM alerts WHERE alarm = ?", (alarms[-1].id,))
    trim(file)
    assert query.strip(file, alarms[-1].id) is None
    assert count(file, "strips") == len(left) - 1


def test_strips_that_wait_are_bounded(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = writer(file, lost)
    with closing(sqlite3.connect(file, timeout=5)) as other:
        other.execute("BEGIN IMMEDIATE")  # as a backup would
        for _ in range(MAX_STRIPS + 5):
            kept.keep_strip("0" * 32, "bed-7", b"{}")
        other.execute("ROLLBACK")
    assert lost._value.get() == 5
    kept.close(WITHIN)
