"""The journal takes a change as a whole or not at all, also where the disk is full."""

import sqlite3
from pathlib import Path

import pytest

from monitor.errors import ConfigurationError
from train.learn.journal import Admission, Collected, Journal, Task

ADMISSION = Admission(
    device="a",
    state="collecting",
    by="Anna",
    admitted=1.5,
    since=1.5,
    needed=100,
    task=Task("drop"),
)


def beat(key: int) -> Collected:
    return Collected(key, 0.5, None, 812.0, bytes(560))


def test_another_process_finds_what_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "learn.db")
    with journal.transaction():
        journal.keep(ADMISSION)
        journal.add("a", [beat(0), beat(2**64 - 1)])
        journal.note(7, b"x")
    other = Journal(tmp_path / "learn.db")
    assert other.admissions() == [ADMISSION]
    assert other.beats("a") == [beat(0), beat(2**64 - 1)]
    assert other.keys("a") == {0, 2**64 - 1}
    assert (other.seen(7, b"x"), other.seen(7, b"y"), other.seen(8, b"x")) == (True, False, False)


def test_a_change_that_fails_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "learn.db")
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages + 2}")  # a disk that is full
    with pytest.raises(sqlite3.OperationalError, match="full"), journal.transaction():
        journal.keep(ADMISSION)
        journal.add("a", [beat(key) for key in range(100)])
    assert journal.admissions() == []
    assert journal.beats("a") == []


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "learn.db").write_text("something else, and long enough to be read as a page")
    with pytest.raises(ConfigurationError, match=r"learn\.journal = "):
        Journal(tmp_path / "learn.db")
