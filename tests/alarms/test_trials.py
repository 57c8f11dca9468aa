"""What two models make of the same beats."""

from monitor.alarms.decisions import Policy
from monitor.alarms.kinds import ANOMALOUS, NORMAL, POOR
from monitor.alarms.trials import Comparison

POLICY = Policy(window=10, raise_at=3, clear_at=0)


def bytes_of(*verdicts: int) -> bytes:
    return bytes(verdicts)


def test_beats_and_alarms_of_either_model_are_counted() -> None:
    comparison = Comparison(POLICY, 0.0, "new", "0" * 64)
    quiet, loud = bytes_of(*[NORMAL] * 10), bytes_of(*[ANOMALOUS] * 4, POOR)
    for number in range(3):
        keys = [100 * number + i for i in range(15)]
        comparison.observe(loud + quiet, loud[:2] + bytes(13), keys, [0.0] * 15, None, False, None)
    result = comparison.result()
    assert (result.beats, result.old_beats, result.new_beats) == (42, 12, 6)
    assert (result.old_alarms, result.new_alarms) == (3, 0)
    assert result.since == "1970-01-01T00:00:00.000Z"


def test_what_comes_again_is_counted_once() -> None:
    comparison = Comparison(POLICY, 0.0, "new", "0" * 64)
    for seq, redelivered in ((0, False), (0, False), (None, True)):
        comparison.observe(
            bytes_of(ANOMALOUS), bytes_of(NORMAL), [7], [0.0], seq, redelivered, None
        )
    assert comparison.result().beats == 1
