"""Which beats can be believed: what is flat, saturated, noise or not finite says nothing."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Fault = Literal["not_finite", "flat", "saturated", "noise"]
FAULTS: tuple[Fault, ...] = ("not_finite", "flat", "saturated", "noise")

GOOD, NOT_FINITE, FLAT, SATURATED, NOISE = range(5)

LONGEST_PLATEAU = 14
"""Samples in a row at the very top or bottom of a beat: a tenth of the beat is a clipped signal."""

RESTLESS = 10.0
"""Spans that a beat goes up and down in all, beyond which it is looked at more closely.

A beat goes 2 to 6; noise, and a beat buried in as much noise as it has itself, go 12 and more.
"""

JAGGED = 1.75
"""Mean size of the second differences, in mean deviations of the beat, beyond which it is noise.

White noise has 2.4; of ECG5000's beats the worst, buried in noise itself, has 1.70, and of all
beats annotated in DS1 of the MIT-BIH Arrhythmia Database the worst has 0.83.
"""

TREMBLING = 1.42
"""The same for differences over three samples: largest for what swings once in six samples.

That is the mains, 50 or 60 Hz in a beat of half a second: 2 and more. Of ECG5000's beats the worst
has 1.37; of DS1's one in ten thousand has more than 1.4.
"""


def assess(beats: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The fault of each beat: uint8 [N], GOOD or one of NOT_FINITE, FLAT, SATURATED, NOISE.

    Flat: all samples are the same, to within a millionth of the largest. Saturated: at least
    `LONGEST_PLATEAU` samples in a row stand at the beat's maximum or at its minimum, as they do
    where an amplifier or a converter is at its end. Noise: they go up and down from sample to
    sample (`JAGGED`), or from one sample to the third after it (`TREMBLING`), as no heart does. All
    of it looks at the shape alone, so it holds in any unit.

    Args:
        beats: float32 [N, 140] in any unit.
    """
    faults = np.zeros(len(beats), np.uint8)
    highest = np.maximum.reduce(beats, axis=1)
    lowest = np.minimum.reduce(beats, axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        span = highest - lowest
        restless = np.flatnonzero(_size(beats[:, 1:] - beats[:, :-1]) > RESTLESS * span)
        if len(restless):
            faults[restless[_is_noise(beats[restless])]] = NOISE
    for extreme in (highest, lowest):
        at = beats == extreme[:, np.newaxis]
        # So many samples at an extreme are rare in a living signal: only those are looked at.
        for i in np.flatnonzero(np.add.reduce(at, axis=1, dtype=np.uint8) >= LONGEST_PLATEAU):
            if _longest_run(at[i]) >= LONGEST_PLATEAU:
                faults[i] = SATURATED
    faults[span <= 1e-6 * np.maximum(highest, -lowest)] = FLAT
    faults[~np.isfinite(span)] = NOT_FINITE
    return faults


def _is_noise(beats: NDArray[np.float32]) -> NDArray[np.bool_]:
    length = beats.shape[1]
    deviation = _size(beats - beats.mean(axis=1, keepdims=True)) / length
    jagged = _size(np.diff(beats, 2)) / (length - 2) > JAGGED * deviation
    trembling = _size(beats[:, 3:] - beats[:, :-3]) / (length - 3) > TREMBLING * deviation
    return np.asarray(jagged | trembling)


def _size(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """The sum of absolute values of each row; `values` is overwritten."""
    return np.asarray(np.add.reduce(np.abs(values, out=values), axis=1))


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return int((edges[1::2] - edges[::2]).max())
