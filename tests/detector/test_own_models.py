"""A folder with a model for each device: opened when needed, looked at cheaply, refused by file."""

import os
import time
from pathlib import Path

import pytest

from monitor.detector.folder import in_use, on_trial
from monitor.detector.per_device import Detectors
from monitor.errors import ConfigurationError
from monitor.settings import ModelSettings
from tests.detector.test_per_device import WAVES, model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models" / "trial").mkdir(parents=True)
    return tmp_path / "models"


def put(path: Path, name: str, threshold: float = 1.0) -> None:
    """Write a model into a folder in one step."""
    model(path.parent / "being-written", name, threshold).replace(path)


def test_a_file_of_the_settings_comes_first_then_that_of_the_folder(folder: Path) -> None:
    put(in_use(folder, "bed-1"), "own-1")
    put(in_use(folder, "bed-2"), "own-2")
    put(on_trial(folder, "bed-2"), "new-2")
    named = model(folder.parent / "named.onnx", "named", 1)
    detectors = Detectors(ModelSettings(folder=folder, devices={"bed-1": named}))
    assert [detectors.for_device(f"bed-{i}").name for i in (1, 2, 3)] == ["named", "own-2", "ecg"]
    trial = detectors.trial("bed-2")
    assert trial is not None and trial.name == "new-2"
    assert detectors.own("bed-3") is None and detectors.trial("bed-1") is None
    scored = detectors.score(WAVES[:6], [("bed-2", 0, 2), ("bed-3", 2, 4), ("bed-1", 4, 6)])
    assert scored.scores[[0, 1, 4, 5]] == pytest.approx(abs(WAVES).mean(axis=1)[[0, 1, 4, 5]])
    assert [each.name for each in detectors.all] == ["named", "ecg"]


def test_a_new_file_has_to_stand_still_for_one_look(folder: Path) -> None:
    detectors = Detectors(ModelSettings(folder=folder))
    assert detectors.own("bed-1") is None
    put(in_use(folder, "bed-1"), "first")
    assert detectors.refresh_own() == [] and detectors.own("bed-1") is None
    ((device, detector, refusal),) = detectors.refresh_own()
    assert (device, detector and detector.name, refusal) == ("bed-1", "first", "")
    put(in_use(folder, "bed-1"), "second")
    put(on_trial(folder, "bed-1"), "third")
    assert detectors.trial("bed-1") is None
    changed = [
        news for _ in range(2) for news in detectors.refresh_own() + detectors.refresh_trials()
    ]
    assert [each.detector and each.detector.name for each in changed] == ["second"]
    trial = detectors.trial("bed-1")  # opened with its first beats
    assert trial is not None and trial.name == "third"
    assert [each.device for each in detectors.refresh_trials()] == ["bed-1"]
    in_use(folder, "bed-1").unlink()
    assert [detectors.refresh_own(), detectors.refresh_own()] == [[], [("bed-1", None, "")]]
    assert detectors.for_device("bed-1") is detectors.default


@pytest.mark.parametrize("content", [b"", b"no model", None], ids=["empty", "text", "folder"])
def test_a_bad_file_is_refused_once_and_the_old_detector_goes_on(
    folder: Path, content: bytes | None
) -> None:
    own = in_use(folder, "bed-1")
    put(own, "first")
    detectors = Detectors(ModelSettings(folder=folder))
    assert detectors.for_device("bed-1").name == "first"
    detectors.refresh_own()
    own.unlink()
    if content is None:
        own.mkdir()
    else:
        own.write_bytes(content)
    news = [each for _ in range(4) for each in detectors.refresh_own()]
    assert [each.device for each in news] == ["bed-1"]
    assert news[0].refusal.startswith(f"{own}: ") and "\n" not in news[0].refusal
    assert detectors.for_device("bed-1").name == "first"
    assert detectors.problem("bed-1") == news[0].refusal
    assert detectors.problem("bed-2") is None


def test_a_patient_who_left_takes_his_model_with_him(folder: Path) -> None:
    put(in_use(folder, "bed-1"), "first")
    detectors = Detectors(ModelSettings(folder=folder))
    assert detectors.for_device("bed-1").name == "first"
    detectors.discard("bed-1")
    detectors.refresh_own()
    detectors.refresh_own()
    assert detectors.own("bed-1") is None
    assert "of the patient before" in (detectors.problem("bed-1") or "")
    put(in_use(folder, "bed-1"), "second")
    detectors.refresh_own()
    detectors.refresh_own()
    assert detectors.for_device("bed-1").name == "second"


def test_a_folder_is_made_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    Detectors(ModelSettings(folder=tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"model\.folder = '.*file/x': Not a directory"):
        Detectors(ModelSettings(folder=tmp_path / "file" / "x"))
    with pytest.raises(ConfigurationError, match=r"model\.folder = '.*file': File exists"):
        Detectors(ModelSettings(folder=tmp_path / "file"))


def test_a_thousand_files_are_opened_when_needed_and_looked_at_cheaply(folder: Path) -> None:
    put(in_use(folder, "bed-0"), "same")
    for i in range(1, 1000):
        os.link(in_use(folder, "bed-0"), in_use(folder, f"bed-{i}"))
    begun = time.process_time()  # the machine may be busy with other work
    detectors = Detectors(ModelSettings(folder=folder))
    assert detectors.for_device("bed-500").name == "same"
    assert len(detectors.refresh_own()) == 1  # the others are not open
    assert time.process_time() - begun < 1.0  # 0.02 s; to open all of them takes two
