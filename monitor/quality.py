"""Which beats can be believed: a signal that is flat, saturated or not finite says nothing."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Fault = Literal["not_finite", "flat", "saturated"]
FAULTS: tuple[Fault, ...] = ("not_finite", "flat", "saturated")

GOOD, NOT_FINITE, FLAT, SATURATED = range(4)

LONGEST_PLATEAU = 14
"""Samples in a row at the very top or bottom of a beat: a tenth of the beat is a clipped signal."""


def assess(beats: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The fault of each beat: uint8 [N], GOOD or one of NOT_FINITE, FLAT, SATURATED.

    Flat: all samples are the same, to within a millionth of the largest. Saturated: at least
    `LONGEST_PLATEAU` samples in a row stand at the beat's maximum or at its minimum, as they do
    where an amplifier or a converter is at its end. Both look at the shape alone, so they hold in
    any unit.

    Args:
        beats: float32 [N, 140] in any unit.
    """
    faults = np.zeros(len(beats), np.uint8)
    highest = np.maximum.reduce(beats, axis=1)
    lowest = np.minimum.reduce(beats, axis=1)
    for extreme in (highest, lowest):
        at = beats == extreme[:, np.newaxis]
        # So many samples at an extreme are rare in a living signal: only those are looked at.
        for i in np.flatnonzero(np.add.reduce(at, axis=1, dtype=np.uint8) >= LONGEST_PLATEAU):
            if _longest_run(at[i]) >= LONGEST_PLATEAU:
                faults[i] = SATURATED
    with np.errstate(invalid="ignore", over="ignore"):
        span = highest - lowest
        faults[span <= 1e-6 * np.maximum(highest, -lowest)] = FLAT
    faults[~np.isfinite(span)] = NOT_FINITE
    return faults


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return int((edges[1::2] - edges[::2]).max())
