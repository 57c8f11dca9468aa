"""The data sets: where they are looked for, and what a broken file is told."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from monitor.batch import datasets
from monitor.errors import ConfigurationError, Failure

FILES = list(datasets.FOLDERS["mnist"][1])


def idx(count: int, *item: int) -> bytes:
    header = bytes([0, 0, 8, 1 + len(item)])
    sizes = b"".join(size.to_bytes(4, "big") for size in (count, *item))
    return header + sizes + bytes(i % 10 for i in range(count * int(np.prod(item, dtype=int))))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder of data with an MNIST of three training and two test images."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for file, content in zip(FILES, (idx(3, 28, 28), idx(3), idx(2, 28, 28), idx(2)), strict=True):
        (folder / file).write_bytes(gzip.compress(content))
    return folder.parent


def test_the_data_sets_of_the_sources(real_data: Path) -> None:
    ecg = datasets.ecg(real_data)
    assert ecg.beats.dtype == np.float32
    assert ecg.beats.shape == (len(ecg.labels), 140)
    assert ecg.sha256 == hashlib.sha256((real_data / "ecg.csv").read_bytes()).hexdigest()
    assert 0.5 < ecg.labels.mean() < 0.6
    for name in ("mnist", "fashion-mnist"):
        images = datasets.images(name, real_data)
        assert images.train.shape == (60_000, 28, 28, 1)
        assert images.test.shape == (10_000, 28, 28, 1)
        assert images.train.dtype == images.test.dtype == np.float32
        assert (images.train.min(), images.train.max()) == (0, 1)
        assert np.bincount(images.train_labels).shape == (10,)


def test_images_are_scaled_and_keep_their_order(small: Path) -> None:
    images = datasets.images("mnist", small)
    assert images.train.shape == (3, 28, 28, 1)
    assert images.test[0, 0, 3, 0] == np.float32(3 / 255)
    assert images.train_labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty, expected an IDX file"),
        (gzip.compress(b""), "is empty, expected an IDX file"),
        (gzip.compress(idx(3, 28, 28))[:-30], "truncated gzip file"),
        (b"P5 28 28", "expected a gzip file: Not a gzipped file (b'P5')"),
        (
            gzip.compress(b"\0\0\x0d\3" + idx(3, 28, 28)[4:]),
            "begins with 00000d03, expected the IDX magic 00000803",
        ),
        (gzip.compress(idx(3)), "begins with 00000801, expected the IDX magic 00000803"),
        (gzip.compress(idx(3, 28, 28)[:9]), "has 9 bytes, expected a header of 16"),
        (gzip.compress(idx(3, 32, 32)), "contains items of 32 x 32, expected 28 x 28"),
        (
            gzip.compress(idx(3, 28, 28)[:-1]),
            "has 2351 bytes of data, expected 2352 for 3 items",
        ),
        (gzip.compress(idx(0, 28, 28)), "has 0 bytes of data, expected 0 for 0 items"),
    ],
    ids=count(),  # a gzip file has the time in it, and a test has one name
)
def test_a_broken_file_is_named_with_what_was_expected(
    small: Path, content: bytes, reason: str
) -> None:
    path = small / "mnist" / FILES[0]
    path.write_bytes(content)
    with pytest.raises(Failure) as failure:
        datasets.images("mnist", small)
    assert str(failure.value) == f"{path}: {reason}"


def test_as_many_labels_as_images(small: Path) -> None:
    path = small / "mnist" / FILES[3]
    path.write_bytes(gzip.compress(idx(5)))
    with pytest.raises(Failure, match="5 labels, expected one for each of the 2 images beside it"):
        datasets.images("mnist", small)


def test_a_csv_without_labels_is_no_ecg_csv(tmp_path: Path) -> None:
    (tmp_path / "ecg.csv").write_text(",".join(["1"] * 140))
    with pytest.raises(Failure, match="has 140 columns, expected 141 with the label last"):
        datasets.ecg(tmp_path)


def test_the_folder_that_is_passed_wins_over_the_variable(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_DATA", str(tmp_path / "elsewhere"))
    assert datasets.find("mnist", FILES[0], small).parent == small / "mnist"
    with pytest.raises(ConfigurationError, match=r"^ECG_DATA .*elsewhere: no file mnist/train-"):
        datasets.find("mnist", FILES[0])
    with pytest.raises(ConfigurationError, match=r"^--data .*: no file ecg.csv there"):
        datasets.find("", "ecg.csv", small)


@pytest.fixture
def publisher(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str | None]]:
    """A server with a small MNIST in the place of its publisher's, and its checksums."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(small))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    checksums: dict[str, str | None] = {
        file: "md5:" + hashlib.md5((small / "mnist" / file).read_bytes()).hexdigest()  # noqa: S324
        for file in FILES
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}/mnist/"
        monkeypatch.setitem(datasets.FOLDERS, "mnist", (address, checksums))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("ECG_DATA", raising=False)
        yield checksums
        server.shutdown()


def test_without_a_folder_the_files_are_downloaded_once(
    publisher: dict[str, str | None], small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = datasets.images("mnist")
    assert images.train.shape == (3, 28, 28, 1)
    assert capfd.readouterr().err.count("downloading http://127.0.0.1") == len(publisher)
    for file in FILES:
        (small / "mnist" / file).unlink()
    assert datasets.images("mnist").sha256 == images.sha256
    assert not capfd.readouterr().err


def test_a_download_with_another_checksum_is_refused(publisher: dict[str, str | None]) -> None:
    publisher[FILES[2]] = "md5:" + "0" * 32
    with pytest.raises(Failure, match=f"{FILES[2]}: the checksum differs from the published one"):
        datasets.images("mnist")


def test_off_the_network_one_line_says_where_to_put_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ECG_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(Failure) as failure:
        datasets.images("fashion-mnist")
    assert str(failure.value).startswith("no data: cannot download http")
    assert "in a folder, and name that with --data or ECG_DATA" in str(failure.value)
