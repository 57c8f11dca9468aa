"""Device IDs come from outside; the names of files must be safe."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from monitor.detector import folder


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_every_device_has_a_visible_file_of_its_own_in_the_folder(devices: list[str]) -> None:
    for place in (folder.in_use, folder.on_trial, folder.versions):
        paths = [place(Path("models"), device) for device in devices]
        assert len(set(paths)) == len(paths)
        for path in paths:
            assert path.parent == place(Path("models"), "bed-7").parent
            assert path.name.isascii() and path.name.isprintable()
            assert path.name[0] != "." and len(path.name) < 160


def test_a_plain_name_stays() -> None:
    assert folder.file_name("bed-7") == "bed-7.onnx"
    assert folder.file_name("ward.3_bed~7") == "ward.3_bed~7.onnx"


def test_long_names_that_begin_alike_differ() -> None:
    assert folder.file_name("ü" * 100 + "a") != folder.file_name("ü" * 100 + "b")
