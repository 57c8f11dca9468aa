"""Notice beats in another unit than those of their detector's training: microvolts for millivolts.

A detector that was fitted to one patient knows how large a beat of that patient is. A heart's
voltage may change severalfold, but not a hundredfold. A beat that is so much larger or smaller says
nothing; if a few in a row are, and the detector takes them for normal ones of another unit, they
and all that follow are brought to its unit. Pure: no clock.
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import log
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.detector.model_file import Detector
from monitor.ecg.beat import Floats

LARGEST: Final = 100.0
"""How many times the usual deviation a beat may have. Of the annotated beats of 22 records of
MIT-BIH none has more than 5.3 times, or less than 0.03 of, that of its record's first five minutes;
converters give 100 counts a millivolt and more."""

SMALLEST: Final = 1 / 300
"""The same downwards: 3 µV where 1 mV is usual, which is the noise of the amplifier."""

SUSTAINED: Final = 5
"""Beats in a row that decide, fewer than the six that raise an alarm."""

DEVICES: Final = 65536
"""Devices whose scale is kept; then the one that was first heard is forgotten."""


class ScaleChange(NamedTuple):
    """A device whose beats are, from now on, divided by `factor` before they are scored."""

    device: str
    factor: float


class _Scale:
    """The scale of one device, and its last beats in a row that do not have it."""

    __slots__ = ("factor", "run")

    def __init__(self) -> None:
        self.factor = 1.0
        self.run: deque[tuple[float, Floats]] = deque(maxlen=SUSTAINED)


class Fitted(NamedTuple):
    """A batch in its detectors' units.

    Attributes:
        beats: float32 [N, 140].
        factors: float32 [N, 1], what each beat was divided by; None where it is 1 for all.
        off: bool [N], beats of a size that cannot be; None if there are none.
    """

    beats: Floats
    factors: Floats | None = None
    off: NDArray[np.bool_] | None = None


class Scales:
    """The scales of all devices.

    Attributes:
        changes: those since they were last taken away.
    """

    def __init__(self) -> None:
        self.changes: list[ScaleChange] = []
        self._scales: dict[str, _Scale] = {}

    def factor(self, device: str) -> float:
        """Return what the beats of a device are divided by."""
        scale = self._scales.get(device)
        return 1.0 if scale is None else scale.factor

    def fit(
        self,
        batch: Floats,
        whose: Iterable[tuple[str, int, int]],
        detector_of: Callable[[str], Detector],
    ) -> Fitted:
        """Return a batch in the units of the detectors.

        Args:
            batch: float32 [N, 140].
            whose: devices, and from which beat to which (exclusive) the batch contains theirs.
            detector_of: returns the detector of a device.
        """
        factors: Floats | None = None
        off: NDArray[np.bool_] | None = None
        for name, start, stop in whose:
            detector = detector_of(name)
            if detector.deviation is None or start == stop:
                continue
            scale = self._scales.get(name)
            if scale is None:
                scale = self._new(name)
            with np.errstate(invalid="ignore", over="ignore"):
                ratios = batch[start:stop].std(axis=1) / np.float32(detector.deviation)
            relative = ratios / np.float32(scale.factor)
            wrong = (relative > LARGEST) | ((relative < SMALLEST) & (relative > 0))
            if wrong.any() or scale.run:
                if off is None:
                    off = np.zeros(len(batch), bool)
                off[start:stop] = self._decide(name, scale, detector, batch[start:stop], ratios)
            if scale.factor != 1:
                if factors is None:
                    factors = np.ones((len(batch), 1), np.float32)
                factors[start:stop] = scale.factor
        return Fitted(batch if factors is None else batch / factors, factors, off)

    def _new(self, name: str) -> _Scale:
        if len(self._scales) == DEVICES:
            del self._scales[next(iter(self._scales))]
        scale = self._scales[name] = _Scale()
        return scale

    def _decide(
        self, name: str, scale: _Scale, detector: Detector, beats: Floats, ratios: Floats
    ) -> NDArray[np.bool_]:
        """Return which beats of a message are of a size that cannot be; may change the scale."""
        off = np.zeros(len(beats), bool)
        for i, ratio in enumerate(ratios.tolist()):
            relative = ratio / scale.factor
            if not np.isfinite(ratio) or ratio <= 0:
                continue
            if SMALLEST <= relative <= LARGEST:
                scale.run.clear()
                continue
            off[i] = True
            scale.run.append((ratio, beats[i]))
            last = np.stack([beat for _, beat in scale.run])
            for factor in _factors([each for each, _ in scale.run]):
                if np.median(detector.score(last / np.float32(factor)).scores) > detector.threshold:
                    continue
                scale.factor = factor
                scale.run.clear()
                off[i] = False
                self.changes.append(ScaleChange(name, factor))
                break
        return off


def _factors(ratios: list[float]) -> list[float]:
    """Return what the factor between two units may be, the likelier one first.

    It is 1 or a power of 1000, as between volts, millivolts and microvolts, if one is near; else
    that of the beats themselves, as for the counts of a converter. Empty if the beats disagree.
    """
    if len(ratios) < SUSTAINED or max(ratios) > 10 * min(ratios):
        return []
    ratio = float(np.median(ratios))
    power = 1000.0 ** round(log(ratio, 1000))
    return [power, ratio] if 1 / 3 <= ratio / power <= 3 else [ratio]
