"""A file of the history: who may read it, which versions are migrated, and what is refused."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import Counter

from monitor.alarms import messages
from monitor.errors import ConfigurationError, Failure
from monitor.history import query, store
from monitor.history.store import Action
from monitor.history.writer import HistoryWriter
from monitor.segment.journal import Journal
from monitor.settings import HistorySettings
from monitor.times import rfc3339
from tests.harness.histories import NIGHT, alert, keep, lost_counter
from tests.harness.waiting import WITHIN


@pytest.fixture
def lost() -> Counter:
    return lost_counter()


def test_only_its_owner_may_read_it(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "folder" / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    keep(kept, alert(1, "raised", NIGHT))
    kept.close(WITHIN)
    for path in (file.parent, *file.parent.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# -- versions

UNVERSIONED = """
CREATE TABLE alerts (
    id TEXT NOT NULL PRIMARY KEY, alarm TEXT NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL,
    event TEXT NOT NULL, priority TEXT NOT NULL, time REAL NOT NULL, since REAL NOT NULL,
    shelved_by TEXT, kept REAL NOT NULL, payload BLOB NOT NULL);
CREATE INDEX alerts_of_alarm ON alerts (alarm);
CREATE INDEX alerts_since ON alerts (since);
CREATE TABLE actions (
    action TEXT NOT NULL, alarm TEXT, device TEXT NOT NULL, person TEXT NOT NULL,
    time REAL NOT NULL, until REAL, kept REAL NOT NULL);
CREATE INDEX actions_of_alarm ON actions (alarm);
"""
"""The schema as it was before it had a version."""


def make_unversioned(
    file: Path, alerts: list[messages.Alert], actions: list[tuple[object, ...]]
) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.executescript("PRAGMA journal_mode = WAL;" + UNVERSIONED)
        database.executemany(
            "INSERT INTO alerts VALUES (?, ?, 'bed-7', 'anomaly', ?, 'medium', ?, ?, NULL, ?, ?)",
            [
                (one.id, one.alarm, one.event, NIGHT, NIGHT, NIGHT, messages.encode(one))
                for one in alerts
            ],
        )
        database.executemany("INSERT INTO actions VALUES (?, ?, 'bed-7', ?, ?, NULL, ?)", actions)


def schema(file: Path) -> set[tuple[str, ...]]:
    with closing(sqlite3.connect(file)) as database:
        return {
            *database.execute("SELECT type, name FROM sqlite_master"),
            *database.execute("SELECT 'alerts', name FROM pragma_table_info('alerts')"),
            *database.execute("SELECT 'actions', name FROM pragma_table_info('actions')"),
            *database.execute("SELECT 'judgements', name FROM pragma_table_info('judgements')"),
            *database.execute("SELECT 'version', user_version FROM pragma_user_version"),
        }


def test_a_file_without_a_version_is_migrated_in_place(tmp_path: Path, lost: Counter) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    raised = [alert(number, "raised", NIGHT) for number in (1, 2, 3)]
    make_unversioned(
        old,
        raised,
        [
            ("acknowledged", raised[0].id, "Anna", NIGHT + 5, NIGHT + 5),
            ("lost", raised[1].id, "a restart", NIGHT + 60, NIGHT + 60),
            # Lost, but its beats came again a moment later: the alert is the younger of the two.
            ("lost", raised[2].id, "a restart", NIGHT - 60, NIGHT - 60),
            ("shelved", None, "Ben", NIGHT + 70, NIGHT + 70),
        ],
    )
    with pytest.raises(
        Failure,
        match=rf"^history\.file = '.*old\.db': .* version 0, but {store.VERSION} is needed",
    ):
        list(query.alarms(old))

    for file in (old, new, old):  # the second time there is nothing left to do
        store.open_to_write(file).close()
    assert schema(old) == schema(new)
    ends = {int(each.id, 16): (each.cleared, each.lost) for each in query.alarms(old)}
    assert ends == {1: (None, False), 2: (rfc3339(NIGHT + 60), True), 3: (None, False)}
    assert [each.acknowledged is not None for each in query.alarms(old)].count(True) == 1
    assert query.care(old) == [Action("shelved", "bed-7", "Ben", NIGHT + 70)]

    writer = HistoryWriter(HistorySettings(file=old), old, lost)
    keep(writer, alert(1, "cleared", NIGHT + 80))
    writer.close(WITHIN)
    (first,) = query.alarms(old, alarm=raised[0].id)
    assert (first.cleared, first.lost) == (rfc3339(NIGHT + 80), False)


def test_a_file_from_before_judgements_takes_them_once_it_is_migrated(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, new = tmp_path / "history.db", tmp_path / "new.db"
    with monkeypatch.context() as before:
        before.setattr(store, "VERSION", 1)
        before.setattr(store, "_MIGRATIONS", store._MIGRATIONS[:1])
        writer = HistoryWriter(HistorySettings(file=file), file, lost)
        keep(writer, alert(1, "raised", NIGHT))
        writer.close(WITHIN)
    with pytest.raises(Failure, match="version 1, but"):
        list(query.alarms(file))
    writer = HistoryWriter(HistorySettings(file=file), file, lost)
    judgement = store.Judgement(f"{1:032x}", "bed-7", False, "washed", "Anna", NIGHT + 5)
    stored = writer.judge(judgement).result(WITHIN)
    writer.close(WITHIN)
    store.open_to_write(new).close()
    assert schema(file) == schema(new)
    assert stored is not None and stored.kind == "anomaly"
    (kept,) = query.alarms(file)
    assert kept.judgements == [query.JudgedAs(False, "washed", "Anna", rfc3339(NIGHT + 5))]


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "history.db"
    make_unversioned(file, [alert(1, "raised", NIGHT)], [])
    before = schema(file)
    broken = (*store._MIGRATIONS[0], "SELECT nonsense")
    monkeypatch.setattr(store, "_MIGRATIONS", (broken,))
    with pytest.raises(sqlite3.OperationalError, match="nonsense"):
        store.open_to_write(file)
    assert schema(file) == before


def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    store.open_to_write(file).close()
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA user_version = {store.VERSION + 1}")
    content = file.read_bytes()
    said = (
        rf"^history\.file = '{file}': .* version {store.VERSION + 1}, of a newer monitor; "
        rf"this one supports {store.VERSION}[^\n]*$"
    )
    with pytest.raises(ConfigurationError, match=said):
        HistoryWriter(HistorySettings(file=file), file, lost)
    with pytest.raises(Failure, match=said):
        list(query.alarms(file))
    assert file.read_bytes() == content


def test_a_database_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, lost: Counter
) -> None:
    journal, other = tmp_path / "journal.db", tmp_path / "other.db"
    Journal(journal).close()
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE patients (name TEXT)")
    for file in (journal, other):
        content = file.read_bytes()
        with pytest.raises(ConfigurationError, match="it is not a history"):
            HistoryWriter(HistorySettings(file=file), file, lost)
        assert file.read_bytes() == content
