"""Fits a patient's model to beats that came live, as `ecg-train ecg --record` fits a record's.

Of a record, the fit takes from the signal itself nothing but a hash, by which it knows the records
that taught the second opinion. All else is in the beats, so a live patient lacks nothing.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.detector import rr_history
from monitor.detector.model_file import Dataset
from monitor.ecg import beat, quality, segmenter
from monitor.ecg.beat import Floats
from monitor.ecg.segmenter import CutBeat
from monitor.errors import Failure
from monitor.times import rfc3339
from train import backend
from train.detectors import ecg5000, patient, second_opinion
from train.learn.journal import Admission, Collected

SEED: Final = 0

TIMED: Final = 0.5
"""Share of the beats that must come with an RR interval for a second opinion, which hears the
rhythm. `segment` sends it with nearly all; who sends none has a model without one."""


APART: Final = 0.9
"""Squared distance of two groups' medians, in their mean energy, from which their shapes differ.

This and the next four were chosen on the first five minutes of the 22 records in `mitdb`. Of those
it refuses 108, whose beats change for good, and 207, less than half of whose beats are normal; with
the other lead from halfway on 20 of 22; with every second beat a ventricular one of its own 10 of
13. Of the 20 records in `svdb` it refuses none; 16 of 20; and 8 of 12.
"""

SEPARATE: Final = 5.0
"""The same, in the squared distance of a usual beat to its group's median: noise has no groups.

This one was seen to be needed on `svdb`, by record 848, which has 1.8.
"""

MIXED: Final = 0.4
"""Share of the beats in the smaller group from which it is not known which are normal."""

ORDERED: Final = 0.9
"""Share of the beats that one moment parts as the groups do, from which it changed for good."""

CHANGED: Final = 0.2
"""Share of the beats before or after such a change, at least: fewer are left out of the fit."""

STARTS: Final = (0.55, 0.7, 0.85, 0.97)
"""Quantiles of the distance to the middle beat, at which the search for the other group begins."""

ITERATIONS: Final = 20
"""Of the search, at most; it ends within ten."""


class Halves(NamedTuple):
    """Beats as two groups of shapes.

    Attributes:
        share: of the beats that are in the smaller one.
        apart: squared distance of the two medians, in their mean energy.
        separate: the same, in the squared distance of a usual beat to its group's median.
        ordered: share of the beats that a single moment parts as the groups do.
        moment: the number of beats before it.
    """

    share: float
    apart: float
    separate: float
    ordered: float
    moment: int


class Mixed(Failure):
    """The beats differ too much among themselves for a fit."""


def fit(admission: Admission, collected: Sequence[Collected], out: Path, epochs: int) -> None:
    """Fit a model to a patient's beats, and write it to `out`.

    Raises:
        Mixed: the beats differ too much among themselves.
        OSError: the file cannot be written.
    """
    content = b"".join(each.samples for each in collected)
    samples = beat.samples(content)
    good = quality.assess(samples) == quality.GOOD
    believed = samples[good]
    refuse_mixed(believed, [each.time for each, fine in zip(collected, good, strict=True) if fine])
    backend.load(SEED)
    rr_ms = [each.rr_ms for each in collected]
    training = {
        "seed": SEED,
        "admitted_by": admission.by,
        "from": rfc3339(collected[0].time),
        "to": rfc3339(collected[-1].time),
    } | ecg5000.described(epochs)
    if np.mean([interval is not None for interval in rr_ms]) >= TIMED:
        cut = [CutBeat(*each) for each in zip(samples, range(len(samples)), rr_ms, strict=True)]
        taught = second_opinion.Taught.load()
        fitted = patient.fit_record(cut, taught.networks, SEED, epochs)
        rr = rr_history.whole(rr_ms)[good]
        training["second_opinion"] = taught.described
    else:
        fitted, rr = patient.fit(believed, SEED, epochs), None
    rows = {"given": len(samples), "believed": len(believed), "fitted": int(fitted.used.sum())}
    patient.write(
        out,
        fitted,
        believed,
        rr,
        name=admission.device,
        dataset=Dataset(
            name=f"live beats of {admission.device}",
            sha256=hashlib.sha256(content).hexdigest(),
            rows=rows,
        ),
        split="the first good beats after the admission, without labels; those unlike the others "
        "left out",
        training=training,
        segmentation=None if rr is None else segmenter.DESCRIPTION,
    )


def refuse_mixed(beats: Floats, times: Sequence[float]) -> None:
    """Refuse beats that are not mostly of one kind.

    Args:
        beats: float32 [N, 140], of good quality.
        times: when each was, in seconds since 1970.

    Raises:
        Mixed: says what they look like.
    """
    found = halves(beats)
    if found.apart < APART or found.separate < SEPARATE:
        return
    if found.ordered >= ORDERED and found.share >= CHANGED:
        minutes = (times[found.moment] - times[0]) / 60
        raise Mixed(
            f"too different among themselves: after {minutes:.1f} minutes the beats have another "
            "shape, as from another lead or electrodes that were moved; admit the patient again"
        )
    if found.share >= MIXED:
        raise Mixed(
            f"too different among themselves: {found.share:.0%} of the beats have another shape "
            "than the rest, so it is not known which are normal; admit the patient again later"
        )


def halves(beats: Floats) -> Halves:
    """Part beats, float32 [N, 140], into two groups of shapes, by the two medians nearest to them.

    As k-means does, with medians: a few odd beats draw no group to themselves. It begins at the
    beat closest to most others and one that is farther from it than a share `STARTS` of all, and
    the parting counts that explains most.
    """
    shapes = beats - beats.mean(axis=1, keepdims=True)
    squares = (shapes * shapes).sum(axis=1)
    distances = squares[:, None] + squares - 2 * shapes @ shapes.T
    middle = np.argmin(np.median(distances, axis=1))
    farther = np.argsort(distances[middle])
    best, explained = Halves(0.0, 0.0, 0.0, 0.0, 0), 0.0
    for start in STARTS:
        first, second = shapes[middle], shapes[farther[int(start * (len(shapes) - 1))]]
        for _ in range(ITERATIONS):
            to_first = ((shapes - first) ** 2).sum(axis=1)
            to_second = ((shapes - second) ** 2).sum(axis=1)
            in_second = to_second < to_first
            if in_second.all() or not in_second.any():
                break
            first = np.median(shapes[~in_second], axis=0)
            second = np.median(shapes[in_second], axis=0)
        share = min(float(in_second.mean()), 1 - float(in_second.mean()))
        energy = float(np.sqrt((first * first).sum() * (second * second).sum()))
        between = float(((first - second) ** 2).sum())
        apart = between / max(energy, 1e-12)
        if share * min(apart, 2 * APART) > explained:
            explained = share * min(apart, 2 * APART)
            within = float(np.median(np.minimum(to_first, to_second)))
            best = Halves(share, apart, between / max(within, 1e-12), *_order(in_second))
    return best


def _order(in_second: NDArray[np.bool_]) -> tuple[float, int]:
    """Return how well one moment parts the groups, and the number of beats before it."""
    after = np.cumsum(in_second[::-1])[::-1]  # of the second group, from each beat on
    before: NDArray[np.int64] = np.cumsum(~in_second) - (~in_second).astype(
        np.int64
    )  # of the first, before it
    agree = np.maximum(before + after, len(in_second) - before - after)
    return float(agree.max()) / len(in_second), int(agree.argmax())
