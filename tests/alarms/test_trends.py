"""The fast way to count beats is held to the slow one."""

from hypothesis import given
from hypothesis import strategies as st

from monitor.alarms.trends import MOST_INTERVALS, Tally

BEATS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 420.0, 800.0, 1210.5])))


@given(st.lists(st.tuples(st.booleans(), BEATS), max_size=6))
def test_messages_are_counted_as_beats_one_by_one(messages: list[tuple[bool, object]]) -> None:
    fast, slow = Tally(90.0), Tally(90.0)
    for timed, beats in messages:
        assert isinstance(beats, list)
        verdicts = bytes(verdict for verdict, _ in beats)
        fast.add_beats(verdicts, [rr for _, rr in beats] if timed else None)
        for verdict, rr in beats:
            slow.add(verdict, rr if timed else 0.0)
    assert fast.minute() == slow.minute()


def test_a_flood_takes_no_memory_without_bound() -> None:
    tally = Tally(0.0)
    for _ in range(10_000):
        tally.add_beats(b"\0" * 10, [800.0] * 10)
    assert len(tally.rr_ms) <= MOST_INTERVALS + 10
    assert tally.minute().beats == 100_000
