from datetime import datetime
from typing import Any

import pytest
from pydantic import SecretStr

from monitor.alarms.decisions import Alarms, Policy, Rhythm
from monitor.alarms.device import Shelf
from monitor.alarms.messages import Acknowledged
from monitor.notify.duty import UnansweredAlarm, called_by_now, concerns, on_duty, unanswered
from monitor.settings import CalledPerson


def person(**settings: Any) -> CalledPerson:
    return CalledPerson(url=SecretStr("json://localhost"), **settings)


@pytest.mark.parametrize(
    ("hours", "days", "there", "away"),
    [
        ("00:00-24:00", [], ["mon 00:00", "sun 23:59"], []),
        ("08:00-20:00", [], ["mon 08:00", "mon 19:59"], ["mon 07:59", "mon 20:00"]),
        ("20:00-08:00", [], ["mon 20:00", "tue 00:00", "tue 07:59"], ["tue 08:00", "tue 19:59"]),
        # A night belongs to the day on which it begins.
        ("20:00-08:00", ["fri"], ["fri 20:00", "sat 07:59"], ["fri 07:59", "sat 20:00"]),
        ("20:00-08:00", ["sun"], ["sun 23:00", "mon 03:00"], ["sun 03:00"]),
        ("08:00-20:00", ["sat", "sun"], ["sat 12:00", "sun 12:00"], ["fri 12:00", "mon 12:00"]),
        ("08:00-08:00", ["fri"], ["fri 08:00", "sat 07:59"], ["fri 07:59", "sat 08:00"]),
        ("18:00-24:00", ["fri"], ["fri 23:59"], ["sat 00:00"]),
    ],
)
def test_hours_of_duty(hours: str, days: list[str], there: list[str], away: list[str]) -> None:
    def moment(text: str) -> datetime:
        day, time = text.split()
        number = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].index(day) + 2
        return datetime.fromisoformat(f"2026-11-{number:02}T{time}:00")  # the 2nd was a Monday

    who = person(hours=hours, days=days)
    assert [each for each in there if not on_duty(who, moment(each))] == []
    assert [each for each in away if on_duty(who, moment(each))] == []


def test_a_person_is_called_of_their_priorities_kinds_and_devices() -> None:
    alarm = UnansweredAlarm("1", "bed-7", "silent", "medium", 0.0)
    assert concerns(alarm, person())
    assert concerns(alarm, person(priority="low", kinds=["asystole", "silent"], devices=["bed-?"]))
    assert not concerns(alarm, person(priority="high"))
    assert not concerns(alarm, person(kinds=["asystole"]))
    assert not concerns(alarm, person(devices=["room-*", "bed-7x"]))
    assert not concerns(UnansweredAlarm("1", "bed-7", "silent", "low", 0.0), person())


CHAIN = [(0.0, "nurse"), (0.0, "second nurse"), (60.0, "doctor"), (300.0, "head")]


@pytest.mark.parametrize(
    ("waited", "away", "unreachable", "called"),
    [
        (0, "", "", "nurse, second nurse"),
        (59.9, "", "", "nurse, second nurse"),
        (60, "", "", "nurse, second nurse, doctor"),
        (300, "", "", "nurse, second nurse, doctor, head"),
        (0, "nurse", "", "second nurse"),
        # As long as one of those before can be reached, the next is not called.
        (0, "", "nurse", "nurse, second nurse"),
        (0, "", "nurse, second nurse", "nurse, second nurse, doctor"),
        (0, "nurse", "second nurse", "second nurse, doctor"),
        (0, "", "nurse, second nurse, doctor", "nurse, second nurse, doctor, head"),
        # Nobody before is on duty: `after` is a delay nevertheless.
        (0, "nurse, second nurse", "", ""),
        (60, "nurse, second nurse", "", "doctor"),
    ],
)
def test_the_next_is_called_in_time(
    waited: float, away: str, unreachable: str, called: str
) -> None:
    there = {name for _, name in CHAIN} - set(away.split(", "))
    found = called_by_now(CHAIN, waited, there, unreachable.split(", "))
    assert ", ".join(found) == called


def test_those_who_are_next_together_are_called_together() -> None:
    chain = [(0.0, "nurse"), (60.0, "doctor"), (60.0, "second doctor"), (90.0, "head")]
    found = called_by_now(chain, 0, {name for _, name in chain}, ["nurse"])
    assert found == ["nurse", "doctor", "second doctor"]


def test_an_alarm_wants_somebody_until_it_is_acknowledged_shelved_or_over() -> None:
    alarms = Alarms(Policy(window=4, raise_at=2))

    def wanting() -> list[tuple[str, str, str]]:
        found = unanswered("bed-7", alarms.find("bed-7"))
        assert len({each.alert for each in found}) == len(found)
        return [(each.alert, each.kind, each.priority) for each in found]

    def tachycardia(priority: Any, at: float) -> str:
        device = alarms.hear("bed-7", at)
        rhythm = Rhythm("tachycardia", priority, since=at, heart_rate=150)
        return next((x.id for x in alarms.hear_rhythm("bed-7", device, rhythm, at)), "")

    assert wanting() == []
    raised = tachycardia("medium", 100.0)
    assert wanting() == [(raised, "tachycardia", "medium")]
    (alarm,) = unanswered("bed-7", alarms.find("bed-7"))
    assert (alarm.device, alarm.since, alarm.heart_rate) == ("bed-7", 100.0, 150)
    alarms.acknowledge(raised, Acknowledged("Anna", "2026-11-21T22:00:00Z"))
    assert wanting() == []
    escalated = tachycardia("high", 110.0)
    assert escalated != raised
    assert wanting() == [(escalated, "tachycardia", "high")]
    alarms.shelve("bed-7", Shelf("Anna", 110.0, 200.0))  # of the kinds that washing causes
    assert wanting() == [(escalated, "tachycardia", "high")]
    alarms.shelve("bed-7", Shelf("Anna", 110.0, 200.0, ("tachycardia",)))
    assert wanting() == []
    alarms.unshelve("bed-7")
    assert wanting() == [(escalated, "tachycardia", "high")]
    alarms.hear_rhythm("bed-7", alarms.hear("bed-7", 120.0), Rhythm(), 120.0)
    assert wanting() == []
    assert unanswered("bed-8", None) == ()
