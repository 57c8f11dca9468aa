import os
from pathlib import Path

import pytest
from hypothesis import settings

from monitor import datasets

settings.register_profile("shared machine", deadline=None)  # others work on it, too
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the data sets. Without it a test is skipped, but fails where `CI` is set."""
    folder = os.environ.get("ECG_DATA")
    if not folder:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("ECG_DATA names no folder of data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def ecg(data: Path) -> datasets.Beats:
    """The real beats of ECG5000."""
    return datasets.ecg(data)
