"""The models of a folder, a file for each device: opened when needed, taken over when they change.

A file that cannot be used is refused, and the detector that was there goes on. One that is removed
is not used any more.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from monitor.detector.folder import file_name
from monitor.detector.model_file import Detector, ModelError
from monitor.errors import ConfigurationError

SUFFIX = ".onnx"

REMEMBERED = 65536
"""Devices whose file name is known without encoding it again."""


class Stamp(NamedTuple):
    """What changes with a file."""

    modified: int
    size: int
    inode: int


class News(NamedTuple):
    """A device whose model was taken over, refused or removed.

    Attributes:
        detector: that is used from now on; None if the device has none of its own.
        refusal: why its file is not used; "" else.
    """

    device: str
    detector: Detector | None
    refusal: str = ""


class _Own:
    """A file of the folder, and the detector that was opened from it, if one was.

    Attributes:
        seen: the file as it was at the last look; None if it was missing.
        still: whether it was the same at the look before.
        decided: the file as it was when it was opened, refused or discarded; None before.
        opened: when the file was written that the detector is from.
    """

    __slots__ = ("decided", "detector", "opened", "refusal", "seen", "still")

    def __init__(self, seen: Stamp, still: bool) -> None:
        self.seen: Stamp | None = seen
        self.still = still
        self.decided: Stamp | None = None
        self.opened = 0.0
        self.detector: Detector | None = None
        self.refusal = ""


class OwnModels:
    """The detectors of a folder.

    One takes 2 MB and 10 ms to open and try (measured with a model of mitdb/119): a hundred
    devices that are first heard in one batch delay it by a second, so batches are small meanwhile
    (`daemon.loop.SHORT_READ`). Those that are never heard cost nothing.

    Attributes:
        opens: how often a file was opened.
        problem: why the folder cannot be read; "" while it can.
    """

    def __init__(self, folder: Path | None, open_file: Callable[[Path], Detector]) -> None:
        """Look at a folder. One that is missing is empty.

        Args:
            folder: where the files are; None for nowhere.
            open_file: opens a file, tries it, and sets its threshold; raises `ModelError` or
                `ConfigurationError`.
        """
        self.opens, self.problem = 0, ""
        self._folder, self._open_file = folder, open_file
        self._name = lru_cache(REMEMBERED)(file_name)
        self._devices: dict[str, str] = {}  # that were asked for, by the names of their files
        self._news: list[News] = []
        # What is there at the start is not about to be written.
        self._files = {name: _Own(stamp, still=True) for name, stamp in self._scan().items()}

    def __bool__(self) -> bool:
        return bool(self._files)

    def detector(self, device: str) -> Detector | None:
        """Return the detector of a device, opened if necessary; None if it has none to use."""
        name = self._name(device)
        if name not in self._devices:
            if len(self._devices) >= REMEMBERED:
                self._devices.clear()
            self._devices[name] = device
        own = self._files.get(name)
        if own is None:
            return None
        if own.decided is None and own.still:
            self._take_over(own, device)
        return own.detector

    def refusal(self, device: str) -> str:
        """Return why the file of a device is not used; "" if it is used, or there is none."""
        own = self._files.get(self._name(device))
        return "" if own is None else own.refusal

    def written(self, device: str) -> float:
        """Return when the model in use of a device was written, in seconds since 1970."""
        return self._files[self._name(device)].opened

    def discard(self, device: str, left: float) -> None:
        """Use the model of a device no more until its file changes: its patient has left.

        Unless it was put there later than that, in seconds since 1970, however old it is.
        """
        own = self._files.get(self._name(device))
        if own is None:
            return
        with suppress(OSError):  # removed just now
            if self._path(device).stat().st_ctime > left:
                return
        own.decided, own.detector = own.seen, None
        own.refusal = f"{self._path(device)}: is that of the patient before"

    def refresh(self) -> list[News]:
        """Take over what has changed and stands still since the last look.

        With a thousand files this takes 2.4 ms.
        """
        try:
            self._compare(self._scan())
            self.problem = ""
        except OSError as error:  # what is in use goes on
            self.problem = f"{self._folder}: {error.strerror or 'cannot be read'}"
        news, self._news = self._news, []
        return news

    def _compare(self, found: dict[str, Stamp]) -> None:
        for name, stamp in found.items():
            own = self._files.get(name)
            if own is None:
                self._files[name] = _Own(stamp, still=False)
                continue
            own.still, own.seen = stamp == own.seen, stamp
            if own.still and own.decided != stamp and name in self._devices:
                self._take_over(own, self._devices[name])
        for name in [name for name in self._files if name not in found]:
            own = self._files[name]
            if own.seen is not None:  # it may be about to be replaced
                own.seen = None
                continue
            del self._files[name]
            if name in self._devices:
                self._news.append(News(self._devices[name], None))

    def _take_over(self, own: _Own, device: str) -> None:
        """Open a file as it is now; keep the detector that was there if it is refused."""
        self.opens += 1
        stamp = own.decided = own.seen
        try:
            detector = self._open_file(self._path(device))
        except (ModelError, ConfigurationError) as refused:
            own.refusal = str(refused)
            self._news.append(News(device, own.detector, own.refusal))
            return
        own.refusal = ""
        own.opened = stamp.modified / 1e9 if stamp else 0.0
        if own.detector is None or detector.sha256 != own.detector.sha256:
            own.detector = detector
            self._news.append(News(device, detector))

    def _path(self, device: str) -> Path:
        return Path(self._folder or "", self._name(device))

    def _scan(self) -> dict[str, Stamp]:
        """Return the files of the folder.

        Raises:
            OSError: it cannot be read.
        """
        if self._folder is None:
            return {}
        try:
            with os.scandir(self._folder) as entries:
                return {
                    entry.name: Stamp(stat.st_mtime_ns, stat.st_size, stat.st_ino)
                    for entry in entries
                    if entry.name.endswith(SUFFIX) and (stat := _stat(entry)) is not None
                }
        except FileNotFoundError:
            return {}


def _stat(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # removed just now
        return None
