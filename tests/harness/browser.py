"""A real Chromium, for tests that look at the page as a person does."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.harness.brokers import program


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the Chromium that is installed; without one the test is skipped, but fails in CI."""
    path = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
