"""What a file of the history is: its schema, the schema's version, and its bounds. SQLite.

Two tables: `alerts`, each change of an alarm with its beat, and `actions`, what people did. Times
are in seconds since 1970. `kept` is when a row was written, which is what its age counts from: a
device's clock may be wrong. `lost` is when the broker was found to have forgotten the alarm: if all
alerts of an alarm have it, the alarm ended then.
"""

import sqlite3
import time
from pathlib import Path
from typing import Literal

import msgspec

from monitor.settings import HistorySettings

ACTIONS_PER_MEGABYTE = 500
"""Actions that are kept for each megabyte of the bound. At 50 to 130 bytes each (measured, with
names as people have them), somebody who shelves without end takes a fifteenth of the file and
leaves the rest to the alerts."""

APPLICATION_ID = 0x45434748
"""Marks an SQLite file as a history (`PRAGMA application_id`): "ECGH" in ASCII."""

_MIGRATIONS = (
    (
        # A file from before there were versions has these tables already.
        """CREATE TABLE IF NOT EXISTS alerts (
            id TEXT NOT NULL PRIMARY KEY, alarm TEXT NOT NULL, device TEXT NOT NULL,
            kind TEXT NOT NULL, event TEXT NOT NULL, priority TEXT NOT NULL, time REAL NOT NULL,
            since REAL NOT NULL, shelved_by TEXT, kept REAL NOT NULL, payload BLOB NOT NULL)""",
        "CREATE INDEX IF NOT EXISTS alerts_of_alarm ON alerts (alarm)",
        "CREATE INDEX IF NOT EXISTS alerts_since ON alerts (since)",
        """CREATE TABLE IF NOT EXISTS actions (
            action TEXT NOT NULL, alarm TEXT, device TEXT NOT NULL, person TEXT NOT NULL,
            time REAL NOT NULL, until REAL, kept REAL NOT NULL)""",
        "CREATE INDEX IF NOT EXISTS actions_of_alarm ON actions (alarm)",
        # When an alarm was lost stood among the actions, where others could push it out: the
        # alarm was open again. It held unless an alert of the alarm had come since.
        "ALTER TABLE alerts ADD COLUMN lost REAL",
        """UPDATE alerts SET lost = (
            SELECT max(time) FROM actions WHERE action = 'lost' AND alarm = alerts.alarm
            AND kept >= (SELECT max(kept) FROM alerts AS each WHERE each.alarm = alerts.alarm))
            WHERE alarm IN (SELECT alarm FROM actions WHERE action = 'lost')""",
        "DELETE FROM actions WHERE action = 'lost'",
    ),
)
"""The statements that lead from each version of the schema to the next, beginning with 0: a new
file goes the same way as an old one. What was released is not edited; new steps follow it."""

VERSION = len(_MIGRATIONS)
"""The version of the schema that this program reads and writes (`PRAGMA user_version`)."""


class Action(msgspec.Struct, frozen=True):
    """What somebody did, to an alarm or to a device; times in seconds since 1970."""

    action: Literal["acknowledged", "shelved", "unshelved"]
    device: str
    by: str
    time: float
    alarm: str | None = None
    until: float | None = None


def open_to_write(file: Path) -> sqlite3.Connection:
    """Open a file to be written, made if it is not there and migrated if it is of an older version.

    Only its owner may read it.

    Raises:
        OSError: its folder cannot be made.
        sqlite3.Error: it cannot be written, holds something else, or is of a newer version.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    database = sqlite3.connect(file, timeout=5)
    try:
        version = _version(database)
        database.executescript(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;"
            "PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 4194304"
        )
        if version < VERSION:
            _migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def open_to_read(file: Path) -> sqlite3.Connection:
    """Open a file to be read, while another program may write to it.

    Raises:
        sqlite3.Error: it cannot be opened, holds something else, or is of another version.
    """
    database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    try:
        if (version := _version(database)) < VERSION:
            raise sqlite3.DatabaseError(
                f"its schema has version {version}, and {VERSION} is read here: start the monitor, "
                "which brings its file up to date"
            )
    except BaseException:
        database.close()
        raise
    return database


def _version(database: sqlite3.Connection) -> int:
    """Return the version of the schema; 0 where there is none yet.

    Raises:
        sqlite3.DatabaseError: the file holds something else, or is of a newer version.
    """
    version, application = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("user_version", "application_id")
    )
    rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    others = {row[0] for row in rows} - {"alerts", "actions"}
    if application != APPLICATION_ID and (application or version or others):
        raise sqlite3.DatabaseError("it holds something else than a history")
    if version > VERSION:
        raise sqlite3.DatabaseError(
            f"its schema has version {version}, of a newer monitor; this one knows {VERSION}"
        )
    return int(version)


def _migrate(database: sqlite3.Connection) -> None:
    """Bring the schema up to date, all of it or nothing."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        for statements in _MIGRATIONS[_version(database) :]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {VERSION}")


def trim(database: sqlite3.Connection, bounds: HistorySettings) -> None:
    """Delete what is too old, and the oldest where there is too much."""
    oldest = time.time() - 86400 * bounds.days
    most = bounds.megabytes * 1_000_000
    with database:
        database.execute("DELETE FROM alerts WHERE kept < ?", (oldest,))
        database.execute("DELETE FROM actions WHERE kept < ?", (oldest,))
        database.execute(
            "DELETE FROM actions WHERE rowid <= (SELECT max(rowid) FROM actions) - ?",
            (ACTIONS_PER_MEGABYTE * bounds.megabytes,),
        )
        pages, free, size = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        if (used := (pages - free) * size) > most:
            # Down to nine tenths, so that the next alert does not begin it again.
            database.execute(
                "DELETE FROM alerts WHERE rowid <= (SELECT min(rowid) + ? * (max(rowid) - "
                "min(rowid)) FROM alerts)",
                (1 - 0.9 * most / used,),
            )
    database.execute("PRAGMA incremental_vacuum").fetchall()
