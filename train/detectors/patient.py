"""A detector for one patient, fitted and calibrated on some minutes of the patient's ECG.

Beats of a record are cut by `monitor.ecg.segmenter`, without labels: ectopic beats are among them,
and those unlike the others are left out before the fit. Their detector gets a second opinion by
networks that know beats cut so, and no others (`train.detectors.second_opinion`).

A file of beats is taken to be normal, as diverse as it is: only a group of beats of its own, far
from all others, is left out (`train.detectors.groups`).
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.detector import model_file, rr_history
from monitor.detector.model_file import Dataset, DetectorCard, Threshold
from monitor.ecg import beat_files, quality, records, segmenter
from monitor.ecg.beat import SAMPLES, Floats
from monitor.ecg.segmenter import CutBeat
from monitor.errors import Failure, UsageError
from train import backend
from train.detectors import ecg5000, groups, metrics, score_graph, second_opinion
from train.export import export, provenance

FEWEST = 100  # beats to fit and to calibrate on

# Chosen on DS1 of the MIT-BIH Arrhythmia Database: see docs/detector.md
SMOOTH = 5
ALLOWED = 0.15  # of a beat's variance may stay unexplained: over hours, normal beats change so much
UNLIKE = 1.5  # robust deviations from the patient's usual distance between beats
FLOOR = 0.001

# Of a file of beats. Chosen on five splits of the training part of ECG5000 (`ecg5000.split`), held
# against files made of the normal beats of MIT-BIH records: see docs/detector.md
FILE_SMOOTH = 9
QUIETNESS = 2.5
"""Power of the usual squared residual by which a sample's weight falls.

Where a heart's own beats hardly vary, a deviation says most. 0 weighs all samples alike.
"""

ODD = 0.03
"""Share of the beats that are left out for a second fit, where a group was left out of the first.

What is left of one abnormal beat in twenty is 1 %, most of it among the oddest 4 %.
"""

TAIL = 0.1
"""Share of the held-out scores to which a generalised Pareto distribution is fitted."""


class Patient(NamedTuple):
    """A patient's detector, as fitted."""

    fitted: ecg5000.Fitted
    threshold: float
    chosen: str
    used: NDArray[np.bool_]
    """[N], which of the beats were like the others and were fitted."""
    unit: float
    hears_rhythm: bool = False
    """Whether its graph takes RR intervals, too: with a second opinion."""


class Heard(NamedTuple):
    """What a patient's detector makes of successive beats.

    Attributes:
        scores: float32 [N].
        believed: bool [N], which are of good quality.
        ventricular: float32 [N], how likely each is ventricular; None without a second opinion.
    """

    scores: Floats
    believed: NDArray[np.bool_]
    ventricular: Floats | None

    def verdicts(self, threshold: float) -> NDArray[np.uint8]:
        """Return what each beat is to the alarm decisions, uint8 [N]."""
        return model_file.verdicts(self.scores > threshold, self.believed, self.ventricular)


def main(
    source: Path, minutes: float | None, out: Path, epochs: int, seed: int, lead: str | None = None
) -> None:
    """Fit a detector to the first minutes of a record or to a file of beats; write `ecg.onnx`.

    Of a file with labels, the rows labelled as normal are fitted; of a record the channel `lead`,
    by default its first ECG, which is printed. Raises UsageError for too few beats, too short a
    record or a lead that it does not have, Failure for a source that cannot be read.
    """
    # Data
    if minutes is None:
        given = np.concatenate([_normal(block) for block in beat_files.read(source)])
        content, cut, rr, channel = source.read_bytes(), None, None, {}
    else:
        raw = records.read(source, lead, annotated=False)
        channel = {"lead": raw.lead}
        print(f"lead: {raw.lead!r} of {', '.join(map(repr, raw.leads))}")
        lasts = len(raw.signal) / raw.rate / 60
        if minutes > lasts:
            raise UsageError(f"--minutes {minutes:g}: {source} lasts {lasts:.1f} minutes")
        beats = records.beats(raw, 0, 60 * minutes)
        given = np.array([beat.samples for beat in beats], np.float32)
        content, cut = raw.signal[: round(60 * minutes * raw.rate)].tobytes(), segmenter
        rr = rr_history.whole([beat.rr_ms for beat in beats])
        taught = second_opinion.Taught.load()
    believed = given[quality.assess(given) == quality.GOOD] if len(given) else given
    if len(believed) < FEWEST:
        raise UsageError(
            f"{source}: {len(believed)} normal beats that can be believed, at least {FEWEST} are "
            "needed; fit more minutes or a longer file"
        )
    backend.load(seed)
    out.mkdir(parents=True, exist_ok=True)

    # Fit and calibrate
    if minutes is None:
        patient, second = fit(believed, seed, epochs, normal=True), {}
    else:
        patient = fit_record(beats, taught.for_signal(raw.signal), seed, epochs)
        second = {"second_opinion": taught.described}
    told, most = _above(patient)
    held_out = len(patient.fitted.held_out)
    print(f"beats: {len(given)}, of them {len(given) - len(believed)} of poor quality")
    print(f"left out, as unlike the others: {int((~patient.used).sum())}")
    print(f"threshold {patient.threshold:.3f}: {patient.chosen}")
    print(
        f"of {held_out} beats that were not fitted {told:.1%} lie above it; "
        f"with 95 % confidence no more than {most:.1%} of such beats do"
    )
    print(f"the smallest false-alarm rate that they support: {1 / held_out:.2%}")

    # Export
    split = (
        "all beats not labelled abnormal; groups far from all others left out"
        if minutes is None
        else f"the first {minutes:g} minutes, without labels; those unlike the others left out"
    )
    rows = {"given": len(given), "believed": len(believed), "fitted": int(patient.used.sum())}
    write(
        out / "ecg.onnx",
        patient,
        given,
        rr,
        name=source.stem,
        dataset=Dataset(name=source.name, sha256=hashlib.sha256(content).hexdigest(), rows=rows),
        split=split,
        training={"seed": seed} | channel | ecg5000.described(epochs) | second,
        segmentation=None if cut is None else cut.DESCRIPTION,
    )
    print(f"wrote {out / 'ecg.onnx'}")


def write(
    path: Path,
    patient: Patient,
    beats: Floats,
    rr: Floats | None,
    *,
    name: str,
    dataset: Dataset,
    split: str,
    training: dict[str, Any],
    segmentation: dict[str, Any] | None,
) -> None:
    """Write a patient's detector as a model file.

    Args:
        path: of the file.
        patient: the detector.
        beats: float32 [N, 140], to verify the file with.
        rr: float32 [N, 32], the RR intervals before each; None if the detector takes none.
        name, dataset, split, training, segmentation: of the card, beside what the fit says itself.

    Raises:
        ExportError: the file does not compute what Keras does.
    """
    told, most = _above(patient)
    export(
        path,
        patient.fitted.graph,
        DetectorCard(
            **provenance(),
            name=name,
            kind="detector",
            dataset=dataset,
            split=split
            + "; for the threshold and the quantiles each beat was scored by a network fitted to "
            f"{ecg5000.FOLDS - 1} fifths without it"
            + ("" if rr is None else ", and by networks taught on other records"),
            training={"recipe": "patient", "unit": patient.unit} | training,
            figures={"share_above_threshold": told, "highest_share_above_threshold": most},
            threshold=Threshold(value=patient.threshold, chosen=patient.chosen),
            quantiles=metrics.quantiles(patient.fitted.held_out),
            segmentation=segmentation,
        ),
        inputs=beats,
        expected=score_graph.outputs(patient.fitted.graph, beats, rr),
        rr=rr,
    )


def _above(patient: Patient) -> tuple[float, float]:
    """Return the share of the held-out beats above the threshold, and its highest likely value."""
    above = patient.fitted.held_out > patient.threshold
    return float(np.mean(above)), metrics.highest_rate(int(above.sum()), len(above))


def fit(believed: Floats, seed: int, epochs: int = ecg5000.EPOCHS, normal: bool = False) -> Patient:
    """Fit a detector to a patient's beats, float32 [N, 140].

    `normal`: whether they are said to be normal ones; else only most of them need be.
    """
    if normal:
        return _fit_normal(believed, seed, epochs)
    used = alike(believed)
    own = believed[used]
    how = _scoring(own, SMOOTH)
    fitted, _ = ecg5000.fit_both(own, seed, how, epochs)  # five are a fifth as fast, and no better
    value = threshold(fitted.held_out)
    chosen = (
        f"{ALLOWED:.0%} of a usual beat's variance unexplained; more than all but "
        f"{ecg5000.FALSE_ALARM_RATE:.0%} of the held-out beats have"
        if value == ALLOWED + FLOOR
        else f"{ecg5000.FALSE_ALARM_RATE:.0%} of the held-out beats lie above it"
    )
    return Patient(fitted, value, chosen, used, how.unit or 1.0)


def fit_record(
    cut: Sequence[CutBeat],
    networks: second_opinion.Networks,
    seed: int,
    epochs: int = ecg5000.EPOCHS,
) -> Patient:
    """Fit a detector with a second opinion to the first beats of a record.

    Args:
        cut: those beats, from the record's start.
        networks: taught on other patients' beats.
        seed: of the fit.
        epochs: of the fit.

    Raises:
        Failure: fewer than `FEWEST` of the beats can be believed.
    """
    beats = np.array([beat.samples for beat in cut], np.float32).reshape(len(cut), -1)
    good = quality.assess(beats) == quality.GOOD if len(cut) else np.zeros(0, bool)
    if good.sum() < FEWEST:
        raise Failure(f"{good.sum()} beats can be believed, at least {FEWEST} are needed for a fit")
    rr = rr_history.whole([beat.rr_ms for beat in cut])
    own = fit(beats[good], seed, epochs)
    return with_second_opinion(own, beats[good], rr[good], networks)


def hear(fitted: Patient, cut: Sequence[CutBeat]) -> Heard:
    """Let a patient's detector judge successive beats."""
    beats = np.array([beat.samples for beat in cut], np.float32).reshape(len(cut), SAMPLES)
    rr = rr_history.whole([beat.rr_ms for beat in cut]) if fitted.hears_rhythm else None
    outputs = score_graph.outputs(fitted.fitted.graph, beats, rr)
    good = quality.assess(beats) == quality.GOOD
    return Heard(outputs["score"], good, outputs.get("ventricular"))


def with_second_opinion(
    own: Patient, believed: Floats, rr: Floats, networks: second_opinion.Networks
) -> Patient:
    """Put a second opinion behind a detector that `fit` fitted to the beats of a record.

    Its graph then takes RR intervals, too, and its scores are anomalous above 1.

    Args:
        own: the detector.
        believed: float32 [N, 140], the beats.
        rr: float32 [N, 32], the RR intervals before each, as `rr_history` gives them.
        networks: taught on other patients' beats.
    """
    scores = score_graph.outputs(own.fitted.graph, believed)["score"]
    usual = second_opinion.usual(believed, own.used, scores, own.threshold)
    held_out = own.fitted.held_out
    seen = second_opinion.features(believed[own.used], held_out, rr[own.used], usual)
    held_out = second_opinion.judged(networks, seen, held_out, usual)[0].numpy()
    graph = second_opinion.graph(own.fitted.graph, networks, usual)
    return own._replace(
        fitted=ecg5000.Fitted(own.fitted.networks, graph, held_out),
        hears_rhythm=True,
        threshold=1.0,
        chosen=f"odds of abnormal to normal of {second_opinion.ODDS:g} by networks taught on other "
        f"patients, or {second_opinion.UNEXPLAINED:g} times the autoencoder's own threshold, "
        f"{own.threshold:.3f}",
    )


def _fit_normal(beats: Floats, seed: int, epochs: int) -> Patient:
    """Fit a detector to beats, float32 [N, 140], that are said to be normal.

    Where a group of others is among them, the file is not what it is said to be: then those that
    the first fit finds oddest are left out, too, and the rest are fitted once more.
    """
    used = ~groups.apart(beats)
    fitted, how = _fit_weighted(beats[used], seed, epochs)
    if not used.all():
        odd = fitted.held_out > np.quantile(fitted.held_out, 1 - ODD)
        used[np.flatnonzero(used)[odd]] = False
        fitted, how = _fit_weighted(beats[used], seed, epochs)
    chosen = (
        f"{ecg5000.FALSE_ALARM_RATE:.0%} of normal beats lie above it, by a generalised Pareto "
        f"tail of the highest {TAIL:.0%} of the held-out scores"
    )
    return Patient(fitted, tail_threshold(fitted.held_out), chosen, used, how.unit or 1.0)


def _fit_weighted(
    beats: Floats, seed: int, epochs: int
) -> tuple[ecg5000.Fitted, score_graph.Scoring]:
    how = _scoring(beats, FILE_SMOOTH)
    _, fitted = ecg5000.fit_both(beats, seed, how, epochs)
    return weighted(fitted, beats, seed, how), how


def _scoring(beats: Floats, smooth: int) -> score_graph.Scoring:
    """Score all samples alike, in the usual beat's deviation, whichever way up the lead is."""
    unit = float((beats - beats.mean(axis=1, keepdims=True)).std())
    return score_graph.Scoring(
        smooth,
        np.ones(SAMPLES, np.float32),
        FLOOR,
        max(unit, score_graph.SMALLEST),
        either_way_up=True,
    )


def weighted(
    fitted: ecg5000.Fitted, beats: Floats, seed: int, how: score_graph.Scoring
) -> ecg5000.Fitted:
    """Weigh the samples of a beat by how little they usually deviate, and score by that.

    `fitted` are the networks that `ecg5000.fit_both` fitted to `beats`, float32 [N, 140], with this
    seed: the residuals are those of beats that a network did not see.
    """
    from scipy.ndimage import uniform_filter1d

    shapes, folds = score_graph.comparable(beats, how), ecg5000.fold(len(beats), seed)
    residual = np.empty_like(shapes)
    for k, network in enumerate(fitted.networks):
        residual[folds == k] = shapes[folds == k] - np.asarray(network(shapes[folds == k]))
    smooth = uniform_filter1d(residual, how.smooth, axis=1, mode="nearest")
    usual = np.median(smooth * smooth, axis=0)
    weights = np.maximum(usual, max(1e-3 * usual.max(), 1e-12)) ** -QUIETNESS
    how = dataclasses.replace(how, weights=(weights / weights.mean()).astype(np.float32))
    return ecg5000.Fitted(
        fitted.networks,
        score_graph.graph(fitted.networks, how),
        ecg5000.held_out_scores(fitted.networks, beats, folds, how),
    )


def tail_threshold(held_out: Floats, rate: float = ecg5000.FALSE_ALARM_RATE) -> float:
    """Give the threshold that a share `rate` of normal beats exceeds, from held-out scores, [N].

    Source: J. Pickands, "Statistical inference using extreme order statistics", Annals of
    Statistics 3, 1975: beyond a high quantile a distribution's tail is a generalised Pareto one.
    It steadies what a quantile of a few beats alone would leave to chance.
    """
    from scipy.stats import genpareto

    level = np.log(np.maximum(held_out, 1e-12).astype(np.float64))
    start = np.quantile(level, 1 - TAIL)
    beyond = level[level > start] - start
    if len(beyond) < 10:
        return float(np.quantile(held_out, 1 - rate))
    shape, _, scale = genpareto.fit(beyond, floc=0)
    return float(np.exp(start + genpareto.ppf(1 - rate / TAIL, shape, 0, scale)))


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
