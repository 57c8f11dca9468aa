"""Writes the history: the loop hands over what is to be kept and goes on, a thread writes it.

The loop never waits. What cannot be written yet does, within bounds; beyond them it is counted as
lost.
"""

import errno
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

import structlog
from prometheus_client import Counter

from monitor.alarms.messages import Alert, encode
from monitor.errors import ConfigurationError
from monitor.history.store import Action, open_to_write, trim
from monitor.settings import HistorySettings
from monitor.times import from_rfc3339

log = structlog.get_logger()

MAX_WAITING = 10_000
"""Rows that wait to be written, at most: up to 60 MB, for an alert with its beat is about 6 kB."""

MAX_BATCH = 500
"""Rows written in one transaction, at most: 3 MB of alerts, less than the 4 MiB at which SQLite's
log beside the file is cut back."""

GATHER_TIME = 0.1
"""Seconds for which rows are gathered before they are written, so that the writing does not disturb
the loop as it publishes the same alert. A monitor that is killed loses that much of its history."""

RETRY_INTERVAL = 1.0
"""Seconds after which what could not be written is tried again."""

TRIM_INTERVAL = 60.0
"""Seconds between two looks at whether the file is within its bounds: at 500 alerts a minute it
grows by 3 MB between them."""

# An alert comes again after a redelivery, and when a shelf is over: then its alarm is not lost.
_INSERT_ALERT = (
    "INSERT INTO alerts (id, alarm, device, kind, event, priority, time, since, shelved_by, kept, "
    "payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET kept = excluded.kept, lost = NULL"
)
_INSERT_ACTION = (
    "INSERT INTO actions (action, alarm, device, person, time, until, kept) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_MARK_LOST = (
    "UPDATE alerts SET lost = ? WHERE alarm NOT IN (SELECT value FROM json_each(?)) AND alarm IN "
    "(SELECT alarm FROM alerts GROUP BY alarm "
    "HAVING NOT max(event = 'cleared') AND count(lost) < count(*))"
)

_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)

_Row = tuple[str, tuple[Any, ...]]
"""A statement and its parameters."""


class HistoryWriter:
    """Keeps alerts and actions. Its methods are called from the loop and never wait."""

    def __init__(self, bounds: HistorySettings, file: Path, lost: Counter) -> None:
        """Open the file and start the thread; keep nothing where `bounds.days` is 0.

        Args:
            bounds: how much is kept, and whether the file was named.
            file: where.
            lost: counts what could not be kept.

        Raises:
            ConfigurationError: the file that the settings name cannot be used. One that they do
                not name is done without, and the log says so.
        """
        self._bounds, self._file, self._lost = bounds, file, lost
        self._waiting: Queue[_Row | None] = Queue(MAX_WAITING)
        self._closing = threading.Event()
        self._failed = False
        self._trim_at = 0.0
        self._thread: threading.Thread | None = None
        if not bounds.days:
            return
        try:
            open_to_write(file).close()
        except (OSError, sqlite3.Error) as error:
            if _passes(error):
                self._log_failure(error)
            elif bounds.file is not None:
                raise ConfigurationError(
                    f"history.file = '{file}': cannot be used ({error}); allowed is a file of the "
                    "history, or a new one in a folder that can be written to"
                ) from None
            else:
                log.warning("no history is kept", file=str(file), reason=str(error))
                return
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def file(self) -> Path | None:
        """The file; None where nothing is kept."""
        return self._file if self._thread is not None else None

    def keep(self, alert: Alert, payload: bytes, shelved_by: str | None = None) -> None:
        """Keep an alert, encoded in `payload`; `shelved_by` tells why nobody was alerted."""
        row = (
            *(alert.id, alert.alarm, alert.device, alert.kind, alert.event, alert.priority),
            *(from_rfc3339(alert.time), from_rfc3339(alert.since)),
            *(shelved_by, time.time(), payload),
        )
        self._put(_INSERT_ALERT, row)

    def note(self, action: Action) -> None:
        """Keep what somebody did."""
        self._put(
            _INSERT_ACTION,
            (
                *(action.action, action.alarm, action.device, action.by, action.time),
                *(action.until, time.time()),
            ),
        )

    def end_others(self, retained: Iterable[str]) -> None:
        """Mark all open alarms as lost but those with these ids: the broker has forgotten them."""
        self._put(_MARK_LOST, (time.time(), encode(list(retained)).decode()))

    def close(self, timeout: float) -> None:
        """Write what waits, within `timeout` seconds; the log says how much was left."""
        if self._thread is None:
            return
        self._closing.set()
        with suppress(Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout)
        if left := self._waiting.qsize():
            log.error("history", file=str(self._file), lost=left)

    def _put(self, statement: str, row: tuple[Any, ...]) -> None:
        if self._thread is None:
            return
        try:
            self._waiting.put_nowait((statement, row))
        except Full:
            self._lost.inc()

    # -- in the thread

    def _run(self) -> None:
        more = True
        while more:
            rows = [self._waiting.get()]
            self._closing.wait(GATHER_TIME)
            while len(rows) < MAX_BATCH:
                try:
                    rows.append(self._waiting.get_nowait())
                except Empty:
                    break
            more = None not in rows
            while not self._write([row for row in rows if row is not None]):
                if self._closing.wait(RETRY_INTERVAL):
                    return

    def _write(self, rows: list[_Row]) -> bool:
        """Write rows; return False if that cannot be done now, as where the disk is full.

        The file is opened anew each time: it may have been moved away, or have come back.
        """
        try:
            with closing(open_to_write(self._file)) as database:
                with database:
                    for statement, row in rows:
                        database.execute(statement, row)
                if time.monotonic() >= self._trim_at:
                    self._trim_at = time.monotonic() + TRIM_INTERVAL
                    trim(database, self._bounds)
        except (OSError, sqlite3.Error) as error:
            if not self._failed:
                self._log_failure(error)
            return False
        if self._failed:
            log.info("history", file=str(self._file), written=True)
        self._failed = False
        return True

    def _log_failure(self, error: OSError | sqlite3.Error) -> None:
        self._failed = True
        log.error("history", file=str(self._file), reason=str(error), retrying=True)


def _passes(error: OSError | sqlite3.Error) -> bool:
    """Whether the settings are not to blame: the file is locked, or the disk full or failing."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary result code
    return code in _PASSING or getattr(error, "errno", None) == errno.ENOSPC
