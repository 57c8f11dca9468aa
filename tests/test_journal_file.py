"""Journals on disks that are full, locked or not the right ones."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from monitor.errors import CONFIGURATION, Failure
from monitor.journal_file import open_journal

SCHEMA = "CREATE TABLE IF NOT EXISTS a (b)"

FULL = """
import resource, sys
from pathlib import Path
from monitor.errors import Failure
from monitor.journal_file import open_journal

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can grow
try:
    needed = len(sys.argv) > 3
    database = open_journal("a.file", Path(sys.argv[1]), sys.argv[2], 1, needs_disk=needed)
except Failure as failure:
    print(failure.code)
else:
    if not needed:
        database.execute("INSERT INTO a VALUES (1)")
    print(database.execute("SELECT b FROM a").fetchall())
"""


def on_a_full_disk(file: Path, *needed: str) -> str:
    """Return the rows after one was added, or the exit code; what it logs comes before."""
    command = [sys.executable, "-c", FULL, str(file), SCHEMA, *needed]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()[-1]


@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_keeps_no_program_from_starting(tmp_path: Path, exists: bool) -> None:
    file = tmp_path / "journal.db"
    if exists:
        open_journal("a.file", file, SCHEMA, 1).close()
    assert on_a_full_disk(file) == "[(1,)]"
    # What must be on the disk is no fault of the settings: it is tried again (`Restart=always`).
    assert on_a_full_disk(file, "needed") == str(Failure.code) != str(CONFIGURATION)


def test_what_a_killed_program_left_is_opened_on_a_full_disk(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    with closing(open_journal("a.file", file, SCHEMA, 1)) as left:
        left.execute("INSERT INTO a VALUES (0)")
        left.commit()
        assert on_a_full_disk(file, "needed") == "[(0,)]"


def test_a_locked_journal_is_not_replaced_by_one_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    open_journal("a.file", file, SCHEMA, 1).close()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Failure, match=r"^a\.file = '.*': database is locked") as failure:
            open_journal("a.file", file, SCHEMA, 1, needs_disk=False, timeout=0)
    assert failure.value.code == Failure.code
