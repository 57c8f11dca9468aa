"""Which beats can be believed: by their shape alone, in any unit."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitor.batch import datasets
from monitor.ecg import records
from monitor.ecg.quality import (
    FAULTS,
    FLAT,
    GOOD,
    JAGGED,
    LONGEST_PLATEAU,
    NOISE,
    NOT_FINITE,
    RESTLESS,
    SATURATED,
    TREMBLING,
    assess,
)

Floats = NDArray[np.floating]

SCALES = st.floats(-30, 30).map(lambda exponent: 10.0**exponent)
PHASE = np.arange(140) / 140 * 2 * np.pi


def fault(beat: Floats) -> int:
    assessed = assess(beat[np.newaxis].astype(np.float32))
    assert assessed.dtype == np.uint8
    assert assessed.shape == (1,)
    return int(assessed[0])


def sine(cycles: float, phase: float) -> Floats:
    return np.sin(cycles * PHASE + phase).astype(np.float32)


def test_bits_that_are_no_number_are_said_without_a_warning() -> None:
    """A signalling NaN raises a flag in each operation, which NumPy would warn about on stderr."""
    beat = sine(2, 0)
    beat.view("<u4")[-2] = 0x7F9FB77A
    assert fault(beat) == NOT_FINITE


PHASES = st.floats(0, 6.3)
SINES = st.builds(sine, st.floats(1, 10), PHASES)


def test_the_faults_are_named_in_their_order() -> None:
    assert [FAULTS[number - 1] for number in (NOT_FINITE, FLAT, SATURATED, NOISE)] == [
        "not_finite",
        "flat",
        "saturated",
        "noise",
    ]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_constant_is_flat_whatever_it_is(level: float) -> None:
    assert fault(np.full(140, level)) == FLAT


@given(SINES, st.floats(1, 30).map(lambda exponent: 10.0**exponent), st.sampled_from([-1, 1]))
def test_a_trembling_of_a_millionth_is_flat(wave: Floats, level: float, sign: int) -> None:
    assert fault(sign * level * (1 + 2e-7 * wave.astype(np.float64))) == FLAT


@given(SINES, SCALES, st.floats(-100, 100))
def test_a_sine_is_good_in_any_unit_and_with_any_offset(
    wave: Floats, scale: float, offset: float
) -> None:
    assert fault(scale * (wave.astype(np.float64) + offset)) == GOOD


@given(
    SINES,
    SCALES,
    st.sampled_from([-1, 1]),
    st.floats(-100, 100),
    st.integers(0, 140 - LONGEST_PLATEAU),
    st.integers(LONGEST_PLATEAU, 139),
)
def test_a_plateau_of_a_tenth_of_the_beat_at_its_end_is_saturated(
    wave: Floats, scale: float, sign: int, offset: float, start: int, length: int
) -> None:
    clipped = wave.astype(np.float64)
    clipped[start : start + length] = 1.5  # beyond all others
    assert fault(sign * scale * (clipped + offset)) == SATURATED


@given(SINES, st.integers(0, 139), st.integers(1, LONGEST_PLATEAU - 1))
def test_a_shorter_plateau_is_none(wave: Floats, start: int, length: int) -> None:
    shorter = wave.copy()
    shorter[start : start + length] = 1.5
    assert fault(shorter) == GOOD


def test_a_plateau_in_pieces_or_in_the_middle_is_none() -> None:
    square = np.where(np.arange(140) // 10 % 2, 1, -1).astype(np.float32)
    assert fault(square) == GOOD  # 70 samples at either end, but never 14 in a row
    step = sine(3, 0)
    step[20:60] = 0.5
    assert fault(step) == GOOD


@given(SINES, SCALES, st.sampled_from([np.nan, np.inf, -np.inf]), st.sets(st.integers(0, 139)))
def test_a_sample_that_is_no_number_is_not_finite_whatever_the_others_are(
    wave: Floats, scale: float, what: float, where: set[int]
) -> None:
    for beat in (scale * wave, np.zeros(140), np.where(PHASE > 3, 1.0, wave)):
        bad = beat.astype(np.float32)
        bad[[*where, 70]] = what
        assert fault(bad) == NOT_FINITE


def test_infinities_of_both_signs_and_of_all_samples_are_not_finite() -> None:
    for ends in ((np.inf, np.inf), (np.inf, -np.inf), (np.nan, np.inf), (-np.inf, -np.inf)):
        assert fault(np.resize(ends, 140)) == NOT_FINITE


def test_what_is_too_far_apart_to_be_measured_is_not_finite() -> None:
    assert fault(np.float32(3e38) * sine(3, 0)) == NOT_FINITE


MAINS = st.floats(50, 60).map(lambda hertz: hertz * 0.5)
"""Cycles of the mains in a beat of half a second."""


@given(st.builds(sine, MAINS, PHASES), SCALES, st.floats(-100, 100))
def test_the_mains_is_noise_in_any_unit_and_with_any_offset(
    wave: Floats, scale: float, offset: float
) -> None:
    assert fault(scale * (wave.astype(np.float64) + offset)) == NOISE


@given(st.integers(0, 2**32 - 1), SCALES, st.floats(-100, 100))
def test_white_noise_is_noise_in_any_unit_and_with_any_offset(
    seed: int, scale: float, offset: float
) -> None:
    white = np.random.default_rng(seed).normal(size=140)
    assert fault(scale * (white + offset)) == NOISE


def buried(beats: Floats, noise: Floats, decibels: float) -> NDArray[np.float32]:
    """Beats in noise of deviation 1, at this ratio of their powers."""
    level = beats.std(axis=1, keepdims=True) * 10 ** (-decibels / 20)
    mixed: NDArray[np.float32] = (beats + level * noise).astype(np.float32)
    return mixed


def test_beats_are_noise_once_they_are_buried_in_it(ecg: datasets.Beats) -> None:
    white = np.random.default_rng(0).normal(size=ecg.beats.shape)
    share = [np.mean(assess(buried(ecg.beats, white, db)) == NOISE) for db in (20, 10, 0, -3, -6)]
    assert share[0] == 0
    assert share[1] < 0.001
    assert share[2] > 0.5
    assert share[3] > 0.95
    assert share[4] > 0.99


@pytest.mark.parametrize("hertz", [50, 60])
def test_so_they_are_in_the_mains(ecg: datasets.Beats, hertz: int) -> None:
    mains = np.sqrt(2) * sine(hertz / 2, 1)
    share = [np.mean(assess(buried(ecg.beats, mains, db)) == NOISE) for db in (20, 10, 0, -6)]
    assert share[0] == 0
    assert share[1] < 0.001
    assert share[2] > 0.9
    assert share[3] == 1


@pytest.mark.parametrize("name", ["108", "203", "208"])
def test_hardly_an_annotated_beat_of_a_restless_record_is_called_noise(
    data: Path, name: str
) -> None:
    signal = records.read(data / "mitdb" / name)
    cut = records.beats(signal, 0, 300)
    annotated = records.classes(signal, cut) != "-"
    beats = np.array([beat.samples for beat in cut])[annotated]
    assert len(beats) > 200
    assert (assess(beats) == NOISE).sum() <= 2  # 108 has two in an artefact of four seconds


def test_each_beat_is_assessed_by_itself() -> None:
    wave = sine(2, 1)
    clipped = np.clip(wave, -0.5, 0.5)
    kinds = [wave, np.zeros(140), clipped, np.full(140, np.nan)]
    order = np.random.default_rng(0).integers(0, 4, 200)
    batch = np.stack([kinds[i] for i in order]).astype(np.float32)
    expected = np.array([GOOD, FLAT, SATURATED, NOT_FINITE])[order]
    assert np.array_equal(assess(batch), expected)
    assert assess(batch[:0]).shape == (0,)


def plainly(beat: Floats) -> int:
    """Return the fault of a beat by a plain loop over its samples, in double precision."""
    values = beat.astype(np.float64).tolist()
    span = max(values) - min(values)
    if not np.isfinite(values).all():
        return NOT_FINITE
    if span <= 1e-6 * max(abs(value) for value in values):
        return FLAT
    for extreme in (max(values), min(values)):
        run = 0
        for value in values:
            run = run + 1 if value == extreme else 0
            if run >= LONGEST_PLATEAU:
                return SATURATED

    def size(steps: list[float]) -> float:
        return sum(abs(step) for step in steps) / len(steps)

    moves = [b - a for a, b in pairwise(values)]
    jerks = [b - a for a, b in pairwise(moves)]
    threes = [values[i + 3] - values[i] for i in range(len(values) - 3)]
    mean = sum(values) / len(values)
    deviation = size([value - mean for value in values])
    noisy = size(jerks) > JAGGED * deviation or size(threes) > TREMBLING * deviation
    return NOISE if noisy and size(moves) * len(moves) > RESTLESS * span else GOOD


def test_many_beats_at_once_are_assessed_as_a_plain_loop_assesses_each(ecg: datasets.Beats) -> None:
    draw = np.random.default_rng(1)
    beats = ecg.beats[draw.integers(0, len(ecg.beats), 1500)].astype(np.float32)
    beats[300:800] += draw.normal(0, draw.uniform(0, 3, (500, 1)), (500, 140))
    level = draw.uniform(-1, 2, (300, 1))
    beats[800:1100] = np.minimum(beats[800:1100], level)
    beats[1100:1200] = draw.normal(size=(100, 1))
    beats[1200:1250, draw.integers(0, 140)] = np.nan
    beats[1250:1300, draw.integers(0, 140)] = np.inf
    faults = assess(beats.astype(np.float32))
    assert faults.tolist() == [plainly(beat) for beat in beats]
    assert set(faults.tolist()) == {GOOD, NOT_FINITE, FLAT, SATURATED, NOISE}


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.1, 1, 10, 200, 1e3])
@pytest.mark.parametrize("offset", [0, -5, 50])
def test_no_real_beat_is_called_poor_in_any_unit(
    ecg: datasets.Beats, scale: float, offset: float
) -> None:
    faults = assess((scale * (ecg.beats + np.float32(offset))).astype(np.float32))
    assert len(faults) == 5000
    assert np.count_nonzero(faults) == 0


def test_a_real_beat_that_a_converter_clips_is_saturated(ecg: datasets.Beats) -> None:
    beats = ecg.beats[::50]
    for scale in (1e-3, 1.0, 1e3):
        level = np.sort(beats, axis=1)[:, 40:41]  # 41 samples at the lower end
        clipped = np.float32(scale) * np.maximum(beats, level)
        faults = assess(clipped)
        runs = np.array([longest(row == row.min()) for row in clipped])
        assert np.array_equal(faults == SATURATED, runs >= LONGEST_PLATEAU)
        assert np.count_nonzero(faults == SATURATED) > len(beats) / 2


def longest(flags: NDArray[np.bool_]) -> int:
    return max(map(len, "".join("x" if flag else " " for flag in flags).split()))
