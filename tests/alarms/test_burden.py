"""The burden of alarms: each figure on a night counted by hand, and floods by brute force."""

from typing import Any

import numpy as np
import pytest

from monitor.alarms import burden
from monitor.alarms.burden import Episode

HOUR = 3600.0


def episode(at: float, device: str = "bed-1", **changed: Any) -> Episode:
    """An anomaly of medium priority, announced when it was raised and cleared 10 s later."""
    fields: dict[str, Any] = {
        "kind": "anomaly",
        "raised": at,
        "announced": [(at, "medium")],
        "cleared": at + 10,
    }
    return Episode(device, **{**fields, **changed})


def measure(*episodes: Episode, until: float = 10 * HOUR) -> burden.Burden:
    return burden.measure(episodes, 0.0, until)


def test_alarms_are_counted_when_they_are_announced() -> None:
    night = measure(
        episode(100),
        episode(200, announced=[(200, "medium"), (260, "high")]),  # escalated
        episode(300, announced=[]),  # shelved
        episode(400, announced=[(20 * HOUR, "low")]),  # told after the night
        episode(-500, announced=[(-500, "low")]),
    )
    assert (night.alarms, night.withheld) == (3, 1)
    assert night.per_ten_minutes == pytest.approx(3 / 60)
    assert night.priorities == pytest.approx({"low": 0, "medium": 2 / 3, "high": 1 / 3})
    assert (night.since, night.until) == ("1970-01-01T00:00:00.000Z", "1970-01-01T10:00:00.000Z")


def test_nothing_is_extrapolated_from_a_short_period() -> None:
    assert measure(episode(1), episode(2), until=60).per_ten_minutes == 2


def test_a_night_without_alarms_has_no_shares() -> None:
    night = measure()
    assert (night.alarms, night.floods, night.flood_share, night.worst) == (0, 0, 0, [])
    assert night.worst_share is night.false_share is night.acknowledged_median is None
    assert night.unacknowledged_share is night.chattering_share is None


def test_a_flood_begins_with_the_eleventh_alarm_and_ends_below_five() -> None:
    ten = [episode(1000 + 10 * i) for i in range(10)]
    assert (measure(*ten).floods, measure(*ten).most_in_ten_minutes) == (0, 10)
    night = measure(*ten, episode(1100))
    # From the eleventh until the seventh of the eleven is ten minutes old.
    assert (night.floods, night.most_in_ten_minutes) == (1, 11)
    assert night.flood_share * 10 * HOUR == pytest.approx(1060 + 600 - 1100)


def test_a_flood_that_goes_on_is_cut_off() -> None:
    night = measure(*(episode(1000 + i) for i in range(12)), until=1100)
    assert night.flood_share * 1100 == pytest.approx(1100 - 1010)


def floods_second_by_second(times: list[int], until: int) -> tuple[int, int, int]:
    """Return the most in ten minutes, how many floods there are, and how long they last."""
    most = floods = seconds = 0
    flood = False
    for now in range(until):
        count = sum(now - 600 < time <= now for time in times)
        most = max(most, count)
        if not flood and count > 10:
            flood, floods = True, floods + 1
        elif flood and count < 5:
            flood = False
        seconds += flood
    return most, floods, seconds


@pytest.mark.parametrize("seed", range(20))
def test_floods_are_those_found_second_by_second(seed: int) -> None:
    rng = np.random.default_rng(seed)
    until = 6000
    middles = rng.integers(1, until - 1, seed * 8)
    times = rng.triangular(0, middles, until - 1).astype(int).tolist()
    night = measure(*(episode(time) for time in times), until=until)
    found = (night.most_in_ten_minutes, night.floods, round(night.flood_share * until))
    assert found == floods_second_by_second(times, until)


def test_three_in_a_minute_of_one_device_and_kind_chatter() -> None:
    night = measure(
        *(episode(at) for at in (100, 130, 160, 161, 300, 330, 360.5)),
        # One that escalates is announced twice, but was raised once.
        *(episode(at, announced=[(at, "medium"), (at + 1, "high")]) for at in (600, 602)),
        *(episode(at, "bed-2", kind=kind) for at, kind in ((0, "silent"), (1, "anomaly"))),
    )
    assert night.chattering == 4
    assert night.chattering_share == pytest.approx(4 / 11)


def test_an_alarm_that_is_active_for_more_than_a_day_is_stale() -> None:
    day = 24 * HOUR
    night = burden.measure(
        [
            episode(0, cleared=day + 1),  # stale, and over
            episode(0, cleared=day),
            episode(-10 * day, cleared=None),  # announced long before
            episode(2 * day, cleared=None),
            episode(-10 * day, cleared=-1),  # over before
        ],
        0.0,
        2.5 * day,
    )
    assert (night.stale, night.stale_active, night.alarms) == (2, 1, 3)


def test_the_worst_devices_are_told_with_their_share() -> None:
    alarms = [episode(10.0 * i, f"bed-{i % 12}") for i in range(24)]
    night = measure(*alarms, *(episode(at, "bed-7") for at in range(1000, 1024)))
    assert night.worst[0] == burden.DeviceShare("bed-7", 26, 26 / 48)
    assert len(night.worst) == 10
    assert night.worst_share == pytest.approx((26 + 9 * 2) / 48)


def test_an_acknowledgement_answers_the_announcement_before_it() -> None:
    twice: Any = [(100, "medium"), (200, "high")]
    waits = [
        episode(100, acknowledged=[130]),  # 30 s
        episode(100, announced=twice, acknowledged=[150, 260, 270]),  # 50 s and 60 s
        episode(100, announced=twice, acknowledged=[240]),  # none and 40 s
        episode(100, acknowledged=[90]),  # the device's clock is ahead: 0 s
        episode(100),  # none
    ]
    night = measure(*waits)
    assert (night.acknowledged_median, night.acknowledged_90) == (40, 60)
    assert night.unacknowledged_share == pytest.approx(2 / 7)


def test_the_share_judged_false_is_of_those_that_were_judged() -> None:
    verdicts = [True, False, False, False, None, None]
    night = measure(*(episode(at, verdict=verdict) for at, verdict in enumerate(verdicts)))
    assert (night.judged, night.false_share) == (4, 0.75)
