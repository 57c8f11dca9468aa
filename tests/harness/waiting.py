"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable

import pytest

WITHIN = 20.0
"""Seconds that anything may take on a busy machine; only a test that fails waits so long."""

PAUSE = 0.02
"""Seconds between two looks: soon enough for any test, and little work for the machine."""


def wait_until(
    ready: Callable[..., object],
    within: float = WITHIN,
    said: Callable[[], object] = lambda: "what was waited for did not come",
) -> None:
    """Look again and again until `ready` returns something true.

    Args:
        ready: is called once more after the time is over.
        within: seconds that it may take.
        said: returns what the test fails with.
    """
    deadline = time.monotonic() + within
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {said()}")
        time.sleep(PAUSE)
