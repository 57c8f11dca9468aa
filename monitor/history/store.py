"""The history: alarms with their beats, and what people did about them, in SQLite.

The loop hands over what is to be kept and goes on; a thread writes it. The file is bounded by age
and by size. What cannot be written is counted, never waited for.
"""

import errno
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Literal

import msgspec
import structlog
from prometheus_client import Counter

from monitor.alarms.messages import Acknowledged, Alert, Kind, Priority, decode_alert, encode
from monitor.errors import ConfigurationError, Failure
from monitor.settings import HistorySettings
from monitor.times import from_rfc3339, rfc3339

log = structlog.get_logger()

WAITING = 10_000
"""Rows that wait to be written, at most; what comes then is lost to the history."""

AT_ONCE = 500
"""Rows that are written in one transaction, at most."""

GATHERED = 0.1
"""Seconds for which rows are gathered: the loop is not to be disturbed as it sends an alert."""

AGAIN_AFTER = 1.0
"""Seconds after which what could not be written is tried again."""

ACTIONS = 500
"""Actions that are kept for each megabyte, at most: however many come, alerts have their room."""

TRIM_EVERY = 60.0
"""Seconds between two looks at whether the file is within its bounds."""

_SCHEMA = """
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
# An alert comes again after a redelivery, and when a shelf is over.
_KEEP_ALERT = (
    "INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET kept = excluded.kept"
)
_KEEP_ACTION = "INSERT INTO actions VALUES (?, ?, ?, ?, ?, ?, ?)"
_LOSE = (
    "WITH open AS (SELECT alarm, device, max(kept) AS kept FROM alerts GROUP BY alarm "
    "HAVING NOT max(event = 'cleared')) "
    "INSERT INTO actions SELECT 'lost', alarm, device, 'a restart', ?, NULL, ? FROM open "
    "WHERE alarm NOT IN (SELECT value FROM json_each(?)) AND NOT EXISTS "
    "(SELECT 1 FROM actions AS a WHERE a.alarm = open.alarm AND a.action = 'lost' "
    "AND a.kept >= open.kept)"
)


_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)

_Row = tuple[str, tuple[Any, ...]]


class Action(msgspec.Struct, frozen=True):
    """What somebody did, to an alarm or to a device; times in seconds since 1970."""

    action: Literal["acknowledged", "shelved", "unshelved"]
    device: str
    by: str
    time: float
    alarm: str | None = None
    until: float | None = None


class PastAlarm(msgspec.Struct, kw_only=True):
    """An alarm from its raising to its clearing; times are RFC 3339.

    Attributes:
        id: of the alert that raised it.
        priority: the highest that it had.
        cleared: None while it stands.
        lost: whether it has only ended as the monitor started and the broker had forgotten it.
        acknowledged: who has seen it last.
        shelved_by: who had the device shelved, so that nobody was alerted.
        score, threshold, model, beats_anomalous, beats_seen: as it was raised.
        beat, reconstruction: of the beat that raised it, [140]; None where none did.
    """

    id: str
    device: str
    kind: Kind
    priority: Priority
    raised: str
    escalated: str | None = None
    cleared: str | None = None
    lost: bool = False
    acknowledged: Acknowledged | None = None
    shelved_by: str | None = None
    score: float | None = None
    threshold: float | None = None
    model: str | None = None
    beats_anomalous: int | None = None
    beats_seen: int | None = None
    beat: list[float] | None = None
    reconstruction: list[float] | None = None


class History:
    """Keeps alerts and actions, from the loop's side."""

    def __init__(self, bounds: HistorySettings, file: Path, lost: Counter) -> None:
        """Open the file and begin to write; keep nothing where `bounds.days` is 0.

        Raises:
            ConfigurationError: the file that the settings name cannot be used. One that they do
                not name is done without, and the log says so.
        """
        self._bounds, self._file, self._lost = bounds, file, lost
        self._waiting: Queue[_Row | None] = Queue(WAITING)
        self._over = threading.Event()
        self._failed = False
        self._trim_at = 0.0
        self._thread: threading.Thread | None = None
        if not bounds.days:
            return
        try:
            create(file).close()
        except (OSError, sqlite3.Error) as error:
            if _passes(error):
                self._tell(error)
            elif bounds.file is not None:
                raise ConfigurationError(
                    f"history.file = '{file}': cannot be used ({error}); allowed is a file of the "
                    "history, or a new one in a folder that can be written to"
                ) from None
            else:
                log.warning("no history is kept", file=str(file), reason=str(error))
                return
        self._thread = threading.Thread(target=self._write, name="history", daemon=True)
        self._thread.start()

    @property
    def file(self) -> Path | None:
        """Where it is; None where nothing is kept."""
        return self._file if self._thread is not None else None

    def keep(self, alert: Alert, payload: bytes, shelved_by: str | None = None) -> None:
        """Keep an alert, which is encoded in `payload`; of a shelved device nobody was alerted."""
        row = (
            *(alert.id, alert.alarm, alert.device, alert.kind, alert.event, alert.priority),
            *(from_rfc3339(alert.time), from_rfc3339(alert.since)),
            *(shelved_by, time.time(), payload),
        )
        self._put(_KEEP_ALERT, row)

    def note(self, action: Action) -> None:
        """Keep what somebody did."""
        self._put(
            _KEEP_ACTION,
            (
                *(action.action, action.alarm, action.device, action.by, action.time),
                *(action.until, time.time()),
            ),
        )

    def end_others(self, standing: Iterable[str]) -> None:
        """Take all open alarms but these for lost: the broker has forgotten them."""
        now = time.time()
        self._put(_LOSE, (now, now, encode(list(standing)).decode()))

    def close(self, patience: float) -> None:
        """Write what waits, within `patience` seconds."""
        if self._thread is None:
            return
        self._over.set()
        with suppress(Full):
            self._waiting.put_nowait(None)
        self._thread.join(patience)
        if left := self._waiting.qsize():
            log.error("history", file=str(self._file), lost=left)

    def _put(self, statement: str, row: tuple[Any, ...]) -> None:
        if self._thread is None:
            return
        try:
            self._waiting.put_nowait((statement, row))
        except Full:
            self._lost.inc()

    # -- in the thread that writes

    def _write(self) -> None:
        more = True
        while more:
            rows = [self._waiting.get()]
            self._over.wait(GATHERED)
            while len(rows) < AT_ONCE:
                try:
                    rows.append(self._waiting.get_nowait())
                except Empty:
                    break
            more = None not in rows
            while not self._store([row for row in rows if row is not None]):
                if self._over.wait(AGAIN_AFTER):
                    return

    def _store(self, rows: list[_Row]) -> bool:
        """Write rows; False if that cannot be done now, as where the disk is full."""
        try:
            with closing(create(self._file)) as database:
                with database:
                    for statement, row in rows:
                        database.execute(statement, row)
                if time.monotonic() >= self._trim_at:
                    self._trim_at = time.monotonic() + TRIM_EVERY
                    _trim(database, self._bounds)
        except (OSError, sqlite3.Error) as error:
            if not self._failed:
                self._tell(error)
            return False
        if self._failed:
            log.info("history", file=str(self._file), written=True)
        self._failed = False
        return True

    def _tell(self, error: OSError | sqlite3.Error) -> None:
        self._failed = True
        log.error("history", file=str(self._file), reason=str(error), retrying=True)


def _passes(error: OSError | sqlite3.Error) -> bool:
    """Whether the settings are not to blame: the file is locked, or the disk full or failing."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what makes it more precise
    return code in _PASSING or getattr(error, "errno", None) == errno.ENOSPC


def create(file: Path) -> sqlite3.Connection:
    """Open a file to be written, made if it is not there; only its owner may read it.

    Raises:
        OSError, sqlite3.Error: it cannot be written, or holds something else.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    database = sqlite3.connect(file, timeout=5)
    database.executescript(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
        "PRAGMA journal_size_limit = 4194304;" + _SCHEMA
    )
    return database


def _trim(database: sqlite3.Connection, bounds: HistorySettings) -> None:
    """Let go of what is too old, and of the oldest of what is too much."""
    with database:
        for table in ("alerts", "actions"):
            oldest = time.time() - 86400 * bounds.days
            database.execute(f"DELETE FROM {table} WHERE kept < ?", (oldest,))  # noqa: S608
        database.execute(
            "DELETE FROM actions WHERE rowid <= (SELECT max(rowid) FROM actions) - ?",
            (ACTIONS * bounds.megabytes,),
        )
        pages, free, size = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        most = bounds.megabytes * 1_000_000
        if (used := (pages - free) * size) > most:
            share = 1 - 0.9 * most / used
            database.execute(
                "DELETE FROM alerts WHERE rowid <= (SELECT min(rowid) + ? * (max(rowid) - "
                "min(rowid)) FROM alerts)",
                (share,),
            )
    database.execute("PRAGMA incremental_vacuum").fetchall()


# -- reading


@contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    if not file.is_file():
        raise Failure(f"history.file = '{file}': no monitor has kept a history there")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            yield database
    except sqlite3.Error as error:
        raise Failure(f"history.file = '{file}': cannot be read ({error})") from None


def alarms(
    file: Path,
    since: float | None = None,
    device: str | None = None,
    most: int | None = None,
    alarm: str | None = None,
) -> Iterator[PastAlarm]:
    """Give the alarms that stood at or after `since`, the last ones first.

    Args:
        file: the history's.
        since: seconds since 1970; None for all that is kept.
        device: only this one's.
        most: how many.
        alarm: only the one with this id.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    chosen = (
        "SELECT alarm, min(since) AS begin, max(CASE event WHEN 'cleared' THEN time END) AS end "
        "FROM alerts WHERE (:device IS NULL OR device = :device) "
        "AND (:alarm IS NULL OR alarm = :alarm) GROUP BY alarm "
        "HAVING :since IS NULL OR end IS NULL OR end >= :since "
        "ORDER BY begin DESC, alarm LIMIT :most"
    )
    with _reading(file) as database:
        rows = database.execute(
            f"SELECT alerts.* FROM ({chosen}) AS chosen JOIN alerts USING (alarm) "  # noqa: S608
            "ORDER BY chosen.begin DESC, alarm, alerts.rowid",
            {
                "device": device,
                "alarm": alarm,
                "since": since,
                "most": -1 if most is None else most,
            },
        )
        for identity, alerts in groupby(rows, key=itemgetter("alarm")):
            seen, lost = (
                database.execute(
                    "SELECT * FROM actions WHERE alarm = ? AND action = ? "
                    "ORDER BY rowid DESC LIMIT 1",
                    (identity, action),
                ).fetchone()
                for action in ("acknowledged", "lost")
            )
            yield _alarm(list(alerts), seen, lost)


def _alarm(
    rows: list[sqlite3.Row], seen: sqlite3.Row | None, lost: sqlite3.Row | None
) -> PastAlarm:
    first, times = rows[0], {row["event"]: rfc3339(row["time"]) for row in rows}
    if "cleared" in times or (lost and lost["kept"] < max(row["kept"] for row in rows)):
        lost = None  # what was lost has come again
    alert = decode_alert(first["payload"])
    return PastAlarm(
        id=first["alarm"],
        device=first["device"],
        kind=first["kind"],
        priority=rows[-1]["priority"],
        raised=rfc3339(first["since"]),
        escalated=times.get("escalated"),
        cleared=rfc3339(lost["time"]) if lost else times.get("cleared"),
        lost=lost is not None,
        acknowledged=Acknowledged(seen["person"], rfc3339(seen["time"])) if seen else None,
        shelved_by=first["shelved_by"],
        score=alert.score,
        threshold=alert.threshold,
        model=alert.model,
        beats_anomalous=alert.beats_anomalous,
        beats_seen=alert.beats_seen,
        beat=alert.beat,
        reconstruction=alert.reconstruction,
    )


def shelvings(file: Path, since: float | None = None, device: str | None = None) -> list[Action]:
    """Who shelved which device and took it back, at or after `since`, the oldest first.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    with _reading(file) as database:
        rows = database.execute(
            "SELECT * FROM actions WHERE action IN ('shelved', 'unshelved') AND (:since IS NULL OR "
            "coalesce(until, time) >= :since) AND (:device IS NULL OR device = :device) "
            "ORDER BY rowid",
            {"since": since, "device": device},
        )
        return [
            Action(row["action"], row["device"], row["person"], row["time"], until=row["until"])
            for row in rows
        ]
