"""Beats in another unit than the model's are noticed; a heart that changes is not such a case."""

from pathlib import Path

import numpy as np
import pytest

from monitor.detector.per_device import Detectors, Scored
from monitor.detector.scale import SUSTAINED, ScaleChange
from monitor.ecg.beat import Floats
from monitor.settings import ModelSettings
from tests.detector.test_model_file import CARD_OF_A_DETECTOR, graph, write
from tests.detector.test_per_device import WAVES

UNIT = float(WAVES.std(axis=1).mean())


@pytest.fixture
def detectors(tmp_path: Path) -> Detectors:
    """A patient's detector for "bed-…", which scores by size: 0.64 for a wave, 1 is anomalous."""
    how = {"training": {"unit": UNIT}, "threshold": {"value": 1.0, "chosen": "by hand"}}
    path = write(tmp_path / "own.onnx", graph(), CARD_OF_A_DETECTOR | how)
    return Detectors(ModelSettings(devices={"bed-*": path}))


def score(detectors: Detectors, beats: Floats, device: str = "bed-1") -> Scored:
    return detectors.score(beats, [(device, 0, len(beats))])


@pytest.mark.parametrize("unit", [1000, 1e6, 1e-3, 1e-6, 200, 2441])
@pytest.mark.parametrize("together", [1, 20])
def test_beats_in_another_unit_are_brought_to_the_models(
    detectors: Detectors, unit: float, together: int
) -> None:
    beats = (unit * WAVES).astype(np.float32)
    off: list[bool] = []
    for at in range(0, 20, together):
        scored = score(detectors, beats[at : at + together])
        off += [False] * together if scored.off_scale is None else scored.off_scale.tolist()
    assert off == [True] * (SUSTAINED - 1) + [False] * (20 - SUSTAINED + 1)
    (change,) = detectors.scales.changes
    assert change.device == "bed-1"
    assert change.factor == pytest.approx(unit, rel=0.1)
    assert detectors.scales.factor("bed-1") == change.factor
    scored = score(detectors, beats)
    assert scored.off_scale is None
    assert scored.scores == pytest.approx(np.abs(WAVES).mean(axis=1), rel=0.1)
    # What is shown beside the beat has the beat's unit.
    assert scored.reconstructions.shape == beats.shape


def test_the_unit_may_change_back(detectors: Detectors) -> None:
    score(detectors, 1000 * WAVES)
    assert score(detectors, 1000 * WAVES).off_scale is None
    score(detectors, WAVES)
    assert detectors.scales.changes == [ScaleChange("bed-1", 1000), ScaleChange("bed-1", 1)]
    assert score(detectors, WAVES).off_scale is None


@pytest.mark.parametrize("size", [0.01, 0.2, 5, 50])
def test_a_heart_that_changes_is_scored_as_it_is(detectors: Detectors, size: float) -> None:
    scored = score(detectors, (size * WAVES).astype(np.float32))
    assert scored.off_scale is None
    assert scored.scores == pytest.approx(size * np.abs(WAVES).mean(axis=1), rel=1e-4)
    assert detectors.scales.changes == []


def test_a_few_beats_decide_nothing(detectors: Detectors) -> None:
    beats = WAVES.copy()
    beats[[3, 4, 5, 9, 10, 11, 12]] *= 1000  # as when somebody pulls at a cable
    scored = score(detectors, beats)
    assert scored.off_scale is not None
    assert np.flatnonzero(scored.off_scale).tolist() == [3, 4, 5, 9, 10, 11, 12]
    assert detectors.scales.changes == []


def test_what_the_detector_does_not_recognise_is_not_brought_to_its_unit(
    detectors: Detectors,
) -> None:
    detectors.for_device("bed-1").threshold = 0.1
    scored = score(detectors, 1000 * WAVES)
    assert scored.off_scale is not None
    assert scored.off_scale.all()
    assert detectors.scales.changes == []


def test_each_device_has_its_own_scale_and_a_model_of_no_patient_none(
    detectors: Detectors,
) -> None:
    batch = np.concatenate([1000 * WAVES, WAVES, 1000 * WAVES, np.full_like(WAVES, np.nan)])
    whose = [("bed-1", 0, 20), ("bed-2", 20, 40), ("ward", 40, 60), ("bed-3", 60, 80)]
    scored = detectors.score(batch, whose)
    assert detectors.scales.changes == [ScaleChange("bed-1", 1000)]
    assert scored.off_scale is not None
    assert np.flatnonzero(scored.off_scale).tolist() == list(range(SUSTAINED - 1))
    alone = detectors.default.score(1000 * WAVES)
    assert scored.scores[40:60] == pytest.approx(alone.scores, rel=1e-4)
