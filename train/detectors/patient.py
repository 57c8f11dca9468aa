"""A detector for one patient, fitted and calibrated on some minutes of his ECG, unlabelled.

Beats of a record are cut by `monitor.ecg.segmenter`; a file of beats is taken as it is. Most of the
beats must be normal; those unlike the others are left out before the fit.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.detector.model_file import Dataset, DetectorCard, Threshold
from monitor.ecg import beat_files, quality, records, segmenter
from monitor.ecg.beat import SAMPLES, Floats
from monitor.errors import UsageError
from train import backend
from train.detectors import ecg5000, metrics, score_graph
from train.export import export, provenance

FEWEST = 100  # beats to fit and to calibrate on

# Chosen on DS1 of the MIT-BIH Arrhythmia Database: see docs/detector.md
SMOOTH = 5
ALLOWED = 0.15  # of a beat's variance may stay unexplained: over hours, normal beats change so much
UNLIKE = 1.5  # robust deviations from the patient's usual distance between beats
FLOOR = 0.001


class Patient(NamedTuple):
    """A patient's detector, as fitted."""

    fitted: ecg5000.Fitted
    threshold: float
    chosen: str
    used: NDArray[np.bool_]
    """[N], which of the beats were like the others and were fitted."""
    unit: float


def main(source: Path, minutes: float | None, out: Path, epochs: int, seed: int) -> None:
    """Fit a detector to a WFDB record's first minutes or to a file of beats; write `ecg5000.onnx`.

    Of a file with labels, the rows labelled as normal are fitted. Raises UsageError for too few
    beats or too short a record, Failure for a source that cannot be read.
    """
    # Data
    if minutes is None:
        given = np.concatenate([_normal(block) for block in beat_files.read(source)])
        content, cut = source.read_bytes(), None
    else:
        raw = records.read(source)
        lasts = len(raw.signal) / raw.rate / 60
        if minutes > lasts:
            raise UsageError(f"--minutes {minutes:g}: {source} lasts {lasts:.1f} minutes")
        given = np.array([beat.samples for beat in records.beats(raw, 0, 60 * minutes)], np.float32)
        content, cut = raw.signal[: round(60 * minutes * raw.rate)].tobytes(), segmenter
    believed = given[quality.assess(given) == quality.GOOD] if len(given) else given
    if len(believed) < FEWEST:
        raise UsageError(
            f"{source}: {len(believed)} normal beats that can be believed, at least {FEWEST} are "
            "needed; fit more minutes or a longer file"
        )
    backend.load(seed)
    out.mkdir(parents=True, exist_ok=True)

    # Fit and calibrate
    patient = fit(believed, seed, epochs)
    held_out = patient.fitted.held_out
    table = metrics.quantiles(held_out)
    told = float(np.mean(held_out > patient.threshold))
    most = metrics.highest_rate(int(np.sum(held_out > patient.threshold)), len(held_out))
    print(f"beats: {len(given)}, of them {len(given) - len(believed)} of poor quality")
    print(f"unlike the others, left out: {int((~patient.used).sum())}")
    print(f"threshold {patient.threshold:.3f}: {patient.chosen}")
    print(
        f"of {len(held_out)} beats that were not fitted {told:.1%} lie above it; "
        f"with 95 % confidence no more than {most:.1%} of such beats do"
    )
    print(f"the smallest false-alarm rate that they support: {1 / len(held_out):.2%}")

    # Export
    expected = score_graph.outputs(patient.fitted.graph, given)
    export(
        out / "ecg.onnx",
        patient.fitted.graph,
        DetectorCard(
            **provenance(),
            name=source.stem,
            kind="detector",
            dataset=Dataset(
                name=source.name,
                sha256=hashlib.sha256(content).hexdigest(),
                rows={
                    "given": len(given),
                    "believed": len(believed),
                    "fitted": int(patient.used.sum()),
                },
            ),
            split=(
                "all beats not labelled abnormal"
                if minutes is None
                else f"the first {minutes:g} minutes, without labels"
            )
            + "; those unlike the others left out; for the threshold and the "
            f"quantiles each beat was scored by a network fitted to {ecg5000.FOLDS - 1} fifths "
            "without it",
            training={"recipe": "patient", "seed": seed, "unit": patient.unit}
            | ecg5000.described(epochs),
            figures={"share_above_threshold": told, "highest_share_above_threshold": most},
            threshold=Threshold(value=patient.threshold, chosen=patient.chosen),
            quantiles=table,
            segmentation=None if cut is None else cut.DESCRIPTION,
        ),
        inputs=given,
        expected=expected,
    )
    print(f"wrote {out / 'ecg.onnx'}")


def fit(believed: Floats, seed: int, epochs: int = ecg5000.EPOCHS) -> Patient:
    """Fit a detector to a patient's beats, float32 [N, 140], most of them normal."""
    used = alike(believed)
    own = believed[used]
    unit = float((own - own.mean(axis=1, keepdims=True)).std())
    how = score_graph.Scoring(
        SMOOTH,
        np.ones(SAMPLES, np.float32),
        FLOOR,
        max(unit, score_graph.SMALLEST),
        either_way_up=True,
    )
    _, fitted = ecg5000.fit_both(own, seed, how, epochs)
    value = threshold(fitted.held_out)
    chosen = (
        f"{ALLOWED:.0%} of a usual beat's variance unexplained; more than all but "
        f"{ecg5000.FALSE_ALARM_RATE:.0%} of the held-out beats have"
        if value == ALLOWED + FLOOR
        else f"{ecg5000.FALSE_ALARM_RATE:.0%} of the held-out beats lie above it"
    )
    return Patient(fitted, value, chosen, used, unit)


def threshold(held_out: Floats, allowed: float = ALLOWED) -> float:
    """Give the threshold for scores of beats that were held out, float32 [N].

    `allowed`: the share of a usual beat's variance that may stay unexplained in any case.
    """
    return max(float(np.quantile(held_out, 1 - ecg5000.FALSE_ALARM_RATE)), allowed + FLOOR)


def _normal(block: beat_files.Block) -> Floats:
    return block.beats if block.labels is None else block.beats[block.labels]


def alike(beats: Floats) -> NDArray[np.bool_]:
    """Say which beats, float32 [N, 140], are like a quarter of the others: bool [N].

    A beat's distance is that to the nearest quarter of all beats. Ectopic beats are fewer than
    that, or differ among themselves, so theirs is larger; what lies far above the distance that
    most beats have is left out.
    """
    centred = beats - np.median(beats, axis=1, keepdims=True)
    squares = (centred * centred).sum(axis=1)
    distances = squares[:, None] + squares - 2 * centred @ centred.T
    near = np.partition(distances, len(beats) // 4, axis=1)[:, len(beats) // 4]
    level = np.log(np.maximum(near, 1e-12)) / 2
    most = np.sort(level)[: int(0.7 * len(level))]
    usual = np.median(most)
    spread = max(1.48 * float(np.median(np.abs(level - usual))), 0.1)
    return np.asarray(level < usual + UNLIKE * spread)
