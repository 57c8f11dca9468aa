import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the data sets. Without it a test is skipped, but fails where `CI` is set."""
    folder = os.environ.get("ECG_DATA")
    if not folder:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("ECG_DATA names no folder of data sets")
    return Path(folder)
