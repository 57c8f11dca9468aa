"""What is left out of a file of beats, and where its threshold lies. Needs no data."""

import numpy as np
import pytest

from train.detectors import groups, patient

TIME = np.linspace(0, 2 * np.pi, 140)


def shapes(count: int, of: int, random: np.random.Generator) -> np.ndarray:
    """Beats of one shape, each a little different and a little noisy."""
    phase = random.normal(scale=0.1, size=(count, 1))
    beats = np.sin(of * TIME + phase) + 0.05 * random.normal(size=(count, 140))
    return beats.astype(np.float32)


def test_a_kind_that_one_beat_in_twenty_has_is_left_out() -> None:
    random = np.random.default_rng(0)
    beats = np.concatenate([shapes(380, 1, random), shapes(20, 3, random)])
    apart = groups.apart(beats)
    assert apart[380:].all()
    assert not apart[:380].any()


@pytest.mark.parametrize("count", [6, 80], ids=["few, which teach nothing", "a normal shape"])
def test_kinds_that_are_fewer_or_more_stay(count: int) -> None:
    random = np.random.default_rng(0)
    beats = np.concatenate([shapes(400 - count, 1, random), shapes(count, 3, random)])
    assert not groups.apart(beats).any()


def test_beats_that_are_all_of_one_kind_stay_however_much_they_vary() -> None:
    random = np.random.default_rng(0)
    amount = random.gamma(2, size=(400, 1))
    beats = np.sin(TIME + 0.3 * random.normal(size=(400, 1))) + amount * np.sin(2 * TIME)
    beats += 0.05 * random.normal(size=(400, 140))
    assert not groups.apart(beats.astype(np.float32)).any()


def test_of_more_beats_than_are_compared_the_rest_follow_their_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "MOST", 400)
    random = np.random.default_rng(0)
    beats = np.concatenate([shapes(950, 1, random), shapes(50, 3, random)])
    apart = groups.apart(beats)
    assert apart[950:].all()
    assert not apart[:950].any()


def test_the_tail_gives_the_threshold_that_one_score_in_a_hundred_exceeds() -> None:
    random = np.random.default_rng(0)
    scores = np.exp(random.normal(size=2000)).astype(np.float32)
    others = np.exp(random.normal(size=100_000))
    assert np.mean(others > patient.tail_threshold(scores)) == pytest.approx(0.01, abs=0.003)


def test_scores_that_are_all_the_same_have_a_threshold() -> None:
    assert patient.tail_threshold(np.full(100, 0.5, np.float32)) == pytest.approx(0.5)
