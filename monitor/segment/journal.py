"""The last seconds of every signal, on disk: a program that was killed goes on where it stood.

A beat is cut from some seconds of signal around it, longer than any broker holds messages back. So
each chunk is written down before it is acknowledged, and marked once the beats that it completed
are with the broker. After a restart the chunks are cut again, and only the beats of those without
a mark are published. A process that dies loses nothing that way; a machine that loses its power
may lose what the operating system had not written.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from monitor.journal_file import open_journal

KEPT: Final = 20.0
"""Seconds of each signal: what a beat is cut from (11.5), and a chunk of some more."""

FORGOTTEN: Final = 3600.0
"""Seconds after which a signal that has ended is not kept any more."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS chunks (
    number INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    first INTEGER NOT NULL,
    payload BLOB NOT NULL,
    arrived REAL NOT NULL,
    done INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_device ON chunks (device, arrived);
CREATE TABLE IF NOT EXISTS strips (
    alarm TEXT NOT NULL PRIMARY KEY,
    device TEXT NOT NULL,
    at INTEGER NOT NULL,
    asked REAL NOT NULL,
    done INTEGER NOT NULL DEFAULT 0
);
"""
VERSION: Final = 1


class Entry(NamedTuple):
    """A chunk that was written down.

    Attributes:
        number: of the entry; they rise in the order in which chunks came.
        first: the number of its first sample, as it was counted here.
        payload: of the message; empty where the stream ended, for want of chunks, with its last
            beats.
        arrived: when it came, in seconds since 1970.
        done: whether the beats that it completed are with the broker.
    """

    number: int
    device: str
    first: int
    payload: bytes
    arrived: float
    done: bool


class WantedStrip(NamedTuple):
    """The strip of an alarm that is to be published.

    Attributes:
        alarm: its id.
        at: the number of the sample at which it was raised.
        asked: when its alert came, in seconds since 1970.
        done: whether the broker has the strip.
    """

    alarm: str
    device: str
    at: int
    asked: float
    done: bool


class Journal:
    """Writes chunks down and reads them back. Used by one process at a time."""

    def __init__(self, file: Path) -> None:
        """Open the journal, new or old.

        Raises:
            ConfigurationError: the file cannot be used.
            Failure: it cannot be used just now.
        """
        self._database = open_journal(
            "segment.journal", file, _SCHEMA, VERSION, "OFF", needs_disk=False, isolation_level=None
        )
        self._last = 0
        self._written = 0  # the last entry that the disk has
        self._unmarked: list[int] = []  # of those, the ones that are done, which it has not

    def read(self) -> list[Entry]:
        """Return all entries, in the order in which their chunks came; called before `number`."""
        rows = self._database.execute(
            "SELECT number, device, first, payload, arrived, done FROM chunks ORDER BY number"
        )
        with closing(rows):
            entries = [Entry(*row)._replace(done=bool(row[-1])) for row in rows]
        self._last = self._written = entries[-1].number if entries else 0
        return entries

    def number(self) -> int:
        """Return the number of the next entry."""
        self._last += 1
        return self._last

    def write(self, entries: Iterable[Entry], done: Iterable[int]) -> None:
        """Write new entries, and mark those of these numbers as done, all or nothing.

        Raises sqlite3.Error if the disk will not take it. The marks of what it has are then made
        with the next write: whatever is without one is cut and published again after a restart.
        """
        entries, done = list(entries), [*self._unmarked, *done]
        self._unmarked = [number for number in done if number <= self._written]
        self._database.execute("BEGIN")
        try:
            self._database.executemany(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?)", entries
            )
            self._database.executemany(
                "UPDATE chunks SET done = 1 WHERE number = ?", ((number,) for number in done)
            )
            self._database.execute("COMMIT")
        except sqlite3.Error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self._unmarked.clear()
        self._written = max([self._written, *(entry.number for entry in entries)])

    def strips(self) -> list[WantedStrip]:
        """Return the strips of the last hour, in the order in which they were asked for."""
        rows = self._database.execute(
            "SELECT alarm, device, at, asked, done FROM strips ORDER BY asked"
        )
        with closing(rows):
            return [WantedStrip(*row)._replace(done=bool(row[-1])) for row in rows]

    def write_strip(self, strip: WantedStrip) -> None:
        """Write that a strip is wanted, or that it is done.

        Raises sqlite3.Error if the disk will not take it.
        """
        self._database.execute("INSERT OR REPLACE INTO strips VALUES (?, ?, ?, ?, ?)", strip)

    def trim(self, now: float) -> None:
        """Let go of what no beat will be cut from any more; `now` in seconds since 1970."""
        self._database.execute("DELETE FROM strips WHERE asked < ?", (now - FORGOTTEN,))
        self._database.execute(
            "DELETE FROM chunks WHERE done AND arrived < ("
            "SELECT max(arrived) FROM chunks AS newer WHERE newer.device = chunks.device) - ?",
            (KEPT,),
        )
        self._database.execute(
            "DELETE FROM chunks WHERE device IN ("
            "SELECT device FROM chunks GROUP BY device HAVING max(arrived) < ?)",
            (now - FORGOTTEN,),
        )

    def close(self) -> None:
        """Close the file."""
        self._database.close()
