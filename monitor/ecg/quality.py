"""Which beats can be believed: what is flat, saturated, noise or not finite says nothing."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Fault = Literal["not_finite", "flat", "saturated", "noise"]
FAULTS: tuple[Fault, ...] = ("not_finite", "flat", "saturated", "noise")

GOOD, NOT_FINITE, FLAT, SATURATED, NOISE = range(5)

LONGEST_PLATEAU = 14
"""Samples in a row at the very top or bottom of a beat: a tenth of the beat is a clipped signal."""

FLATNESS = 1e-6
"""Of the largest sample, the span up to which a beat is flat."""

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
    with np.errstate(invalid="ignore", over="ignore"):
        highest = np.maximum.reduce(beats, axis=1)
        lowest = np.minimum.reduce(beats, axis=1)
        span = highest - lowest
        moves = beats[:, 1:] - beats[:, :-1]
        np.abs(moves, out=moves)
        # Nearly every beat ends here; a span that is no number or infinite is larger than nothing.
        usual = np.add.reduce(moves, axis=1) < RESTLESS * span
        usual &= span > FLATNESS * np.maximum(highest, -lowest)
        usual &= np.add.reduce(moves == 0, axis=1, dtype=np.uint8) < LONGEST_PLATEAU - 1
    faults = np.zeros(len(beats), np.uint8)
    if not usual.all():
        odd = np.flatnonzero(~usual)
        faults[odd] = _faults(beats[odd], highest[odd], lowest[odd], span[odd])
    return faults


def _faults(
    beats: NDArray[np.float32],
    highest: NDArray[np.float32],
    lowest: NDArray[np.float32],
    span: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """The fault of each beat that is not like most, looked at closely."""
    faults = np.zeros(len(beats), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        restless = _size(beats[:, 1:] - beats[:, :-1]) > RESTLESS * span
        faults[restless & _is_noise(beats)] = NOISE
    still = np.add.reduce(beats[:, 1:] == beats[:, :-1], axis=1) >= LONGEST_PLATEAU - 1
    for i in np.flatnonzero(still):
        for extreme in (highest[i], lowest[i]):
            if _longest_run(beats[i] == extreme) >= LONGEST_PLATEAU:
                faults[i] = SATURATED
    faults[span <= FLATNESS * np.maximum(highest, -lowest)] = FLAT
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
    return int((edges[1::2] - edges[::2]).max(initial=0))
