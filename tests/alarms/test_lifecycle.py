"""The life cycle of an alarm: its table, and a walk through it with whatever may happen."""

from collections.abc import Collection
from itertools import count, product
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monitor.alarms import messages
from monitor.alarms.decisions import Alarms, Decision, Policy, Rhythm
from monitor.alarms.device import FORGET_AFTER, Shelf, as_it_stands
from monitor.alarms.kinds import ANOMALOUS, KINDS, NORMAL, POOR, RHYTHM_KINDS
from monitor.alarms.lifecycle import TABLE, Event, Row, State, Trigger, Withheld, diagram, restored
from monitor.alarms.messages import Acknowledged, Kind, Priority, RhythmKind

GUIDE = Path(__file__).parents[2] / "docs" / "operating.md"

# -- the table


def test_the_guide_shows_the_table_as_it_is() -> None:
    assert f"```mermaid\n{diagram()}\n```" in GUIDE.read_text()


def test_every_state_is_reached_and_can_be_left() -> None:
    reached, new = set[State](), {State.NONE}
    while new:
        reached |= new
        new = {row.state for (state, _, _), row in TABLE.items() if state in new} - reached
    assert reached == set(State)
    for state, shelf in product(set(State) - {State.NONE}, (False, True)):
        if shelf or state.withheld is None:  # what was withheld, was withheld by a shelf
            assert TABLE[state, Trigger.CLEAR, shelf].state is State.NONE


def test_the_table_has_a_row_for_all_that_can_come() -> None:
    for state, trigger, shelf in product(State, Trigger, (False, True)):
        withheld = state.withheld is not None
        possible = {
            Trigger.RAISE: state is State.NONE or state.latched,
            Trigger.ESCALATE: state in (State.RAISED, State.RAISED_UNTOLD) and shelf >= withheld,
            Trigger.CLEAR: state is not State.NONE and shelf >= withheld,
            Trigger.LATCH: state is not State.NONE and not state.latched and shelf >= withheld,
            Trigger.ACKNOWLEDGE: state is not State.NONE and shelf >= withheld,
            Trigger.SHELVE: state is not State.NONE and shelf,
            Trigger.UNSHELVE: state is not State.NONE and not shelf,
            Trigger.FORGET: state in (State.RAISED, State.ESCALATED) and not shelf,
        }[trigger]
        assert ((state, trigger, shelf) in TABLE) == possible, (state, trigger, shelf)


def test_shelving_and_acknowledging_alert_nobody_and_leave_the_alarm_as_it_is() -> None:
    for (state, trigger, _), row in TABLE.items():
        if trigger is Trigger.SHELVE or (trigger is Trigger.ACKNOWLEDGE and not state.latched):
            assert row == Row(state)


def test_an_alarm_that_people_were_told_of_latches_and_is_cleared_once_it_is_seen() -> None:
    latched = {State.RAISED: State.RAISED_LATCHED, State.ESCALATED: State.ESCALATED_LATCHED}
    for (state, trigger, shelf), row in TABLE.items():
        assert row.state.latched == (
            (trigger is Trigger.LATCH and state in latched)
            or (state.latched and trigger in (Trigger.SHELVE, Trigger.UNSHELVE))
        )
        if trigger is Trigger.LATCH:
            untold = state not in latched
            assert row == (TABLE[state, Trigger.CLEAR, shelf] if untold else Row(latched[state]))
        if state.latched and trigger is Trigger.ACKNOWLEDGE:
            assert row == TABLE[state, Trigger.CLEAR, shelf]
        if state.latched and trigger is Trigger.RAISE:
            assert row == Row({after: before for before, after in latched.items()}[state])


def test_an_alarm_comes_to_what_happens_to_it_and_its_end_is_told_if_its_beginning_was() -> None:
    events: dict[Trigger, Event] = {
        Trigger.RAISE: "raised",
        Trigger.ESCALATE: "escalated",
        Trigger.CLEAR: "cleared",
        Trigger.FORGET: "cleared",
    }
    for (state, trigger, shelf), row in TABLE.items():
        if trigger not in events or (state.latched and trigger is Trigger.RAISE):
            assert row.event == "cleared" or row.state.value[0] == state.value[0]
            continue
        assert row.event == events[trigger]
        if row.event == "cleared":
            assert row.state is State.NONE
            assert row.published == (state.withheld != "raised")
        else:
            withheld = state.withheld or (row.event if shelf else None)
            assert row.state.value == (row.event, withheld, False)
            assert row.published == (not shelf)


def test_what_a_shelf_withholds_is_published_when_it_is_over() -> None:
    for (state, trigger, shelf), row in TABLE.items():
        assert row.state.withheld is None or shelf, (state, trigger)
        if trigger is Trigger.UNSHELVE:
            assert row.event == state.withheld
            assert row.published == (row.event is not None)


@pytest.mark.parametrize("escalated", [False, True])
@pytest.mark.parametrize("withheld", [None, "raised", "escalated"])
@pytest.mark.parametrize("shelved", [False, True])
def test_whatever_was_saved_is_a_state_that_can_be_left(
    escalated: bool, withheld: Withheld | None, shelved: bool
) -> None:
    for latched in (False, True):
        state = restored(escalated, withheld, shelved, latched)
        assert (state, Trigger.CLEAR, shelved) in TABLE
        assert escalated == (state.value[0] == "escalated")
        assert state.latched == latched


# -- the kinds


def test_every_kind_has_its_row_and_the_rhythm_comes_first() -> None:
    assert set(KINDS) == set(get_args(Kind))
    assert set(RHYTHM_KINDS) == set(get_args(RhythmKind))
    assert tuple(KINDS)[: len(RHYTHM_KINDS)] == RHYTHM_KINDS
    explaining = [kind for kind, each in KINDS.items() if each.explains]
    assert explaining == ["ventricular-fibrillation", "asystole", "ventricular-tachycardia"]


# -- a walk through it


class Listener:
    """Somebody who hears the published alerts and nothing else; repeats are dropped by their id."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, Kind], tuple[str, Priority]] = {}  # alarm id and priority
        self.ids: set[str] = set()

    def hear(self, decision: Decision) -> None:
        assert decision.id not in self.ids, "an id was used twice"
        self.ids.add(decision.id)
        alarm = decision.device, decision.kind
        if decision.event == "raised":
            assert alarm not in self.known
            assert decision.alarm == decision.id
        else:
            assert self.known[alarm][0] == decision.alarm, "a change of an alarm nobody knows of"
        self.known[alarm] = decision.alarm, decision.priority
        if decision.event == "cleared":
            del self.known[alarm]


class Walk(RuleBasedStateMachine):
    """Two devices, one of which numbers its beats, and whatever happens to them."""

    names = st.sampled_from(["numbered", "plain"])
    latching: Collection[Priority | Kind] = ()

    def __init__(self) -> None:
        super().__init__()
        policy = Policy(window=4, raise_at=2, clear_at=0, silent_after=30.0)
        self.alarms = Alarms(policy, self.latching)
        self.listener = Listener()
        self.decided: set[str] = set()
        self.withheld: dict[tuple[str, Kind], list[str]] = {}  # the events of each open alarm
        self.seen: dict[tuple[str, Kind], Acknowledged] = {}
        self.last: dict[str, tuple[bytes, list[int], list[float], int | None]] = {}
        self.now = self.begun = 1_795_262_400.0
        self.numbers = count()

    def take(
        self,
        decisions: list[Decision],
        shelf_is_over: bool = False,
        acknowledging: bool = False,
    ) -> None:
        seen = dict(self.seen)
        for decision in decisions:
            alarm = decision.device, decision.kind
            device = self.alarms.find(decision.device)
            priorities = KINDS[decision.kind].priorities
            assert decision.priority in priorities
            if decision.event == "escalated":
                assert decision.priority == priorities[-1] != priorities[0]
            if decision.withheld_by is not None:
                assert device is not None and device.shelf is not None
                assert decision.withheld_by == device.shelf.by
            elif device is not None and device.withholds(decision.kind):
                assert decision.event == "cleared"
                assert "raised" not in self.withheld.get(alarm, [])
            if not shelf_is_over:
                self.seen.pop(alarm, None)
                assert decision.id not in self.decided, "an id was used twice"
                self.decided.add(decision.id)
                assert (decision.before is None) == (decision.event == "raised")
            if decision.event == "cleared":
                latches = decision.priority in self.latching or decision.kind in self.latching
                assert acknowledging or alarm in self.withheld or alarm in seen or not latches
                assert (decision.over_since is not None) == acknowledging
                self.withheld.pop(alarm, None)
            elif decision.withheld_by is not None:
                self.withheld.setdefault(alarm, []).append(decision.event)
            if shelf_is_over:
                assert decision.event == self.withheld.pop(alarm)[0]
            if decision.withheld_by is None:
                self.listener.hear(decision)

    @rule(
        name=names,
        verdicts=st.lists(
            st.sampled_from([NORMAL, NORMAL, ANOMALOUS, ANOMALOUS, POOR]), min_size=1, max_size=6
        ),
    )
    def beats(self, name: str, verdicts: list[int]) -> None:
        keys = [next(self.numbers) for _ in verdicts]
        times = [self.now] * len(verdicts)
        self.last[name] = bytes(verdicts), keys, times, keys[0] if name == "numbered" else None
        self.now += 1
        device = self.alarms.hear(name, self.now)
        self.take(self.alarms.observe(name, device, *self.last[name]))

    @rule(name=names, verdict=st.sampled_from([NORMAL, ANOMALOUS, POOR]))
    def beats_that_fill_the_window(self, name: str, verdict: int) -> None:
        self.beats(name, [verdict] * 4)

    @rule(
        name=names,
        kind=st.sampled_from([None, *RHYTHM_KINDS]),
        priority=st.sampled_from(["medium", "high"]),
        ago=st.sampled_from([0.0, 3.0, 100.0]),
    )
    def rhythm(self, name: str, kind: RhythmKind | None, priority: Priority, ago: float) -> None:
        self.now += 1
        finding = Rhythm(kind, priority, self.now - ago, heart_rate=30.0)
        device = self.alarms.hear(name, self.now)
        self.take(self.alarms.hear_rhythm(name, device, finding, self.now))
        assert self.alarms.hear_rhythm(name, device, finding, self.now + 0.1) == []
        open_now = [each for each in RHYTHM_KINDS if device.active(each)]
        assert open_now == ([kind] if kind else [])

    @rule(name=names)
    def redelivery(self, name: str) -> None:
        if name in self.last and self.alarms.find(name) is not None:
            device = self.alarms.hear(name, self.now)
            assert self.alarms.observe(name, device, *self.last[name], True) == []

    @precondition(lambda self: self.alarms.open)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        identity = data.draw(st.sampled_from(sorted(self.alarms.open)))
        seen = Acknowledged(f"nurse {next(self.numbers)}", "2026-11-21T12:00:00.000Z")
        name, raised = self.alarms.open[identity], self.alarms.raised_by(identity)
        device = self.alarms.find(name)
        assert device is not None
        ((kind, latched),) = [
            (kind, each.state.latched) for kind, each in device.alarms() if each.id == raised
        ]
        decisions = self.alarms.acknowledge(identity, seen)
        assert [(each.event, each.alarm) for each in decisions] == [("cleared", raised)] * latched
        self.take(decisions, acknowledging=True)
        if not latched:
            self.seen[name, kind] = seen

    @rule(name=names, kinds=st.lists(st.sampled_from(list(KINDS)), max_size=4))
    def shelve(self, name: str, kinds: list[Kind]) -> None:
        if self.alarms.find(name) is not None:
            by = f"nurse {next(self.numbers)}"
            shelf = Shelf(by, self.now, self.now + 1e6, tuple(kinds))
            self.take(self.alarms.shelve(name, shelf), shelf_is_over=True)
            assert all(
                not kinds or kind in kinds for device, kind in self.withheld if device == name
            )

    @rule(name=names)
    def unshelve(self, name: str) -> None:
        self.take(self.alarms.unshelve(name), shelf_is_over=True)
        assert not any(device == name for device, _ in self.withheld)

    @rule(seconds=st.sampled_from([1.0, 40.0, FORGET_AFTER + 100]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.alarms.fall_silent(self.now, self.begun, self.now, 10))
        changed, cleared = self.alarms.forget(self.now, self.now, 10)
        for decision in cleared:
            assert decision.withheld_by is None
            self.take([decision])
        for name in changed:
            assert name not in self.alarms.shelved
            if self.alarms.find(name) is None:
                self.last.pop(name, None)

    @rule()
    def restart(self) -> None:
        before, self.alarms = self.alarms, Alarms(self.alarms.policy, self.latching)
        for devices in (before.devices, before.silent):
            for name, device in devices.items():
                saved = messages.encode(as_it_stands(name, device, self.now))
                self.alarms.restore(messages.decode_alarm(saved), self.now)
        self.begun = self.now
        assert self.alarms.open == before.open

    @invariant()
    def who_hears_the_alerts_knows_what_stands_but_for_what_is_withheld(self) -> None:
        stands: dict[tuple[str, Kind], tuple[str, Priority]] = {}
        for devices in (self.alarms.devices, self.alarms.silent):
            for name, device in devices.items():
                stands |= {(name, kind): (a.id, a.priority) for kind, a in device.alarms()}
        untold = {alarm for alarm, events in self.withheld.items() if "raised" in events}
        assert set(self.listener.known) == set(stands) - untold
        for alarm, known in self.listener.known.items():
            if alarm not in self.withheld:
                assert known == stands[alarm]

    @invariant()
    def what_stands_says_what_is_withheld_and_who_has_seen_it(self) -> None:
        opened: set[str] = set()
        for devices in (self.alarms.devices, self.alarms.silent):
            for name, device in devices.items():
                for alarm in as_it_stands(name, device, self.now).alarms:
                    assert alarm.withheld == self.withheld.get((name, alarm.kind), [None])[0]
                    assert alarm.acknowledged == self.seen.get((name, alarm.kind))
                    opened |= {alarm.id, alarm.escalation or alarm.id}
                for kind, active in device.alarms():
                    event, _, latched = active.state.value
                    assert event == ("escalated" if active.escalation else "raised")
                    assert latched == (active.over_since is not None)
                    assert not (latched and active.acknowledged)
                    assert not latched or {kind, active.priority} & set(self.latching)
        assert set(self.alarms.open) == opened


class LatchingWalk(Walk):
    """The same, where some alarms latch."""

    latching = ("high", "signal-quality", "silent")


TestWalk = Walk.TestCase
TestLatchingWalk = LatchingWalk.TestCase
TestWalk.settings = settings(max_examples=150, stateful_step_count=40)
TestLatchingWalk.settings = TestWalk.settings
