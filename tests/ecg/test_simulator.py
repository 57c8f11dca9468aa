"""The simulator of beats: reproducible, and as normal or ectopic as the real ones."""

from pathlib import Path

import numpy as np
import pytest

from monitor.batch import datasets
from monitor.detector.model_file import Detector, shipped
from monitor.ecg.simulator import Simulator
from train import simulator
from train.detectors import ecg5000


def test_the_same_seed_gives_the_same_beats() -> None:
    one, other, third = Simulator(1), Simulator(1), Simulator(2)
    beats = one.normal(5)
    assert beats.shape == (5, 140)
    assert beats.dtype == np.float32
    assert np.isfinite(beats).all()
    np.testing.assert_array_equal(beats, other.normal(5))
    np.testing.assert_array_equal(one.ectopic(3), other.ectopic(3))
    assert not np.array_equal(beats, third.normal(5))
    assert not np.array_equal(beats, one.normal(5))
    assert one.normal(0).shape == (0, 140)


def test_simulated_beats_are_scored_as_real_ones_are(real_data: Path) -> None:
    detector, drawn = Detector(shipped("ecg")), Simulator(0)
    _, test, _, normal = ecg5000.split(datasets.ecg(real_data))

    def rate(beats: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
        return float(np.mean(detector.score(beats).scores > detector.threshold))

    # The real rates are those of some 500 beats: they are known to one or two in a hundred.
    assert rate(drawn.normal(10_000)) == pytest.approx(rate(test[normal]), abs=0.03)
    assert rate(drawn.ectopic(10_000)) == pytest.approx(rate(test[~normal]), abs=0.03)


def test_no_simulated_beat_is_a_real_one(real_data: Path) -> None:
    real, drawn = datasets.ecg(real_data).beats, Simulator(0)
    for beat in (*drawn.normal(20), *drawn.ectopic(20)):
        assert np.abs(real - beat).mean(axis=1).min() > 0.01


def test_the_fit_keeps_the_mean_and_the_deviations(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.main(data, tmp_path)
    assert "simulated ectopic" in capsys.readouterr().out
    train, _, normal, _ = ecg5000.split(datasets.ecg(data))
    drawn = Simulator(3, tmp_path / "simulator.npz")
    for real, simulated in (
        (train[normal], drawn.normal(20_000)),
        (train[~normal], drawn.ectopic(20_000)),
    ):
        np.testing.assert_allclose(simulated.mean(axis=0), real.mean(axis=0), atol=0.05)
        # The components that are left out hold the last of the noise.
        np.testing.assert_allclose(simulated.std(axis=0), real.std(axis=0), rtol=0.12)
