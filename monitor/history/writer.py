"""Write the history: the loop hands rows over and continues, and a thread writes them.

The loop never waits. Rows that cannot be written are queued up to a limit, and counted as lost
beyond it.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, NamedTuple

import structlog
from prometheus_client import Counter

from monitor.alarms.drift import Day
from monitor.alarms.messages import Alert, Kind, encode
from monitor.alarms.trends import Minute
from monitor.errors import ConfigurationError, Failure
from monitor.history.store import Action, Judgement, compress, open_to_write, trim
from monitor.journal_file import passes
from monitor.settings import HistorySettings
from monitor.times import from_rfc3339

log = structlog.get_logger()

MAX_WAITING = 10_000
"""Most rows that wait to be written: up to 60 MB, as an alert with its beat is about 6 kB."""

MAX_STRIPS = 100
"""Most strips that wait to be written: 15 MB."""

MAX_BATCH = 500
"""Most rows in one transaction: 3 MB of alerts, less than the 4 MiB to which SQLite's write-ahead
log is truncated."""

GATHER_TIME = 0.1
"""Seconds for which rows are gathered before they are written, so that writing does not delay the
loop while it publishes the same alert. A monitor that is killed loses that much of its history, but
nothing of it that somebody waits for."""

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to write."""

TRIM_INTERVAL = 60.0
"""Seconds between two checks of the file's limits: at 500 alerts a minute it grows by 3 MB."""

# An alert is repeated after a redelivery and when shelving ends: its alarm is not lost then.
_INSERT_ALERT = (
    "INSERT INTO alerts (id, alarm, device, kind, event, priority, time, since, shelved_by, kept, "
    "payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET kept = excluded.kept, lost = NULL"
)
_INSERT_ACTION = (
    "INSERT INTO actions (action, alarm, device, person, time, until, note, kinds, kept) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# Only of an alarm that is there. RETURNING gives what was inserted: nothing, if it is not.
_INSERT_JUDGEMENT = (
    "INSERT INTO judgements (alarm, verdict, note, person, time) SELECT alarm, ?, ?, ?, ? "
    "FROM alerts WHERE id = ? AND coalesce(?, device) = device "
    "RETURNING alarm, (SELECT device FROM alerts WHERE alarm = judgements.alarm), "
    "(SELECT kind FROM alerts WHERE alarm = judgements.alarm)"
)
_ADD_TO_DAY = (
    "INSERT INTO days (device, sha256, day, beats, near, kept) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (device, sha256, day) DO UPDATE SET "
    "beats = beats + excluded.beats, near = near + excluded.near, kept = excluded.kept"
)
# The first counts: another one of the same alarm is a repetition. And of no other device's alarm.
_INSERT_STRIP = (
    "INSERT OR IGNORE INTO strips (alarm, bytes, strip) SELECT alarm, ?, ? FROM alerts "
    "WHERE alarm = ? AND device = ? LIMIT 1"
)
# A minute may come in parts: around a restart, or late from a device that was offline.
_ADD_MINUTE = (
    "INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (device, time) DO UPDATE SET "
    "low = min(coalesce(low, excluded.low), coalesce(excluded.low, low)), "
    "high = max(coalesce(high, excluded.high), coalesce(excluded.high, high)), "
    "mean = coalesce((beats * mean + excluded.beats * excluded.mean) / (beats + excluded.beats), "
    "mean, excluded.mean), "
    "beats = beats + excluded.beats, ventricular = ventricular + excluded.ventricular, "
    "anomalous = anomalous + excluded.anomalous, poor = poor + excluded.poor"
)
_MARK_LOST = (
    "UPDATE alerts SET lost = ?, moved = NULL WHERE alarm NOT IN (SELECT value FROM json_each(?)) "
    "AND alarm IN (SELECT alarm FROM alerts GROUP BY alarm "
    "HAVING NOT max(event = 'cleared') AND count(lost) < count(*))"
)
_MARK_MOVED = (
    "UPDATE alerts SET lost = ?, moved = ? WHERE alarm IN (SELECT value FROM json_each(?)) "
    "AND alarm IN (SELECT alarm FROM alerts GROUP BY alarm "
    "HAVING NOT max(event = 'cleared') AND count(lost) < count(*))"
)


class JudgedAlarm(NamedTuple):
    """The alarm of a judgement that was stored."""

    id: str
    device: str
    kind: Kind


Stored = Future[JudgedAlarm | None]
"""Done once a row is on the disk: of the alarm that it judges, of None, or of `Failure`."""


class _Row(NamedTuple):
    """A statement and its parameters, and who waits for what it returns.

    `strip` is one that is still to be compressed, and comes before the other parameters.
    """

    statement: str
    values: tuple[Any, ...]
    stored: Stored | None = None
    strip: bytes | None = None


class HistoryWriter:
    """Stores alerts, actions and judgements. Its methods, called from the loop, never block."""

    def __init__(self, bounds: HistorySettings, file: Path, lost: Counter) -> None:
        """Open the file and start the thread; store nothing if `bounds.days` is 0.

        Args:
            bounds: the limits, and whether the settings name the file.
            file: to write to.
            lost: counts rows that could not be stored.

        Raises:
            ConfigurationError: a file named by the settings cannot be used. If the default file
                cannot be used, a warning is logged and nothing is stored.
        """
        self._bounds, self._file, self._lost = bounds, file, lost
        self._waiting: Queue[_Row | None] = Queue(MAX_WAITING)
        self._strips = threading.BoundedSemaphore(MAX_STRIPS)
        self._closing = threading.Event()
        self._failed = False
        self._trim_at = 0.0
        self._ahead = time.time() - time.monotonic()
        self._thread: threading.Thread | None = None
        if not bounds.days:
            return
        try:
            open_to_write(file).close()
        except (OSError, sqlite3.Error) as error:
            if passes(error):
                self._log_failure(error)
            elif bounds.file is not None:
                raise ConfigurationError(
                    f"history.file = '{file}': cannot be used ({error}); allowed is a history "
                    "file, or a new file in a writable folder"
                ) from None
            else:
                log.warning("no history is kept", file=str(file), reason=str(error))
                return
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def file(self) -> Path | None:
        """The file; None if nothing is stored."""
        return self._file if self._thread is not None else None

    def keep(self, alert: Alert, payload: bytes, shelved_by: str | None = None) -> None:
        """Store an alert, encoded in `payload`; `shelved_by` is who had it withheld, if anybody."""
        row = (
            *(alert.id, alert.alarm, alert.device, alert.kind, alert.event, alert.priority),
            *(from_rfc3339(alert.time), from_rfc3339(alert.since)),
            *(shelved_by, time.time(), payload),
        )
        self._put(_INSERT_ALERT, row)

    def note(self, action: Action) -> Stored:
        """Store what a person did.

        Return a future of None once it is on the disk; of `Failure` if nothing can be stored.
        """
        row = (
            *(action.action, action.alarm, action.device, action.by, action.time),
            *(action.until, action.note, ",".join(action.kinds), time.time()),
        )
        return self._put_awaited(_INSERT_ACTION, row)

    def judge(self, judgement: Judgement) -> Stored:
        """Store what a person said of an alarm, unless the future is cancelled before.

        Return a future of the alarm once the judgement is on the disk; of None if the history has
        no such alarm; of `Failure` if nothing can be stored.
        """
        row = (
            *(judgement.verdict, judgement.note, judgement.by, judgement.time),
            *(judgement.id, judgement.device),
        )
        return self._put_awaited(_INSERT_JUDGEMENT, row)

    def add_to_day(self, device: str, sha256: str, counted: Day) -> None:
        """Add beats of a device to what is kept of a day by a model."""
        self._put(_ADD_TO_DAY, (device, sha256, *counted, time.time()))

    def keep_strip(self, alarm: str, device: str, strip: bytes) -> None:
        """Store the strip of an alarm, if the history has the alarm and no strip of it."""
        if self._thread is None:
            return
        if not self._strips.acquire(blocking=False):
            self._lost.inc()
        elif not self._put(_INSERT_STRIP, (alarm, device), strip=strip):
            self._strips.release()

    def keep_minutes(self, minutes: Iterable[tuple[str, Minute]]) -> None:
        """Store minutes of devices; add what is counted to what is there of the same minute."""
        now = time.time()
        rows = [(device, *minute, now) for device, minute in minutes]
        if rows:
            # One that waits for all: thousands of devices must not leave alerts without room.
            self._put(_ADD_MINUTE, tuple(rows))

    def end_others(self, retained: Iterable[str]) -> None:
        """Mark open alarms as lost unless the broker retains them, as listed by id."""
        self._put(_MARK_LOST, (time.time(), encode(list(retained)).decode()))

    def move(self, alarms: list[str], monitor: str) -> None:
        """Mark open alarms as moved to another monitor: they end here, and go on there."""
        if alarms:
            self._put(_MARK_MOVED, (time.time(), monitor, encode(alarms).decode()))

    def close(self, timeout: float) -> None:
        """Write the waiting rows within `timeout` seconds; log how many were left."""
        if self._thread is None:
            return
        self._closing.set()
        with suppress(Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout)
        if left := self._waiting.qsize():
            log.error("history", file=str(self._file), lost=left)

    def _put_awaited(self, statement: str, row: tuple[Any, ...]) -> Stored:
        """Queue a row that somebody waits for."""
        stored: Stored = Future()
        if self._thread is None:
            stored.set_exception(Failure("no history is kept"))
        elif not self._put(statement, row, stored):
            stored.set_exception(Failure("the history cannot be written"))
        return stored

    def _put(
        self,
        statement: str,
        row: tuple[Any, ...],
        stored: Stored | None = None,
        strip: bytes | None = None,
    ) -> bool:
        """Queue a row; return whether there was room for it."""
        if self._thread is None:
            return False
        try:
            self._waiting.put_nowait(_Row(statement, row, stored, strip))
        except Full:
            self._lost.inc()
            return False
        return True

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
        """Write rows; return False if that is impossible now, for instance on a full disk.

        The file is opened each time, as it may have been moved away or restored.
        """
        try:
            with closing(open_to_write(self._file)) as database:
                answers: list[tuple[Stored, JudgedAlarm | None]] = []
                with database:
                    for statement, values, stored, strip in rows:
                        if stored is not None and stored.done():
                            continue
                        if statement is _ADD_MINUTE:
                            database.executemany(statement, values)
                            continue
                        if strip is not None:
                            packed = compress(strip)
                            values = (len(packed), packed, *values)
                        found = database.execute(statement, values).fetchall()
                        if stored is not None:
                            answers.append((stored, JudgedAlarm(*found[0]) if found else None))
                for _ in range(sum(row.strip is not None for row in rows)):
                    self._strips.release()
                for stored, alarm in answers:
                    if stored.set_running_or_notify_cancel():
                        stored.set_result(alarm)
                if time.monotonic() >= self._trim_at:
                    self._trim_at = time.monotonic() + TRIM_INTERVAL
                    # A step of the clock makes nothing older: it may be wrong, and this for good.
                    # Where it was behind at the start, nothing is too old until the next one.
                    now = min(time.time(), time.monotonic() + self._ahead)
                    trim(database, self._bounds, now)
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
