"""When a patient's normal beats have moved away from his model: days that a test makes up."""

import pytest

from monitor.alarms.drift import FEWEST, Drift


def after(*shares: float, beats: int = 100_000) -> Drift:
    """Return the drift after whole days with these shares of near beats, and a beat of another."""
    drift = Drift("0" * 64)
    for day, share in enumerate(shares):
        for _ in range(4):
            drift.count(20_000 + day, beats // 4, round(share * beats / 4))
    drift.count(20_000 + len(shares), 1, 1)
    return drift


@pytest.mark.parametrize(
    ("shares", "moved"),
    [
        ([0.02], False),
        ([0.02, 0.11], False),  # what a day may be beside another
        ([0.02, 0.05, 0.13], True),
        ([0.30, 0.35], False),  # he was so from the first day on
        ([0.02, 0.20, 0.03], False),  # and back again
    ],
)
def test_the_last_whole_day_is_compared_with_the_first(shares: list[float], moved: bool) -> None:
    assert after(*shares).moved is moved


def test_a_day_is_judged_when_it_is_over_and_says_so_once() -> None:
    drift = Drift("0" * 64)
    assert not drift.count(20_000, 50_000, 500)
    assert not drift.count(20_001, 50_000, 30_000)
    assert not drift.moved
    assert drift.count(20_002, 1, 0)
    assert drift.moved
    assert not drift.count(20_002, 1, 0)


def test_a_day_with_few_beats_says_nothing() -> None:
    assert not after(0.02, 0.5, beats=FEWEST - 4).moved
    drift = after(0.02, 0.5)
    drift.count(20_003, 10, 0)  # the day before had one beat
    assert drift.moved
