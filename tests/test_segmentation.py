"""Beats are the same however the signal comes, whichever way up, and a lead that is off shows."""

from pathlib import Path

import numpy as np
import pytest

from monitor import quality, record
from monitor.program import ConfigurationError
from monitor.qrs import Signal
from monitor.segmentation import Beat, Segmenter

RATE = 360.0
SECONDS = 60


@pytest.fixture(scope="module")
def ecg(data: Path) -> record.Record:
    return record.read(data / "mitdb" / "106")


def cut(signal: Signal, chunk: int = 10_000, rate: float = RATE) -> list[Beat]:
    segmenter = Segmenter(rate)
    beats: list[Beat] = []
    for start in range(0, len(signal), chunk):
        beats += segmenter.feed(signal[start : start + chunk])
    return beats + segmenter.finish()


def test_the_same_beats_come_however_the_signal_is_cut_into_chunks(ecg: record.Record) -> None:
    signal = ecg.signal[: int(SECONDS * RATE)]
    whole = cut(signal)
    for chunk in (97, 360, 5000):
        parts = cut(signal, chunk)
        assert [beat.seq for beat in parts] == [beat.seq for beat in whole]
        for ours, theirs in zip(parts, whole, strict=True):
            np.testing.assert_array_equal(ours.samples, theirs.samples)


def test_an_upside_down_lead_gives_the_same_beats_upside_down(ecg: record.Record) -> None:
    signal = ecg.signal[: int(SECONDS * RATE)]
    upright, inverted = cut(signal), cut(-signal)
    assert [beat.seq for beat in inverted] == [beat.seq for beat in upright]
    np.testing.assert_allclose(
        np.array([beat.samples for beat in inverted]),
        -np.array([beat.samples for beat in upright]),
        atol=1e-6,
    )


def test_annotated_beats_are_found_within_100_ms(ecg: record.Record) -> None:
    seconds = 300
    beats = record.beats(ecg, 0, seconds)
    at = np.array([beat.seq for beat in beats])
    annotated = ecg.positions[ecg.positions < seconds * RATE]
    found = np.abs(at[:, None] - annotated).min(axis=0) <= 0.1 * RATE
    assert found.mean() > 0.98
    assert len(at) < 1.1 * len(annotated)
    assert set(record.classes(ecg, beats)) >= {"N", "V"}
    intervals = [beat.rr_ms for beat in beats if beat.rr_ms is not None]
    assert np.median(intervals) == pytest.approx(1000 * np.median(np.diff(annotated)) / RATE, 0.05)


@pytest.mark.parametrize("rate", [128.0, 250.0, 500.0])
def test_a_beat_looks_the_same_at_another_sampling_rate(ecg: record.Record, rate: float) -> None:
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


def test_a_lead_that_is_off_still_gives_windows_and_they_are_flat(ecg: record.Record) -> None:
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


@pytest.mark.parametrize("rate", [50, 0, -1, 20_001, 1e300, float("inf"), float("nan")])
def test_a_sampling_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="at least 100 Hz, at most 20000 Hz"):
        Segmenter(rate)
