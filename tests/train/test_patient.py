"""A patient's model: fitted without labels, upside down or not, and honest about its threshold."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monitor.batch.datasets import Beats
from monitor.detector import rr_history
from monitor.detector.model_file import VENTRICULAR_ABOVE, Detector
from monitor.detector.per_device import Detectors
from monitor.ecg import records
from monitor.errors import Failure, UsageError
from monitor.settings import ModelSettings
from train.cli import app
from train.detectors import metrics, patient


@pytest.fixture(scope="module")
def source(data: Path) -> Path:
    return data / "mitdb" / "119"


@pytest.fixture(scope="module")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    out = tmp_path_factory.mktemp("patient")
    patient.main(source, 5, out, epochs=30, seed=0)
    return Detector(out / "ecg.onnx")


def test_ventricular_beats_of_the_next_minutes_score_above_normal_ones(
    model: Detector, source: Path
) -> None:
    ecg = records.read(source)
    beats = records.beats(ecg, 300, 600)
    samples = np.array([beat.samples for beat in beats], np.float32)
    classes = records.classes(ecg, beats)
    rr = rr_history.whole([beat.rr_ms for beat in beats])
    heard, deaf = model.score(samples, rr), model.score(samples)
    assert (classes == "V").sum() > 20
    for scored in (heard, deaf):
        assert scored.ventricular is not None
        called = scored.ventricular > VENTRICULAR_ABOVE
        for flags in (called, scored.scores > model.threshold):
            assert flags[classes == "V"].mean() > 0.95
            assert flags[classes == "N"].mean() < 0.02


def test_a_lead_that_is_upside_down_changes_few_verdicts(model: Detector, source: Path) -> None:
    beats = records.beats(records.read(source), 300, 600)
    samples = np.array([beat.samples for beat in beats], np.float32)
    rr = rr_history.whole([beat.rr_ms for beat in beats])
    upright, turned = (
        model.score(each, rr).scores > model.threshold for each in (samples, -samples)
    )
    assert np.mean(upright == turned) > 0.98


def test_beats_in_microvolts_are_judged_as_in_millivolts(model: Detector, source: Path) -> None:
    beats = records.beats(records.read(source), 300, 600)
    samples = np.array([beat.samples for beat in beats], np.float32)
    rr = rr_history.whole([beat.rr_ms for beat in beats])
    for factor in (1000.0, 1e-3):
        path = ModelSettings(path=model._model.path)
        detectors = Detectors(path)
        scored = detectors.score(samples * np.float32(factor), [("bed-7", 0, len(samples))], rr)
        assert [change.factor for change in detectors.scales.changes] == [factor]
        assert scored.scores[20:] == pytest.approx(model.score(samples, rr).scores[20:], rel=0.01)


def test_the_card_tells_the_cut_and_how_far_the_threshold_can_be_trusted(model: Detector) -> None:
    assert model.card.segmentation is not None
    assert model.card.segmentation["samples"] == 140
    assert model.card.training["lead"] == "MLII"
    figures = model.card.figures
    assert 0 <= figures["share_above_threshold"] <= figures["highest_share_above_threshold"] < 0.1
    assert model.card.dataset.rows["fitted"] < model.card.dataset.rows["given"]
    assert model.card.training["second_opinion"]["records"] == 46
    assert model.card.threshold.value == 1


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


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--record", "119", "--lead", "V6"], "--lead 'V6': no such lead; .*'MLII', 'V1'"),
        (["--lead", "V1"], "--lead 'V1': needs --record"),
    ],
)
def test_a_lead_that_is_not_there_is_refused_in_a_line(
    options: list[str], reason: str, source: Path, tmp_path: Path
) -> None:
    options = [str(source) if each == "119" else each for each in options]
    result = CliRunner().invoke(app, ["ecg", *options, "--out", str(tmp_path)])
    assert isinstance(result.exception, UsageError)
    assert re.search(reason, str(result.exception))


def test_a_record_that_is_not_there_is_refused_in_a_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["ecg", "--record", str(tmp_path / "none"), "--out", str(tmp_path)]
    )
    assert isinstance(result.exception, Failure)
    assert "no WFDB record there" in str(result.exception)


@pytest.fixture(scope="module")
def few_odd(ecg: Beats) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """300 beats of ECG5000 as they come, but for one abnormal beat in twenty; its label last."""
    normal, odd = ecg.beats[ecg.labels][:285], ecg.beats[~ecg.labels][:15]
    beats = np.vstack([np.insert(normal, 140, 1, axis=1), np.insert(odd, 140, 0, axis=1)])
    return np.random.default_rng(0).permutation(beats)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_file_of_beats_gives_a_detector_with_or_without_labels(
    labelled: bool,
    few_odd: "np.ndarray[tuple[int, int], np.dtype[np.float32]]",
    ecg: Beats,
    tmp_path: Path,
) -> None:
    file = tmp_path / "bed-7.csv"
    np.savetxt(file, few_odd if labelled else few_odd[:, :140], delimiter=",", fmt="%.7g")
    command = ["ecg", "--data", str(file), "--out", str(tmp_path), "--epochs", "60"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    detector = Detector(tmp_path / "ecg.onnx")
    rows = detector.card.dataset.rows
    assert rows["given"] == (285 if labelled else 300)
    assert 200 < rows["fitted"] <= rows["given"]
    assert detector.card.segmentation is None
    scores = detector.score(ecg.beats[1000:]).scores
    normal = ecg.labels[1000:]
    assert metrics.figures(scores, normal, detector.threshold)["roc_auc"] > 0.96
    assert (scores[normal] > detector.threshold).mean() < 0.05
    assert (scores[~normal] > np.quantile(scores[normal], 0.95)).mean() > 0.9


def test_a_source_that_cannot_be_fitted_is_refused_in_a_line(
    source: Path, tmp_path: Path, ecg: Beats
) -> None:
    flat, odd = tmp_path / "flat.csv", tmp_path / "odd.csv"
    np.savetxt(flat, np.ones((200, 140)), delimiter=",")
    np.savetxt(odd, np.insert(ecg.beats[~ecg.labels][:150], 140, 0, axis=1), delimiter=",")
    beats, record_ = ["ecg", "--data"], ["ecg", "--record", str(source)]
    for arguments, reason in (
        ([*beats, str(flat)], "0 normal beats that can be believed"),
        ([*beats, str(odd)], "0 normal beats that can be believed"),
        ([*beats, str(tmp_path / "none.csv")], "no such file"),
        ([*record_, "--data", str(flat)], "--record and --data exclude each other"),
        ([*record_, "--networks", "5"], "not for a patient's detector"),
        ([*record_, "--minutes", "40"], "lasts 30.1 minutes"),
    ):
        result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
        assert isinstance(result.exception, Failure), arguments
        assert reason in str(result.exception)
        assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert CliRunner().invoke(app, [*record_, "--minutes", "0"]).exit_code
