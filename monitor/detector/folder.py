"""Where a device's models lie in `model.folder`. Pure: the learner writes there, the monitor reads.

bed-7.onnx                              watches the device
trial/bed-7.onnx                        is tried beside it
versions/bed-7/20261126T043000Z.onnx    watched it before
"""

import hashlib
from pathlib import Path
from typing import Final
from urllib.parse import quote

LONGEST: Final = 150
"""Characters of a name; a longer one is cut and ends in a hash. Most file systems take 255 bytes,
and temporary files have longer names than those they become."""


def file_name(device: str) -> str:
    """Return the name of a device's model file: its ID, where that is a plain name.

    What is not a letter, digit, `_`, `-`, `~` or `.` of ASCII is percent-encoded, and so is a dot
    at the start: two devices never share a file, and none is outside of the folder or hidden.

    >>> file_name("bed-7"), file_name("../bed 7")
    ('bed-7.onnx', '%2E.%2Fbed%207.onnx')
    """
    return f"{_plain(device)}.onnx"


def in_use(folder: Path, device: str) -> Path:
    """Return the file of the model that watches a device."""
    return folder / file_name(device)


def on_trial(folder: Path, device: str) -> Path:
    """Return the file of the model that is tried beside it."""
    return folder / "trial" / file_name(device)


def versions(folder: Path, device: str) -> Path:
    """Return the folder of the models that a device had before."""
    return folder / "versions" / _plain(device)


def _plain(device: str) -> str:
    name = quote(device, safe="")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > LONGEST:  # "%%" stands in no name that is not cut
        name = f"{name[:80]}%%{hashlib.sha256(device.encode()).hexdigest()}"
    return name
