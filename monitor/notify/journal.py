"""What people were told, on disk: after a restart nobody is called twice, and the next in time.

What is to be told stands elsewhere, in the alarms that are open. Here stands since when each wants
somebody, by our clock, and who was told of it. A call is written down once the other side has it:
a process that dies in between makes it again, for twice is better than not at all.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from monitor.journal_file import open_journal
from monitor.notify.duty import UnansweredAlarm
from monitor.notify.line import MAX_REMEMBERED

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS waiting (alert TEXT PRIMARY KEY, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS told (
    number INTEGER PRIMARY KEY,
    person TEXT NOT NULL,
    alert TEXT NOT NULL,
    alarm BLOB NOT NULL,
    time REAL NOT NULL,
    UNIQUE (person, alert)
);
"""
VERSION: Final = 1

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(UnansweredAlarm).decode


class Journal:
    """Writes down who was told of what. Used by one thread at a time."""

    def __init__(self, file: Path) -> None:
        """Open the journal, new or old.

        Raises:
            ConfigurationError: the file cannot be used.
            Failure: it cannot be used just now.
        """
        self._database = open_journal(
            "notify.journal", file, _SCHEMA, VERSION, needs_disk=False, check_same_thread=False
        )
        self._waiting: dict[str, float] = {}

    def waiting(self) -> dict[str, float]:
        """Return since when each alert wants somebody, in seconds since 1970."""
        self._waiting = dict(self._database.execute("SELECT alert, since FROM waiting"))
        return dict(self._waiting)

    def told(self, person: str) -> list[UnansweredAlarm]:
        """Return what a person was told, the oldest first."""
        rows = self._database.execute(
            "SELECT alarm FROM told WHERE person = ? ORDER BY number", (person,)
        )
        return [_decode(alarm) for (alarm,) in rows.fetchall()]

    def wait(self, since: dict[str, float]) -> None:
        """Write down which alerts want somebody, and since when.

        Raises sqlite3.Error if the disk will not take it.
        """
        if since == self._waiting:
            return
        with self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO waiting VALUES (?, ?)",
                since.items() - self._waiting.items(),
            )
            self._database.executemany(
                "DELETE FROM waiting WHERE alert = ?",
                ((alert,) for alert in self._waiting.keys() - since.keys()),
            )
        self._waiting = dict(since)

    def tell(
        self,
        person: str,
        alarms: Iterable[UnansweredAlarm],
        over: Iterable[UnansweredAlarm],
        moment: float,
    ) -> None:
        """Write down what a person was told at `moment`, in seconds since 1970.

        Those that Alertmanager was told are over are forgotten, and so are the oldest, unless they
        still want somebody. Raises sqlite3.Error if the disk will not take it.
        """
        with self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO told (person, alert, alarm, time) VALUES (?, ?, ?, ?)",
                ((person, each.alert, _encode(each), moment) for each in alarms),
            )
            self._database.executemany(
                "DELETE FROM told WHERE person = ? AND alert = ?",
                ((person, each.alert) for each in over),
            )
            self._database.execute(
                "DELETE FROM told WHERE person = ?1 AND alert NOT IN (SELECT alert FROM waiting) "
                "AND number <= (SELECT number FROM told WHERE person = ?1 "
                "ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                (person, MAX_REMEMBERED),
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()
