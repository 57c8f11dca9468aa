"""The table of brokers: what `make brokers` finds out is what stands on the page."""

import pytest

from tests.harness import promises
from tests.harness.brokers import Broker, program


def test_the_page_has_a_cell_for_each_broker_and_promise() -> None:
    said = promises.read_table(promises.PAGE.read_text())
    assert list(said) == list(promises.BROKERS)
    for cells in said.values():
        assert list(cells) == promises.ROWS
        assert all(cells.values())


def test_a_promise_that_the_page_makes_and_a_run_does_not_keep_is_named() -> None:
    row = promises.ROWS[2]
    said = {"one": dict.fromkeys(promises.ROWS, "yes, in 1 s"), "two": {row: "no: 7 of 9 lost"}}
    found = {"one": dict.fromkeys(promises.ROWS, "yes"), "two": {row: "no: 9 of 9 lost"}}
    assert promises.read_table("\n".join(promises.table({"one": found["one"]}))) == {
        "one": found["one"]
    }
    assert promises.broken(said, found) == []
    found["one"][row] = "no: 1 of 9 lost"
    assert promises.broken(said, found) == [f"one: {row}: no: 1 of 9 lost"]


def test_a_broker_that_is_not_installed_is_not_here_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(_: object) -> Broker:
        program("no-such-broker")
        raise AssertionError

    hearts = None  # nothing is tried
    monkeypatch.delenv("CI", raising=False)
    here = promises.column(absent, hearts)  # type: ignore[arg-type]
    assert set(here.values()) == {promises.NOT_HERE}
    monkeypatch.setenv("CI", "true")
    found = promises.column(absent, hearts)  # type: ignore[arg-type]
    assert set(found.values()) == {"no: no-such-broker is not installed"}
