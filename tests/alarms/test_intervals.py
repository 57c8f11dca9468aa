"""What the intervals between a device's beats say of its rhythm."""

import pytest

from monitor.alarms.intervals import LONGEST_SILENCE, IntervalWatch
from monitor.alarms.kinds import NORMAL, POOR, VENTRICULAR
from monitor.ecg.beat import BYTES, Beats
from monitor.ecg.rhythm import Finding, RhythmSettings

RATE = 250.0


class Sender:
    """A device whose heart beats as it is told, and a watch that hears it."""

    def __init__(self, form: str) -> None:
        self.form, self.now = form, 1_000_000.0
        self.watch = IntervalWatch(RhythmSettings())

    def beat(self, seconds: float, verdict: int = NORMAL) -> list[Finding] | None:
        self.now += seconds
        beats = {
            "rr_ms": Beats(bytes(BYTES), rr_ms=[1000 * seconds]),
            "time": Beats(bytes(BYTES), time=self.now),
            "seq": Beats(bytes(BYTES), seq=round(self.now * RATE)),
        }[self.form]
        return self.watch.hear(beats, bytes([verdict]), [self.now], self.now, rate=RATE)

    def beats(self, number: int, per_minute: float) -> list[list[Finding] | None]:
        return [self.beat(60 / per_minute) for _ in range(number)]


@pytest.fixture(params=["rr_ms", "time", "seq"])
def sender(request: pytest.FixtureRequest) -> Sender:
    return Sender(request.param)


def test_seconds_taken_for_milliseconds_are_no_intervals() -> None:
    watch, now = IntervalWatch(RhythmSettings()), 1_790_000_000.0
    for i in range(60):
        beats = Beats(bytes(BYTES), time=(now + i) / 1000, credible=False)
        assert watch.hear(beats, bytes([NORMAL]), [now + i], now + i) is None


def test_a_clock_that_was_never_set_still_ticks() -> None:
    watch, now = IntervalWatch(RhythmSettings()), 1_790_000_000.0
    for i in range(60):
        beats = Beats(bytes(BYTES), time=2.0 * i, credible=False)
        found = watch.hear(beats, bytes([NORMAL]), [now + 2 * i], now + 2 * i)
    assert found is not None
    assert [each.kind for each in found] == ["bradycardia"]
    assert now <= found[0].since <= now + 120


def test_a_fast_heart_is_told_after_seventeen_beats(sender: Sender) -> None:
    assert not any(sender.beats(40, 75))
    begun = sender.now
    told = sender.beats(30, 170)
    first = next(i for i, found in enumerate(told) if found)
    assert first <= 17
    assert 60 / 170 * first <= 10
    last = told[-1]
    assert last is not None
    ((kind, since, _, rate, pause),) = last
    assert (kind, pause) == ("tachycardia", None)
    assert rate == pytest.approx(170, abs=1)
    assert begun - 10 < since < sender.now
    assert RhythmSettings().extreme_tachycardia > 170
    assert last[0].priority(RhythmSettings()) == "medium"
    sender.beats(40, 190)
    extreme = sender.beat(60 / 190)
    assert extreme is not None
    assert extreme[0].priority(RhythmSettings()) == "high"
    calm = sender.beats(30, 80)
    assert calm[-1] == []


def test_a_slow_heart_is_told_after_five_beats(sender: Sender) -> None:
    assert not any(sender.beats(40, 75))
    told = sender.beats(8, 30)
    first = next(i for i, found in enumerate(told) if found)
    assert first <= 4
    assert told[-1] is not None
    assert [found.kind for found in told[-1]] == ["bradycardia"]
    assert sender.beats(30, 75)[-1] == []


@pytest.mark.parametrize("per_minute", [42, 75, 138])
def test_within_the_limits_nothing_is_told(sender: Sender, per_minute: float) -> None:
    assert not any(sender.beats(60, per_minute))


def test_a_beat_that_cannot_be_believed_and_a_silence_break_the_intervals(sender: Sender) -> None:
    for _ in range(10):
        assert not any(sender.beats(12, 170))
        sender.beat(0.35, POOR)
    for _ in range(10):
        assert not any(sender.beats(12, 170))
        sender.now += LONGEST_SILENCE + 1
        sender.beat(0.35)


def test_few_beats_say_nothing(sender: Sender) -> None:
    told = sender.beats(30, 75)
    assert told[3] is None
    assert told[-1] == []


def test_numbers_that_count_beats_are_no_intervals() -> None:
    watch = IntervalWatch(RhythmSettings())
    for number in range(100):
        found = watch.hear(Beats(bytes(BYTES), seq=number), b"\0", [0.0], number * 0.8, RATE)
        assert found is None


def test_five_ventricular_beats_in_a_row_are_a_tachycardia_at_once(sender: Sender) -> None:
    sender.beats(20, 75)
    told = [sender.beat(0.4, VENTRICULAR) for _ in range(6)]
    first = next(i for i, found in enumerate(told) if found)
    assert first == 4  # the fifth of them
    last = told[-1]
    assert last is not None
    assert last[0].kind == "ventricular-tachycardia"
    assert last[0].heart_rate == pytest.approx(150, abs=2)
    assert not any(sender.beats(1, 75))
    slow = [sender.beat(0.8, VENTRICULAR) for _ in range(8)]
    assert not any(slow)  # 75 a minute: no tachycardia
    sender.beats(3, 75)
    assert not any(sender.beat(0.4, VENTRICULAR) for _ in range(4))
