"""Find the sources' data sets on disk or download them once, and check them as they are read.

A data folder contains `ecg.csv`, `fashion-mnist/*.gz` and `mnist/*.gz`. It is the one passed as an
argument, or else the one named by the environment variable `ECG_DATA`; without either, the files
are downloaded from their publishers into the user's cache.
"""

import gzip
import hashlib
import os
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monitor.ecg import beat_files
from monitor.ecg.beat import SAMPLES
from monitor.errors import ConfigurationError, Failure

FOLDERS: dict[str, tuple[str, dict[str, str | None]]] = {
    # The checksums that https://github.com/zalandoresearch/fashion-mnist publishes.
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    # LeCun's own server no longer answers; this is the Common Visual Data Foundation's copy of the
    # same files, with the checksums that torchvision publishes for them.
    "mnist": (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        {
            "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    # Nobody publishes a checksum of the tutorial's ecg.csv.
    "": ("https://storage.googleapis.com/download.tensorflow.org/data/", {"ecg.csv": None}),
}

CLASSES = {
    "fashion-mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "mnist": tuple("0123456789"),
}


@dataclass(frozen=True)
class Beats:
    """ECG5000 in the layout of the tutorial's `ecg.csv`: the beats of one patient."""

    beats: NDArray[np.float32]
    """[N, 140], in the units of the file."""
    labels: NDArray[np.bool_]
    """[N], True for a normal beat."""
    sha256: str
    """The SHA-256 of the file."""


@dataclass(frozen=True)
class Images:
    """Fashion-MNIST or MNIST."""

    name: str
    classes: tuple[str, ...]
    """The names of the classes, indexed by label."""
    train: NDArray[np.float32]
    """[60000, 28, 28, 1] in [0, 1]."""
    train_labels: NDArray[np.uint8]
    """[60000], the class from 0 to 9."""
    test: NDArray[np.float32]
    """[10000, 28, 28, 1] in [0, 1]."""
    test_labels: NDArray[np.uint8]
    """[10000], the class from 0 to 9."""
    sha256: str
    """The SHA-256 of the four uncompressed files in the order train images, train labels, test
    images, test labels: it does not depend on how they are compressed."""


def ecg(data: Path | None = None) -> Beats:
    """Return the beats of `ecg.csv`.

    Raises:
        Failure: the file is missing, corrupt or without labels; the message names it and what was
            expected.
    """
    path = find("", "ecg.csv", data)
    blocks = list(beat_files.read(path))
    labels = [block.labels for block in blocks if block.labels is not None]
    if not labels:
        raise Failure(f"{path}: has {SAMPLES} columns, expected {SAMPLES + 1} with the label last")
    return Beats(
        beats=np.concatenate([block.beats for block in blocks]),
        labels=np.concatenate(labels),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def images(name: str, data: Path | None = None) -> Images:
    """Return the images of `fashion-mnist` or `mnist`.

    Raises:
        Failure: a file is missing or corrupt; the message names it and what was expected.
    """
    digest = hashlib.sha256()
    parts: list[NDArray[np.uint8]] = []
    for file in FOLDERS[name][1]:
        path = find(name, file, data)
        raw = _unpack(path)
        digest.update(raw)
        parts.append(_idx(path, raw, (28, 28) if "images" in file else ()))
        if "labels" in file and len(parts[-1]) != len(parts[-2]):
            raise Failure(
                f"{path}: has {len(parts[-1])} labels, expected one for each of "
                f"the {len(parts[-2])} images beside it"
            )
    train, train_labels, test, test_labels = parts
    return Images(
        name=name,
        classes=CLASSES[name],
        train=(train.astype(np.float32) / np.float32(255))[..., np.newaxis],
        train_labels=train_labels,
        test=(test.astype(np.float32) / np.float32(255))[..., np.newaxis],
        test_labels=test_labels,
        sha256=digest.hexdigest(),
    )


def find(name: str, file: str, data: Path | None = None) -> Path:
    """Return the path of one file of a data set; download it if no data folder is named.

    Raises:
        ConfigurationError: the named folder does not contain it.
        Failure: it cannot be downloaded.
    """
    wanted = Path(name, file)
    named = data or os.environ.get("ECG_DATA")
    if not named:
        return _download(name, file)
    path = Path(named) / wanted
    if not path.is_file():
        source = "--data" if data else "ECG_DATA"
        raise ConfigurationError(
            f"{source} {named}: no file {wanted} there; "
            "the folder must contain ecg.csv, fashion-mnist/*.gz and mnist/*.gz"
        )
    return path


def _unpack(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read()
    except EOFError as error:
        raise Failure(f"{path}: truncated gzip file") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Failure(f"{path}: expected a gzip file: {error}") from error
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error


def _idx(path: Path, raw: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes, whose items have the shape `shape`.

    Source: the format's description at http://yann.lecun.com/exdb/mnist/.
    """
    magic = bytes([0, 0, 0x08, 1 + len(shape)])
    header = 4 + 4 * (1 + len(shape))
    if not raw:
        raise Failure(f"{path}: is empty, expected an IDX file")
    if raw[:4] != magic:
        raise Failure(f"{path}: begins with {raw[:4].hex()}, expected the IDX magic {magic.hex()}")
    if len(raw) < header:
        raise Failure(f"{path}: has {len(raw)} bytes, expected a header of {header}")
    count, *item = np.frombuffer(raw, ">u4", 1 + len(shape), offset=4).tolist()
    if tuple(item) != shape:
        found, expected = (" x ".join(map(str, sizes)) for sizes in (item, shape))
        raise Failure(f"{path}: contains items of {found}, expected {expected}")
    length = count * int(np.prod(shape, dtype=int))
    if count == 0 or len(raw) - header != length:
        raise Failure(
            f"{path}: has {len(raw) - header} bytes of data, expected {length} for {count} items"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(count, *shape)


def _download(name: str, file: str) -> Path:
    address, checksums = FOLDERS[name]
    where = f"put {Path(name, file)} in a folder, and name that with --data or ECG_DATA"
    try:
        import pooch
    except ModuleNotFoundError:
        raise Failure(
            f"no data: {where} (downloading it needs pip install 'ecg-monitor[batch]')"
        ) from None
    pooch.get_logger().setLevel("WARNING")
    folder = Path(pooch.os_cache("ecg-monitor"), name)
    path = folder / file
    if not path.exists():
        print(f"downloading {address}{file} to {path}", file=sys.stderr)
    try:
        pooch.retrieve(
            address + file,
            known_hash=checksums[file],
            fname=file,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=_Bar(file), timeout=30),
        )
    except OSError as error:
        raise Failure(f"no data: cannot download {address}{file}; {where}") from error
    except ValueError as error:
        raise Failure(f"{address}{file}: the checksum differs from the published one") from error
    return path


class _Bar:
    """Shows the progress of pooch's downloads with rich, through the four names that pooch uses."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

        console = Console(stderr=True)
        columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(title, total=None)
        self.total = 0

    def update(self, size: int) -> None:
        self._progress.start()
        self._progress.update(self._task, total=self.total, advance=size)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()
