"""Tests of the rhythm, on synthetic signals: no data needed."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.ecg import signal_rhythm
from monitor.ecg.rhythm import Finding, IntervalRhythm, RhythmSettings, Standing
from monitor.ecg.signal_rhythm import Lead, SignalRhythm

RATE = 250


def bump(t: NDArray[np.float64], at: float, width: float, height: float) -> NDArray[np.float64]:
    return height * np.exp(-0.5 * ((t - at) / width) ** 2)


def heart(
    beats: list[float],
    seconds: float,
    p_waves: list[float] | None = None,
    wide: tuple[float, ...] = (),
    seed: int = 1,
) -> NDArray[np.float64]:
    """Return an ECG in millivolts with QRS and T at `beats`, and P before them or at `p_waves`."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    ecg = 0.005 * rng.standard_normal(len(t)) + 0.03 * np.sin(2 * np.pi * 0.25 * t)
    for at in beats:
        if at in wide:
            ecg += bump(t, at, 0.045, -1.4) + bump(t, at + 0.2, 0.06, 0.6)
            continue
        ecg += bump(t, at, 0.011, 1.0) - bump(t, at + 0.03, 0.012, 0.25)
        ecg += bump(t, at + 0.24, 0.04, 0.25)
    for at in p_waves if p_waves is not None else [beat - 0.16 for beat in beats]:
        ecg += bump(t, at, 0.022, 0.12)
    return np.round(ecg / 0.005) * 0.005


def every(interval: float, first: float, last: float) -> list[float]:
    return np.arange(first, last, interval).tolist()


def hear(
    *leads: NDArray[np.float64], chunk: int = RATE, settings: RhythmSettings | None = None
) -> list[tuple[str, str, float]]:
    """Return what was told: event, kind, and the second at which it was."""
    names = [f"lead {i}" for i in range(len(leads))]
    rhythm = SignalRhythm(RATE, names, settings)
    told: list[tuple[str, str, float]] = []
    for begin in range(0, len(leads[0]), chunk):
        part = {name: lead[begin : begin + chunk] for name, lead in zip(names, leads, strict=True)}
        told += [
            (change.event, change.finding.kind, change.finding.seen) for change in rhythm.feed(part)
        ]
    return told


def raised(told: list[tuple[str, str, float]]) -> dict[str, float]:
    """Return when each kind was raised first."""
    first: dict[str, float] = {}
    for event, kind, at in told:
        if event == "raised":
            first.setdefault(kind, at)
    return first


# RR intervals alone


def test_slow_heart_is_bradycardia() -> None:
    rhythm = IntervalRhythm()
    changes = [change for i in range(8) for change in rhythm.beat(1.6 * i)]
    assert [(c.event, c.finding.kind) for c in changes] == [("raised", "bradycardia")]
    assert changes[0].finding.heart_rate == pytest.approx(37.5)
    assert changes[0].finding.seen == pytest.approx(1.6 * 4)


@pytest.mark.parametrize("beats", [2, 3, 5, 40])
def test_any_number_of_beats_that_is_allowed_can_decide_on_a_slow_rate(beats: int) -> None:
    signal = heart([*every(0.8, 0.4, 25), *every(2.0, 26, 125)], 125)
    found = raised(hear(signal, settings=RhythmSettings(bradycardia_beats=beats)))
    assert found.keys() == {"bradycardia"}
    assert 26 < found["bradycardia"] <= 26 + 2 * beats


def test_any_limit_that_is_allowed_can_decide_on_a_fast_rate() -> None:
    settings = RhythmSettings(bradycardia=1, tachycardia=2, tachycardia_beats=40)
    found = raised(hear(heart(every(0.8, 0.4, 60), 60), settings=settings))
    assert found.keys() == {"tachycardia"}
    assert 30 < found["tachycardia"] < 40


def test_bradycardia_ends() -> None:
    rhythm = IntervalRhythm()
    times = [*every(1.6, 0, 12), *every(0.8, 12.8, 22)]
    events = [change.event for at in times for change in rhythm.beat(at)]
    assert events == ["raised", "cleared"]
    assert rhythm.standing == []


@pytest.mark.parametrize("rate", [41, 60, 100, 138])
def test_rates_between_the_limits_are_quiet(rate: int) -> None:
    rhythm = IntervalRhythm()
    assert [change for i in range(60) for change in rhythm.beat(60 / rate * i)] == []


@pytest.mark.parametrize("begin", [0.0, 1234.567, 1.7e9])
def test_a_rate_at_a_limit_is_not_beyond_it(begin: float) -> None:
    settings = RhythmSettings(bradycardia=50, tachycardia=150)
    for interval in (1.2, 0.4):
        rhythm, at = IntervalRhythm(settings), begin
        for _ in range(60):
            at += interval
            assert rhythm.beat(at) == []
    run = IntervalRhythm()
    assert [c for i in range(60) for c in run.beat(begin + 0.6 * i, ventricular=True)] == []


def test_tachycardia_is_high_from_its_limit() -> None:
    settings = RhythmSettings()
    rhythm = IntervalRhythm(settings)
    changes = [change for i in range(60) for change in rhythm.beat(1e6 + i / 3)]
    assert [(c.event, c.finding.priority(settings)) for c in changes] == [("raised", "high")]


def test_tachycardia_is_medium_then_high() -> None:
    settings = RhythmSettings()
    rhythm = IntervalRhythm(settings)
    times = [*every(0.4, 0, 10), *every(0.3, 10, 20)]
    changes = [change for at in times for change in rhythm.beat(at)]
    assert [(c.event, c.finding.priority(settings)) for c in changes] == [
        ("raised", "medium"),
        ("escalated", "high"),
    ]
    assert changes[0].finding.seen == pytest.approx(0.4 * 16)


def test_a_run_of_ventricular_beats() -> None:
    rhythm = IntervalRhythm()
    changes = []
    for i in range(20):
        changes += rhythm.beat(0.5 * i, ventricular=8 <= i < 14)
    assert [(c.event, c.finding.kind) for c in changes] == [
        ("raised", "ventricular-tachycardia"),
        ("cleared", "ventricular-tachycardia"),
    ]
    assert changes[0].finding.seen == pytest.approx(0.5 * 12)


def test_four_ventricular_beats_or_slow_ones_are_no_tachycardia() -> None:
    rhythm = IntervalRhythm()
    assert [c for i in range(20) for c in rhythm.beat(0.5 * i, ventricular=8 <= i < 12)] == []
    rhythm = IntervalRhythm()
    assert [c for i in range(20) for c in rhythm.beat(0.7 * i, ventricular=i > 8)] == []


def test_an_interval_that_does_not_fit_forgets_what_was_before() -> None:
    rhythm = IntervalRhythm()
    changes = [c for i in range(4) for c in rhythm.beat(1.6 * i, 1.6)]
    changes += rhythm.beat(30.0, 0.8)
    changes += [c for i in range(1, 5) for c in rhythm.beat(30.0 + 0.8 * i, 0.8)]
    assert changes == []


def test_the_more_serious_explains_the_less() -> None:
    standing = Standing(RhythmSettings())
    slow = Finding("bradycardia", 0.0, 5.0, 30.0)
    stopped = Finding("asystole", 3.0, 8.0, pause_s=5.0)
    assert [c.event for c in standing.update([slow], 5.0)] == ["raised"]
    changes = standing.update([slow, stopped], 8.0)
    assert [(c.event, c.finding.kind) for c in changes] == [
        ("raised", "asystole"),
        ("cleared", "bradycardia"),
    ]
    assert [finding.kind for finding in standing] == ["asystole"]


# Raw samples


def test_a_healthy_heart_raises_nothing() -> None:
    assert hear(heart(every(0.8, 0.5, 119), 120)) == []


def test_standstill_with_p_waves_is_asystole() -> None:
    beats = [*every(0.8, 0.5, 60), *every(0.8, 100.5, 120)]
    signal = heart(beats, 120, p_waves=every(0.8, 0.34, 120))
    told = hear(signal)
    assert [(event, kind) for event, kind, _ in told] == [
        ("raised", "asystole"),
        ("cleared", "asystole"),
    ]
    assert 63 < told[0][2] < 70


def test_slow_wander_is_asystole() -> None:
    told = hear(heart(every(0.8, 0.5, 60), 100))
    assert list(raised(told)) == ["asystole"]
    assert raised(told)["asystole"] < 70


@pytest.mark.parametrize("level", [0.0, 5.0])
def test_a_flat_line_or_a_rail_is_no_asystole(level: float) -> None:
    signal = heart(every(0.8, 0.5, 60), 100)
    signal[60 * RATE :] = level
    assert hear(signal) == []


def test_lost_samples_are_no_asystole() -> None:
    signal = heart(every(0.8, 0.5, 60), 100)
    signal[60 * RATE :] = np.nan
    assert hear(signal) == []


def test_170_and_30_a_minute() -> None:
    fast = hear(heart([*every(0.8, 0.5, 60), *every(60 / 170, 60, 100)], 100))
    slow = hear(heart([*every(0.8, 0.5, 60), *every(2.0, 60, 100)], 100))
    assert list(raised(fast)) == ["tachycardia"]
    assert list(raised(slow)) == ["bradycardia"]
    assert raised(fast)["tachycardia"] < 70
    assert raised(slow)["bradycardia"] < 70


def test_a_wave_of_4_5_hz_is_fibrillation() -> None:
    signal = heart(every(0.8, 0.5, 60), 100)
    t = np.arange(40 * RATE) / RATE
    signal[60 * RATE :] += 0.35 * np.sin(2 * np.pi * 4.5 * t)
    told = raised(hear(signal))
    # Its first beats are a fast run; within 10 s the more serious kind stands, and alone.
    assert set(told) <= {"ventricular-tachycardia", "ventricular-fibrillation"}
    assert told["ventricular-fibrillation"] < 70


def test_wide_fast_beats_are_ventricular_tachycardia() -> None:
    wide = tuple(every(0.4, 60, 64))
    beats = [*every(0.8, 0.5, 59.5), *wide, *every(0.8, 64.8, 100)]
    told = hear(heart(beats, 100, p_waves=[], wide=wide))
    assert [(event, kind) for event, kind, _ in told] == [
        ("raised", "ventricular-tachycardia"),
        ("cleared", "ventricular-tachycardia"),
    ]
    assert told[0][2] < 70


def test_steady_beats_of_one_lead_make_no_run_of_the_artefacts_of_another() -> None:
    beats = every(0.5, 0.5, 80)
    steady, disturbed = heart(beats, 80), heart(beats, 80, seed=2)
    t = np.arange(80 * RATE) / RATE
    for i, at in enumerate(beats):
        if 40 < at < 58 and i % 3 == 0:  # so that this lead is known less well than the other
            steady += bump(t, at + 0.02, 0.05, 1.2)
        if 60 < at < 66:
            width, height = ((0.05, 0.95), (0.06, -0.95), (0.045, -0.95), (0.047, -0.95))[i % 4]
            disturbed += bump(t, at + (0.037, -0.022, -0.012, -0.025)[i % 4], width, height)
    assert hear(disturbed, steady) == []


def test_a_lead_that_falls_off_costs_nothing_and_causes_nothing() -> None:
    beats = [*every(0.8, 0.5, 60), *every(2.0, 60, 100)]
    good, off = heart(beats, 100), heart(beats, 100, seed=2)
    off[40 * RATE :] = off[40 * RATE]
    assert list(raised(hear(good, off))) == ["bradycardia"]
    steady = heart(every(0.8, 0.5, 99), 100)
    assert hear(steady, off) == []


def test_a_noisy_lead_causes_nothing() -> None:
    steady, noisy = heart(every(0.8, 0.5, 99), 100), heart(every(0.8, 0.5, 99), 100, seed=2)
    rng = np.random.default_rng(3)
    noisy[50 * RATE : 80 * RATE] += np.cumsum(rng.standard_normal(30 * RATE)) * 0.1
    noisy[50 * RATE : 80 * RATE] += 0.5 * rng.standard_normal(30 * RATE)
    assert hear(steady, noisy) == []


def test_pacing_spikes_without_capture_are_asystole() -> None:
    paced = [*every(0.8, 0.5, 60)]
    signal = heart(paced, 90, p_waves=[], wide=tuple(paced))
    for at in every(0.8, 0.5, 90):
        place = round((at - 0.1) * RATE)
        signal[place : place + 1] += 2.0
    told = raised(hear(signal))
    assert list(told) == ["asystole"]
    assert told["asystole"] < 70


@pytest.mark.parametrize("chunk", [1000, 77])
def test_the_same_whatever_the_chunks(chunk: int) -> None:
    beats = [*every(0.8, 0.5, 60), *every(60 / 170, 60, 80), *every(2.0, 80, 100)]
    leads = heart(beats, 100), heart(beats, 100, seed=5)
    assert hear(*leads, chunk=chunk) == hear(*leads)
    assert len(hear(*leads)) >= 2


def test_settings_are_obeyed() -> None:
    signal = heart([*every(0.8, 0.5, 60), *every(60 / 120, 60, 100)], 100)
    assert hear(signal) == []
    assert list(raised(hear(signal, settings=RhythmSettings(tachycardia=110)))) == ["tachycardia"]


def plain_odds(window: NDArray[np.float64]) -> float:
    """The odds of fibrillation in four seconds, by the definition of each measure."""
    length, rate = len(window), signal_rhythm.RATE
    window = window - window.mean()
    power, total, middle, slow = {}, 0.0, 0.0, 0.0
    for k in range(257):
        frequency = k * rate / 512
        turns = np.exp(-2j * np.pi * k * np.arange(length) / 512)
        power[frequency] = abs(np.sum(window * np.hanning(length) * turns)) ** 2
        total += power[frequency] if 0.7 < frequency < 30 else 0.0
        middle += power[frequency] if 1.8 <= frequency <= 9 else 0.0
        slow += power[frequency] if 0.7 < frequency < 1.8 else 0.0
    main = max((f for f in power if 1.8 <= f <= 9), key=lambda f: power[f])
    alike = [
        np.mean(window[lag:] * window[: length - lag]) / np.mean(window**2) for lag in range(8, 60)
    ]
    slopes = [abs(after - before) for before, after in pairwise(window.tolist())]
    level = sum(slope < 0.1 * max(slopes) for slope in slopes) / len(slopes)
    measured = (1.0, min(alike), main, middle / total, slow / total, level)
    return float(
        sum(by * each for by, each in zip(signal_rhythm.FIBRILLATION, measured, strict=True))
    )


def plain_shapes(waves: NDArray[np.float64], i: int) -> list[list[float]]:
    """The shapes around `i` and its neighbours, sample by sample."""
    shapes = []
    for centre in range(i - signal_rhythm.LAG, i + signal_rhythm.LAG + 1):
        reach = range(centre - signal_rhythm.REACH, centre + signal_rhythm.REACH + 1)
        mean = sum(waves[j] for j in reach if j >= 0) / sum(j >= 0 for j in reach)
        shape = [(waves[j] if j >= 0 else 0.0) - mean for j in reach]
        size = sum(each * each for each in shape) ** 0.5
        shapes.append([each / size for each in shape])
    return shapes


@pytest.mark.parametrize("hertz", [0.0, 4.5])
def test_a_lead_is_measured_as_by_a_plain_loop(hertz: float) -> None:
    seconds = np.arange(10 * RATE) / RATE
    ecg = heart(every(0.8, 0.5, 10), 10) + 0.3 * np.sin(2 * np.pi * hertz * seconds)
    lead = Lead(RATE)
    for start in range(0, len(ecg), RATE):
        lead.step(ecg[start : start + RATE])
    window = lead._waves[-signal_rhythm.WINDOW * signal_rhythm.RATE :]
    assert lead.fibrillation == pytest.approx(plain_odds(window), abs=1e-6)
    for i in (0, 5, 19, 20, 500):
        shapes = lead._shapes_near(i)
        np.testing.assert_allclose(shapes, plain_shapes(lead._waves, i), atol=1e-9)
