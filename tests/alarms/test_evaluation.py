"""What counts as an episode, as raised in time, and as a false alarm."""

import numpy as np

from monitor.alarms import evaluation
from monitor.alarms.decisions import Policy
from monitor.alarms.kinds import ANOMALOUS, NORMAL, POOR

THREE_OF_TEN = Policy(window=10, raise_at=3, clear_at=0)


def annotated(
    classes: str,
) -> tuple[evaluation.Seconds, "np.ndarray[tuple[int], np.dtype[np.str_]]"]:
    return np.arange(len(classes), dtype=float), np.array(list(classes))


def test_three_ventricular_beats_among_ten_are_an_episode_and_two_are_none() -> None:
    times, classes = annotated("N" * 20 + "VNNNVNNNV" + "N" * 30)
    (episode,) = evaluation.episodes(times, classes)
    assert (episode.begin, episode.due) == (19, 38)  # the third V is beat 28
    assert evaluation.episodes(*annotated("N" * 20 + "VNNNNVNNNNNV" + "N" * 30)) == []


def test_an_alarm_within_ten_beats_of_the_third_is_in_time_and_a_later_one_is_not() -> None:
    times, classes = annotated("N" * 20 + "VVV" + "N" * 40)
    for begin, in_time in ((22.0, 1), (32.0, 1), (33.0, 0)):
        alarm = evaluation.Span(begin, begin + 5, begin)
        assert evaluation.judge([alarm], times, classes, 1).raised == in_time


def test_an_alarm_on_other_abnormal_beats_is_not_false_and_one_on_normal_beats_is() -> None:
    times, classes = annotated("N" * 20 + "SSS" + "N" * 40)
    judged = evaluation.judge(
        [evaluation.Span(22, 30, 22), evaluation.Span(50, 60, 50)], times, classes, 1
    )
    assert (judged.episodes, judged.other, judged.false) == (0, 2, 1)


def test_the_alarms_are_those_of_the_daemon() -> None:
    verdicts = bytes([NORMAL] * 10 + [ANOMALOUS, POOR, ANOMALOUS, ANOMALOUS] + [NORMAL] * 10)
    spans = evaluation.alarms(verdicts, np.arange(len(verdicts), dtype=float), THREE_OF_TEN)
    assert [(span.begin, span.end) for span in spans] == [(13, 23)]
    assert evaluation.alarms(bytes(30), np.arange(30, dtype=float), THREE_OF_TEN) == []
