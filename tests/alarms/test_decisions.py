"""The alarm decisions over time, against a simple model of them, across restarts and repeats."""

import tracemalloc
from collections import deque
from itertools import count
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monitor.alarms import messages
from monitor.alarms.decisions import REMEMBERED, Alarms, Decision, Policy, Rhythm
from monitor.alarms.device import FORGET_AFTER, Shelf, as_it_stands
from monitor.alarms.kinds import ANOMALOUS, ATYPICAL, NORMAL, POOR, VENTRICULAR
from monitor.ecg.beat import fingerprints, key

THREE_OF_TEN = Policy(window=10, raise_at=3, clear_at=0)
EPOCH = 1_795_262_400.0

VERDICTS = st.sampled_from([NORMAL, NORMAL, NORMAL, ANOMALOUS, ANOMALOUS, POOR])
KINDS = st.sampled_from([NORMAL, NORMAL, ANOMALOUS, ATYPICAL, VENTRICULAR, POOR])
STREAMS = st.lists(KINDS, min_size=1, max_size=80)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    window = draw(st.integers(1, 12))
    raise_at = draw(st.integers(1, window))
    return Policy(window, raise_at, draw(st.integers(0, raise_at - 1)), 30.0)


class Beat(NamedTuple):
    """A beat that was sent; `seq` is None where its device does not number them."""

    verdict: int
    seq: int | None
    key: int


def beats_of(verdicts: list[int], numbered: bool, begin: int = 0) -> list[Beat]:
    """Make beats with different samples, as they are in life."""
    beats = []
    for i, verdict in enumerate(verdicts, start=begin):
        seq = i if numbered else None
        beats.append(Beat(verdict, seq, key(0x9E3779B97F4A7C15 * (i + 1), seq, None)))
    return beats


def send(
    alarms: Alarms, name: str, beats: list[Beat], now: float = 0.0, redelivered: bool = False
) -> list[Decision]:
    """Send beats in one message."""
    return alarms.observe(
        name,
        alarms.hear(name, now),
        bytes(beat.verdict for beat in beats),
        [beat.key for beat in beats],
        [EPOCH + now] * len(beats),
        beats[0].seq,
        redelivered,
    )


def restarted(alarms: Alarms, now: float) -> Alarms:
    """Another process that goes on from what stands with the broker."""
    after = Alarms(alarms.policy)
    for devices in (alarms.devices, alarms.silent):
        for name, device in devices.items():
            retained = messages.encode(as_it_stands(name, device, EPOCH + now))
            after.restore(messages.decode_alarm(retained), now)
    return after


# -- over time, against a model


class Modelled:
    """A device as the model sees it: what its last beats were, and nothing clever."""

    def __init__(self, window: int) -> None:
        self.anomalous: deque[bool] = deque(maxlen=window)
        self.poor: deque[bool] = deque(maxlen=window)
        self.open: dict[str, tuple[str, str, float]] = {}  # kind: id, priority, since
        self.sent: list[Beat] = []
        self.heard = 0.0
        self.quiet = False
        self.restored = False

    @property
    def clean(self) -> bool:
        return not self.open and not any(self.anomalous) and not any(self.poor)


class Ward(RuleBasedStateMachine):
    """Some devices, their beats, the time, and restarts."""

    names = st.sampled_from(["numbered-1", "numbered-2", "plain"])

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(window=5, raise_at=2, clear_at=0, silent_after=30.0)
        self.alarms = Alarms(self.policy)
        self.model: dict[str, Modelled] = {}
        self.ids: set[str] = set()
        self.now = self.begun = 1000.0
        self.numbers = count()

    @precondition(lambda self: not self.model)
    @rule(policy=policies())
    def set_policy(self, policy: Policy) -> None:
        self.policy = policy
        self.alarms = Alarms(policy)

    @rule(
        name=names, verdicts=st.lists(VERDICTS, min_size=1, max_size=20), redelivered=st.booleans()
    )
    def new_beats(self, name: str, verdicts: list[int], redelivered: bool) -> None:
        begin = next(self.numbers) * 100
        beats = beats_of(verdicts, name != "plain", begin)
        decisions = send(self.alarms, name, beats, self.now, redelivered)
        model = self.model.setdefault(name, Modelled(self.policy.window))
        model.heard, model.quiet = self.now, False
        model.restored &= redelivered
        model.sent += beats
        was_clean = model.clean
        expected = [said for i, beat in enumerate(beats) for said in self.count(model, i, beat)]
        self.compare(name, decisions, expected)
        device = self.alarms.find(name)
        assert device is not None
        if any(verdicts) or decisions or model.clean != was_clean:
            assert device.unsaved
        device.unsaved = False

    def count(self, model: Modelled, i: int, beat: Beat) -> list[tuple[Any, ...]]:
        said: list[tuple[Any, ...]] = []
        if "silent" in model.open:
            said.append(("cleared", "silent", i, 0, 0, "medium"))
        model.poor.append(beat.verdict == POOR)
        said += self.decide(
            model, "signal-quality", model.poor, i, beat.verdict == POOR, ("low", "medium")
        )
        if beat.verdict != POOR:
            speaks = beat.verdict == ANOMALOUS
            model.anomalous.append(speaks)
            said += self.decide(model, "anomaly", model.anomalous, i, speaks, ("medium", "high"))
        for event, kind, _beat, _number, _seen, priority in said:
            if event == "cleared":
                model.open.pop(kind, None)
            else:
                model.open[kind] = ("", priority, 0.0)
        return said

    def decide(
        self,
        model: Modelled,
        kind: str,
        window: deque[bool],
        i: int,
        speaks: bool,
        priorities: tuple[str, str],
    ) -> list[tuple[Any, ...]]:
        number, full = sum(window), len(window) == self.policy.window
        if kind not in model.open:
            if speaks and number >= self.policy.raise_at:
                priority = priorities[number == self.policy.window]
                return [("raised", kind, i, number, len(window), priority)]
        elif all(window) and full and model.open[kind][1] != priorities[1]:
            return [("escalated", kind, i, number, len(window), priorities[1])]
        elif full and number <= self.policy.clear_at:
            return [("cleared", kind, i, number, len(window), model.open[kind][1])]
        return []

    def compare(
        self,
        name: str,
        decisions: list[Decision],
        expected: list[tuple[Any, ...]],
    ) -> None:
        assert expected == [
            (said.event, said.kind, said.beat, said.anomalous, said.seen, said.priority)
            for said in decisions
        ]
        for said in decisions:
            assert said.device == name
            assert said.id not in self.ids, "two events have one id"
            assert (said.before is None) == (said.event == "raised")
            self.ids.add(said.id)

    @rule(name=names, number=st.integers(1, REMEMBERED), by_broker=st.booleans())
    def repeated_beats_count_once(self, name: str, number: int, by_broker: bool) -> None:
        model = self.model.get(name)
        if model and model.sent and (by_broker or name != "plain"):
            model.heard, model.quiet = self.now, False
            model.restored &= by_broker
            for beat in model.sent[-number:]:
                assert send(self.alarms, name, [beat], self.now, by_broker) == []

    @rule(name=names)
    def a_message_sent_twice_counts_once(self, name: str) -> None:
        model = self.model.get(name)
        if model and model.sent and name != "plain":
            last = model.sent[-1].seq or 0
            message = [beat for beat in model.sent if (beat.seq or 0) // 100 == last // 100]
            model.heard, model.quiet, model.restored = self.now, False, False
            assert send(self.alarms, name, message, self.now) == []

    @precondition(lambda self: any(model.restored for model in self.model.values()))
    @rule()
    def all_is_redelivered_after_a_restart(self) -> None:
        for name, model in self.model.items():
            if model.restored and name != "plain":
                model.heard, model.quiet = self.now, False
                for beat in model.sent:
                    assert send(self.alarms, name, [beat], self.now, True) == []

    @rule(seconds=st.sampled_from([1.0, 20.0, 40.0, FORGET_AFTER + 100]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        after = self.policy.silent_after
        said: dict[str, list[Decision]] = {}
        for decision in self.alarms.fall_silent(self.now, self.begun, EPOCH + self.now, 1000):
            said.setdefault(decision.device, []).append(decision)
        for name, model in self.model.items():
            expected: list[tuple[Any, ...]] = []
            if not model.quiet and max(model.heard, self.begun) + after <= self.now:
                model.quiet, model.heard = True, self.now
                if "silent" not in model.open:
                    model.open["silent"] = ("", "medium", 0.0)
                    expected = [("raised", "silent", None, 0, 0, "medium")]
            self.compare(name, said.pop(name, []), expected)
        assert not said
        forgotten, cleared = self.alarms.forget(self.now, self.now, 1000)
        for decision in cleared:
            said.setdefault(decision.device, []).append(decision)
        for name, model in list(self.model.items()):
            if model.quiet and model.heard + FORGET_AFTER <= self.now:
                del self.model[name]
                last = said.pop(name, [])
                gone = {(d.event, d.kind, d.priority) for d in last}
                assert gone == {("cleared", kind, p) for kind, (_, p, _) in model.open.items()}
                assert len(last) == len(gone)
                forgotten.remove(name)
        assert not said
        assert not forgotten

    @rule()
    def restart(self) -> None:
        self.alarms = restarted(self.alarms, self.now)
        self.begun = self.now
        for model in self.model.values():
            # A device with nothing open may have gone long ago: nobody waits for it.
            model.heard, model.quiet = self.now, "silent" in model.open or model.clean
            model.restored = True

    @invariant()
    def what_stands_is_what_the_model_says(self) -> None:
        assert set(self.alarms.devices) | set(self.alarms.silent) == set(self.model)
        for name, model in self.model.items():
            device = self.alarms.find(name)
            assert device is not None
            assert (name in self.alarms.silent) == model.quiet
            stands = as_it_stands(name, device, EPOCH + self.now)
            assert {a.kind: a.priority for a in stands.alarms} == {
                kind: priority for kind, (_, priority, _) in model.open.items()
            }
            assert all(alarm.id in self.ids for alarm in stands.alarms)
            assert stands.state == ("alarm" if model.open else "ok")
            order = [
                p for p in ("high", "medium", "low") if p in {a.priority for a in stands.alarms}
            ]
            assert stands.priority == (order[0] if order else None)
            assert stands.anomalous == "".join(".x"[speaks] for speaks in model.anomalous)


TestWard = Ward.TestCase
TestWard.settings = settings(max_examples=100, stateful_step_count=30)


# -- what is promised, one by one


def told(decisions: list[Decision]) -> list[tuple[str, ...]]:
    return [(said.event, said.kind, said.priority) for said in decisions]


def run(policy: Policy, beats: list[Beat], name: str = "bed-7") -> list[Decision]:
    alarms = Alarms(policy)
    return [said for beat in beats for said in send(alarms, name, [beat])]


def test_an_alarm_is_raised_escalated_and_cleared() -> None:
    alarms = Alarms(Policy(window=4, raise_at=2, clear_at=0))
    verdicts = [ANOMALOUS, NORMAL, ANOMALOUS, ANOMALOUS, ANOMALOUS, ANOMALOUS] + [NORMAL] * 4
    said = [told(send(alarms, "bed-7", [beat])) for beat in beats_of(verdicts, numbered=False)]
    assert said == [
        [],
        [],
        [("raised", "anomaly", "medium")],
        [],
        [],
        [("escalated", "anomaly", "high")],
        [],
        [],
        [],
        [("cleared", "anomaly", "high")],
    ]


@given(policies(), STREAMS, st.booleans())
def test_beats_of_poor_quality_never_count_towards_an_anomaly(
    policy: Policy, verdicts: list[int], numbered: bool
) -> None:
    beats = beats_of(verdicts, numbered)
    believed = [beat for beat in beats if beat.verdict != POOR]

    def anomalies(beats: list[Beat]) -> list[tuple[Any, ...]]:
        return [
            (said.id if numbered else "", said.event, said.priority, said.anomalous, said.seen)
            for said in run(policy, beats)
            if said.kind == "anomaly"
        ]

    assert anomalies(beats) == anomalies(believed)


@given(policies(), STREAMS, st.booleans(), st.data())
def test_the_same_beats_cause_the_same_events_however_they_are_put_into_messages(
    policy: Policy, verdicts: list[int], numbered: bool, data: st.DataObject
) -> None:
    beats = beats_of(verdicts, numbered)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(beats) - 1)))) if len(beats) > 1 else []
    alarms, together = Alarms(policy), []
    for start, stop in zip([0, *cuts], [*cuts, len(beats)], strict=True):
        for said in send(alarms, "bed-7", beats[start:stop]):
            assert said.beat is not None
            together.append(said._replace(beat=0))
    assert together == run(policy, beats)


@given(policies(), STREAMS, st.booleans(), st.data())
def test_a_restart_at_any_point_changes_no_later_decision_and_no_id(
    policy: Policy, verdicts: list[int], numbered: bool, data: st.DataObject
) -> None:
    beats = beats_of(verdicts, numbered)
    restarts = data.draw(st.sets(st.integers(0, len(beats)), max_size=4))
    alarms, decisions = Alarms(policy), []
    for i, beat in enumerate(beats):
        if i in restarts:
            alarms = restarted(alarms, 0.0)
            device = alarms.find("bed-7")
            if device is not None:  # what was not acknowledged comes again
                assert all(not send(alarms, "bed-7", [old], 0.0, True) for old in beats[i - 1 : i])
        decisions += send(alarms, "bed-7", [beat])
    # `seen` starts anew for a device without anything to keep.
    assert [said._replace(seen=0) for said in decisions] == [
        said._replace(seen=0) for said in run(policy, beats)
    ]


def test_whoever_takes_over_raises_the_same_alarm_by_other_beats() -> None:
    """A broker may deliver those in hand again behind newer ones, and an alarm may not be kept."""
    beats = beats_of([NORMAL] * 5 + [ANOMALOUS] * 6, numbered=True)
    alarms = Alarms(THREE_OF_TEN)
    for beat in beats[:7]:
        send(alarms, "bed-7", [beat])
    other = restarted(alarms, 0.0)
    (raised,) = send(alarms, "bed-7", [beats[7]])
    decisions = [said for beat in beats[8:] for said in send(other, "bed-7", [beat])]
    decisions += send(other, "bed-7", [beats[7]], redelivered=True)
    assert [said.id for said in decisions] == [raised.id]


def test_late_beats_of_an_episode_that_is_over_raise_no_other_alarm() -> None:
    beats = beats_of([ANOMALOUS] * 8 + [NORMAL] * 12 + [ANOMALOUS] * 3, numbered=True)
    alarms = Alarms(THREE_OF_TEN)
    decisions = [said for beat in beats[:4] + beats[8:20] for said in send(alarms, "a", [beat])]
    assert [said.event for said in decisions] == ["raised", "cleared"]
    alarms = restarted(alarms, 0.0)
    for beat in beats[4:8]:
        assert send(alarms, "a", [beat], redelivered=True) == []
    (again,) = [said for beat in beats[20:] for said in send(alarms, "a", [beat])]
    assert again.event == "raised"


def test_an_alarm_that_clears_while_beats_still_speak_for_it_does_not_name_the_next() -> None:
    policy = Policy(window=10, raise_at=3, clear_at=2)
    verdicts = [ANOMALOUS, *[NORMAL] * 4, ANOMALOUS, ANOMALOUS, *[NORMAL] * 4, ANOMALOUS]
    alarms = Alarms(policy)
    decisions: list[Decision] = []
    for beat in beats_of(verdicts, numbered=True):
        alarms = restarted(alarms, 0.0) if decisions else alarms
        decisions += send(alarms, "bed-7", [beat])
    assert [said.event for said in decisions] == ["raised", "cleared", "raised"]
    assert len({said.id for said in decisions}) == 3


@given(policies(), STREAMS)
def test_events_of_other_devices_have_other_ids(policy: Policy, verdicts: list[int]) -> None:
    beats = beats_of(verdicts, numbered=True)
    own, others = ({said.id for said in run(policy, beats, name)} for name in ("bed-7", "bed-8"))
    assert not own & others


def test_two_episodes_of_the_same_flat_line_have_different_ids() -> None:
    flat = Beat(POOR, None, int(fingerprints(np.zeros((1, 140), np.float32))[0]))
    normal = beats_of([NORMAL] * 40, numbered=False)
    decisions = run(THREE_OF_TEN, [flat] * 3 + normal[:20] + [flat] * 3 + normal[20:])
    raised = [said.id for said in decisions if said.event == "raised"]
    assert len(raised) == len(set(raised)) == 2


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("size", [5, 16, 17, 100])
def test_a_long_message_that_comes_twice_counts_once(size: int, numbered: bool) -> None:
    alarms = Alarms(THREE_OF_TEN)
    message = beats_of([ANOMALOUS] * 5 + [NORMAL] * (size - 5), numbered)
    send(alarms, "bed-7", message)
    for redelivered in (True, False) if numbered else (True,):
        assert send(alarms, "bed-7", message, 0.0, redelivered) == []
        assert as_it_stands("bed-7", alarms.devices["bed-7"], 0.0).anomalous == "".join(
            ".x"[beat.verdict] for beat in message[-10:]
        )


def test_equal_samples_that_a_device_sends_one_after_the_other_all_count() -> None:
    alarms = Alarms(Policy(window=5, raise_at=3, clear_at=0))
    beat = beats_of([ANOMALOUS], numbered=False)
    said = [told(send(alarms, "bed-7", beat)) for _ in range(5)]
    assert said == [
        [],
        [],
        [("raised", "anomaly", "medium")],
        [],
        [("escalated", "anomaly", "high")],
    ]


def test_a_device_that_starts_to_count_anew_is_heard() -> None:
    alarms = Alarms(Policy(window=5, raise_at=3, clear_at=0))
    send(alarms, "bed-7", beats_of([NORMAL] * 3, numbered=True, begin=1000))
    assert told(send(alarms, "bed-7", beats_of([ANOMALOUS] * 3, numbered=True))) == [
        ("raised", "anomaly", "medium")
    ]


def test_a_silent_device_is_said_to_be_once_and_back_with_its_next_beat() -> None:
    alarms = Alarms(Policy(10, 3, silent_after=30))
    beats = beats_of([NORMAL] * 3, numbered=True)
    send(alarms, "bed-7", beats[:2], 100.0)
    assert alarms.fall_silent(129.9, 0.0, EPOCH, 10) == []
    (said,) = alarms.fall_silent(130.0, 0.0, EPOCH, 10)
    assert (said.event, said.kind, said.priority) == ("raised", "silent", "medium")
    assert alarms.fall_silent(1000.0, 0.0, EPOCH, 10) == []
    # What it had sent before is no sign of life …
    assert send(alarms, "bed-7", beats[1:2], 1000.0, redelivered=True) == []
    assert alarms.fall_silent(1030.0, 0.0, EPOCH, 10) == []
    # … a new beat is.
    assert told(send(alarms, "bed-7", beats[2:], 1040.0)) == [("cleared", "silent", "medium")]
    assert len(alarms.fall_silent(1070.0, 0.0, EPOCH, 10)) == 1


def test_nobody_is_silent_before_we_have_listened_long_enough_or_if_nobody_asked() -> None:
    alarms = Alarms(Policy(10, 3, silent_after=30))
    send(alarms, "bed-7", beats_of([NORMAL], numbered=True), 0.0)
    assert alarms.fall_silent(1000.0, 990.0, EPOCH, 10) == []
    assert len(alarms.fall_silent(1020.0, 990.0, EPOCH, 10)) == 1
    never = Alarms(Policy(10, 3, silent_after=0))
    send(never, "bed-7", beats_of([NORMAL], numbered=True), 0.0)
    assert never.fall_silent(1e9, 0.0, EPOCH, 10) == []


def test_many_devices_fall_silent_and_are_forgotten_a_few_at_a_time() -> None:
    alarms = Alarms(Policy(10, 3, silent_after=30))
    for i in range(25):
        send(alarms, f"bed-{i}", beats_of([ANOMALOUS] * 3, numbered=False), float(i))
    fallen = [alarms.fall_silent(1000.0, 0.0, EPOCH, 10) for _ in range(4)]
    names = [f"bed-{i}" for i in range(25)]
    assert [[said.device for said in some] for some in fallen] == [
        names[:10],
        names[10:20],
        names[20:],
        [],
    ]
    assert alarms.forget(1000.0 + FORGET_AFTER - 1, 0.0, 10) == ([], [])
    gone = [alarms.forget(1000.0 + FORGET_AFTER, 0.0, 10) for _ in range(4)]
    assert [forgotten for forgotten, _ in gone] == [names[:10], names[10:20], names[20:], []]
    assert [len(cleared) for _, cleared in gone] == [20, 20, 10, 0]
    assert {said.event for _, cleared in gone for said in cleared} == {"cleared"}
    assert not alarms.devices
    assert not alarms.silent


def test_a_device_takes_less_than_two_kilobytes() -> None:
    alarms = Alarms(THREE_OF_TEN)
    number = 10_000
    # An alarm of each kind, and as many beats as are remembered.
    beats = beats_of([ANOMALOUS, POOR] * 10, numbered=True)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(number):
            send(alarms, f"ward-3-bed-{i:06}", beats)
        alarms.fall_silent(1e6, 0.0, EPOCH, number)
        each = (tracemalloc.get_traced_memory()[0] - before) / number
    finally:
        tracemalloc.stop()
    assert len(alarms.silent) == number
    assert all(len(list(device.alarms())) == 3 for device in alarms.silent.values())
    assert each < 2000, f"{each:.0f} bytes a device"


ALARM = {
    "device": "bed-7",
    "state": "alarm",
    "priority": "medium",
    "time": "2026-11-21T12:00:00.000Z",
    "alarms": [
        {
            "id": "0" * 32,
            "kind": "anomaly",
            "priority": "medium",
            "since": "2026-11-21T12:00:00.000Z",
        }
    ],
    "anomalous": "xxx",
    "poor": "",
    "seq": 5,
    "counted": ["0123456789abcdef"],
    "changes": 1,
}


def test_a_smaller_window_takes_the_newest_beats_of_a_larger_one() -> None:
    alarms = Alarms(Policy(window=3, raise_at=2, clear_at=0))
    saved = messages.decode_alarm(msgspec.json.encode(ALARM | {"anomalous": "xxxxxx..x"}))
    alarms.restore(saved, 0.0)
    assert alarms.devices["bed-7"].anomaly.window() == "..x"


@pytest.mark.parametrize(
    "wrong",
    [
        {"anomalous": "hello"},
        {"anomalous": "2"},
        {"poor": "xX", "anomalous": ""},
        {"counted": ["zz"]},
        {"counted": ["f" * 17]},
        {"seq": 2**70, "anomalous": "x"} | {"counted": ["-1"]},
        {"alarms": [ALARM["alarms"][0] | {"since": "yesterday"}]},  # type: ignore[index]
    ],
)
def test_a_retained_alarm_that_is_not_ours_is_refused_as_it_is_read(wrong: dict[str, Any]) -> None:
    try:
        saved = messages.decode_alarm(msgspec.json.encode(ALARM | wrong))
    except msgspec.DecodeError:
        return
    Alarms(THREE_OF_TEN).restore(saved, 0.0)


@pytest.mark.parametrize("priority", ["low", "medium", "high"])
@pytest.mark.parametrize("withheld", [None, "raised", "escalated"])
@pytest.mark.parametrize("escalation", [None, "1" * 32])
def test_a_retained_alarm_that_cannot_be_is_gone_on_from_all_the_same(
    priority: str, withheld: str | None, escalation: str | None
) -> None:
    forged = {"priority": priority, "withheld": withheld, "escalation": escalation}
    alarm = ALARM["alarms"][0] | forged  # type: ignore[index]
    alarms = Alarms(THREE_OF_TEN)
    alarms.restore(messages.decode_alarm(msgspec.json.encode(ALARM | {"alarms": [alarm]})), 0.0)
    said = send(alarms, "bed-7", beats_of([ANOMALOUS] * 10 + [NORMAL] * 10, numbered=True, begin=6))
    assert [each.event for each in said][-1] == "cleared"
    assert not alarms.open


def test_an_alarm_of_a_device_that_was_forgotten_is_not_taken_for_the_one_before() -> None:
    alarms = Alarms(THREE_OF_TEN)
    told: list[str] = []
    for now in (0.0, 2 * FORGET_AFTER):
        device = alarms.hear("a", now)
        times = [EPOCH + now] * 3  # beats of a lead that is off, each like the other
        (raised,) = alarms.observe("a", device, bytes([POOR] * 3), [7, 7, 7], times)
        told.append(raised.id)
        alarms.fall_silent(now + 60, now, EPOCH + now + 60, 1)
        assert alarms.forget(now + 60 + FORGET_AFTER, 0.0, 1)[0] == ["a"]
    assert len(set(told)) == 2


# -- shelved devices


@given(policies(), STREAMS, st.data())
def test_whoever_is_alerted_knows_what_stands_once_a_shelf_is_over(
    policy: Policy, verdicts: list[int], data: st.DataObject
) -> None:
    """Alerts alone, with those of a shelf told late, lead to the alarms that stand."""
    alarms = Alarms(policy)
    shelved = data.draw(st.integers(0, len(verdicts) - 1))
    over = data.draw(st.integers(shelved, len(verdicts)))
    restart = data.draw(st.integers(0, len(verdicts)))
    known: dict[str, str] = {}

    def hear(decision: Decision) -> None:
        if decision.event == "raised":
            assert decision.kind not in known
        else:
            assert decision.kind in known, "a change of an alarm that nobody knows of"
        known[decision.kind] = decision.priority
        if decision.event == "cleared":
            del known[decision.kind]

    told: list[Decision] = []
    for i, beat in enumerate(beats_of(verdicts, numbered=True)):
        if i == restart:
            alarms = restarted(alarms, 0.0)
        if i == shelved and alarms.find("a") is not None:
            alarms.shelve("a", Shelf("Anna", EPOCH, EPOCH + 60))
        if i == over:
            told += alarms.unshelve("a")
        for decision in send(alarms, "a", [beat]):
            on_shelf = alarms.shelved.get("a") is not None
            assert decision.withheld_by in (None, "Anna")
            assert on_shelf or decision.withheld_by is None
            if decision.withheld_by is None:
                assert not on_shelf or decision.event == "cleared"
                told.append(decision)
    told += alarms.unshelve("a")
    assert not alarms.unshelve("a")
    for decision in told:
        hear(decision)
    device = alarms.find("a")
    assert device is not None
    assert known == {kind: alarm.priority for kind, alarm in device.alarms()}
    assert len({decision.id for decision in told}) == len(told)
    own = {alarm.id for _, alarm in device.alarms()}
    own |= {alarm.escalation for _, alarm in device.alarms() if alarm.escalation}
    assert set(alarms.open) == own


def test_a_shelf_is_over_when_its_time_has_come_and_keeps_its_device() -> None:
    alarms = Alarms(THREE_OF_TEN)
    send(alarms, "a", beats_of([NORMAL] * 10, numbered=True))
    alarms.shelve("a", Shelf("Anna", EPOCH, EPOCH + 7200))
    assert alarms.due(EPOCH + 7199) == []
    assert alarms.due(EPOCH + 7200) == ["a"]
    (silent,) = alarms.fall_silent(100.0, 0.0, EPOCH + 100, 10)
    assert silent.withheld_by == "Anna"
    later = 100.0 + FORGET_AFTER
    assert alarms.forget(later, 0.0, 10) == ([], [])
    (told,) = alarms.unshelve("a")
    assert told.id == silent.id and told.withheld_by is None
    gone, (cleared,) = alarms.forget(later, 0.0, 10)
    assert gone == ["a"] and cleared.alarm == silent.id and cleared.withheld_by is None
    assert not alarms.open and not alarms.due(EPOCH + 9999)


# -- the rhythm

HIGH = ("ventricular-fibrillation", "asystole", "ventricular-tachycardia", "bradycardia")


def hear(
    alarms: Alarms, finding: Rhythm, after: float, redelivered: bool = False, name: str = "bed-7"
) -> list[Decision]:
    """Tell of a rhythm some seconds after it is `EPOCH`."""
    device = alarms.hear(name, after)
    return alarms.hear_rhythm(name, device, finding, EPOCH + after, redelivered)


def asystole(since: float = 0.0, pause_s: float = 4.0) -> Rhythm:
    return Rhythm("asystole", "high", EPOCH + since, pause_s=pause_s)


def tachycardia(priority: messages.Priority = "medium", heart_rate: float = 150.0) -> Rhythm:
    return Rhythm("tachycardia", priority, EPOCH, heart_rate)


def run_of_ventricular_beats(since: float = 0.0) -> Rhythm:
    return Rhythm("ventricular-tachycardia", "high", EPOCH + since, heart_rate=160.0)


def test_an_alarm_of_the_rhythm_is_raised_escalated_and_cleared_however_often_it_is_told() -> None:
    alarms = Alarms(THREE_OF_TEN)
    rates = [150, 150, 185, 190, 150]
    priorities: list[messages.Priority] = ["medium", "medium", "high", "high", "medium"]
    said = [
        hear(alarms, tachycardia(priority, rate), 10 + i)
        for i, (priority, rate) in enumerate(zip(priorities, rates, strict=True))
    ]
    assert list(map(told, said)) == [
        [("raised", "tachycardia", "medium")],
        [],
        [("escalated", "tachycardia", "high")],
        [],
        [],  # it does not become less serious before it is over
    ]
    ((raised,), (escalated,)) = said[0], said[2]
    assert (raised.heart_rate, raised.pause_s, raised.since) == (150, None, EPOCH)
    assert (escalated.heart_rate, escalated.before) == (185, "medium")
    (over,) = hear(alarms, Rhythm(), 20)
    assert (over.event, over.priority, over.alarm) == ("cleared", "high", raised.id)
    assert hear(alarms, Rhythm(), 21) == []


@pytest.mark.parametrize("kind", HIGH)
def test_what_is_serious_is_high_from_the_beginning(kind: Any) -> None:
    (raised,) = hear(Alarms(THREE_OF_TEN), Rhythm(kind, "medium", EPOCH), 1)
    assert raised.priority == "high"


def test_a_tachycardia_may_be_high_at_once() -> None:
    assert told(hear(Alarms(THREE_OF_TEN), tachycardia("high"), 1)) == [
        ("raised", "tachycardia", "high")
    ]


def test_one_event_is_one_alarm() -> None:
    alarms = Alarms(THREE_OF_TEN)
    hear(alarms, tachycardia(), 1)
    assert told(hear(alarms, run_of_ventricular_beats(), 2)) == [
        ("raised", "ventricular-tachycardia", "high"),
        ("cleared", "tachycardia", "medium"),
    ]
    assert told(hear(alarms, asystole(5), 9)) == [
        ("raised", "asystole", "high"),
        ("cleared", "ventricular-tachycardia", "high"),
    ]


def test_ventricular_tachycardia_explains_anomalous_beats_and_the_window_goes_on() -> None:
    alarms = Alarms(Policy(window=4, raise_at=2, clear_at=0))
    beats = beats_of([ANOMALOUS] * 8, numbered=True)
    hear(alarms, run_of_ventricular_beats(), 1)
    assert [said for beat in beats[:4] for said in send(alarms, "bed-7", [beat], 2.0)] == []
    assert alarms.devices["bed-7"].anomaly.window() == "xxxx"
    hear(alarms, Rhythm(), 3)
    assert told(send(alarms, "bed-7", beats[4:5], 4.0)) == [("raised", "anomaly", "high")]


def test_an_anomaly_that_stands_does_not_escalate_while_it_is_explained() -> None:
    alarms = Alarms(Policy(window=4, raise_at=2, clear_at=0))
    beats = beats_of([ANOMALOUS] * 6, numbered=True)
    assert told(send(alarms, "bed-7", beats[:2])) == [("raised", "anomaly", "medium")]
    hear(alarms, run_of_ventricular_beats(), 1)
    assert send(alarms, "bed-7", beats[2:5], 2.0) == []
    hear(alarms, Rhythm(), 3)
    assert told(send(alarms, "bed-7", beats[5:], 4.0)) == [("escalated", "anomaly", "high")]


def test_a_slow_heart_explains_no_anomaly() -> None:
    alarms = Alarms(THREE_OF_TEN)
    hear(alarms, Rhythm("bradycardia", "high", EPOCH, 35.0), 1)
    said = send(alarms, "bed-7", beats_of([ANOMALOUS] * 3, numbered=True))
    assert told(said) == [("raised", "anomaly", "medium")]


def test_the_same_rhythm_gives_the_same_ids_also_after_a_restart() -> None:
    story = [tachycardia(), tachycardia("high"), run_of_ventricular_beats(2.0005), Rhythm()]

    def ids(restart: int | None) -> list[str]:
        alarms, given = Alarms(THREE_OF_TEN), []
        for i, finding in enumerate(story):
            if i == restart:
                alarms = restarted(alarms, float(i))
            given += [said.id for said in hear(alarms, finding, 5.0 + i)]
        return given

    assert len(set(ids(None))) == 5
    assert all(ids(restart) == ids(None) for restart in range(4))


@pytest.mark.parametrize("restart", [False, True])
def test_a_rhythm_that_comes_again_from_behind_another_has_an_id_of_its_own(restart: bool) -> None:
    alarms = Alarms(THREE_OF_TEN)
    first = hear(alarms, tachycardia(), 1)
    hear(alarms, run_of_ventricular_beats(), 2)
    if restart:
        alarms = restarted(alarms, 2.0)
    again, _ = hear(alarms, tachycardia(), 3)
    assert (again.event, again.kind, again.since) == ("raised", "tachycardia", EPOCH + 3)
    assert again.id != first[0].id


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_delivered_again_raises_nothing_that_is_over(restart: bool) -> None:
    alarms = Alarms(THREE_OF_TEN)
    hear(alarms, asystole(), 4)
    hear(alarms, Rhythm(), 9)
    if restart:
        alarms = restarted(alarms, 9.0)
    assert hear(alarms, asystole(), 4, redelivered=True) == []
    assert hear(alarms, Rhythm(), 9, redelivered=True) == []
    assert told(hear(alarms, asystole(10), 14, redelivered=True)) == [
        ("raised", "asystole", "high")
    ]


def test_a_restart_brings_back_what_an_alarm_of_the_rhythm_is_about() -> None:
    alarms = Alarms(THREE_OF_TEN)
    hear(alarms, asystole(pause_s=5.2), 6)
    alarms = restarted(alarms, 7.0)
    assert "bed-7" in alarms.devices, "it is expected to go on"
    assert hear(alarms, asystole(pause_s=6.2), 7) == []
    (over,) = hear(alarms, Rhythm(), 9)
    assert (over.event, over.pause_s, over.heart_rate) == ("cleared", 6.2, None)


def test_a_device_that_falls_silent_keeps_its_rhythm_until_it_is_forgotten() -> None:
    alarms = Alarms(THREE_OF_TEN)
    (raised,) = hear(alarms, asystole(), 4)
    assert told(alarms.fall_silent(100.0, 0.0, EPOCH + 100, 10)) == [("raised", "silent", "medium")]
    _, cleared = alarms.forget(100.0 + FORGET_AFTER, 0.0, 10)
    assert told(cleared) == [("cleared", "asystole", "high"), ("cleared", "silent", "medium")]
    assert cleared[0].alarm == raised.id
    assert not alarms.open


def test_a_shelf_withholds_no_alarm_of_the_rhythm_that_it_does_not_name() -> None:
    alarms = Alarms(THREE_OF_TEN)
    hear(alarms, Rhythm(), 0)
    alarms.shelve("bed-7", Shelf("Anna", EPOCH, EPOCH + 1200))
    (raised,) = hear(alarms, asystole(), 4)
    assert raised.withheld_by is None
    (anomaly,) = send(alarms, "bed-7", beats_of([POOR] * 3, numbered=True))
    assert anomaly.withheld_by == "Anna"


def test_a_shelf_by_kind_withholds_these_and_another_one_tells_what_it_does_not_withhold() -> None:
    alarms = Alarms(THREE_OF_TEN)
    hear(alarms, Rhythm(), 0)
    alarms.shelve("bed-7", Shelf("Anna", EPOCH, EPOCH + 1200, ("tachycardia",)))
    (fast,) = hear(alarms, tachycardia(), 4)
    (poor,) = send(alarms, "bed-7", beats_of([POOR] * 3, numbered=True))
    assert (fast.withheld_by, poor.withheld_by) == ("Anna", None)
    alarms = restarted(alarms, 5.0)
    assert alarms.shelve("bed-7", Shelf("Bob", EPOCH, EPOCH + 60, ("tachycardia", "silent"))) == []
    (late,) = alarms.shelve("bed-7", Shelf("Bob", EPOCH, EPOCH + 60, ("silent",)))
    assert (late.id, late.event, late.kind, late.heart_rate) == (
        fast.id,
        "raised",
        "tachycardia",
        150,
    )
    assert late.withheld_by is None


# -- what comes again


def numbered(alarms: Alarms, verdicts: bytes, first: int, now: float = 0.0) -> list[Decision]:
    """Send beats one by one, numbered from `first` on, each with samples of its own."""
    decisions: list[Decision] = []
    for i, verdict in enumerate(verdicts, start=first):
        device = alarms.hear("a", now)
        own = key(0x9E3779B97F4A7C15 * (i + 1) % 2**64, i, None)
        decisions += alarms.observe("a", device, bytes([verdict]), [own], [now], i)
    return decisions


@pytest.mark.parametrize("again", [20, 200])
def test_beats_that_a_device_sends_again_count_once(again: int) -> None:
    alarms = Alarms(Policy(window=36, raise_at=6))
    story = bytes([NORMAL] * 300)
    numbered(alarms, story[:-5] + bytes([ANOMALOUS] * 5), 0)
    before = alarms.devices["a"].anomaly.bits.bit_count()
    assert before == 5
    tail = (story[:-5] + bytes([ANOMALOUS] * 5))[-again:]
    for _ in range(3):
        assert numbered(alarms, tail, 300 - again) == []
    assert alarms.devices["a"].anomaly.bits.bit_count() == before


def test_a_beat_with_a_number_of_its_own_leaves_it_in_the_retained_alarm() -> None:
    alarms = Alarms(Policy(window=10, raise_at=3))
    device = alarms.hear("a", 0.0)
    seqs = [250, 460, 710]
    keys = [key(7**i, seq, None) for i, seq in enumerate(seqs, start=20)]
    alarms.observe("a", device, bytes([ANOMALOUS] * 3), keys, [0.0] * 3, 250, False, seqs)
    assert as_it_stands("a", device, 0.0).seq == 710


def test_where_nobody_is_silent_devices_are_forgotten_all_the_same() -> None:
    alarms = Alarms(Policy(silent_after=0))
    numbered(alarms, bytes([ANOMALOUS] * 36), 0)
    assert alarms.open
    assert alarms.fall_silent(FORGET_AFTER - 1, 0.0, 0.0, 10) == []
    assert alarms.fall_silent(FORGET_AFTER + 1, 0.0, 0.0, 10) == []
    gone, decisions = alarms.forget(FORGET_AFTER + 1, 0.0, 10)
    assert gone == ["a"]
    assert [decision.event for decision in decisions] == ["cleared"]
    assert not alarms.devices
    assert not alarms.silent
    assert not alarms.open


# -- of a detector that tells ventricular beats from others


def first_raised(verdicts: list[int], policy: Policy | None = None) -> int | None:
    """Return the beat that raises the first anomaly."""
    alarms = Alarms(policy or Policy())
    device = alarms.hear("bed-7", 0)
    times = [float(i) for i in range(len(verdicts))]
    decisions = alarms.observe("bed-7", device, bytes(verdicts), range(1, len(times) + 1), times)
    return next((each.beat for each in decisions if each.event == "raised"), None)


def placed(kind: int, *places: int) -> list[int]:
    return [kind if i in places else NORMAL for i in range(200)]


def test_three_ventricular_beats_of_ten_raise_an_anomaly_at_once() -> None:
    assert first_raised(placed(VENTRICULAR, 100, 101, 102)) == 102
    assert first_raised(placed(VENTRICULAR, 100, 104, 109)) == 109
    assert first_raised(placed(VENTRICULAR, 100, 104, 110)) is None
    assert first_raised(placed(VENTRICULAR, *range(100, 200, 6))) is None
    assert first_raised(placed(ANOMALOUS, 100, 101, 102)) is None  # of a detector that cannot tell


def test_atypical_beats_raise_an_anomaly_when_many_come_together() -> None:
    assert first_raised(placed(ATYPICAL, *range(20, 200, 4))) is None
    scattered = [50, 55, 60, 65]
    assert first_raised(placed(ATYPICAL, *scattered, 70, 72, 74, 76, 78)) == 78
    assert first_raised(placed(ATYPICAL, *scattered, 70, 72, 74, 76)) is None  # eight
    assert first_raised(placed(ANOMALOUS, *scattered, 70, 72, 74, 76)) == 72  # six of 36


def test_a_policy_that_asks_for_less_gets_it_of_every_detector() -> None:
    single = Policy(window=10, raise_at=1)
    for kind in (ANOMALOUS, ATYPICAL, VENTRICULAR):
        assert first_raised(placed(kind, 100), single) == 100


def test_a_restart_goes_on_with_the_ventricular_beats_that_were_seen() -> None:
    beats = beats_of([VENTRICULAR, NORMAL, ATYPICAL, VENTRICULAR, NORMAL, VENTRICULAR], True)
    alarms = Alarms(Policy())
    for beat in beats[:-1]:
        send(alarms, "bed-7", [beat])
    device = alarms.find("bed-7")
    assert device is not None
    saved = as_it_stands("bed-7", device, 0)
    assert saved.anomalous == "v.xv."
    again = Alarms(Policy())
    again.restore(msgspec.json.decode(msgspec.json.encode(saved), type=messages.RetainedAlarm), 0)
    assert [d.event for d in send(again, "bed-7", beats[-1:])] == ["raised"]


@pytest.mark.parametrize("step", [1, 250])
def test_a_late_beat_counts_once_after_a_restart_and_one_from_before_never(step: int) -> None:
    """Not every broker delivers again in order; beats may be numbered by their samples."""
    alarms = Alarms(THREE_OF_TEN)
    beats = [Beat(NORMAL, key=i + 1, seq=step * i) for i in range(100)]
    late = beats.pop(90)
    for beat in beats:
        send(alarms, "a", [beat], 0.0)
    alarms = restarted(alarms, 1.0)
    device = alarms.hear("a", 1.0)
    for repeated in (beats[97], beats[75], beats[20]):
        send(alarms, "a", [repeated], 1.0, redelivered=True)
        assert device.keys()[-1] == beats[-1].key
    for _ in range(2):
        send(alarms, "a", [late], 1.0, redelivered=True)
        assert list(device.keys()).count(late.key) == 1
    assert device.seq == step * 99
