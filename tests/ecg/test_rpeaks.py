"""R peaks of made signals: fast hearts, tall P waves, small beats. Needs no data."""

import math
from itertools import pairwise

import numpy as np
import pytest
from sleepecg.heartbeats import detect_heartbeats

from monitor.ecg import rpeaks


def signal(beats: list[tuple[float, float, float]], seconds: float, rate: float) -> np.ndarray:
    """Waves of (second, millivolts, width in seconds) on a little noise, seeded."""
    time = np.arange(round(seconds * rate)) / rate
    ecg = 0.01 * np.random.default_rng(0).normal(size=len(time))
    for at, height, width in beats:
        ecg += height * np.exp(-0.5 * ((time - at) / width) ** 2)
    return ecg


def plain_still(signal: np.ndarray, rate: float) -> list[tuple[int, int]]:
    stretches, begin = [], 0
    for i in range(1, len(signal) + 1):
        if i == len(signal) or signal[i] != signal[begin]:
            if i - begin >= rpeaks.STILL * rate:
                stretches.append((begin, i))
            begin = i
    return stretches


def plain_apart(peaks: np.ndarray, qrs: np.ndarray, rate: float) -> list[int]:
    """The largest first, none close to one kept; then those of a fast heart, steepest first."""
    reach = round(0.05 * rate)
    sizes, slopes = [], []
    for peak in peaks.tolist():
        near = [qrs[min(max(peak + i, 0), len(qrs) - 1)] for i in range(-reach, reach + 1)]
        sizes.append(max(near) - min(near))
        slopes.append(max(abs(after - before) for before, after in pairwise(near)))
    kept: list[int] = []
    for i in sorted(range(len(peaks)), key=lambda i: -sizes[i]):
        if all(abs(peaks[i] - peaks[j]) >= rpeaks.CLOSE * rate for j in kept):
            kept.append(i)
    kept.sort()
    steep = rpeaks.STEEP * np.median([slopes[i] for i in kept])
    fast: list[int] = []
    for before, after in pairwise(kept):
        there = [before, after]
        for i in sorted(range(before + 1, after), key=lambda i: -slopes[i]):
            away = min(abs(peaks[i] - peaks[j]) for j in there) >= rpeaks.REFRACTORY * rate
            if peaks[after] - peaks[before] <= rpeaks.FAST * rate and slopes[i] > steep and away:
                there.append(i)
                fast.append(i)
    return [int(peaks[i]) for i in sorted(kept + fast)]


def found(ecg: np.ndarray, rate: float) -> np.ndarray:
    return rpeaks.Finder(rate).peaks(ecg) / rate


@pytest.mark.parametrize("rate", [128.0, 250.0, 360.0])
@pytest.mark.parametrize("upright", [1, -1])
@pytest.mark.parametrize("interval", [0.27, 0.35, 0.8, 1.5])
def test_every_beat_is_found_once_however_fast(interval: float, upright: int, rate: float) -> None:
    at = np.arange(0.5, 11, interval)
    peaks = found(upright * signal([(t, 1.0, 0.012) for t in at], 11.5, rate), rate)
    np.testing.assert_allclose(peaks, at, atol=0.02)


def test_a_p_wave_soon_before_the_complex_is_no_beat() -> None:
    at = np.arange(0.8, 11, 1.0)
    waves = [wave for t in at for wave in ((t - 0.21, 0.5, 0.025), (t, -0.8, 0.02))]
    np.testing.assert_allclose(found(signal(waves, 11.5, 360), 360), at, atol=0.03)


def test_p_waves_of_a_block_between_slow_beats_are_none() -> None:
    at = np.arange(1.0, 11, 2.3)
    waves = [wave for t in at for wave in (
        (t - 0.2, 0.15, 0.03), (t, -2.2, 0.03), (t + 0.35, 0.6, 0.1), (t + 0.9, 0.15, 0.03)
    )]  # fmt: skip
    np.testing.assert_allclose(found(signal(waves, 11.5, 250), 250), at, atol=0.03)


def test_a_wide_early_beat_is_found_among_narrow_ones() -> None:
    at = [0.7, 1.5, 2.3, 2.8, 3.9, 4.7, 5.5, 6.3, 7.1, 7.9, 8.7]
    waves = [(t, 1.2, 0.05) if t == 2.8 else (t, 1.5, 0.012) for t in at]
    np.testing.assert_allclose(found(signal(waves, 10, 360), 360), at, atol=0.05)


def test_a_flat_signal_has_no_beats() -> None:
    assert not len(rpeaks.Finder(360).peaks(np.zeros(3600)))


@pytest.mark.parametrize("still", [0, 1, 2, 90])
@pytest.mark.parametrize("seed", range(5))
def test_one_filter_finds_what_sleepecg_finds_with_either_polarity(seed: int, still: int) -> None:
    draw = np.random.default_rng(seed)
    at = np.cumsum(draw.uniform(0.3, 1.2, 30))
    waves = [(t, draw.uniform(-1.5, 1.5), draw.uniform(0.01, 0.05)) for t in at[at < 11]]
    ecg = signal(waves, 11.5, 250) + draw.uniform(0, 0.3) * draw.normal(size=2875)
    ecg[: still + 1] = ecg[0]
    plain = np.union1d(detect_heartbeats(ecg, 250.0), detect_heartbeats(-ecg, 250.0))
    assert len(plain) > 5
    np.testing.assert_array_equal(rpeaks.Finder(250.0)._both_ways_up(ecg), plain)


@pytest.mark.parametrize("rate", [100.0, 249.7, 360.0])
@pytest.mark.parametrize("longer", [-1, 0, 1, 300])
@pytest.mark.parametrize("seed", range(5))
def test_still_stretches_are_those_of_a_plain_loop(seed: int, longer: int, rate: float) -> None:
    draw = np.random.default_rng(seed)
    ecg = draw.normal(size=2875)
    for begin in draw.integers(0, 2500, 1 + seed % 2):
        ecg[begin : begin + math.ceil(rate) + longer] = ecg[begin]
    stretches = [*zip(*(edge.tolist() for edge in rpeaks.still(ecg, rate)), strict=True)]
    assert stretches == plain_still(ecg, rate)
    assert longer < 0 or stretches


@pytest.mark.parametrize("seed", range(20))
def test_close_peaks_are_dropped_as_by_a_plain_loop(seed: int) -> None:
    draw = np.random.default_rng(seed)
    qrs = draw.normal(size=2875) * draw.uniform(0.5, 1, 2875)
    peaks = np.sort(draw.choice(2875, 40, replace=False))
    plain = plain_apart(peaks, qrs, 250.0)
    assert 5 < len(plain) < 40
    assert rpeaks.Finder(250.0)._apart(peaks, qrs).tolist() == plain


@pytest.mark.parametrize("seed", range(5))
def test_peaks_that_are_apart_are_left_as_the_search_leaves_them(seed: int) -> None:
    draw = np.random.default_rng(seed)
    finder = rpeaks.Finder(250.0)
    qrs = draw.normal(size=2875)
    peaks = np.cumsum(draw.integers(63, 300, 20))
    peaks = peaks[peaks < 2875]
    kept = finder._fast(peaks, qrs, list(range(len(peaks))))
    np.testing.assert_array_equal(finder._apart(peaks, qrs), peaks[kept])
