"""Who is learnt and how far, and the beats collected, on disk: no kill loses what was taken in.

What a message changes is written in one transaction before the message is acknowledged.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from monitor.alarms.patients import Progress
from monitor.journal_file import open_journal

VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS admissions (device TEXT PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS beats (
    number INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    key INTEGER NOT NULL,
    time REAL NOT NULL,
    seq INTEGER,
    rr_ms REAL,
    samples BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_device ON beats (device, number);
CREATE TABLE IF NOT EXISTS requests (mid INTEGER PRIMARY KEY, content BLOB NOT NULL);
"""


class Task(msgspec.Struct, frozen=True):
    """What is to be done to a device's files, and is done again if it was cut short.

    Attributes:
        do: "install" `file` as the model in use; "try" it beside that, where there is one; "drop"
            the one on trial; "forget" the device with all its models, or "keep" those but the one
            on trial, for a patient who returns.
    """

    do: Literal["install", "try", "drop", "forget", "keep"]
    file: str = ""


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """A patient, from his admission to the model that watches him.

    Attributes:
        admitted, since: when he was admitted, and when this state began; seconds since 1970.
        needed: good beats that the fit needs.
        limit: seconds within which they must come.
        good, poor: beats collected, by their quality.
        turn: in the line, lowest first.
        deaths: how often the process that fitted died over it.
        problem: what is wrong, in one line for people.
        model, sha256: of the file that was written, in the folder of models.
        task: what is still to be done to his files.
    """

    device: str
    state: Progress
    by: str
    admitted: float
    since: float
    needed: int
    limit: float = 0.0
    good: int = 0
    poor: int = 0
    turn: int = 0
    deaths: int = 0
    problem: str | None = None
    model: str | None = None
    sha256: str | None = None
    task: Task | None = None


class Collected(NamedTuple):
    """A beat of a patient.

    Attributes:
        key: tells it from others, as `Beats.keys` gives it.
        time: when it was, in seconds since 1970.
        seq, rr_ms: its number and the RR interval before it, where they were sent.
        samples: little-endian float32, 560 bytes.
    """

    key: int
    time: float
    seq: int | None
    rr_ms: float | None
    samples: bytes


_decode = msgspec.json.Decoder(Admission).decode


class Journal:
    """Keeps admissions and beats. Written by one process; the one that fits only reads."""

    def __init__(self, file: Path) -> None:
        """Open the journal, new or old.

        Raises:
            ConfigurationError: the file cannot be used.
            Failure: it cannot be used just now.
        """
        self._database = open_journal("learn.journal", file, _SCHEMA, VERSION, isolation_level=None)

    @property
    def changes(self) -> int:
        """How many rows have been changed since it was opened."""
        return self._database.total_changes

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that is written inside, or nothing. Raises sqlite3.Error."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def admissions(self) -> list[Admission]:
        """Return all patients."""
        rows = self._database.execute("SELECT content FROM admissions")
        return [_decode(content) for (content,) in rows]

    def keep(self, admission: Admission) -> None:
        """Write a patient down, in place of what was known of the device."""
        self._database.execute(
            "INSERT OR REPLACE INTO admissions VALUES (?, ?)",
            (admission.device, msgspec.json.encode(admission)),
        )

    def forget(self, device: str) -> None:
        """Forget a patient."""
        self._database.execute("DELETE FROM admissions WHERE device = ?", (device,))

    def add(self, device: str, beats: Iterable[Collected]) -> None:
        """Add beats of a patient."""
        self._database.executemany(
            "INSERT INTO beats (device, key, time, seq, rr_ms, samples) VALUES (?, ?, ?, ?, ?, ?)",
            ((device, _signed(key), *rest) for key, *rest in beats),
        )

    def beats(self, device: str) -> list[Collected]:
        """Return the beats of a patient, in the order in which they came."""
        rows = self._database.execute(
            "SELECT key, time, seq, rr_ms, samples FROM beats WHERE device = ? ORDER BY number",
            (device,),
        )
        return [Collected(key + 2**63, *rest) for key, *rest in rows]

    def keys(self, device: str) -> set[int]:
        """Return what tells the beats of a patient from others."""
        rows = self._database.execute("SELECT key FROM beats WHERE device = ?", (device,))
        return {key + 2**63 for (key,) in rows}

    def drop_beats(self, device: str) -> None:
        """Delete the beats of a patient."""
        self._database.execute("DELETE FROM beats WHERE device = ?", (device,))

    def seen(self, mid: int, content: bytes) -> bool:
        """Return whether the last request with this packet identifier was this one."""
        rows = self._database.execute("SELECT content FROM requests WHERE mid = ?", (mid,))
        return bool(rows.fetchone() == (content,))

    def note(self, mid: int, content: bytes) -> None:
        """Note that a request is being done, for it comes again if it cannot be acknowledged."""
        self._database.execute("INSERT OR REPLACE INTO requests VALUES (?, ?)", (mid, content))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _signed(key: int) -> int:
    """Return a key of 64 bits as SQLite's integers, which have a sign, can hold it."""
    return key - 2**63
