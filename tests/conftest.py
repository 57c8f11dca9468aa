import gzip
import os
from pathlib import Path

import pytest
from hypothesis import settings

from monitor.batch import datasets
from tests.harness import synthetic
from tests.harness.shipped import make_certificates, make_passwords

settings.register_profile("shared machine", deadline=None)  # it may be busy with other work
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of the real data sets, for tests whose point is a figure of theirs."""
    folder = os.environ.get("ECG_DATA")
    if not folder:
        pytest.skip("its point is a figure of the real data sets, and ECG_DATA names none")
    return Path(folder)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the data sets: the one that ECG_DATA names, else a synthetic one."""
    folder = os.environ.get("ECG_DATA")
    return Path(folder) if folder else synthetic.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def ecg(data: Path) -> datasets.Beats:
    """Return the beats of ECG5000, or as many simulated ones."""
    return datasets.ecg(data)


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of logins that `docker/passwords.sh` makes for the shipped broker."""
    folder = tmp_path_factory.mktemp("secrets")
    made = make_passwords(folder, "bed-1", "bed-2")
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="session")
def certificates(secrets: Path) -> Path:
    """Return the folder that `docker/certificates.sh` makes; `other` beside it has another CA."""
    for folder in (secrets / "tls", secrets / "other"):
        make_certificates(folder, "localhost", "127.0.0.1")
        make_certificates(folder, "--client", "monitor")
    return secrets / "tls"


@pytest.fixture(scope="session")
def small(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of the image sets, cut to 2,000 images to train on and 500 to test."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("mnist", "fashion-mnist"):
        (folder / name).mkdir()
        for file in datasets.FOLDERS[name][1]:
            raw = gzip.decompress((data / name / file).read_bytes())
            count = 2000 if "train" in file else 500
            header, item = (16, 784) if "images" in file else (8, 1)
            cut = raw[:4] + count.to_bytes(4, "big") + raw[8 : header + count * item]
            (folder / name / file).write_bytes(gzip.compress(cut, 1))
    return folder
