"""The tutorial's detector and the one that ships, on real beats."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from monitor.batch import datasets
from monitor.detector.model_file import Detector, shipped
from train import backend
from train.detectors import ecg5000, ensemble, metrics, score_graph, tutorial


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the tutorial's detector as the command does, with one seed; give the folder."""
    out = tmp_path_factory.mktemp("anomaly")
    tutorial.main(data, out, seed=0)
    return out


@pytest.mark.usefixtures("real_data")
def test_the_figures_are_the_published_ones(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    (run,) = report["runs"]
    # One step of the test part's 560 normal beats is 0.0018 of recall; seeds differ by a few.
    assert run["accuracy"] == pytest.approx(0.945, abs=0.005)
    assert run["precision"] == pytest.approx(0.9922, abs=0.003)
    assert run["recall"] == pytest.approx(0.908, abs=0.01)
    assert run["threshold"] == pytest.approx(0.0325, abs=0.003)
    assert set(report["published"]) == {"threshold", "accuracy", "precision", "recall"}


@pytest.mark.usefixtures("real_data")
def test_the_split_is_the_tutorials(trained: Path) -> None:
    rows = Detector(trained / "anomaly.onnx").card.dataset.rows
    # The published recall of 0.907 and 0.909 is 508 and 509 of 560 beats.
    assert rows == {"train": 3998, "train_normal": 2358, "test": 1000, "test_normal": 560}


def test_seven_pictures_are_drawn(trained: Path) -> None:
    pictures = sorted(trained.glob("*.png"))
    assert len(pictures) == 7
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_the_file_gives_the_figures_of_its_card(trained: Path, data: Path) -> None:
    detector = Detector(trained / "anomaly.onnx")
    beats = datasets.ecg(data)
    _, test, _, normal = train_test_split(
        beats.beats[:4998], beats.labels[:4998], test_size=0.2, random_state=21
    )
    figures = metrics.figures(detector.score(test).scores, normal, detector.threshold)
    assert figures == pytest.approx(detector.card.figures, abs=1e-9)
    assert detector.card.dataset.sha256 == beats.sha256


def test_the_shipped_file_gives_the_figures_of_its_card(real_data: Path) -> None:
    detector = Detector(shipped("ecg"))
    beats = datasets.ecg(real_data)
    _, test, _, normal = ecg5000.split(beats)
    figures = metrics.figures(detector.score(test).scores, normal, detector.threshold)
    assert figures == pytest.approx(detector.card.figures, abs=1e-9)


def test_the_threshold_comes_from_the_held_out_beats(data: Path, tmp_path: Path) -> None:
    ecg5000.main(data, tmp_path, epochs=1)
    detector = Detector(tmp_path / "ecg.onnx")
    rows = detector.card.dataset.rows
    assert detector.card.quantiles.beats == rows["held_out"]
    assert detector.threshold_at(ecg5000.FALSE_ALARM_RATE) == pytest.approx(detector.threshold)


def test_a_student_reconstructs_as_its_teachers_do_more_than_another_network_does(
    data: Path,
) -> None:
    beats = datasets.ecg(data)
    normal, how = beats.beats[beats.labels][:400], ecg5000.scoring()
    one, five = ecg5000.fit_both(normal, 0, how, epochs=40)
    student = ecg5000.teach(five, normal, 0, how, epochs=3)
    unseen = beats.beats[~beats.labels]

    def difference(fitted: ecg5000.Fitted) -> float:
        ours, theirs = (
            score_graph.outputs(f.graph, unseen)["reconstruction"] for f in (fitted, five)
        )
        return float(np.mean((ours - theirs) ** 2))

    assert difference(student) < 0.7 * difference(one)


def test_a_fit_leaves_no_beats_in_memory() -> None:
    backend.load(0)
    beats = np.ones((301, 140), np.float32)
    ensemble.fit(beats, [np.arange(301)], 0, epochs=1, targets=beats[None])
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each).__name__ == "EagerTensor"]
    assert tensors
    assert not [each.shape for each in tensors if 301 in each.shape]


def test_a_quantile_is_told_only_with_a_beat_above_it() -> None:
    table = metrics.quantiles(np.arange(100, dtype=np.float32))
    assert table.beats == 100
    assert table.probabilities[0] == 0.5
    assert table.probabilities[-1] == 0.99
    assert table.scores[-1] == pytest.approx(98.01)


@pytest.mark.parametrize("words", [[], ["--help"], ["anomaly", "--help"], ["vae", "--help"]])
def test_help_brings_no_tensorflow(words: list[str]) -> None:
    program = (
        "import sys; sys.argv[1:] = {words}\n"
        "from train import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {{'tensorflow', 'keras', 'sklearn', 'matplotlib', 'onnxruntime'}}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program.format(words=words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr.strip() == ""
    assert run.returncode == 0
    assert "Usage" in run.stdout


def test_a_recipe_that_there_is_not_is_wrong_usage() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "train", "anomaly", "--recipe", "tuned"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 64
    assert run.stderr.startswith("error: --recipe tuned: anomaly has only")
