"""A real Chromium, for tests of the live page."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.harness.brokers import program


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the installed Chromium; skip the test without one, or fail it where `CI` is set."""
    path = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
