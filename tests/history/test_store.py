"""A file of the history: who may read it, its version, and what is refused."""

import stat
from pathlib import Path

import pytest
from prometheus_client import Counter

from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings
from tests.harness.histories import NIGHT, alert, keep, lost_counter


@pytest.fixture
def lost() -> Counter:
    return lost_counter()


def test_only_its_owner_may_read_it(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "folder" / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    keep(kept, alert(1, "raised", NIGHT))
    kept.close(5)
    for path in (file.parent, *file.parent.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
