"""Ranks any number of scores in memory that does not grow with them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.beat import Floats

BITS: Final = 20
"""A bin is known by the first 20 bits of a float32: 11 of its mantissa, so 0.05 % of the score."""


class Tally:
    """Counts scores in fine bins, those of normal beats apart from those of others."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self.counts = np.zeros((2, 1 << BITS), np.int64)
        """[2, bins]: of other beats, of normal beats; the bins in rising order of the score."""

    def add(self, scores: Floats, normal: NDArray[np.bool_]) -> None:
        """Count scores, float32 [n], of beats of which `normal`, [n], says which are normal."""
        np.add.at(self.counts, (normal.astype(np.intp), _bins(scores)), 1)

    def auc(self) -> float | None:
        """Give the chance that another beat's score is above a normal one's; ties count half.

        None where one of the two is missing. Within 0.0005 of what sorting all scores gives.
        """
        others, normals = self.counts
        pairs = int(others.sum()) * int(normals.sum())
        if not pairs:
            return None
        below = np.cumsum(normals) - normals / 2
        return float(others @ below / pairs)

    def occupied(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Give the scores [k] of the bins that hold any, rising, and their counts [2, k]."""
        bins = np.flatnonzero(self.counts.any(axis=0))
        return _scores(bins), self.counts[:, bins]


def _bins(scores: Floats) -> NDArray[np.intp]:
    """Give each score's bin: the bits of a float32, the negative ones turned, sort as it does."""
    bits = scores.astype(np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> (32 - BITS)).astype(np.intp)


def _scores(bins: NDArray[np.intp]) -> NDArray[np.float64]:
    """Give the score in the middle of each bin."""
    ordered = (bins.astype(np.uint32) << (32 - BITS)) | np.uint32(1 << (31 - BITS))
    bits = np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)
