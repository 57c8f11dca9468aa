"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable

import pytest

WITHIN = 60.0
"""Seconds that anything may take on a busy machine; only a test that fails waits so long."""

STEP = 0.5
"""Seconds that a look and the pause behind it count for, at most. What is longer is the time for
which the machine stood still, or had other work: no program under test could do anything then."""

PAUSE = 0.02
"""Seconds between two looks: soon enough for any test, and little work for the machine."""


def wait_until(
    ready: Callable[..., object],
    within: float = WITHIN,
    said: Callable[[], object] = lambda: "what was waited for did not come",
) -> float:
    """Look again and again until `ready` returns something true; return the seconds that it took.

    Args:
        ready: is called once more after the time is over.
        within: seconds that it may take.
        said: returns what the test fails with.
    """
    took, looked = 0.0, time.monotonic()
    while not ready():
        if took > within:
            pytest.fail(f"not within {within:g} s: {said()}")
        time.sleep(PAUSE)
        now = time.monotonic()
        took += min(now - looked, STEP)
        looked = now
    return took
