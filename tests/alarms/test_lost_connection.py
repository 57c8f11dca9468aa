"""Many devices that fall silent together are one lost connection; each is told of if it lasts."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from monitor.alarms import messages
from monitor.alarms.decisions import Alarms, Decision, Policy
from monitor.alarms.device import as_it_stands
from monitor.alarms.kinds import NORMAL

AFTER, HOLD = 30.0, 60.0
WALL = 1_795_262_400.0


class Ward:
    """Devices that send a beat a second until they are cut off, and a monitor of them."""

    def __init__(self, devices: int, hold: float = HOLD) -> None:
        self.alarms = Alarms(Policy(silent_after=AFTER), silent_together=hold)
        self.sending = {f"bed-{i}": i / devices for i in range(devices)}
        self.now = 0.0
        self.raised: dict[str, float] = {}
        self.news: list[messages.Connection] = []
        self.keys = count()

    def run(self, seconds: float) -> None:
        """Let time pass; the clock is looked at twice a second, as the daemon does."""
        end = self.now + seconds
        while self.now < end:
            if self.now % 1 == 0:
                for name, offset in sorted(self.sending.items(), key=lambda each: each[1]):
                    device = self.alarms.hear(name, self.now + offset / 2)
                    self.alarms.observe(
                        name, device, bytes([NORMAL]), [next(self.keys)], [WALL + self.now]
                    )
            self.now += 0.5
            wall = WALL + self.now
            for decision in self.alarms.fall_silent(self.now, 0.0, wall, 200):
                self.take(decision)
            self.alarms.lost.changed.clear()
            if (news := self.alarms.lost.news(wall)) is not None:
                self.news.append(news)

    def take(self, decision: Decision) -> None:
        assert (decision.kind, decision.event) == ("silent", "raised")
        assert decision.device not in self.raised
        self.raised[decision.device] = self.now

    def cut(self, *names: str) -> None:
        for name in names:
            del self.sending[name]


def beds(count: int) -> list[str]:
    return [f"bed-{i}" for i in range(count)]


@pytest.mark.parametrize(
    ("devices", "lost", "together"),
    [
        (200, 5, True),
        (200, 4, False),
        (8, 4, True),  # fewer than five, but half of all
        (6, 3, True),
        (7, 3, False),
        (2, 2, False),
        (1, 1, False),
    ],
)
def test_it_takes_many_to_be_a_lost_connection(devices: int, lost: int, together: bool) -> None:
    ward = Ward(devices)
    ward.run(5)
    ward.cut(*beds(lost))
    ward.run(AFTER + 5)
    assert len(ward.raised) == (0 if together else lost)
    assert [(each.state, each.devices) for each in ward.news[-1:]] == (
        [("lost", lost)] if together else [("ok", 0)]
    )


def test_forty_devices_are_one_number_and_each_is_reported_if_it_lasts() -> None:
    ward = Ward(100)
    ward.run(5)
    ward.cut(*beds(40))
    cut = ward.now
    ward.run(AFTER + 5)
    told = ward.news[-1]
    assert not ward.raised
    assert (told.devices, told.of, told.reported) == (40, 100, 0)
    assert len(told.names) == 20
    ward.run(HOLD - 10)
    assert not ward.raised
    ward.run(15)
    assert set(ward.raised) == set(beds(40))
    assert max(ward.raised.values()) <= cut + AFTER + HOLD + 1
    assert (ward.news[-1].state, ward.news[-1].reported) == ("lost", 40)
    device = ward.alarms.find("bed-0")
    assert device is not None
    assert device.open["silent"].since == pytest.approx(WALL + cut + AFTER - 1, abs=1)
    ward.sending |= dict.fromkeys(beds(40), 0.0)
    ward.alarms.hear("bed-0", ward.now)
    ward.run(2)
    assert ward.news[-1].state == "ok"


def test_who_is_silent_by_itself_is_reported_at_once_beside_and_when_the_others_are_back() -> None:
    ward = Ward(100)
    ward.run(5)
    ward.cut(*beds(40))
    ward.run(10)
    ward.cut("bed-99")  # ten seconds later, by itself
    cut = ward.now
    ward.run(AFTER + 1)
    assert set(ward.raised) == {"bed-99"}
    assert ward.raised["bed-99"] <= cut + AFTER + 0.5
    ward.sending |= dict.fromkeys(beds(39), 0.0)  # bed-39 has failed at the same moment
    back = ward.now
    ward.run(5)
    assert set(ward.raised) == {"bed-99", "bed-39"}
    assert ward.raised["bed-39"] <= back + 2
    assert ward.news[-1].state == "ok"
    device = ward.alarms.find("bed-0")
    assert device is not None
    assert device.silent_since is None


def test_a_device_that_was_withheld_is_expected_after_a_restart() -> None:
    ward = Ward(10)
    ward.run(5)
    ward.cut(*beds(10))
    ward.run(AFTER + 5)
    again = Ward(0)
    for name in beds(10):
        device = ward.alarms.find(name)
        assert device is not None
        saved = messages.encode(as_it_stands(name, device, WALL + ward.now))
        assert messages.decode_alarm(saved).silent_since is not UNSET
        again.alarms.restore(messages.decode_alarm(saved), 0.0)
    again.run(AFTER + HOLD + 2)
    assert set(again.raised) == set(beds(10))


def test_the_whole_is_switched_off_by_nought_seconds() -> None:
    ward = Ward(40, hold=0)
    ward.run(5)
    ward.cut(*beds(40))
    ward.run(AFTER + 1)
    assert len(ward.raised) == 40


@settings(max_examples=40)
@given(
    devices=st.integers(1, 30),
    cuts=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 40)), max_size=30),
)
def test_nobody_is_silent_for_longer_than_the_bound_unreported(
    devices: int, cuts: list[tuple[int, int]]
) -> None:
    ward = Ward(devices)
    ward.run(2)
    when: dict[str, float] = {}
    for number, later in cuts:
        name = f"bed-{number % devices}"
        when.setdefault(name, ward.now + later)
    for name, moment in sorted(when.items(), key=lambda each: each[1]):
        ward.run(moment - ward.now)
        ward.cut(name)
    ward.run(AFTER + HOLD + 3)
    assert set(ward.raised) == set(when)
    for name, raised in ward.raised.items():
        assert AFTER - 1 <= raised - when[name] <= AFTER + HOLD + 1


def test_devices_that_came_after_the_first_were_lost_are_counted_when_they_are_lost_too() -> None:
    ward = Ward(6)
    ward.run(60)
    ward.cut(*beds(6)[:3])
    ward.run(35)
    assert (ward.news[-1].devices, ward.news[-1].of) == (3, 6)
    ward.sending |= {f"new-{i}": 0.1 * i for i in range(8)}
    ward.run(10)
    ward.cut(*list(ward.sending))
    ward.run(35)
    assert (ward.news[-1].devices, ward.news[-1].of) == (14, 14)
