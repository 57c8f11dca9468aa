"""Open the SQLite files in which programs keep what they must not lose when they are killed."""

import errno
import sqlite3
from pathlib import Path
from typing import Any

import structlog

from monitor.errors import ConfigurationError, Failure

log = structlog.get_logger()

_LOCKED = sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED
_FULL = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR


def open_journal(
    setting: str,
    file: Path,
    schema: str,
    version: int,
    synchronous: str = "NORMAL",
    needs_disk: bool = True,
    **how: Any,
) -> sqlite3.Connection:
    """Open a journal, new or old; only its owner can read it, for it is about patients.

    Args:
        setting: that names the file, for the error.
        file: to open, or to create with its folder.
        schema: statements that create what is not there yet.
        version: of the schema (`PRAGMA user_version`).
        synchronous: NORMAL, or OFF where the loss of a machine's power may cost the last rows.
        needs_disk: whether it is no use without the disk. Else it is kept in memory until the next
            start if the disk is full or failing: what the program does is worth more than that a
            kill loses nothing.
        how: further arguments of `sqlite3.connect`.

    Raises:
        ConfigurationError: the file cannot be used, or has another version.
        Failure: it cannot be used just now; the next start may find it better.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        return _open(file, schema, version, synchronous, **how)
    except (OSError, sqlite3.Error) as error:
        problem = f"{setting} = '{file}': {error}"
        if not passes(error):
            raise ConfigurationError(problem) from None
        if needs_disk or _code(error) in _LOCKED:
            raise Failure(problem) from None
    log.error("the journal is in memory until the next start", reason=problem)
    return _open(":memory:", schema, version, synchronous, **how)


def passes(error: OSError | sqlite3.Error) -> bool:
    """Return whether an error may pass: the file is locked, or the disk is full or failing."""
    return _code(error) in (*_LOCKED, *_FULL) or getattr(error, "errno", None) in (
        errno.ENOSPC,
        errno.EDQUOT,
    )


def _code(error: OSError | sqlite3.Error) -> int:
    """Return SQLite's primary result code, which is the low byte; 0 if there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _open(
    file: Path | str, schema: str, version: int, synchronous: str, **how: Any
) -> sqlite3.Connection:
    database: sqlite3.Connection = sqlite3.connect(file, **how)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {synchronous}")
        (found,) = database.execute("PRAGMA user_version").fetchone()
        if found not in (0, version):
            raise sqlite3.DatabaseError(f"its version is {found}, not {version}")
        database.executescript(schema)
        if found != version:  # else nothing is written, for which a full disk has no room
            database.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        database.close()
        raise
    return database
