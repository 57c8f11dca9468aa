"""A real Chromium, for tests of the live page."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, expect, sync_playwright

from tests.harness.brokers import program

PATIENCE = 30_000.0
"""Milliseconds that a page may take on a busy machine, if need be until a daemon has started."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the installed Chromium; skip the test without one, or fail it where `CI` is set."""
    path = program("chromium")
    with sync_playwright() as playwright:
        # A container may have too little shared memory for its pages.
        args = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=path, args=args, timeout=2 * PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()
