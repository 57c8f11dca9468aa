"""The file of the history: its schema, the schema's version, and its limits. SQLite.

There are six tables: `alerts` with each change of an alarm and its beat, `actions` with what people
did, `judgements` with what they said of alarms, of which the last counts, `strips` with the signal
around alarms, `minutes` with what was heard of each heart, and `days` with how many beats of a
patient came near the threshold of his model, by day. Times are in seconds since 1970. `kept` is
when a row was written, from which its age is counted, as a device's clock may be wrong. `lost` is
when the broker was found to no longer have the alarm: if all alerts of an alarm have it, the alarm
ended then. Where `moved` has a client id, the alarm went on at that monitor.
"""

import sqlite3
import zlib
from pathlib import Path
from typing import Literal

import msgspec

from monitor.alarms.messages import Kind
from monitor.settings import HistorySettings

ACTIONS_PER_MEGABYTE = 500
"""Actions kept for each megabyte of the limit. At 50 to 130 bytes each (measured, with typical
names), endless shelving fills a fifteenth of the file and leaves the rest to the alerts; endless
acknowledgements, with the longest notes of 200 letters, a sixth."""

STRIP_SHARE = 0.5
"""Share of the limit that strips may take: 4,000 of three leads (30 kB) in 256 MB. Their alarms
are kept for longer."""

MINUTES_PER_MEGABYTE = 2000
"""Minutes of all devices kept for each megabyte of the limit: at 120 bytes each with the
index, a quarter of the file. 256 MB keep 40 devices for nine days."""

SUPERSEDED_PER_MEGABYTE = 25
"""Of so many of the newest judgements for each megabyte of the limit, those that were revised are
kept, too: with the longest notes, of 4 kB, they fill a tenth of the file. The last judgement of an
alarm is kept as long as the alarm, whose beat is larger."""

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
        # Lost alarms used to be recorded as actions, where newer actions could push them out, so
        # that the alarm was open again. They counted unless a later alert of the alarm followed.
        "ALTER TABLE alerts ADD COLUMN lost REAL",
        """UPDATE alerts SET lost = (
            SELECT max(time) FROM actions WHERE action = 'lost' AND alarm = alerts.alarm
            AND kept >= (SELECT max(kept) FROM alerts AS each WHERE each.alarm = alerts.alarm))
            WHERE alarm IN (SELECT alarm FROM actions WHERE action = 'lost')""",
        "DELETE FROM actions WHERE action = 'lost'",
    ),
    (
        """CREATE TABLE judgements (
            alarm TEXT NOT NULL, verdict INTEGER NOT NULL, note TEXT NOT NULL,
            person TEXT NOT NULL, time REAL NOT NULL)""",
        "CREATE INDEX judgements_of_alarm ON judgements (alarm)",
    ),
    ("ALTER TABLE alerts ADD COLUMN moved TEXT",),
    (
        """CREATE TABLE days (
            device TEXT NOT NULL, sha256 TEXT NOT NULL, day INTEGER NOT NULL,
            beats INTEGER NOT NULL, near INTEGER NOT NULL, kept REAL NOT NULL,
            PRIMARY KEY (device, sha256, day))""",
    ),
    (
        """CREATE TABLE strips (
            alarm TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL, strip BLOB NOT NULL)""",
        """CREATE TABLE minutes (
            device TEXT NOT NULL, time INTEGER NOT NULL, beats INTEGER NOT NULL,
            low REAL, mean REAL, high REAL, ventricular INTEGER NOT NULL,
            anomalous INTEGER NOT NULL, poor INTEGER NOT NULL, kept REAL NOT NULL)""",
        "CREATE UNIQUE INDEX minutes_of_device ON minutes (device, time)",
    ),
    (
        "ALTER TABLE actions ADD COLUMN note TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE actions ADD COLUMN kinds TEXT NOT NULL DEFAULT ''",
    ),
)
"""The statements that lead from each version of the schema to the next, starting with 0: a new
file takes the same path as an old one. Never edit a released step; append new ones."""

VERSION = len(_MIGRATIONS)
"""The version of the schema that this program reads and writes (`PRAGMA user_version`)."""


MODEL_NOT_KEPT = "model not kept"
"""The note of a discharge after which the patient's model is not to be used any more."""


class Action(msgspec.Struct, frozen=True):
    """What a person did to an alarm or a patient; times in seconds since 1970.

    Attributes:
        note: what they said of an alarm that they acknowledged, which model they chose, or
            `MODEL_NOT_KEPT`.
        kinds: of alarm that they shelved, where they named some.
    """

    action: Literal[
        "acknowledged", "shelved", "unshelved", "admitted", "discharged", "chose a model"
    ]
    device: str
    by: str
    time: float
    alarm: str | None = None
    until: float | None = None
    note: str = ""
    kinds: tuple[Kind, ...] = ()

    @property
    def done(self) -> str:
        """Return what was done, as it reads before "by Anna"."""
        chosen = f"{self.note} model chosen".strip()  # older monitors did not note which
        return chosen if self.action == "chose a model" else self.action


class Judgement(msgspec.Struct, frozen=True):
    """What a person said of an alarm: whether it was true, and why; `time` in seconds since 1970.

    `id` is that of an alert of the alarm, `device` the only one whose alarm it may be (None: any).
    """

    id: str
    device: str | None
    verdict: bool
    note: str
    by: str
    time: float


def compress(strip: bytes) -> bytes:
    """Return a strip as it is stored: a fifth as long, after 20 ms in the writing thread."""
    return zlib.compress(strip, 6)


decompress = zlib.decompress


def open_to_write(file: Path) -> sqlite3.Connection:
    """Open a file for writing; create it if necessary, and migrate it from an older version.

    Only its owner can read it.

    Raises:
        OSError: its folder cannot be created.
        sqlite3.Error: it cannot be written, is not a history, or has a newer version.
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
    """Open a file for reading, while another program may write to it.

    Raises:
        sqlite3.Error: it cannot be opened, is not a history, or has another version.
    """
    database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    try:
        if (version := _version(database)) < VERSION:
            raise sqlite3.DatabaseError(
                f"its schema has version {version}, but {VERSION} is needed: start the monitor, "
                "which migrates the file"
            )
    except BaseException:
        database.close()
        raise
    return database


def _version(database: sqlite3.Connection) -> int:
    """Return the version of the schema; 0 if there is none yet.

    Raises:
        sqlite3.DatabaseError: the file is not a history, or has a newer version.
    """
    version, application = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("user_version", "application_id")
    )
    rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    others = {row[0] for row in rows} - {"alerts", "actions"}
    if application != APPLICATION_ID and (application or version or others):
        raise sqlite3.DatabaseError("it is not a history")
    if version > VERSION:
        raise sqlite3.DatabaseError(
            f"its schema has version {version}, of a newer monitor; this one supports {VERSION}"
        )
    return int(version)


def _migrate(database: sqlite3.Connection) -> None:
    """Migrate the schema to `VERSION`, completely or not at all."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        for statements in _MIGRATIONS[_version(database) :]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {VERSION}")


def trim(database: sqlite3.Connection, bounds: HistorySettings, now: float) -> None:
    """Delete rows that are too old, and the oldest rows of a file that is too large.

    Judgements go with their alarms. `now` is in seconds since 1970.
    """
    oldest = now - 86400 * bounds.days
    most = bounds.megabytes * 1_000_000
    with database:
        database.execute("DELETE FROM alerts WHERE kept < ?", (oldest,))
        database.execute("DELETE FROM actions WHERE kept < ?", (oldest,))
        # The first day of a model in use stays: later ones are compared with it.
        database.execute(
            "DELETE FROM days WHERE kept < :oldest AND rowid NOT IN "
            "(SELECT min(rowid) FROM days GROUP BY device, sha256 HAVING max(kept) >= :oldest)",
            {"oldest": oldest},
        )
        database.execute(
            "DELETE FROM actions WHERE rowid <= (SELECT max(rowid) FROM actions) - ?",
            (ACTIONS_PER_MEGABYTE * bounds.megabytes,),
        )
        database.execute(
            "DELETE FROM judgements WHERE rowid <= (SELECT max(rowid) FROM judgements) - ? AND "
            "rowid < (SELECT max(rowid) FROM judgements AS own WHERE own.alarm = judgements.alarm)",
            (SUPERSEDED_PER_MEGABYTE * bounds.megabytes,),
        )
        database.execute("DELETE FROM minutes WHERE kept < ?", (oldest,))
        database.execute(
            "DELETE FROM minutes WHERE rowid <= (SELECT max(rowid) FROM minutes) - ?",
            (MINUTES_PER_MEGABYTE * bounds.megabytes,),
        )
        database.execute(
            "DELETE FROM strips WHERE rowid <= (SELECT max(rowid) FROM (SELECT rowid, "
            "sum(bytes) OVER (ORDER BY rowid DESC) AS newer FROM strips) WHERE newer > ?)",
            (STRIP_SHARE * most,),
        )
        pages, free, size = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        if (used := (pages - free) * size) > most:
            # Down to nine tenths, so that the next alert does not trigger it again.
            database.execute(
                "DELETE FROM alerts WHERE rowid <= (SELECT min(rowid) + ? * (max(rowid) - "
                "min(rowid)) FROM alerts)",
                (1 - 0.9 * most / used,),
            )
        for bound in ("judgements", "strips"):
            database.execute(f"DELETE FROM {bound} WHERE alarm NOT IN (SELECT alarm FROM alerts)")  # noqa: S608
    database.execute("PRAGMA incremental_vacuum").fetchall()
