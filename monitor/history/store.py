"""What a file of the history is: its schema and its bounds. SQLite.

Two tables: `alerts`, each change of an alarm with its beat, and `actions`, what people did. Times
are in seconds since 1970. `kept` is when a row was written, which is what its age counts from: a
device's clock may be wrong.
"""

import sqlite3
import time
from pathlib import Path
from typing import Literal

import msgspec

from monitor.settings import HistorySettings

ACTIONS_PER_MEGABYTE = 500
"""Actions that are kept for each megabyte of the bound: about 100 bytes each, so that a script
that shelves without end takes a twentieth of the file and leaves the rest to the alerts."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS alerts (
    id TEXT NOT NULL PRIMARY KEY, alarm TEXT NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL,
    event TEXT NOT NULL, priority TEXT NOT NULL, time REAL NOT NULL, since REAL NOT NULL,
    shelved_by TEXT, kept REAL NOT NULL, payload BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS alerts_of_alarm ON alerts (alarm);
CREATE INDEX IF NOT EXISTS alerts_since ON alerts (since);
CREATE TABLE IF NOT EXISTS actions (
    action TEXT NOT NULL, alarm TEXT, device TEXT NOT NULL, person TEXT NOT NULL,
    time REAL NOT NULL, until REAL, kept REAL NOT NULL);
CREATE INDEX IF NOT EXISTS actions_of_alarm ON actions (alarm);
"""


class Action(msgspec.Struct, frozen=True):
    """What somebody did, to an alarm or to a device; times in seconds since 1970."""

    action: Literal["acknowledged", "shelved", "unshelved"]
    device: str
    by: str
    time: float
    alarm: str | None = None
    until: float | None = None


def open_to_write(file: Path) -> sqlite3.Connection:
    """Open a file to be written, made if it is not there; only its owner may read it.

    Raises:
        OSError, sqlite3.Error: it cannot be written, or holds something else.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    database = sqlite3.connect(file, timeout=5)
    database.executescript(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
        "PRAGMA journal_size_limit = 4194304;" + SCHEMA
    )
    return database


def open_to_read(file: Path) -> sqlite3.Connection:
    """Open a file to be read, while another program may write to it.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    return database


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
