"""Open the SQLite files in which programs keep what they must not lose when they are killed."""

import sqlite3
from pathlib import Path
from typing import Any

from monitor.errors import ConfigurationError


def open_journal(
    setting: str,
    file: Path,
    schema: str,
    version: int,
    synchronous: str = "NORMAL",
    **how: Any,
) -> sqlite3.Connection:
    """Open a journal, new or old; only its owner can read it, for it is about patients.

    Args:
        setting: that names the file, for the error.
        file: to open, or to create with its folder.
        schema: statements that create what is not there yet.
        version: of the schema (`PRAGMA user_version`).
        synchronous: NORMAL, or OFF where the loss of a machine's power may cost the last rows.
        how: further arguments of `sqlite3.connect`.

    Raises:
        ConfigurationError: the file cannot be used, or has another version.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        database: sqlite3.Connection = sqlite3.connect(file, **how)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {synchronous}")
        (found,) = database.execute("PRAGMA user_version").fetchone()
        if found not in (0, version):
            raise sqlite3.DatabaseError(f"its version is {found}, not {version}")
        database.executescript(schema)
        database.execute(f"PRAGMA user_version = {version}")
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"{setting} = '{file}': {error}") from None
    return database
