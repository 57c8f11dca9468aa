"""Assess the quality of beats: those that are flat, saturated, noise or not finite say nothing."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Fault = Literal["not_finite", "flat", "saturated", "noise", "scale"]
FAULTS: tuple[Fault, ...] = ("not_finite", "flat", "saturated", "noise", "scale")

GOOD, NOT_FINITE, FLAT, SATURATED, NOISE, OFF_SCALE = range(6)
"""`OFF_SCALE` is not found here, but by a detector that knows how large its patient's beats are."""

LONGEST_PLATEAU = 14
"""Consecutive samples at the maximum or minimum of a beat that make it saturated: a tenth of it."""

FLATNESS = 1e-6
"""Largest span of a flat beat, as a share of its largest sample."""

RESTLESS = 10.0
"""Total variation, in spans of the beat, above which a beat is examined more closely.

A beat has 2 to 6; noise, and a beat buried in as much noise as signal, have 12 and more.
"""

JAGGED = 1.75
"""Mean absolute second difference, in mean deviations of the beat, above which it is noise.

White noise has 2.4; the worst of ECG5000's beats, itself buried in noise, has 1.70, and the worst
of all beats annotated in DS1 of the MIT-BIH Arrhythmia Database has 0.83.
"""

TREMBLING = 1.42
"""The same for differences over three samples, which are largest for a period of six samples.

That is mains hum, 50 or 60 Hz in a beat of half a second, with 2 and more. The worst of ECG5000's
beats has 1.37; one in ten thousand of DS1's has more than 1.4.
"""

AT_ONCE = 512
"""Beats that are screened at once, so that they stay in the cache: 0.13 µs a beat; 256 at once take
0.17, 2,048 take 0.15, and each beat by itself 0.28."""


def assess(beats: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the fault of each beat: uint8 [N], GOOD, NOT_FINITE, FLAT, SATURATED or NOISE.

    Flat: all samples are equal, to within a millionth of the largest. Saturated: at least
    `LONGEST_PLATEAU` consecutive samples are at the beat's maximum or minimum, as when an amplifier
    or a converter reaches its limit. Noise: the samples alternate from one to the next (`JAGGED`)
    or to the third after it (`TREMBLING`), as no heart does. Only the shape counts, so the result
    does not depend on the unit.

    Args:
        beats: float32 [N, 140] in any unit.
    """
    faults = np.zeros(len(beats), np.uint8)
    usual = np.empty(len(beats), bool)
    for start in range(0, len(beats), AT_ONCE):
        usual[start : start + AT_ONCE] = _usual(beats[start : start + AT_ONCE])
    if not usual.all():
        odd = np.flatnonzero(~usual)
        faults[odd] = _faults(beats[odd])
    return faults


def _usual(beats: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which beats, [N], are certainly good; nearly every one is.

    The beats stand in columns: NumPy adds up and compares whole rows three times as fast as it
    reduces each row by itself.
    """
    samples = np.ascontiguousarray(beats.T)
    with np.errstate(invalid="ignore", over="ignore"):
        highest = np.maximum.reduce(samples, axis=0)
        lowest = np.minimum.reduce(samples, axis=0)
        span = highest - lowest
        moves = samples[1:] - samples[:-1]
        np.abs(moves, out=moves)
        # A NaN or infinite span fails the comparisons.
        usual = np.add.reduce(moves, axis=0) < RESTLESS * span
        usual &= span > FLATNESS * np.maximum(highest, -lowest)
        usual &= np.add.reduce(moves == 0, axis=0, dtype=np.uint8) < LONGEST_PLATEAU - 1
    return np.asarray(usual)


def _faults(beats: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the fault of each of the unusual beats, examined closely."""
    faults = np.zeros(len(beats), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        highest, lowest = beats.max(axis=1), beats.min(axis=1)
        span = highest - lowest
        restless = _size(beats[:, 1:] - beats[:, :-1]) > RESTLESS * span
        faults[restless & _is_noise(beats)] = NOISE
    still = np.add.reduce(beats[:, 1:] == beats[:, :-1], axis=1) >= LONGEST_PLATEAU - 1
    for i in np.flatnonzero(still):
        for extreme in (highest[i], lowest[i]):
            if _longest_run(beats[i] == extreme) >= LONGEST_PLATEAU:
                faults[i] = SATURATED
    with np.errstate(invalid="ignore"):  # a signalling NaN
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
    """Return the sum of absolute values of each row; overwrite `values`."""
    return np.asarray(np.add.reduce(np.abs(values, out=values), axis=1))


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return int((edges[1::2] - edges[::2]).max(initial=0))
