"""A patient's model: fitted without labels, upside down or not, and honest about its threshold."""

import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monitor import record
from monitor.model import Detector
from monitor.program import Failure
from train import patient
from train.cli import app


@pytest.fixture(scope="module")
def source() -> Path:
    folder = os.environ.get("ECG_DATA")
    if not folder:
        if os.environ.get("CI"):
            pytest.fail("ECG_DATA is not set")
        pytest.skip("ECG_DATA is not set")
    return Path(folder, "mitdb", "119")


@pytest.fixture(scope="module")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    out = tmp_path_factory.mktemp("patient")
    patient.main(source, 5, out, epochs=30, seed=0)
    return Detector(out / "ecg.onnx")


def test_ventricular_beats_of_the_next_minutes_score_above_normal_ones(
    model: Detector, source: Path
) -> None:
    ecg = record.read(source)
    beats = record.beats(ecg, 300, 600)
    samples = np.array([beat.samples for beat in beats], np.float32)
    classes = record.classes(ecg, beats)
    scores = model.score(samples).scores
    assert (classes == "V").sum() > 20
    assert np.median(scores[classes == "V"]) > model.threshold > np.median(scores[classes == "N"])
    np.testing.assert_allclose(model.score(-samples).scores, scores, atol=1e-4)


def test_the_card_tells_the_cut_and_how_far_the_threshold_can_be_trusted(model: Detector) -> None:
    assert model.card.segmentation is not None
    assert model.card.segmentation["samples"] == 140
    figures = model.card.figures
    assert 0 <= figures["share_above_threshold"] <= figures["highest_share_above_threshold"] < 0.1
    assert model.card.dataset.rows["fitted"] < model.card.dataset.rows["given"]


def test_a_few_odd_beats_are_left_out_and_the_many_kept() -> None:
    random = np.random.default_rng(0)
    time = np.linspace(0, 2 * np.pi, 140)
    usual = np.sin(time) + 0.05 * random.normal(size=(200, 140))
    odd = np.sin(2 * time + random.uniform(0, 6, (12, 1))) * 2
    kept = patient.alike(np.vstack([usual, odd]).astype(np.float32))
    assert kept[:200].mean() > 0.9
    assert not kept[200:].any()


def test_too_few_beats_are_refused_in_a_line(source: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["ecg", "--record", str(source), "--minutes", "1", "--out", str(tmp_path)]
    )
    assert isinstance(result.exception, Failure)
    assert "at least 100 are needed" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_record_that_is_not_there_is_refused_in_a_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["ecg", "--record", str(tmp_path / "none"), "--out", str(tmp_path)]
    )
    assert isinstance(result.exception, Failure)
    assert "no WFDB record there" in str(result.exception)
