"""Settings are chosen on other records than those they are judged on."""

import numpy as np
import pytest

from monitor.alarms.evaluation import Judged
from train.evaluation import model_selection

GOOD = Judged(episodes=10, raised=10, other=1, false=0, hours=0.5)
LOUD = Judged(episodes=10, raised=10, other=9, false=8, hours=0.5)
DEAF = Judged(episodes=10, raised=2, other=0, false=0, hours=0.5)


def test_a_record_has_no_say_in_the_settings_that_it_is_judged_by() -> None:
    # Settings 0 suit every record but the last, settings 1 the last alone.
    records = [[GOOD, LOUD]] * 5 + [[DEAF, GOOD]]
    judged, chosen = model_selection.crossed(records)
    assert judged[-1] == DEAF
    assert chosen[-1] == 0


def test_settings_that_meet_both_goals_are_chosen() -> None:
    judged, chosen = model_selection.crossed([[LOUD, DEAF, GOOD]] * 4)
    assert judged == [GOOD] * 4
    assert chosen == [2] * 4


def test_the_spread_is_that_of_sets_of_ten_records() -> None:
    same = model_selection.spread([GOOD] * 3)
    assert same == model_selection.Spread([1, 1, 1], [0, 0, 0], [2, 2, 2], 1)
    mixed = model_selection.spread([GOOD, LOUD])
    # Each draw of ten has a binomial number of the loud record's 16 an hour.
    expected = 16 * np.array([2, 5, 8]) / 10
    assert mixed.false == pytest.approx(expected)
    assert mixed.met == pytest.approx(11 / 1024, abs=0.01)  # none or one of ten is loud
