"""Ranking scores in flat memory agrees with sorting them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from monitor.batch.tally import Tally

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("shift", [0.0, 0.3, 3.0])
def test_the_area_is_that_of_the_sorted_scores(shift: float) -> None:
    random = np.random.default_rng(0)
    normal = random.random(20_000) < 0.6
    scores = (random.standard_normal(20_000) + np.where(normal, 0, shift)).astype(np.float32)
    tally = Tally()
    for part in np.array_split(np.arange(20_000), 7):
        tally.add(scores[part], normal[part])
    assert tally.auc() == pytest.approx(roc_auc_score(~normal, scores), abs=5e-4)


def test_there_is_no_area_without_both_kinds() -> None:
    tally = Tally()
    tally.add(np.array([1, 2], np.float32), np.array([True, True]))
    assert tally.auc() is None


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_bins_keep_order_and_value(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    tally = Tally()
    tally.add(scores, np.ones(len(scores), bool))
    found, counts = tally.occupied()
    assert (np.diff(found) > 0).all()
    assert counts[1].sum() == len(scores)
    again = np.repeat(found, counts[1])
    # Half a bin is 2 ** -12 of a score; the smallest are rounded to multiples of 2 ** -138.
    assert np.allclose(again, np.sort(scores), rtol=2**-11, atol=2**-137)
