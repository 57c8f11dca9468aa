"""Puts models into `model.folder` and takes them out again, each in one step.

Every step can be done again from its start: what was cut short is completed, what was done stays.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from monitor.detector import folder as places
from monitor.detector.model_file import Model, ModelError
from monitor.errors import ConfigurationError

KEPT: Final = 10
"""Earlier models of a device, 0.3 MB each: more than anybody goes back by."""


class Models:
    """The folder of models. Its methods raise OSError where it cannot be written."""

    def __init__(self, folder: Path | None) -> None:
        """Use a folder, which is made if there is none.

        Raises:
            ConfigurationError: it is not set, or cannot be written.
        """
        if folder is None:
            raise ConfigurationError(
                "model.folder is not set: name the folder in which the monitor looks for models"
            )
        self.folder = folder
        self._new = folder / "new"
        try:
            self.probe()
        except OSError as error:
            raise ConfigurationError(self.explain(error)) from None

    def explain(self, error: OSError) -> str:
        """Return what is wrong with the folder, in one line."""
        return f"model.folder = '{self.folder}': {error.strerror or error}"

    def probe(self) -> None:
        """Write a file into the folder, and delete it."""
        self._new.mkdir(parents=True, exist_ok=True)
        file = self._new / ".probe"
        file.write_bytes(bytes(4096))
        file.unlink()

    def clear(self, kept: set[Path]) -> None:
        """Delete what fits that were cut short left behind, but not these new models."""
        for leftover in set(self._new.iterdir()) - kept:
            leftover.unlink()

    def new(self, device: str) -> Path:
        """Return where a new model is written to before it is put in its place."""
        return self._new / places.file_name(device)

    def in_use(self, device: str) -> Path:
        """Return the file of the model that watches a device."""
        return places.in_use(self.folder, device)

    def on_trial(self, device: str) -> Path:
        """Return the file of the model that is tried beside it."""
        return places.on_trial(self.folder, device)

    def previous(self, device: str) -> Path | None:
        """Return the model that was in use last before the present one; None without any."""
        return max(self._versions(device), key=_put_away, default=None)

    def install(self, device: str, file: Path) -> None:
        """Put a model in use; keep the one before among the versions."""
        if not file.exists():  # it is in its place already
            return
        target = self.in_use(device)
        if target.exists():
            self._put_away(device, target)
        _move(file, target)
        for old in sorted(self._versions(device), key=_put_away)[:-KEPT]:
            old.unlink()

    def place(self, device: str, file: Path, trial: bool) -> Path:
        """Put a new model in use or, with `trial`, beside one in use; return where it is then."""
        on_trial = self.on_trial(device)
        if not file.exists():  # it is in its place already
            return on_trial if on_trial.exists() else self.in_use(device)
        if trial and self.in_use(device).exists():
            _move(file, on_trial)
            return on_trial
        self.install(device, file)
        return self.in_use(device)

    def drop(self, device: str) -> None:
        """Delete the model that is tried."""
        self.on_trial(device).unlink(missing_ok=True)

    def forget(self, device: str) -> None:
        """Delete all models of a device: the next patient there has another heart."""
        for file in (self.on_trial(device), self.in_use(device)):
            file.unlink(missing_ok=True)
        versions = places.versions(self.folder, device)
        if versions.exists():
            shutil.rmtree(versions)

    def sha256(self, file: Path) -> str | None:
        """Return the SHA-256 of a model; None if there is none."""
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None

    def _versions(self, device: str) -> list[Path]:
        return list(places.versions(self.folder, device).glob("[!.]*.onnx"))

    def _put_away(self, device: str, file: Path) -> None:
        """Copy a model among the versions, by the time at which it was made and its content."""
        content = file.read_bytes()
        try:
            made = Model(file).card.created
        except ModelError:  # somebody else put it there: it is kept all the same
            made = "unknown"
        name = f"{made.translate({ord(':'): None, ord('-'): None})}-"
        name += hashlib.sha256(content).hexdigest()[:8]
        target = places.versions(self.folder, device) / f"{name}.onnx"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(content)
        _move(partial, target)


def _put_away(version: Path) -> int:
    return version.stat().st_mtime_ns  # of the copy


def _move(file: Path, target: Path) -> None:
    """Move a file within the folder, in one step, so that it is there after a loss of power."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with file.open("rb") as content:
        os.fsync(content.fileno())
    file.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
