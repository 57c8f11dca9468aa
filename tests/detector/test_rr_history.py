"""The RR intervals that a detector is told: in their order, and each once."""

from itertools import pairwise

import numpy as np

from monitor.detector.rr_history import INTERVALS, RrHistories, extend, whole

RR: list[float | None] = [800.0 + i for i in range(50)]
RR[20] = None  # a pause


def test_each_beat_gets_the_intervals_before_it_however_the_messages_are_cut() -> None:
    rows = whole(RR)
    assert rows.shape == (50, INTERVALS)
    assert rows.dtype == np.float32
    assert rows[0].tolist() == [800.0] + [0.0] * 31
    assert rows[21, :3].tolist() == [821.0, 0.0, 819.0]
    kept, parts = np.zeros(INTERVALS, np.float32), []
    for first, last in pairwise([0, 1, 1, 8, 49, 50]):
        part, kept = extend(kept, RR[first:last])
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), rows)
    assert np.array_equal(kept, rows[-1])


def test_each_device_has_its_own_intervals() -> None:
    histories = RrHistories()
    for i, interval in enumerate(RR[:10]):
        for device, times in (("bed-1", 1), ("bed-2", 2)):
            row = histories.extend(device, [(interval or 0) * times], [i], repeats=False)
            expected = [(each or 0) * times for each in RR[i::-1]]
            assert row[0, : i + 1].tolist() == expected


def test_what_comes_again_is_not_heard_again() -> None:
    rows = whole(RR)
    histories = RrHistories()
    first = histories.extend("bed", RR[:10], range(10), repeats=True)
    assert np.array_equal(first, rows[:10])
    again = histories.extend("bed", RR[:10], range(10), repeats=True)
    assert not again.any()
    overlapping = histories.extend("bed", RR[5:20], range(5, 20), repeats=True)
    assert not overlapping[:5].any()
    assert np.array_equal(overlapping[5:], rows[10:20])
    long = histories.extend("bed", RR * 6, range(20, 320), repeats=True)
    assert not histories.extend("bed", RR * 6, range(20, 320), repeats=True).any()
    following = histories.extend("bed", [777.0], [320], repeats=True)
    assert following[0].tolist() == [777.0, *long[-1, :-1]]


def test_beats_that_only_look_alike_are_all_heard() -> None:
    histories = RrHistories()
    for _ in range(3):
        row = histories.extend("bed", [800.0], [7], repeats=False)
    assert row[0, :4].tolist() == [800, 800, 800, 0]
