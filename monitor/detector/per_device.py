"""Which detector scores whose beats: one for all, or a patient's own where his device has one.

A file that the settings name for a device comes first, then that of `model.folder`. One that
changes is taken over while running. One that cannot be used is refused, and the detector that was
there goes on.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from monitor.detector import model_file
from monitor.detector.model_file import Detector, ModelError, shipped
from monitor.detector.own_models import News, OwnModels
from monitor.detector.scale import Scales
from monitor.ecg.beat import SAMPLES, Floats
from monitor.errors import ConfigurationError
from monitor.logs import LINES, Throttle
from monitor.settings import ModelSettings
from monitor.topics import fits

log = structlog.get_logger()

_lines = Throttle(LINES, 60.0)

SHARED = "model.path"
"""The setting that names the model of all devices that have none of their own."""

REMEMBERED = 65536
"""Devices whose detector is known without looking through the patterns."""


class Scored(NamedTuple):
    """What the detectors said of a batch.

    Attributes:
        scores: float32 [N], higher is more anomalous.
        reconstructions: float32 [N, 140].
        thresholds: float32 [N]; one for all beats where one detector scored them.
        ventricular: float32 [N], how likely each beat is ventricular, NaN where its detector cannot
            tell; None where none of the detectors can.
        off_scale: bool [N], beats of a size that cannot be (`scale`); None where there are none.
    """

    scores: Floats
    reconstructions: Floats
    thresholds: Floats | np.float32
    ventricular: Floats | None = None
    off_scale: NDArray[np.bool_] | None = None


class Change(NamedTuple):
    """A model file that has changed, and the detector it gave, or why it was refused."""

    setting: str
    detector: Detector | None
    refusal: str = ""


class _File:
    """A model file, its detector, and the file as it was when that was decided and last seen."""

    def __init__(self, path: Path, setting: str, pattern: str) -> None:
        self.path = path
        self.setting = setting
        self.pattern = pattern
        self.decided = self.seen = _stamp(path)
        self.detector: Detector


class Detectors:
    """The detectors of all devices. A `threshold` is the one that the settings ask for."""

    def __init__(self, settings: ModelSettings) -> None:
        """Open every model file that the settings name.

        Raises:
            ConfigurationError: names the setting whose file or folder cannot be used, or the rate
                that a file does not support.
        """
        self._settings = settings
        self._files = [
            _File(path, f"model.devices.{pattern}", pattern)
            for pattern, path in settings.devices.items()
        ]
        self._files.append(_File(settings.path or shipped("ecg"), SHARED, "*"))
        for file in self._files:
            try:
                file.detector = self._open(file)
            except ModelError as error:
                raise ConfigurationError(f"{file.setting} = {error}") from None
        self.scales = Scales()
        self._own, self._trials = _own_models(settings.folder, self._open_own)
        self._place = lru_cache(REMEMBERED)(self._first_that_fits)

    @property
    def default(self) -> Detector:
        """The detector of every device that has none of its own."""
        return self._files[-1].detector

    @property
    def all(self) -> list[Detector]:
        """Every detector that the settings name, that of all other devices last."""
        return [file.detector for file in self._files]

    def for_device(self, name: str) -> Detector:
        """Give the detector of a device: the first whose pattern fits its name, or its own."""
        file = self._files[self._place(name)]
        if self._own and file is self._files[-1]:
            return self._own.detector(name) or file.detector
        return file.detector

    def own(self, name: str) -> Detector | None:
        """Give the detector of a device that is not that of all others; None if there is none."""
        file = self._files[self._place(name)]
        return self._own.detector(name) if file is self._files[-1] else file.detector

    def trial(self, name: str) -> Detector | None:
        """Give the detector that is tried beside that of a device; None if none is."""
        if not self._trials:
            return None
        return self._trials.detector(name)

    @property
    def tries(self) -> bool:
        """Whether any model is on trial."""
        return bool(self._trials)

    @property
    def has_own(self) -> bool:
        """Whether there are detectors besides that of all devices."""
        return len(self._files) > 1 or bool(self._own)

    def written(self, name: str) -> float | None:
        """Return when a device's own model was written, in seconds since 1970; None without."""
        place = self._place(name)
        if place < len(self._files) - 1:
            stamp = self._files[place].decided
            return stamp and stamp[0] / 1e9
        return self._own.written(name) if self.own(name) is not None else None

    def problem(self, name: str) -> str | None:
        """Return why a file of a device is not used, or the folder cannot be read; else None."""
        own, trial = self._own.refusal(name), self._trials.refusal(name)
        return own or trial or self._own.problem or self._trials.problem or None

    def discard(self, name: str, left: float = inf) -> None:
        """Use a device's own model of the folder no more until its file changes.

        Unless it was put there after its patient has `left`, in seconds since 1970.
        """
        self._own.discard(name, left)
        self._trials.discard(name, left)

    @property
    def hear_rhythm(self) -> bool:
        """Whether RR intervals may change the scores of any of them."""
        shared = any(file.detector.hears_rhythm for file in self._files)
        return shared or bool(self._own) or bool(self._trials)

    def hears_rhythm(self, name: str) -> bool:
        """Whether RR intervals change the scores of a device's beats."""
        trial = self.trial(name)
        return self.for_device(name).hears_rhythm or (trial is not None and trial.hears_rhythm)

    def score(
        self, batch: Floats, whose: Iterable[tuple[str, int, int]], rr: Floats | None = None
    ) -> Scored:
        """Score beats, each by the detector of its device.

        Args:
            batch: float32 [N, 140].
            whose: devices, and from which beat to which (exclusive) the batch holds theirs.
            rr: float32 [N, 32], the RR intervals before each beat, as `rr_history` gives them; None
                where none is known.
        """
        if not self._own and all(file.detector.deviation is None for file in self._files):
            return self._score(batch, whose, rr)
        whose = list(whose)
        fitted = self.scales.fit(batch, whose, self.for_device)
        scored = self._score(fitted.beats, whose, rr)
        if fitted.factors is not None:
            scored = scored._replace(reconstructions=scored.reconstructions * fitted.factors)
        return scored._replace(off_scale=fitted.off)

    def _score(
        self, batch: Floats, whose: Iterable[tuple[str, int, int]], rr: Floats | None
    ) -> Scored:
        if not self.has_own:
            return _by_one(self.default, batch, rr)
        rows: defaultdict[Detector, list[NDArray[np.intp]]] = defaultdict(list)
        for name, start, stop in whose:
            rows[self.for_device(name)].append(np.arange(start, stop))
        if len(rows) == 1:
            return _by_one(next(iter(rows)), batch, rr)
        scores, thresholds = np.empty((2, len(batch)), np.float32)
        reconstructions, ventricular = np.empty_like(batch), None
        for detector, theirs in rows.items():
            at = np.concatenate(theirs)
            scored = _score_all(detector, batch[at], None if rr is None else rr[at])
            scores[at], reconstructions[at] = scored.scores, scored.reconstructions
            thresholds[at] = detector.threshold
            if scored.ventricular is not None:
                if ventricular is None:
                    ventricular = np.full(len(batch), np.nan, np.float32)
                ventricular[at] = scored.ventricular
        return Scored(scores, reconstructions, thresholds, ventricular)

    @property
    def opens(self) -> int:
        """How often a file of the folder was opened."""
        return self._own.opens + self._trials.opens

    def refresh_own(self) -> list[News]:
        """Take over the files of the folder that have changed and stand still."""
        return self._own.refresh()

    def refresh_trials(self) -> list[News]:
        """Take over the files on trial that have changed and stand still."""
        return self._trials.refresh()

    def refresh(self) -> list[Change]:
        """Take over the files of the settings that have changed and stand still."""
        changes: list[Change] = []
        for file in self._files:
            stamp = _stamp(file.path)
            still, file.seen = stamp == file.seen, stamp
            if not still or stamp == file.decided:
                continue
            file.decided = stamp
            try:
                detector = self._open(file)
            except (ModelError, ConfigurationError) as refused:
                changes.append(Change(file.setting, None, str(refused)))
                continue
            if detector.sha256 != file.detector.sha256:
                file.detector = detector
                changes.append(Change(file.setting, detector))
        return changes

    def _open(self, file: _File) -> Detector:
        """Open a file that the settings name."""
        detector = self._open_own(file.path)
        if self._settings.threshold is not None and file.setting == SHARED:
            detector.threshold = self._settings.threshold
        return detector

    def _open_own(self, path: Path) -> Detector:
        """Open a file, try it on two beats, and set its threshold."""
        detector = Detector(path)
        try:
            detector.score(np.zeros((2, SAMPLES), np.float32))
        except Exception as error:  # onnxruntime's errors have no base class but this one
            raise ModelError(path, f"cannot score a beat: {error}") from None
        if self._settings.false_alarm_rate is not None:
            detector.threshold = detector.threshold_at(self._settings.false_alarm_rate)
        return detector

    def _first_that_fits(self, name: str) -> int:
        fit = (fits(name, file.pattern) for file in self._files[:-1])
        return next((i for i, found in enumerate(fit) if found), len(self._files) - 1)


def _own_models(
    folder: Path | None, open_file: Callable[[Path], Detector]
) -> tuple[OwnModels, OwnModels]:
    """Return the models of a folder, which is made if necessary, and those on trial there.

    Raises:
        ConfigurationError: the folder cannot be made or read.
    """
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        trials = None if folder is None else folder / "trial"
        return OwnModels(folder, open_file), OwnModels(trials, open_file)
    except OSError as error:
        reason = error.strerror or "cannot be used"
        raise ConfigurationError(
            f"model.folder = '{folder}': {reason}; allowed is a folder that can be read, or one "
            "that can be made"
        ) from None


def _by_one(detector: Detector, batch: Floats, rr: Floats | None) -> Scored:
    scores, reconstructions, ventricular = _score_all(detector, batch, rr)
    return Scored(scores, reconstructions, np.float32(detector.threshold), ventricular)


def _score_all(detector: Detector, batch: Floats, rr: Floats | None) -> model_file.Scored:
    """Score beats; what a graph fails at is NaN, and costs no other beat its score."""
    try:
        return detector.score(batch, rr)
    except Exception as error:  # onnxruntime's errors have no base class but this one
        if len(batch) == 1:
            if _lines.admits(detector.sha256, time.monotonic()):
                log.error("a beat cannot be scored", model=detector.name, reason=str(error))
            nan = np.full_like(batch, np.nan)
            return model_file.Scored(nan[:, 0], nan, nan[:, 0])
    middle = len(batch) // 2
    first, second = (
        _score_all(detector, batch[half], None if rr is None else rr[half])
        for half in (slice(middle), slice(middle, None))
    )
    ventricular = None
    if first.ventricular is not None and second.ventricular is not None:
        ventricular = np.concatenate((first.ventricular, second.ventricular))
    return model_file.Scored(
        np.concatenate((first.scores, second.scores)),
        np.concatenate((first.reconstructions, second.reconstructions)),
        ventricular,
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
