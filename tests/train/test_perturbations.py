"""What 30 seconds of noise or of a lead that is off make of the beats, at every sampling rate."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from monitor.ecg import quality, records
from monitor.ecg.segmenter import Segmenter
from monitor.errors import UsageError
from train.cli import app
from train.evaluation.perturbations import CHANGES
from train.evaluation.rpeaks import RATES, resampled

CALM = 300
"""From this second on record 106 is calm for two minutes."""
BEGIN, END, SECONDS = 15, 45, 60


@pytest.fixture(scope="module")
def calm(data: Path) -> records.Record:
    ecg = records.read(data / "mitdb" / "106")
    first, last = round(CALM * ecg.rate), round((CALM + SECONDS) * ecg.rate)
    inside = (ecg.positions >= first) & (ecg.positions < last)
    return records.Record(
        ecg.signal[first:last], ecg.rate, ecg.positions[inside] - first, ecg.classes[inside]
    )


def poor(calm: records.Record, rate: float, name: str) -> tuple[NDArray[np.bool_], list[float]]:
    """Which beats are not believed, and when they were, with this done to 30 seconds."""
    signal = resampled(calm, rate).signal.copy()
    part = slice(round(BEGIN * rate), round(END * rate))
    signal[part] = CHANGES[name](signal[part], rate, np.random.default_rng(0))
    cutter = Segmenter(rate)
    beats = cutter.feed(signal) + cutter.finish()
    faults = quality.assess(np.array([beat.samples for beat in beats]))
    return faults != quality.GOOD, [beat.seq / rate for beat in beats]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    "name",
    [
        "white noise, -6 dB",
        "muscle, 20 to 120 Hz, -6 dB",
        "mains, 50 Hz, -6 dB",
        "white noise alone",
        "muscle alone",
        "pink noise alone",
        "brown noise alone",
        "lead off: flat",
        "lead off: at the rail",
        "lead off: hum",
        "lead off: faint hum",
        "lead off: faint white noise",
        "lead off: faint brown noise",
    ],
)
def test_beats_are_not_believed_while_it_lasts_and_are_before_and_after(
    calm: records.Record, rate: float, name: str
) -> None:
    found, at = poor(calm, rate, name)
    times = np.array(at)
    inside = (times > BEGIN + 2) & (times < END - 2)
    assert inside.sum() >= 10
    assert (inside & ~found).sum() < 5  # as many as would raise an alarm, were they anomalous
    assert found[inside].mean() > 0.85
    assert not found[(times < BEGIN - 2) | (times > END + 2)].any()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", ["as it was", "baseline wander, -6 dB"])
def test_a_heart_that_can_be_seen_is_believed(calm: records.Record, rate: float, name: str) -> None:
    found, at = poor(calm, rate, name)
    assert not found.any()
    annotated = calm.positions / calm.rate
    gap = np.abs(np.array(at)[:, None] - annotated[(annotated > 1) & (annotated < SECONDS - 1)])
    assert (gap.min(axis=0) < 0.1).all()


def test_ventricular_flutter_is_no_noise(real_data: Path) -> None:
    ecg = records.read(real_data / "mitdb" / "207")
    with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
        import wfdb

        marks = wfdb.rdann(str(real_data / "mitdb" / "207"), "atr")
    waves = marks.sample[np.array(marks.symbol) == "!"] / ecg.rate
    first, last = waves.min() - 10, waves.max() + 10
    beats = records.beats(ecg, max(0, first), last)
    flutter = np.array([np.abs(waves - beat.seq / ecg.rate).min() < 0.2 for beat in beats])
    assert flutter.sum() > 50
    faults = quality.assess(np.array([beat.samples for beat in beats]))
    assert (faults[flutter] != quality.GOOD).mean() < 0.05


def test_finders_of_r_peaks_are_judged_side_by_side(calm: records.Record, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        import wfdb

        wfdb.wrsamp(
            "calm",
            fs=calm.rate,
            units=["mV"],
            sig_name=["II"],
            p_signal=calm.signal[:, np.newaxis],
            fmt=["16"],
            write_dir=str(tmp_path),
        )
        wfdb.wrann("calm", "atr", calm.positions, list(calm.classes), write_dir=str(tmp_path))
    command = ["evaluate", "--mitdb", str(tmp_path), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*command, "--table", "peaks"], catch_exceptions=False)
    lines = result.output.splitlines()
    for title in ("sleepecg as it comes", "wfdb's gqrs", "wfdb's xqrs", "ours", "128 Hz", "500 Hz"):
        found = (
            next(line for line in lines if line.strip().startswith(title)).split("%")[0].split()[-1]
        )
        assert float(found) > 95
    refused = CliRunner().invoke(app, [*command, "--table", "stress"])
    assert isinstance(refused.exception, UsageError)
    assert "ventricular beats" in str(refused.exception)


def test_a_table_of_records_needs_records() -> None:
    refused = CliRunner().invoke(app, ["evaluate", "--table", "stress"])
    assert isinstance(refused.exception, UsageError)
