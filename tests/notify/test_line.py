import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from monitor.notify import line as line_module
from monitor.notify.duty import UnansweredAlarm
from monitor.notify.line import (
    LONGEST_PAUSE,
    MAX_HANGING,
    PAUSE,
    REPEAT,
    TIME_LIMIT,
    UNREACHABLE_AFTER,
    Call,
    Line,
    Told,
)


def alarm(alert: str) -> UnansweredAlarm:
    return UnansweredAlarm(alert, f"bed-{alert}", "asystole", "high", 0.0)


def due(*alerts: str) -> dict[str, UnansweredAlarm]:
    return {each: alarm(each) for each in alerts}


def said(call: Call | None) -> str:
    return "" if call is None else " ".join(each.alert for each in call.alarms)


def make(line: Line, now: float) -> Call:
    call = line.next_call(now)
    assert call is not None
    return call


def test_what_comes_while_a_call_is_made_goes_with_the_next_one() -> None:
    line = Line(keeps=False)
    assert line.next_call(0) is None
    line.update(due("a", "b"))
    assert not line.busy
    first = make(line, 0)
    assert said(first) == "a b"
    assert line.busy
    line.update(due("a", "b", "c", "d"))
    assert line.next_call(1) is None
    assert line.finish(first.number, True, 1) == Told((alarm("a"), alarm("b")))
    assert line.next_call(1 + PAUSE - 0.1) is None
    second = make(line, 1 + PAUSE)
    assert said(second) == "c d"
    line.finish(second.number, True, 2)
    assert line.next_call(1000) is None  # nobody is called twice


def test_a_call_that_fails_is_made_again_after_pauses_that_grow() -> None:
    line, now, pauses = Line(keeps=False), 0.0, []
    line.update(due("a", "b"))
    assert line.undelivered == 0
    for failures in range(1, 9):
        line.finish(make(line, now).number, False, now)
        assert (line.failures, line.undelivered) == (failures, 2)
        assert line.unreachable("a") == (failures >= UNREACHABLE_AFTER)
        assert not line.unreachable("c")
        failed = now
        while now < failed + LONGEST_PAUSE and not _would_call(line, now):
            now += 1
        pauses.append(now - failed)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    line.finish(make(line, now).number, True, now)
    assert (line.failures, line.undelivered, line.unreachable("a")) == (0, 0, False)


def _would_call(line: Line, now: float) -> bool:
    return copy.deepcopy(line).next_call(now) is not None


def test_what_ends_before_it_is_told_is_missed_and_not_told() -> None:
    line = Line(keeps=False)
    line.update(due("a", "b"))
    line.finish(make(line, 0).number, False, 0)
    assert line.update(due("b", "c")) == 1
    assert said(make(line, 10)) == "b c"
    assert line.update({}) == 0  # it is being told just now
    line.finish(1 + 1, False, 11)
    assert line.update({}) == 2
    assert line.next_call(100) is None
    assert line.undelivered == 0
    line.update(due("a"))
    call = make(line, 100)
    assert line.update({}) == 0
    assert line.finish(call.number, True, 101).alarms == (alarm("a"),)
    assert line.update({}) == 0


def test_a_call_that_hangs_is_given_up_and_made_again_but_not_without_end() -> None:
    line, now = Line(keeps=False), 0.0
    line.update(due("a"))
    calls = []
    for _ in range(MAX_HANGING + 1):
        calls.append(make(line, now))
        assert not line.expire(now + TIME_LIMIT - 0.1)
        assert line.expire(now + TIME_LIMIT)
        assert not line.expire(now + TIME_LIMIT + 1)
        now += TIME_LIMIT + LONGEST_PAUSE
    assert line.next_call(now) is None  # all of them may still hang
    assert line.undelivered == 1
    line.finish(calls[0].number, False, now)
    calls.append(make(line, now))
    # One that was given up got through after all: nobody is called again.
    assert line.finish(calls[1].number, True, now + 1).alarms == (alarm("a"),)
    assert line.finish(calls[-1].number, False, now + 2) == Told()
    assert line.update(due("a")) == 0
    assert line.next_call(now + 1000) is None


def test_a_line_that_failed_for_an_alarm_of_the_past_is_tried_at_once_for_the_next() -> None:
    line = Line(keeps=False)
    line.update(due("a"))
    for now in (0, 100, 200, 300):
        line.finish(make(line, now).number, False, now)
    assert line.unreachable("a")
    assert line.update({}) == 1
    line.update(due("b"))
    assert (line.undelivered, line.unreachable("b")) == (0, False)
    assert said(make(line, 301)) == "b"


def test_who_was_told_before_a_restart_is_not_called_again(monkeypatch: Any) -> None:
    line = Line(keeps=False, told=[alarm("x"), alarm("a"), alarm("b")])
    line.update(due("a", "c"))
    assert said(make(line, 0)) == "c"
    monkeypatch.setattr(line_module, "MAX_REMEMBERED", 2)
    line.finish(1, True, 1)  # the oldest are forgotten, unless they are still due
    line.update(due("a", "b", "c", "x"))
    assert said(make(line, 1 + PAUSE)) == "x"


def test_alertmanager_is_told_again_and_told_what_is_over() -> None:
    line = Line(keeps=True, told=[alarm("a"), alarm("b")])
    line.update(due("b"))
    call = make(line, 0)
    assert (said(call), call.over) == ("b", (alarm("a"),))
    line.finish(call.number, False, 0)
    assert line.undelivered == 2  # a, which is over, is still kept, and soon b is not any more
    call = make(line, 10)
    assert line.finish(call.number, True, 10) == Told((), (alarm("a"),))
    assert line.next_call(10 + REPEAT - 1) is None
    line.finish(make(line, 10 + REPEAT).number, False, 10 + REPEAT)
    assert line.undelivered == 1
    call = make(line, 12 + REPEAT)
    assert (said(call), call.over) == ("b", ())
    line.update(due("c"))  # while it is told that b stands
    assert line.finish(call.number, True, 73) == Told()
    call = make(line, 73)
    assert (said(call), call.over) == ("c", (alarm("b"),))
    line.update(due("b", "c"))  # while it is told that b is over
    assert line.finish(call.number, True, 74) == Told((alarm("c"),))
    line.update({})
    call = make(line, 75)
    assert (said(call), call.over) == ("", (alarm("b"), alarm("c")))
    line.finish(call.number, True, 76)
    assert line.next_call(1000) is None


@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from("abcde")),
            st.sampled_from(["delivered", "fails", "hangs", "late"]),
        ),
        max_size=40,
    )
)
def test_whatever_happens_each_is_told_once_and_nothing_is_forgotten(
    steps: list[tuple[set[str], str]],
) -> None:
    line, now, told, hanging = Line(keeps=False), 0.0, list[str](), list[Call]()
    for alerts, outcome in [*steps, (set("abcde"), "delivered")]:
        now += LONGEST_PAUSE
        line.update(due(*sorted(alerts)))
        if outcome == "late" and hanging:
            late = hanging.pop(0)
            told += [each.alert for each in line.finish(late.number, True, now).alarms]
            line.update(due(*sorted(alerts)))
            now += PAUSE
        while len(hanging) > MAX_HANGING:
            line.finish(hanging.pop(0).number, False, now)
        call = line.next_call(now)
        assert (call is not None) == bool(alerts - set(told))
        if call is None:
            continue
        assert {each.alert for each in call.alarms} == alerts - set(told)
        if outcome in ("hangs", "late"):
            hanging.append(call)
            line.expire(now := now + TIME_LIMIT)
        else:
            done = line.finish(call.number, outcome == "delivered", now)
            told += [each.alert for each in done.alarms]
    assert sorted(told) == list("abcde")
