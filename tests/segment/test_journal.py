"""What was written down is there after the process has died."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from monitor.errors import ConfigurationError
from monitor.segment.journal import FORGOTTEN, KEPT, Entry, Journal


def entry(journal: Journal, device: str, arrived: float, first: int = 0) -> Entry:
    return Entry(journal.number(), device, first, b"\0\1", arrived, False)


def test_what_was_written_is_read_by_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state" / "journal.db")
    entries = [entry(journal, "a", 1.0), entry(journal, "b", 2.0), entry(journal, "a", 3.0, 250)]
    journal.write(entries, [])
    journal.write([], [entries[0].number])
    journal.close()
    again = Journal(tmp_path / "state" / "journal.db")
    assert again.read() == [entries[0]._replace(done=True), *entries[1:]]
    assert again.number() > entries[-1].number


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.write([entry(journal, "a", 1.0)], [])
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {0o600}


def test_a_process_that_dies_leaves_what_it_wrote(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    program = (
        "import os, sys; from pathlib import Path; from monitor.segment.journal import *\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.write([Entry(journal.number(), 'a', 0, b'x', 1.0, False)], [])\n"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(file)], env=os.environ, check=False)
    assert ended.returncode == -9
    assert [one.payload for one in Journal(file).read()] == [b"x"]


def test_old_chunks_go_but_for_those_that_are_not_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    old, waiting, new = (entry(journal, "a", at) for at in (0.0, 1.0, KEPT + 5))
    other = entry(journal, "b", 0.0)
    journal.write([old, waiting, new, other], [old.number, new.number, other.number])
    journal.trim(KEPT + 5)
    assert [one.number for one in journal.read()] == [waiting.number, new.number, other.number]
    journal.trim(FORGOTTEN + 1)
    assert [one.device for one in journal.read()] == ["a", "a"]


def test_what_was_done_while_the_disk_took_nothing_is_marked_later(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    first, lost, last = (entry(journal, "a", at) for at in (0.0, 1.0, 2.0))
    journal.write([first], [])
    with sqlite3.connect(tmp_path / "journal.db") as other:
        other.execute("BEGIN IMMEDIATE")
        journal._database.execute("PRAGMA busy_timeout = 0")
        for entries, done in (([lost], [first.number]), ([], [lost.number])):
            with pytest.raises(sqlite3.OperationalError):
                journal.write(entries, done)
    journal.write([last], [])
    assert [(one.number, one.done) for one in journal.read()] == [(1, True), (3, False)]


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    file.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match=r"segment\.journal = '.*journal\.db': "):
        Journal(file)
    with sqlite3.connect(tmp_path / "newer.db") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="its version is 99, not 1"):
        Journal(tmp_path / "newer.db")
