"""Models are put in their place in one step, and every step can be done again."""

import shutil
from pathlib import Path

import pytest

from monitor.detector.model_file import shipped
from monitor.errors import ConfigurationError
from train.learn.versions import KEPT, Models


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path / "models")


def new(models: Models, content: bytes) -> Path:
    file = models.new("a")
    file.write_bytes(content)
    return file


def test_going_back_twice_returns(models: Models) -> None:
    for content in (b"1", b"2", b"3"):
        models.install("a", new(models, content))
    for expected in (b"2", b"3", b"2"):
        previous = models.previous("a")
        assert previous is not None
        models.install("a", previous)
        assert models.in_use("a").read_bytes() == expected
    assert models.previous("other") is None


def test_what_was_cut_short_is_completed_and_what_was_done_stays(models: Models) -> None:
    models.install("a", new(models, b"old"))
    file = new(models, b"new")
    models._put_away("a", models.in_use("a"))  # and here it was killed
    for _ in range(2):
        models.install("a", file)
    assert models.in_use("a").read_bytes() == b"new"
    previous = models.previous("a")
    assert previous is not None
    assert previous.read_bytes() == b"old"
    assert [each.name for each in previous.parent.iterdir()] == [previous.name]


def test_a_version_is_named_by_when_its_model_was_made(models: Models) -> None:
    shutil.copy(shipped("ecg"), models.new("a"))
    models.install("a", models.new("a"))
    models.install("a", new(models, b"no model"))
    previous = models.previous("a")
    assert previous is not None
    assert previous.name.startswith("202")
    assert previous.read_bytes() == shipped("ecg").read_bytes()


def test_only_so_many_versions_are_kept(models: Models) -> None:
    for number in range(KEPT + 5):
        models.install("a", new(models, b"%d" % number))
    kept = {each.read_bytes() for each in (models.folder / "versions" / "a").iterdir()}
    assert kept == {b"%d" % number for number in range(4, KEPT + 4)}


def test_a_new_model_is_beside_one_in_use_and_else_in_use(models: Models) -> None:
    file = new(models, b"1")
    for _ in range(2):  # the second time after it was cut short behind the move
        assert models.place("a", file, trial=True) == models.in_use("a")
    new(models, b"2")
    for _ in range(2):
        assert models.place("a", file, trial=True) == models.on_trial("a")
    models.drop("a")
    new(models, b"3")
    assert models.place("a", file, trial=False) == models.in_use("a")
    assert models.in_use("a").read_bytes() == b"3"


def test_what_a_killed_fit_left_is_cleared_away(models: Models) -> None:
    half, whole = new(models, b"half"), models.new("b")
    whole.write_bytes(b"whole")
    again = Models(models.folder)
    again.clear({whole})
    assert (half.exists(), whole.exists()) == (False, True)
    again.forget("never there")
    with pytest.raises(ConfigurationError, match=r"model\.folder is not set"):
        Models(None)
