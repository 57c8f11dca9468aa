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
    highest = beats.max(axis=1, keepdims=True)
    lowest = beats.min(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        span = (highest - lowest)[:, 0]
        size = np.maximum(np.abs(highest), np.abs(lowest))[:, 0]
        faults[span <= 1e-6 * size] = FLAT
        # Three neighbours at an extreme are rare in a living signal: only those are looked at.
        for extreme in (highest, lowest):
            at = beats == extreme
            for i in np.flatnonzero(at.sum(axis=1) >= LONGEST_PLATEAU):
                if faults[i] == GOOD and _longest_run(at[i]) >= LONGEST_PLATEAU:
                    faults[i] = SATURATED
        faults[~np.isfinite(span)] = NOT_FINITE
    return faults


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return int((edges[1::2] - edges[::2]).max())
