"""Beats are the same however the signal comes, whichever way up, and a lead that is off shows."""

from pathlib import Path

import numpy as np
import pytest

from monitor.ecg import quality, records, segmenter
from monitor.ecg.rpeaks import Band, Positions, Signal
from monitor.ecg.segmenter import CutBeat, Segmenter
from monitor.errors import ConfigurationError

RATE = 360.0
SECONDS = 60


@pytest.fixture(scope="module")
def ecg(data: Path) -> records.Record:
    return records.read(data / "mitdb" / "106")


def cut(signal: Signal, chunk: int = 10_000, rate: float = RATE) -> list[CutBeat]:
    segmenter = Segmenter(rate)
    beats: list[CutBeat] = []
    for start in range(0, len(signal), chunk):
        beats += segmenter.feed(signal[start : start + chunk])
    return beats + segmenter.finish()


def test_the_same_beats_come_however_the_signal_is_cut_into_chunks(ecg: records.Record) -> None:
    signal = ecg.signal[: int(SECONDS * RATE)]
    whole = cut(signal)
    for chunk in (97, 360, 5000):
        parts = cut(signal, chunk)
        assert [beat.seq for beat in parts] == [beat.seq for beat in whole]
        for ours, theirs in zip(parts, whole, strict=True):
            np.testing.assert_array_equal(ours.samples, theirs.samples)


def test_so_they_do_with_a_lead_off_between_them(ecg: records.Record) -> None:
    signal = without_a_lead(ecg)
    whole = cut(signal)
    for chunk in (97, 5000):
        parts = cut(signal, chunk)
        assert [beat.seq for beat in parts] == [beat.seq for beat in whole]
        for ours, theirs in zip(parts, whole, strict=True):
            np.testing.assert_array_equal(ours.samples, theirs.samples)


def test_an_upside_down_lead_gives_the_same_beats_upside_down(ecg: records.Record) -> None:
    signal = ecg.signal[: int(SECONDS * RATE)]
    upright, inverted = cut(signal), cut(-signal)
    assert [beat.seq for beat in inverted] == [beat.seq for beat in upright]
    np.testing.assert_allclose(
        np.array([beat.samples for beat in inverted]),
        -np.array([beat.samples for beat in upright]),
        atol=1e-6,
    )


def test_annotated_beats_are_found_within_100_ms(ecg: records.Record) -> None:
    seconds = 300
    beats = records.beats(ecg, 0, seconds)
    at = np.array([beat.seq for beat in beats])
    annotated = ecg.positions[ecg.positions < seconds * RATE]
    found = np.abs(at[:, None] - annotated).min(axis=0) <= 0.1 * RATE
    assert found.mean() > 0.98
    assert len(at) < 1.1 * len(annotated)
    assert set(records.classes(ecg, beats)) >= {"N", "V"}
    intervals = [beat.rr_ms for beat in beats if beat.rr_ms is not None]
    assert np.median(intervals) == pytest.approx(1000 * np.median(np.diff(annotated)) / RATE, 0.05)


@pytest.mark.parametrize("name", ["119", "201"])
def test_t_waves_and_p_waves_are_no_beats(data: Path, name: str) -> None:
    ecg = records.read(data / "mitdb" / name)
    seconds = 300
    at = np.array([beat.seq for beat in records.beats(ecg, 0, seconds)])
    annotated = ecg.positions[ecg.positions < (seconds + 1) * RATE]
    away = np.abs(at[:, None] - annotated)
    assert (away.min(axis=1) > 0.1 * RATE).mean() < 0.01
    assert (away.min(axis=0)[annotated < seconds * RATE] > 0.1 * RATE).mean() < 0.01


@pytest.mark.parametrize("rate", [128.0, 250.0, 500.0])
def test_a_beat_looks_the_same_at_another_sampling_rate(ecg: records.Record, rate: float) -> None:
    from scipy.signal import resample_poly

    signal = ecg.signal[: int(SECONDS * RATE)]
    other = resample_poly(signal, int(rate), int(RATE))
    ours, theirs = cut(signal), cut(other, rate=rate)
    assert abs(len(ours) - len(theirs)) <= 2
    times = np.array([beat.seq for beat in theirs]) / rate
    inner = [beat for beat in ours if 2 < beat.seq / RATE < SECONDS - 4]
    alike = [
        np.corrcoef(beat.samples, theirs[np.abs(times - beat.seq / RATE).argmin()].samples)[0, 1]
        for beat in inner
    ]
    assert np.median(alike) > 0.99


def without_a_lead(ecg: records.Record) -> Signal:
    """A minute of the record in which the lead goes to the rail from second 20 to 40."""
    signal = ecg.signal[: int(SECONDS * RATE)].copy()
    signal[int(20 * RATE) : int(40 * RATE)] = signal.max() + 3 * np.ptp(signal)
    return signal


def test_what_a_lead_at_the_rail_has_beside_it_is_not_believed_or_as_it_was(
    ecg: records.Record,
) -> None:
    as_it_was = {beat.seq: beat for beat in cut(ecg.signal[: int(SECONDS * RATE)])}
    beats = [beat for beat in cut(without_a_lead(ecg)) if not 20 <= beat.seq / RATE < 40]
    believed = quality.assess(np.array([beat.samples for beat in beats])) == quality.GOOD
    away = [min(abs(beat.seq / RATE - edge) for edge in (20, 40)) for beat in beats]
    assert not believed[np.array(away) < 0.4].any()
    assert believed[np.array(away) > 0.6].all()
    assert believed.sum() > 0.9 * sum(not 19.5 < seq / RATE < 40.5 for seq in as_it_was)
    for beat in (beat for beat, good in zip(beats, believed, strict=True) if good):
        nearest = min((abs(seq - beat.seq), seq) for seq in as_it_was)
        assert nearest[0] <= 2
        assert np.corrcoef(as_it_was[nearest[1]].samples, beat.samples)[0, 1] > 0.97


def test_a_lead_that_is_off_still_gives_windows_and_they_are_flat(ecg: records.Record) -> None:
    signal = ecg.signal[: int(SECONDS * RATE)].copy()
    signal[int(20 * RATE) : int(40 * RATE)] = signal[int(20 * RATE)]
    off = [beat for beat in cut(signal) if 25 < beat.seq / RATE < 39]
    assert len(off) >= 5
    faults = quality.assess(np.array([beat.samples for beat in off]))
    assert (faults == quality.FLAT).all()


def test_a_signal_that_never_lived_gives_flat_windows_and_no_error() -> None:
    beats = cut(np.zeros(int(20 * RATE)))
    assert beats
    assert (quality.assess(np.array([beat.samples for beat in beats])) == quality.FLAT).all()


def test_patients_of_one_rate_have_filters_in_common_and_nothing_else(
    ecg: records.Record,
) -> None:
    signals = ecg.signal[: int(20 * RATE)], ecg.signal[int(100 * RATE) : int(120 * RATE)]
    apart = [cut(signal, 360) for signal in signals]
    both = Segmenter(RATE), Segmenter(RATE)
    beats: tuple[list[CutBeat], list[CutBeat]] = [], []
    for start in range(0, len(signals[0]), 360):
        for some, own, signal in zip(beats, both, signals, strict=True):
            some += own.feed(signal[start : start + 360])
    for some, own, alone in zip(beats, both, apart, strict=True):
        some += own.finish()
        assert len(some) > 20
        for ours, theirs in zip(some, alone, strict=True):
            assert (ours.seq, ours.rr_ms) == (theirs.seq, theirs.rr_ms)
            np.testing.assert_array_equal(ours.samples, theirs.samples)


@pytest.mark.parametrize("first", [0, 30, 500, 2700, 2860])
def test_between_samples_the_signal_is_a_cubic_spline(first: float, ecg: records.Record) -> None:
    from scipy.interpolate import CubicSpline

    signal = ecg.signal[:2875]
    places = np.clip(first + np.linspace(0, 150, 140)[None], 0, 2874)
    spline = CubicSpline(np.arange(2875), signal)
    np.testing.assert_allclose(segmenter._between(signal, places), spline(places), atol=1e-13)


def plain_drowned(
    cutter: segmenter._Cutter, signal: Signal, smooth: Signal, centres: Positions
) -> list[bool]:
    """Beat by beat, all that may be asked of each."""
    from scipy.ndimage import uniform_filter1d

    bands = cutter._noise(signal), smooth, cutter._sharp(signal)
    noise, beat, sharp = (uniform_filter1d(band**2, 18) for band in bands)
    drowned = []
    for centre in centres:
        middle = min(max(centre, 540), len(signal) - 541)
        near = np.arange(middle - 540, middle + 541, 18)
        hum, size = np.median(noise[near]), np.mean(beat[near])
        limit = segmenter.NOISY_BESIDE**2
        before, after = (
            np.median(noise[side]) > limit * np.mean(beat[side]) for side in (near[:31], near[30:])
        )
        hisses = hum > segmenter.HISSING**2 * size
        restless = np.median(sharp[near]) > segmenter.RESTLESS**2 * np.mean(sharp[near])
        alike = cutter._repeats(bands[2][near[0] : near[-1]])
        noisy = hum > segmenter.NOISY**2 * size or before or after
        drowned.append(bool(noisy or (hisses and restless and alike < segmenter.REPEATING)))
    return drowned


def test_beats_are_drowned_as_by_a_plain_loop(ecg: records.Record) -> None:
    draw = np.random.default_rng(0)
    cutter = segmenter._Cutter(RATE)
    seen = []
    for noise in (0.0, 0.05, 0.2, 0.5, 1.0):
        for falling in (False, True):  # with the frequency: it hisses less, and never rests
            signal = ecg.signal[3600:7740].copy()
            some = draw.normal(size=2000)
            signal[1500:3500] += noise * (np.cumsum(some) if falling else some)
            smooth, centres = cutter._beat(signal), np.arange(100, 4100, 200)
            drowned = cutter._drowned(signal, smooth, centres).tolist()
            assert drowned == plain_drowned(cutter, signal, smooth, centres)
            seen += drowned
    assert 20 < sum(seen) < 150


def test_a_band_is_what_scipy_makes_of_it(ecg: records.Record) -> None:
    from scipy.signal import butter, sosfiltfilt

    signal = ecg.signal[:3000]
    sections = butter(2, (20, 45), "bandpass", fs=100, output="sos")  # 60 Hz is beyond its half
    np.testing.assert_array_equal(Band(100, 20, 60)(signal), sosfiltfilt(sections, signal))


@pytest.mark.parametrize("rate", [50, 0, -1, 20_001, 1e300, float("inf"), float("nan")])
def test_a_sampling_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="at least 100 Hz and at most 20000 Hz"):
        Segmenter(rate)
