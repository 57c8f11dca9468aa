"""`ecg-monitor model`: what a model file says about itself."""

import json
import subprocess
import sys
from pathlib import Path

from monitor.detector.model_file import Detector, shipped
from tests.detector.test_model_file import CARD_OF_A_DETECTOR, graph, write


def model(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monitor", "model", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_prints_the_shipped_card_as_plain_lines() -> None:
    run = model()
    lines = dict(line.split(": ", 1) for line in run.stdout.splitlines())
    detector = Detector(shipped("ecg"))
    assert run.returncode == 0
    assert lines["name"] == "ecg"
    assert lines["file SHA-256"] == detector.sha256
    assert lines["threshold"].startswith(f"{detector.threshold:.6g}: ")
    assert "false_alarm_rate" in lines["figures"]


def test_figures_within_figures_are_printed_in_words(tmp_path: Path) -> None:
    taught = {"second_opinion": {"odds": 0.8, "f1": {"svdb": 0.80421}}}
    path = write(tmp_path / "own.onnx", graph(), CARD_OF_A_DETECTOR | {"training": taught})
    assert "\ntraining: second_opinion (odds 0.8, f1 (svdb 0.8042))\n" in model(path).stdout


def test_prints_the_whole_card_as_json() -> None:
    run = model(shipped("ecg"), "--json")
    card = json.loads(run.stdout)
    detector = Detector(shipped("ecg"))
    assert card["threshold"]["value"] == detector.threshold
    assert card["quantiles"]["beats"] == detector.card.quantiles.beats
    assert card["sha256"] == detector.sha256


def test_says_in_one_line_why_a_file_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "model.onnx"
    text.write_text("not a model\n" * 100)
    for file, reason in {text: "is not an ONNX file", tmp_path / "none": "No such file"}.items():
        run = model(file)
        assert run.returncode == 1
        assert run.stdout == ""
        assert run.stderr.startswith(f"error: {file}: {reason}")
        assert run.stderr.count("\n") == 1
